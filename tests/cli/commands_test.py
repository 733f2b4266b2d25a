"""Tests for commands: bad command lines of all, and what those here do."""

import errno
import math
import os
import pathlib
import re
from unittest import mock

import command_lines
import numpy as np
import odd_images
import small_models
from absl.testing import parameterized
from image_arrays import images_of_digits, random_images, read_png, write_images
from model_commands import ModelTestCase, call

from tf_realnvp import batched, latents
from tf_realnvp.analysis import plots
from tf_realnvp.data import image_files
from tf_realnvp.utils import hashing
from tf_realnvp.utils.batches import stream

NUM_COLORS = small_models.NUM_COLORS
DIRECTION = "direction M --with a --without b"
# Command lines, and what the message names.
BAD_LINES = (
    *(
        (f"{line} --{flag}={value}", f"--{flag}: {value!r}")
        for line, flag, values in (
            ("sample M", "n", "0 many 2147483648"),
            ("sample M", "temperature", "-0.1 nan 1e39"),
            ("sample M", "seed", "-1 4294967296"),
            ("sample M", "out", "grid .png d/.PNG"),
            ("evaluate M", "max_images", "1"),
            ("evaluate M", "importance_samples", "0"),
            ("evaluate M", "batch_size", "0"),
            ("interpolate M a b", "steps", "1 10001"),
            ("interpolate M a b", "out", "grid.jpg d.png"),
            ("manifold M a b c d", "size", "1 1001"),
            ("reconstruct M a", "draws", "0 10001"),
            (DIRECTION, "steps", "1"),
            (DIRECTION, "max_images", "1"),
            ("score M a", "out", "scores.png"),
            ("score M a", "max_images", "19"),
            ("score M a", "max_maps", "0"),
            ("detect M --unusual a", "max_images", "19"),
        )
        for value in values.split()
    ),
    ("sample M --temp 1", "--temp"),
    ("interpolate M a", "IMAGE"),
    ("manifold M a b c d e", "unrecognized arguments: e"),
    (f"{DIRECTION} --strength nan 1", "'nan'"),
    # What is in the folder: a file `f.png` and a folder `d.png`.
    ("sample M --out missing/a.png", "--out: cannot write to missing"),
    ("sample M --out f.png/a/", "--out: cannot write to f.png/a"),
    (f"{DIRECTION} --out no/a.png", "--out: cannot write to no"),
    ("score M a --out missing/a.csv", "--out: cannot write to missing"),
    ("score M d.png --maps f.png", "--maps: cannot write to f.png"),
    ("detect M --unusual a --out f.png", "--out: cannot write to f.png"),
    ("export M --out f.png", "--out: cannot write to f.png"),
    ("export M --format pdf", "--format: invalid choice: 'pdf'"),
    # It would be lost.
    ("interpolate M a.png f.png --out f.png", "among the images: f.png"),
    ("translate M f.png --out ./f.png", "among the images: f.png"),
    (f"{DIRECTION} --apply f.png --out f.png", "among the images: f.png"),
    ("direction M --with d.png --without b --out d.png/0.png", "es: d.png"),
    ("score M d.png --maps d.png/m", "--maps: d.png/m is among the"),
    ("score M a --maps d.png/m --reference d.png", "--maps: d.png/m is among"),
    ("detect M --unusual a --fit d.png --out d.png/new", "images: d.png"),
)


class FlagsTest(command_lines.CommandTestCase):
    name = r"tf-realnvp( \w+)?"

    def test_bad(self):
        load = self.use(None)
        (self.folder / "f.png").touch()
        (self.folder / "d.png").mkdir()
        for line, message in BAD_LINES:
            with self.subTest(line):
                self.assert_usage_error(call(*line.split()), message)
        load.assert_not_called()
        self.assertCountEqual(os.listdir(), ["f.png", "d.png"])


class CommandsTestCase(ModelTestCase):
    """Tests of commands on a model and four images."""

    def use_model(self, kind):
        super().use_model(kind)
        self.images = images_of_digits()[:4]
        if kind == "classes":  # Not all are of the same class.
            self.images = small_models.images(20)[[0, 8, 1, 19]]
        self.files = [self.folder / f"{name}.png" for name in "abcd"]
        self.write(".", self.images, self.files)

    def call(self, command, *argv):
        """Runs a command that must not warn; returns its output."""
        stdout, stderr = self.succeed(command, *argv)
        self.assertEqual(stderr, "")
        return stdout

    def assert_grid(self, images, columns=None):
        self.assertAllEqual(
            read_png(self.out), plots.image_grid(images, NUM_COLORS, columns)
        )


