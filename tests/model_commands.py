"""Tests of the commands on a model."""

import functools
import pathlib

import command_lines
import small_models
from absl.testing import parameterized
from image_arrays import write_images

from tf_realnvp.cli import main

MODELS = {"plain": small_models.model, "classes": small_models.conditional}

call = functools.partial(command_lines.call, main.main)


class ModelTestCase(command_lines.CommandTestCase, parameterized.TestCase):
    """Tests of commands on models that are loaded already.

    Attributes:
      path: The folder of the model, of the plain one at first.
      model: The model.
      out: Where a command may write an image.
    """

    name = r"tf-realnvp( \w+)?"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls._models = {
            kind: (small_models.saved(make), small_models.opened(make))
            for kind, make in MODELS.items()
        }

    def setUp(self):
        super().setUp()
        self.out = self.folder / "out.png"
        self.use_model("plain")

    def use_model(self, kind: str) -> None:
        """Chooses the model: "plain", or one with "classes"."""
        self.path, self.model = self._models[kind]
        self.use(self.model)

    def succeed(self, command: str, *argv) -> tuple[str, str]:
        """Runs a command on the model; returns its output and errors."""
        code, stdout, stderr = call(command, self.path, *argv)
        self.assertEqual(code, 0, stderr)
        return stdout, stderr

    def write(self, folder: str, images, names=None) -> pathlib.Path:
        """Writes images into a folder.

        Args:
          folder: Its name.
          images: The images.
          names: Those of the files. Default: numbers, which sort as the images.

        Returns:
          The folder.
        """
        path = self.folder / folder
        write_images(path, images, small_models.NUM_COLORS, names)
        return path
