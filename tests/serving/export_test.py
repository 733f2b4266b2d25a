"""Tests for export."""

import collections
import contextlib
import functools
import json
import math
import os
import pathlib
import shutil

import command_lines
import disks
import folders
import keras
import model_client
import numpy as np
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized

from tf_realnvp.errors import UsageError
from tf_realnvp.serving import export, metadata

SEED = 2**40 + 3  # More than 32 bits.


@functools.cache
def variational():
    """Returns a model with three scales, for images that are not square."""
    return small_models.displaced(
        *(0.1, (8, 12, 1)),
        filters=2,
        num_scales=3,
        dequantization="variational",
        padding="periodic",
        channel_masks="mixed",
    )


MODELS = {
    "plain": small_models.model,
    "classes": small_models.conditional,
    "variational": variational,
}


def functions(model, n):
    """The functions that a loaded model has, and arguments of each."""
    rng = np.random.default_rng(0)
    images = {
        "images": rng.integers(
            small_models.NUM_COLORS, size=(n, *model.image_shape)
        ).astype(np.uint8)
    }
    latents = rng.normal(size=(n, *model.latent_shape)).astype(np.float32)
    seeds, seed = rng.integers(-(2**63), 2**63 - 1, size=n), {"seed": SEED}
    return {
        "sample": {"n": n, "temperature": 0.5} | seed,
        "log_prob": images | seed,
        "log_prob_each": images | {"seeds": seeds},
        "bits_per_dim": images | seed,
        "encode": images,
        "decode": {"latents": latents},
    } | ({"classify": images | seed} if model.num_classes else {})


def calls(model, n):
    """Names and arguments of all calls that a loaded model must answer."""
    for name, arguments in functions(model, n).items():
        if not (model.num_classes and name in ("encode", "decode")):
            yield name, arguments
        if model.num_classes and name != "classify":
            yield name, arguments | {"label": 1}
            yield name, arguments | {"label": np.arange(n) % 3}