class SampleTest(CommandsTestCase):
    def samples(self, *arguments):
        """Returns samples of the model, of all batches together."""
        return np.concatenate([*batched.sample(self.model, *arguments)])

    @parameterized.parameters(
        ("plain", "--n 5 --temperature 0.5", "", (5, 0.5, 3)),
        ("plain", "", "", (36, 1.0, 3)),
        ("classes", "--n 5", "", (5, 1.0, 3)),
        ("classes", "--n 5 --label dog", " of dog", (5, 1.0, 3, 1)),
        (
            *("classes", "--n 4 --label all", " of cat, dog, old cow"),
            (12, 1.0, 3, np.repeat([0, 1, 2], 4)),
        ),
    )
    def test_grid(self, kind, flags, words, arguments):
        self.use_model(kind)
        flags = (*flags.split(), "--seed", 3, "--out", self.out)
        stdout = self.call("sample", *flags)
        n, temperature, *_ = arguments
        title = f"{n} images{words}, temperature {temperature}, seed 3\n"
        self.assertStartsWith(stdout, f"{title}sample: 1/1 steps, ")
        self.assertEndsWith(stdout, f"\n{self.out}\n")
        columns = 4 if "all" in flags else None
        self.assert_grid(self.samples(*arguments), columns)

    def test_draws_a_seed_and_prints_it(self):
        stdouts = [self.call("sample", "--out", self.out) for _ in range(2)]
        seeds = [int(re.search(r"seed (\d+)\n", s)[1]) for s in stdouts]
        self.assertNotEqual(*seeds)
        self.assert_grid(self.samples(36, 1.0, seeds[1]))

    @parameterized.parameters("new/samples/", "here")
    def test_folder(self, out):
        os.mkdir("here")
        self.call("sample", "--n", 70, "--seed", 3, "--out", out)
        names = sorted(os.listdir(out))
        self.assertEqual(names, [f"sample_{i:04d}.png" for i in range(70)])
        # The levels of the samples, exactly, and of more than one batch.
        images = [
            image_files.read(f"{out}/{name}", (4, 4, 1), NUM_COLORS)
            for name in names
        ]
        self.assertAllEqual(images, self.samples(70, 1.0, 3))
        # Others would be mixed with them.
        content = pathlib.Path(out, names[0]).read_bytes()
        result = call("sample", self.path, "--n", 2, "--seed", 4, "--out", out)
        self.assert_usage_error(result, "--out:", "sample_*.* of before")
        self.assertEqual(pathlib.Path(out, names[0]).read_bytes(), content)

    def test_shards(self):
        """They are what one process draws, of three batches."""
        seed = ("--seed", 3)
        for index in (1, 2, 2):  # A shard may be run again.
            flags = ("--n", 150, *seed, "--shard", f"{index}/2")
            said = self.call("sample", *flags, "--out", "all.NPY")
            self.assertIn(f"shard {index}/2 of 150 images, temp", said)
            self.call("sample", *flags, "--out", "new/")
        expected = self.samples(150, 1.0, 3)
        parts = [np.load(f"all-0000{k}-of-00002.NPY") for k in (1, 2)]
        self.assertAllEqual(np.concatenate(parts), expected)
        self.assertEqual(parts[0].dtype, expected.dtype)
        names = [f"sample_{index:04d}.png" for index in range(150)]
        self.assertCountEqual(os.listdir("new"), names)
        image = image_files.read("new/sample_0100.png", (4, 4, 1), NUM_COLORS)
        self.assertAllEqual(image, expected[100])
        self.use_model("classes")
        for index in (1, 2):
            flags = ("--n", 30, *seed, "--shard", f"{index}/2", "--label")
            self.call("sample", *flags, "all", "--out", "all.npy")
        parts = [np.load(f"all-0000{k}-of-00002.npy") for k in (1, 2)]
        label = np.repeat(np.arange(3), 30)
        expected = self.samples(90, 1.0, 3, label)
        self.assertAllEqual(np.concatenate(parts), expected)

    @parameterized.parameters("--shard 1/2 --n 128", "--shard 1/2 --seed 3")
    def test_bad_shards(self, line):
        """Those without a common seed, or without work for each."""
        result = call("sample", self.path, *line.split())
        self.assert_usage_error(result, "--shard:")

    def test_all_or_none(self):
        error = OSError(errno.ENOSPC, "No space left on device")
        argv = ("sample", self.path, "--n", 3, "--out", "new/samples/")
        with mock.patch.object(image_files, "write", side_effect=[None, error]):
            code, _, stderr = call(*argv)
        self.assertEqual(code, 1)
        self.assertRegex(stderr, "No space left")
        self.assertFalse(os.path.exists("new"))


