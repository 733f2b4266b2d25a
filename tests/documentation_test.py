"""Runs the commands of the documentation that follow `<!-- run -->`."""

import pathlib
import re
import shlex

import command_lines
import small_models
import untraced
from absl.testing import parameterized
from image_arrays import random_images, write_images

from tf_realnvp.cli.main import main

BLOCK = re.compile(r"<!-- run -->\n```sh\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^python -m tf_realnvp (\w+ (\S+) .*)$", re.MULTILINE)
PAGES = "README.md", *command_lines.REPOSITORY.glob("docs/*.md")
CLASSES = {"class_names": ["Sneaker", "T-shirt/top", "Pullover"]}
MODELS = {
    "realnvp_digits": (small_models.model, {}),
    "realnvp_parts": (small_models.model, {}),
    "models/realnvp_fashion_mnist": (small_models.conditional, CLASSES),
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
        images = random_images(70, 4, 4, 1, num_colors=17)
        write_images(".", images[:4], 17, ["a.png", "b.png", "c.png", "d.png"])
        write_images("good_parts", images[4:44], 17)
        write_images("incoming", images[44:57], 17)
        write_images("my_images", images[57:], 17)
        for line, path in commands(page):
            if not pathlib.Path(path).exists():
                make, changes = MODELS[path]
                pathlib.Path(path).parent.mkdir(exist_ok=True)
                saved = small_models.saved(make)
                small_models.copied(saved, self.folder, **changes).rename(path)
            code, _, stderr = command_lines.call(main, *shlex.split(line))
            self.assertEqual(code, 0, f"{line}\n{stderr}")