class ExportTestCase(untraced.UntracedTestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for make in MODELS.values():  # Not in a test that traces nothing.
            small_models.saved(make)

    def assert_same(self, result, expected):
        self.assertEqual(result.dtype, expected.dtype)
        self.assertEqual(result.shape, expected.shape)
        if result.dtype == tf.uint8:
            self.assertAllEqual(result, expected)
        else:
            self.assertAllClose(result, expected, rtol=1e-4, atol=1e-4)


class FunctionsTest(ExportTestCase):
    """A loaded model gives the same results as the model."""

    @parameterized.parameters(
        *(("plain", n) for n in (0, 1, 7)),
        *(("classes", 5), ("variational", 5)),
    )
    def test_same_as_the_model(self, name, n):
        model, loaded = MODELS[name](), small_models.loaded(MODELS[name])
        for function, arguments in calls(model, n):
            with self.subTest(function, label=arguments.get("label")):
                self.assert_same(
                    getattr(loaded, function)(**arguments),
                    getattr(model, function)(**arguments),
                )

    @parameterized.parameters("plain", "classes")
    def test_types_of_arguments(self, model):
        """Lists, other dtypes and positional arguments are accepted."""
        loaded = small_models.loaded(MODELS[model])
        for name, arguments in calls(MODELS[model](), 3):
            if model == "classes" and name not in ("sample", "encode"):
                continue  # Each takes a trace.
            function = getattr(loaded, name)
            expected = function(**arguments)
            typed = {
                key: np.float64(value)
                if key in ("temperature", "latents")
                else np.int64(value)
                for key, value in arguments.items()
            }
            self.assertAllEqual(function(**typed), expected)
            values = [value.tolist() for value in typed.values()]
            self.assertAllEqual(function(*values), expected)

    def test_xla(self):
        function = small_models.loaded().log_prob_each
        arguments = functions(small_models.model(), 5)["log_prob_each"]
        result = tf.function(function, jit_compile=True)(**arguments)
        self.assertAllClose(result, function(**arguments), rtol=1e-4)

    @parameterized.parameters("plain", "classes")
    def test_without_seed(self, name):
        """The noise is fresh in each call."""
        model, loaded = MODELS[name](), small_models.loaded(MODELS[name])
        images = small_models.images(5)
        draws = model.log_prob(np.tile(images, [64, 1, 1, 1]), 0)
        draws = np.reshape(draws, [64, -1])
        low, high = draws.min(axis=0), draws.max(axis=0)
        scores = loaded.signatures["serving_default"](images=images)
        self.assertLen(scores, 3 if name == "classes" else 2)
        log_prob = scores["log_prob"]
        # Beyond what more draws than are ever made would give.
        self.assertAllGreater(log_prob - (2.0 * low - high), 0.0)
        self.assertAllLess(log_prob - (2.0 * high - low), 0.0)
        # Both from the same noise.
        nats = model.num_dims * math.log(2.0)
        self.assertAllClose(scores["bits_per_dim"] * nats, -log_prob, 1e-5)
        self.assertNotAllEqual(loaded.sample(20), loaded.sample(20))


class SignaturesTest(ExportTestCase):
    @parameterized.parameters(*MODELS)
    def test_same_as_the_model(self, name):
        model, loaded = MODELS[name](), small_models.loaded(MODELS[name])
        outputs = {"sample": "images", "encode": "latents", "decode": "images"}
        for name, arguments in calls(model, 5):
            is_one_for_all = model.num_classes and not np.ndim(
                arguments.get("label", 0)
            )
            if name in outputs and not is_one_for_all:
                result = self.call(loaded, name, outputs[name], arguments)
                self.assert_same(result, getattr(model, name)(**arguments))

    def call(self, loaded, name, output, arguments):
        dtypes = {"n": tf.int32, "seed": tf.int64, "label": tf.int32}
        tensors = {
            key: tf.constant(value, dtypes.get(key))
            for key, value in arguments.items()
        }
        results = loaded.signatures[name](**tensors)
        self.assertLen(results, 1)
        return results[output]

    def test_labels(self):
        """A single label is for all images, and -1 draws one."""
        model = small_models.conditional()
        loaded = small_models.loaded(small_models.conditional)
        arguments = {"n": 4, "temperature": 1.0, "seed": 3}
        classes = model.sample_labels(4, 3).numpy()
        for label, expected in (
            ([-1], None),
            ([2], 2),
            ([0, 1, 2, 0], [0, 1, 2, 0]),
            ([0, -1, -1, 0], [0, *classes[1:3], 0]),
        ):
            images = self.call(
                loaded, "sample", "images", arguments | {"label": label}
            )
            self.assertAllEqual(images, model.sample(4, 1.0, 3, expected))

    def test_classes(self):
        """Without a seed, only the means agree."""
        model = small_models.conditional()
        loaded = small_models.loaded(small_models.conditional)
        images = np.repeat(small_models.images(1), 500, axis=0)
        expected = model.classify(images, 1)
        for name in ("serving_default", "classify"):
            result = loaded.signatures[name](images=images)["class_log_probs"]
            error = np.std(expected, axis=0) * math.sqrt(2 / 500)
            difference = np.mean(result, axis=0) - np.mean(expected, axis=0)
            self.assertAllLess(np.abs(difference) / error, 5.0)


NO_SCALARS = ("3", None, [1], [[1, 2]], 1j, np.zeros((0,), np.int64))
BAD = {
    "n": (*NO_SCALARS, 2.0, -1, np.int32(-1), 2**27, 2**31, 2**32 + 1),
    "temperature": (*NO_SCALARS, -1e-30, math.nan, 3e38, 1e39),
    "seed": ("3", [1, 2], 1.5, 2**64),
    "seeds": (None, 5, [1, 2], [[1]] * 3, [1.0] * 3, ["1"] * 3),
    "images": (
        None,
        np.zeros((3, 4, 4, 1), np.float32),
        *(np.zeros((3, *shape), np.uint8) for shape in [(1, 1, 1), (4, 4), ()]),
        *(np.full((1, 4, 4, 1), v).tolist() for v in (-1, 17, 256, 2**32)),
    ),
    "latents": (
        None,
        np.zeros((3, 2, 2, 4), np.int64),
        *(np.zeros((3, *shape), np.float32) for shape in [(1, 1, 4), (16,)]),
        *(np.full((3, 2, 2, 4), v) for v in (math.nan, math.inf, 1e39, 3e38)),
    ),
    "label": (-1, 2**32, 1.5, [0, 1], [0, 1, 3]),
}


class BadArgumentsTest(ExportTestCase):
    """Wrong arguments are errors, and never give wrong results."""

    @parameterized.parameters(*BAD)
    def test_functions(self, name):
        make = MODELS["classes" if name == "label" else "plain"]
        loaded = small_models.loaded(make)
        errors = ValueError, OverflowError, tf.errors.InvalidArgumentError
        for function, arguments in functions(make(), 3).items():
            if name not in (*arguments, "label") or function == "classify":
                continue
            for value in BAD[name]:
                with (
                    self.subTest(function, value=value),
                    self.assertRaises(errors),
                ):
                    getattr(loaded, function)(**arguments | {name: value})


class OtherProgramsTest(ExportTestCase):
    def test_without_this_package(self):
        """Results agree if there is a seed, and differ otherwise."""
        model, loaded = small_models.model(), small_models.loaded()
        images = functions(model, 5)["encode"]["images"]
        latents = functions(model, 5)["decode"]["latents"]
        np.savez(self.folder / "in.npz", images=images, latents=latents)
        client = pathlib.Path(model_client.__file__)
        (self.folder / client.name).write_bytes(client.read_bytes())
        code, _, stderr = command_lines.run(
            *(self.folder, client.name, small_models.saved()),
            *("in.npz", "out.npz"),
            PYTHONPATH="",
            # As TensorFlow is by default on the newest processors.
            TF_ENABLE_ONEDNN_OPTS="1",
        )
        self.assertEqual(code, 0, stderr)
        with np.load(self.folder / "out.npz") as values:
            values = dict(values)
        for name, expected in (
            ("sample", model.sample(36, 0.5, seed=SEED)),
            ("decode", model.decode(latents)),
            ("log_prob", model.log_prob(images, 5)),
            ("encode", model.encode(images)),
        ):
            self.assert_same(values.pop(name), expected.numpy())

        tf.random.set_seed(7)  # As that process has.
        here = model_client.draw(loaded, images)
        self.assertLen(values, len(here))
        draws = collections.defaultdict(list)
        for value in (*here, *values.values()):
            draws[value.shape].append(value.tobytes())
        for shape, contents in draws.items():
            # Two processes and calls.
            self.assertGreaterEqual(len(contents), 8)
            self.assertLen(set(contents), len(contents), shape)


class GraphTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ("serving_default", "images", (5, 1, 1, 1)),
        ("encode", "images", (4, 4, 1)),
        ("decode", "latents", (5, 1, 2, 4)),
    )
    def test_shapes_that_only_a_run_shows(self, name, argument, shape):
        """They are refused, as the flow might broadcast them."""
        dtype = tf.float32 if argument == "latents" else tf.uint8
        with self.assertRaisesRegex(
            tf.errors.InvalidArgumentError,
            "is not compatible with expected shape",
        ):
            small_models.loaded().signatures[name](
                **{argument: tf.zeros(shape, dtype)}
            )