class LatentsTest(CommandsTestCase):
    """Tests the commands that go through the latent space."""

    @parameterized.parameters(
        ("plain", None), ("classes", None), ("classes", "dog")
    )
    def test_images(self, kind, name):
        self.use_model(kind)
        model, images = self.model, self.images
        label = None if name is None else 1
        flags = ("--out", self.out, *(("--label", name) if name else ()))
        says = kind == "classes" and name is None

        def taken_for(labels):
            names = ", ".join(small_models.CLASS_NAMES[k] for k in labels)
            return f"taken for {names}\n" if says else ""

        stdout = self.call("interpolate", *self.files[:2], "--steps", 5, *flags)
        ends, labels = batched.encode_likeliest(model, images[:2], label, True)
        self.assertEqual(stdout, f"{taken_for(labels[:1])}{self.out}\n")
        strip = batched.decode(model, latents.slerp(*ends, 5), labels[[0] * 5])
        self.assertAllEqual(strip[[0, -1]], images[:2])
        self.assert_grid(strip, 5)

        self.call("manifold", *self.files, "--size", 4, *flags)
        corners, labels = batched.encode_likeliest(model, images, label, True)
        points = np.concatenate(latents.manifold(corners, 4))
        surface = batched.decode(model, points, labels[[0] * 16])
        # The images are a quarter of a turn apart.
        self.assertAllEqual(surface[[0, 1, 4, 5]], images)
        self.assert_grid(surface, 4)

        # Each of its own class.
        kept, labels = batched.encode_likeliest(model, images, label)
        if says:
            self.assertLen(set(labels), 2)
        draws = ("--draws", 2, "--seed", 5)
        stdout = self.call("reconstruct", *self.files, *draws, *flags)
        self.assertEqual(
            stdout,
            f"{taken_for(labels)}4 of 4 images came back exactly\n{self.out}\n",
        )
        drawn = latents.redraw_factored_out(kept, 2, seed=5)
        rows = [images, images]
        rows += [batched.decode(model, drawn[:, k], labels) for k in range(2)]
        self.assert_grid(np.concatenate(np.stack(rows, axis=1)), 4)

        if kind == "plain":
            result = call("translate", self.path, "a.png")
            self.assert_usage_error(result, "trained without --conditional")
            return
        stdout = self.call("translate", *self.files, *flags)
        self.assertIn("as cat, dog, old cow\n", stdout)
        rows = [batched.decode(model, kept, np.full(4, k)) for k in range(3)]
        rows = np.stack([images, *rows], axis=1)
        # In its own class an image comes back.
        self.assertAllEqual(rows[range(4), labels + 1], images)
        self.assert_grid(np.concatenate(rows), 4)

    def test_unreadable_image(self):
        argv = "interpolate", self.path, "a.png", "x.png"
        self.assert_usage_error(call(*argv), "x.png", "No such file")
        (self.folder / "x.png").write_text("words")
        self.assert_usage_error(call(*argv), "x.png", "neither PNG nor JPEG")
        self.assertLen(os.listdir(), 5)

    def test_in_a_process_of_its_own(self):
        """TensorFlow's log is not shown."""
        result = command_lines.run(
            self.folder,
            *("-m", "tf_realnvp", "interpolate", self.path, "a.png", "b.png"),
            *("--steps", "2", "--out", "out.png"),
        )
        self.assertEqual(result, (0, "out.png\n", ""))
        self.assert_grid(self.images[:2], columns=2)


