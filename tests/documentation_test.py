"""Runs the commands of the documentation that follow `<!-- run -->`."""

import functools
import pathlib
import re
import shlex
from unittest import mock

import command_lines
import numpy as np
import small_models
import untraced
from absl.testing import parameterized
from image_arrays import random_images, write_images
from PIL import Image

from tf_realnvp.analysis import posterior, significance
from tf_realnvp.cli.main import main

BLOCK = re.compile(r"<!-- run -->\n```sh\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^python -m tf_realnvp (\w+ (\S+) .*)$", re.MULTILINE)
PAGES = "README.md", *command_lines.REPOSITORY.glob("docs/*.md")


def masks():
    """Returns a model of masks."""
    return small_models.shared(observe="mask")


CLASSES = {"class_names": ["Sneaker", "T-shirt/top", "Pullover"]}
MODELS = {
    "realnvp_digits": (small_models.model, {}),
    "realnvp_parts": (small_models.model, {"source": "old_parts.npz"}),
    "realnvp_photos": (small_models.model, {"tiles": True}),
    "models/realnvp_fashion_mnist": (small_models.conditional, CLASSES),
    "models/realnvp_fashion_mnist_masks": (masks, {}),
    "models/realnvp_faces": (small_models.model, {}),
}


def commands(page):
    """Returns the commands of a page, each with the path of its model."""
    text = (command_lines.REPOSITORY / page).read_text()
    return COMMAND.findall("\n".join(BLOCK.findall(text)))


class DocumentationTest(
    command_lines.CommandTestCase,
    untraced.UntracedTestCase,
    parameterized.TestCase,
):
    name = "tf-realnvp"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for make, _ in MODELS.values():  # With traces.
            small_models.saved(make)

    @parameterized.parameters(filter(commands, PAGES))
    def test_runs_short_commands(self, page):
        self.enterContext(
            mock.patch.multiple(posterior, **small_models.FEW_STEPS)
        )
        fewer_draws = functools.partial(significance.compare, num_draws=20)
        self.enterContext(
            mock.patch.object(significance, "compare", fewer_draws)
        )
        images = random_images(70, 4, 4, 1, num_colors=17)
        write_images(".", images[:4], 17, ["a.png", "b.png", "c.png", "d.png"])
        write_images("good_parts", images[4:44], 17)
        others = random_images(70, 4, 4, 1, num_colors=17, seed=1)
        np.savez("old_parts.npz", images=others, num_colors=17)
        write_images("bad_parts", small_models.images(20), 17)
        write_images("clothes", images[4:44], 17)
        write_images("photos", images[:2], 17)
        mask = np.arange(16, dtype=np.uint8).reshape(4, 4, 1) % 2
        write_images(".", [mask], 2, ["scratch.png"])
        torn = np.concatenate([images[0], 255 * (1 - mask)], axis=-1)
        torn = Image.fromarray(np.insert(torn, [0, 0], torn[..., :1], axis=-1))
        torn.save("torn.png")
        write_images("incoming", images[44:57], 17)
        write_images("my_images", images[57:], 17)
        photos = random_images(44, 6, 9, 1, num_colors=17)
        write_images("good_photos", photos[:40], 17)
        write_images("new_photos", photos[40:], 17)
        for line, path in commands(page):
            if not pathlib.Path(path).exists():
                make, changes = MODELS[path]
                pathlib.Path(path).parent.mkdir(exist_ok=True)
                saved = small_models.saved(make)
                small_models.copied(saved, self.folder, **changes).rename(path)
            code, _, stderr = command_lines.call(main, *shlex.split(line))
            self.assertEqual(code, 0, f"{line}\n{stderr}")