class FilesTest(folders.FolderTestCase, parameterized.TestCase):
    def test_metadata(self):
        text = (small_models.saved() / metadata.FILE).read_text()
        self.assertGreater(text.count("\n"), 10)  # Human-readable.
        content = json.loads(text)
        versions = content.pop("versions")
        self.assertEqual(versions["tensorflow"], tf.__version__)
        self.assertEqual(versions["keras"], keras.__version__)
        self.assertIn("tensorflow-probability", versions)
        model = small_models.model()
        expected = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in model.get_config().items()
            if value is not None and key != "name"
        } | {
            "format": metadata.FORMAT,
            "latent_shape": [2, 2, 4],
            "num_parameters": model.num_parameters,
        }
        self.assertEqual(content, expected | small_models.METADATA)

    def test_replaces_what_is_there_when_it_is_complete(self):
        path = shutil.copytree(small_models.saved(), self.folder / "model")
        (path / "assets" / "old.txt").write_text("old")
        link = self.folder / "link"
        link.symlink_to("model")
        before = folders.contents(path)
        with disks.full(1000), self.assertRaises(Exception):  # noqa: B017
            small_models.model().save(link)
        self.assertEqual(folders.contents(path), before)
        self.assertCountEqual(os.listdir(self.folder), ["model", "link"])
        model = small_models.model().clone()
        model.metadata = {"dataset": "a", "source": "/a", "class_names": []}
        model.save(link, {"dataset": "mnist"})
        content = metadata.read(path)
        self.assertEqual(content["dataset"], "mnist")
        self.assertEqual(content["class_names"], [])
        self.assertNotIn("source", content)  # It is that of another data set.
        self.assertTrue(link.is_symlink())
        self.assertFalse((path / "assets" / "old.txt").exists())
        self.assertCountEqual(os.listdir(self.folder), ["model", "link"])
        self.assertAllEqual(
            tf.saved_model.load(str(path)).weights,
            small_models.loaded().weights,
        )

    def test_what_is_no_model_is_not_replaced(self):
        self.enterContext(contextlib.chdir(self.folder))
        for name in ("letters", "keras", "empty"):
            os.mkdir(name)
        pathlib.Path("letters/to_you.txt").write_text("text")
        pathlib.Path("link").symlink_to("letters")
        pathlib.Path("keras/saved_model.pb").touch()
        shutil.copytree(small_models.saved(), "model")
        pathlib.Path("model/notes.txt").touch()
        shutil.copytree(small_models.saved(), "hub")
        os.mkdir("hub/.git")
        before = folders.contents(self.folder)
        for name, lost in (
            ("letters", "to_you.txt"),
            ("letters/to_you.txt", "to_you.txt"),
            ("link", "to_you.txt"),
            (".", "empty"),
            ("keras", "saved_model.pb"),
            ("model", "notes.txt"),
            ("hub", ".git"),
        ):
            with self.assertRaisesRegex(UsageError, f"{lost} would be lost"):
                small_models.model().save(name)
        self.assertEqual(folders.contents(self.folder), before)
        os.remove("model/notes.txt")
        pathlib.Path("model/.nfs").touch()
        # Where there is nothing that could be lost.
        for name in ("new", "empty", "model"):
            self.assertEqual(
                export.check_path(name), (self.folder / name).resolve()
            )

    @parameterized.parameters(
        ({"filters": 8}, "must not have `filters`"),
        ({"loss": np.nan}, "float"),
    )
    def test_metadata_that_could_not_be_read(self, metadata, message):
        with self.assertRaisesRegex((TypeError, ValueError), message):
            small_models.model().save(self.folder / "model", metadata)
        self.assertEqual(os.listdir(self.folder), [])