class EvaluateTest(CommandsTestCase):
    def measure(self, images, batch_size, num_draws, seed):
        """Returns nats given each class, `[num_draws, num_classes, n]`."""
        parts = []
        for index in range(math.ceil(len(images) / batch_size)):
            batch = images[index * batch_size :][:batch_size]
            streams = range(index * num_draws, (index + 1) * num_draws)
            seeds = [stream(seed, number) for number in streams]
            draws = [
                batched.log_prob_of_classes(self.model, batch, s) for s in seeds
            ]
            parts.append(np.swapaxes(draws, 1, 2))
        return np.concatenate(parts, axis=-1)

    def assert_figures(self, lines, nats, words=""):
        """Asserts that lines are of log-probabilities `[num_draws, n]`."""
        n = len(nats)
        mean = f", mean of {n} such" if n > 1 else ""
        figures = {f"1 draw of noise{mean}{words}": nats.mean(axis=0)}
        if n > 1:
            bound = np.log(np.mean(np.exp(nats), axis=0))
            figures[f"{n} draws of noise{words}"] = bound
        for title, log_prob in figures.items():
            pattern = rf"{title}: (\S+) bits/dim, standard error (\S+)"
            numbers = re.fullmatch(pattern, lines.pop(0)).groups()
            bits = log_prob / (-16 * math.log(2.0))
            expected = [bits.mean(), bits.std(ddof=1) / math.sqrt(len(bits))]
            self.assertAllClose(np.float64(numbers), expected, atol=1e-4)

    @parameterized.parameters(
        ((), 360, 64, 1, 0), (("--dataset", "DIGITS"), 20, 8, 5, 7)
    )
    def test_bits(self, flags, num_images, batch_size, num_draws, seed):
        """The default is the test set of the model's own data set."""
        if flags:
            flags += ("--max_images", num_images, "--batch_size", batch_size)
            flags += ("--importance_samples", num_draws, "--seed", seed)
        stdout = self.call("evaluate", *flags)
        _, title, *lines = stdout.splitlines()
        self.assertEqual(
            title, f"{num_images} test images of digits, 17 levels, seed {seed}"
        )
        rng = np.random.default_rng(seed)
        drawn = np.sort(rng.choice(360, num_images, replace=False))
        images = images_of_digits()[drawn]
        nats = self.measure(images, batch_size, num_draws, seed)
        self.assert_figures(lines, nats[:, 0])
        self.assertEmpty(lines)

    @parameterized.product(
        names=(("0", "1", "2"), ("1", "0", "2")), num_draws=(1, 2)
    )
    def test_classes(self, names, num_draws):
        """Labels are matched by the names of their classes."""
        self.use_model("classes")
        named = {"class_names": names}
        self.enterContext(mock.patch.object(self.model, "metadata", named))
        images = small_models.images(20)
        both = np.arange(20) % 2
        content = {"train": images, "test": images, "num_colors": NUM_COLORS}
        np.savez("in.npz", train_labels=both, test_labels=both, **content)
        stdout = self.call(
            *("evaluate", "--dataset", "in.npz", "--batch_size", 8),
            *("--importance_samples", num_draws, "--seed", 4),
        )
        _, title, *lines = stdout.splitlines()
        self.assertEqual(
            title, "20 test images of in, 17 levels, 3 classes, seed 4"
        )
        labels = np.array([names.index(str(k % 2)) for k in range(20)])
        by_class = self.measure(images, 8, num_draws, 4)
        joint = by_class + batched.log_prior(self.model)[:, None]
        self.assert_figures(
            lines, by_class[:, labels, range(20)], ", given the label"
        )
        mixture = np.log(np.sum(np.exp(joint), axis=1))
        self.assert_figures(lines, mixture, ", mixture of the classes")
        likeliest = np.mean(np.exp(joint), axis=0).argmax(axis=0)
        right = np.sum(likeliest == labels)
        accuracy = f"{right / 20:.4f} ({right} of 20)"
        self.assertEqual(lines, [f"accuracy as a classifier: {accuracy}"])

    def test_classes_that_the_model_lacks(self):
        self.use_model("classes")
        result = call("evaluate", self.path, "--dataset", "digits")
        message = "argument --dataset: no class '0', but cat, dog, old cow"
        self.assert_usage_error(result, message)

    def folder_of_images(self, *names):
        """Returns a folder of images, and a model that was trained on it."""
        folder = self.folder / "images"
        images = random_images(len(names), 20, 16, 1)
        write_images(folder, images, names=names)
        model = small_models.displaced(0.0, (4, 6, 1), 32, filters=2)
        model.metadata = {"source": str(folder)}
        self.use(model)
        seen = []

        def log_prob_of_classes(model, images, unused_seed):
            """All images are equally likely."""
            seen.extend(np.asarray(images))
            return np.full([len(images), 1], -24.0 * math.log(32.0))

        self.enterContext(
            mock.patch.object(
                batched, "log_prob_of_classes", log_prob_of_classes
            )
        )
        return folder, model, seen

    def test_folder(self):
        """The images are read in the model's size and number of levels."""
        folder, model, seen = self.folder_of_images(
            "train/a.png", "test/b.png", "test/c.png"
        )
        (folder / "text.png").write_text("words")
        code, stdout, stderr = call("evaluate", "M")
        self.assertEqual(code, 0)
        self.assertRegex(stderr, r"^warning: 1 file .*text.png.*\n$")
        self.assertIn("2 test images of images, 32 levels, seed 0", stdout)
        self.assertIn(": 5.0000 bits/dim, standard error 0.0000\n", stdout)
        test = [folder / "test" / name for name in ("b.png", "c.png")]
        images = [image_files.read(path, (4, 6, 1), 32) for path in test]
        self.assertAllEqual(seen, images)
        sketch = hashing.format_sketch([hashing.hash_of(test[0].read_bytes())])
        model.metadata = {**model.metadata, "training_hashes": sketch}
        *_, stderr = call("evaluate", "M")
        self.assertIn("trained on test images of images", stderr)

    def test_damaged_image(self):
        folder, *_ = self.folder_of_images("train/a.png", "test/b.png")
        damaged = folder / "test" / "c.png"
        damaged.write_bytes(odd_images.undecodable_png())
        code, _, stderr = call("evaluate", "M")
        self.assertEqual(code, 2)
        self.assertRegex(stderr, rf"^{self.name}: error: .*{damaged}.*\n$")
