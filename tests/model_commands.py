"""Tests of the commands on a model."""

import functools
import pathlib

import command_lines
import small_models
from absl.testing import parameterized

from tf_realnvp.cli import main
from tf_realnvp.images import files as image_files

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
        path.mkdir(parents=True, exist_ok=True)
        names = names or [f"{index:03d}.png" for index in range(len(images))]
        for name, image in zip(names, images, strict=True):
            image_files.write(path / name, image, small_models.NUM_COLORS)
        return path
