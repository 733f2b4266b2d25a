"""Runs the commands of the documentation that follow `<!-- run -->`."""

import pathlib
import re
import shlex
from unittest import mock

import command_lines
import numpy as np
import pytest
import small_models
import untraced
from absl.testing import parameterized
from image_arrays import random_images, write_images
from PIL import Image

from tf_realnvp.cli.main import main
from tf_realnvp.serving import formats

BLOCK = re.compile(r"<!-- run -->\n```sh\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^python -m tf_realnvp (\w+ (\S+) .*)$", re.MULTILINE)
PAGES = (
    "README.md",
    "models/README.md",
    *command_lines.REPOSITORY.glob("docs/*.md"),
)


def masks():
    """Returns a model of masks."""
    return small_models.shared(observe="mask")


def fields():
    """Returns a model of real numbers with a context."""
    return small_models.shared(num_colors=None, context_shape=(1,))


CLASSES = {
    "class_names": ["Sneaker", "T-shirt/top", "Pullover"],
    "source": "labelled.npz",
}
MODELS = {
    "realnvp_digits": (small_models.model, {}),
    "realnvp_fashion_mnist": (masks, {}),
    "realnvp_fields": (fields, {"source": "fields.npz"}),
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
        self.use_fewer_draws()
        self.enterContext(
            mock.patch.object(formats, "to_onnx", return_value=b"")
        )
        images = random_images(70, 4, 4, 1, num_colors=17)
        write_images(".", images[:4], 17, ["a.png", "b.png", "c.png", "d.png"])
        write_images("good_parts", images[4:44], 17)
        write_images(".", images[:1], 17, ["my_shirt.png"])
        others = random_images(70, 4, 4, 1, num_colors=17, seed=1)
        np.savez("old_parts.npz", images=others, num_colors=17)
        labels = np.array(CLASSES["class_names"])[np.arange(70) % 3]
        np.savez("labelled.npz", images=others, labels=labels, num_colors=17)
        numbers = np.random.default_rng(0).normal(size=[70, 4, 4])
        couplings = np.ones([70, 1])
        np.savez("fields.npz", images=numbers, context=couplings)
        np.save("couplings.npy", couplings[0])
        write_images("bad_parts", small_models.images(20), 17)
        write_images("clothes", images[4:44], 17)
        write_images("pullovers", images[:20], 17)
        write_images("shirts", others[:20], 17)
        write_images("more_images", others, 17)
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
            if line.startswith("export"):
                pytest.importorskip("tf2onnx")
            if not pathlib.Path(path).exists():
                make, changes = MODELS[path]
                pathlib.Path(path).parent.mkdir(exist_ok=True)
                saved = small_models.saved(make)
                small_models.copied(saved, self.folder, **changes).rename(path)
            code, _, stderr = command_lines.call(main, *shlex.split(line))
            self.assertEqual(code, 0, f"{line}\n{stderr}")
