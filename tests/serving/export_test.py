"""Tests for export."""

import collections
import contextlib
import json
import math
import os
import pathlib
import shutil
from concurrent import futures
from unittest import mock

import command_lines
import hypothesis
import keras
import model_client
import numpy as np
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.protobuf import saved_model_pb2

from tf_realnvp.serving import export, metadata
from tf_realnvp.utils.errors import UsageError

NUM_DIMS = math.prod(small_models.IMAGE_SHAPE)
MAX = small_models.NUM_COLORS - 1
LARGE_SEED = 2**40 + 3  # More than 32 bits.


def inputs_of(signatures):
    """Dtype and shape of each input of each signature."""
    return {
        name: {
            k: (v.dtype.name, str(v.shape))
            for k, v in signature.structured_input_signature[1].items()
        }
        for name, signature in signatures.items()
    }


class ExportTestCase(untraced.UntracedTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = small_models.saved()
        cls.model = small_models.model()
        cls.loaded = small_models.loaded()
        cls.images = small_models.images(5)
        rng = np.random.default_rng(1)
        cls.latents = rng.normal(size=(5, 2, 2, 4)).astype(np.float32)


class ConditionalTest(untraced.UntracedTestCase, parameterized.TestCase):
    """That of a model with classes gives what the model gives."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = small_models.conditional()
        cls.loaded = small_models.loaded_conditional()
        cls.images = small_models.images(5)
        cls.labels = np.array([2, 0, 1, 1, 0])

    def test_sample(self):
        for label in (1, np.int32(1), [1, 0, 2, 2], None):
            images = self.loaded.sample(4, 0.5, seed=5, label=label)
            self.assertAllEqual(images, self.model.sample(4, 0.5, 5, label))
        again = [self.loaded.sample(20) for _ in range(2)]
        self.assertNotAllEqual(*again)

    def test_density(self):
        for label in (1, self.labels, self.labels.astype(np.int32), None):
            self.assertAllClose(
                self.loaded.log_prob(self.images, 5, label),
                self.model.log_prob(self.images, 5, label),
                rtol=1e-5,
            )
        seeds = [5, 3, 1, 5, 3]
        for label in (self.labels, None):
            self.assertAllClose(
                self.loaded.bits_per_dim(self.images, 5, label),
                self.model.bits_per_dim(self.images, 5, label),
                rtol=1e-5,
            )
            self.assertAllClose(
                self.loaded.log_prob_each(self.images, seeds, label),
                self.model.log_prob_each(self.images, seeds, label),
                rtol=1e-5,
            )
        self.assertAllClose(
            self.loaded.classify(self.images, seed=5),
            self.model.classify(self.images, 5),
            atol=1e-3,
        )

    def test_latents(self):
        for label in (1, self.labels):
            latents = self.loaded.encode(self.images, label)
            self.assertAllClose(
                latents, self.model.encode(self.images, label), rtol=1e-4
            )
            self.assertAllEqual(self.loaded.decode(latents, label), self.images)

    def test_signatures(self):
        signatures = self.loaded.signatures
        images = {"images": ("uint8", "<unknown>")}
        label = {"label": ("int32", "<unknown>")}
        self.assertEqual(
            inputs_of(signatures),
            {
                "serving_default": images,
                "classify": images,
                "sample": {
                    "n": ("int32", "()"),
                    "temperature": ("float32", "()"),
                    "seed": ("int64", "()"),
                    **label,
                },
                "encode": images | label,
                "decode": {"latents": ("float32", "<unknown>"), **label},
            },
        )
        # By noise of their own, so in the mean only.
        images = np.repeat(self.images[:1], 500, axis=0)
        points = self.model.dequantize(images, 1)
        joint = self.model.log_joint(points)
        density = tf.reduce_logsumexp(joint, axis=1)
        given = tf.nn.log_softmax(joint)
        scores = signatures["serving_default"](images=tf.constant(images))
        for result, expected in (
            (scores["log_prob"], density),
            (scores["class_log_probs"], given),
            (signatures["classify"](images=images)["class_log_probs"], given),
        ):
            error = np.std(expected, axis=0) * math.sqrt(2 / 500)
            difference = np.mean(result, axis=0) - np.mean(expected, axis=0)
            self.assertAllLess(np.abs(difference) / error, 5.0)
        bits = -scores["log_prob"] / (NUM_DIMS * math.log(2.0))
        self.assertAllClose(scores["bits_per_dim"], bits)
        for label, expected in ((-1, None), (2, 2), ([0, 1, 2], [0, 1, 2])):
            drawn = signatures["sample"](
                n=tf.constant(3),
                temperature=tf.constant(1.0),
                seed=tf.constant(3, tf.int64),
                label=tf.constant(label),
            )
            self.assertAllEqual(
                drawn["images"], self.model.sample(3, 1.0, 3, expected)
            )

    def test_wrong_labels(self):
        for label in (-1, [0, 1]):
            with self.assertRaisesRegex(
                tf.errors.InvalidArgumentError, "`label` must be an integer in"
            ):
                self.loaded.encode(self.images, label)
        with self.assertRaisesRegex(TypeError, "label"):
            self.loaded.encode(self.images)
        with self.assertRaisesRegex(
            tf.errors.InvalidArgumentError, "`label` must be an integer in"
        ):
            self.loaded.signatures["sample"](
                n=tf.constant(3),
                temperature=tf.constant(1.0),
                seed=tf.constant(3, tf.int64),
                label=tf.constant([-1, 0]),
            )


class SavedModelTest(ExportTestCase, parameterized.TestCase):
    """It gives what the model gives."""

    def test_sample(self):
        expected = self.model.sample(4, 0.5, seed=5)
        for n, temperature, seed in (
            (4, 0.5, 5),
            (tf.constant(4), np.float32(0.5), np.int64(5)),
            (tf.constant(4, tf.int64), np.float64(0.5), 5),
        ):
            images = self.loaded.sample(n, temperature, seed)
            self.assertEqual(images.dtype, np.uint8)
            self.assertAllEqual(images, expected)
        large = self.loaded.sample(4, seed=LARGE_SEED)
        self.assertAllEqual(large, self.model.sample(4, seed=LARGE_SEED))
        low = LARGE_SEED % 2**32
        self.assertNotAllEqual(large, self.loaded.sample(4, seed=low))
        # With no temperature, all are the same.
        image = self.model.decode(np.zeros((1, 2, 2, 4), np.float32))
        images = self.loaded.sample(tf.constant(2), tf.constant(0.0))
        self.assertAllEqual(images, np.tile(image, [2, 1, 1, 1]))

    def test_density(self):
        for images in (self.images, self.images.astype(np.int64)):
            log_prob = self.loaded.log_prob(images, seed=5)
            self.assertEqual(log_prob.dtype, np.float32)
            self.assertAllClose(
                log_prob, self.model.log_prob(images, 5), rtol=1e-5
            )
        self.assertAllClose(
            self.loaded.bits_per_dim(self.images, seed=5),
            self.model.bits_per_dim(self.images, 5),
            rtol=1e-5,
        )

    def test_density_of_each(self):
        """It depends on an image and its seed, not on those beside it."""
        seeds = np.array([5, 5, -(2**63), LARGE_SEED, 0])
        alone = [
            self.model.log_prob(image[np.newaxis], int(seed))[0]
            for image, seed in zip(self.images, seeds, strict=True)
        ]
        for images in (self.images, self.images.astype(np.int64)):
            log_prob = self.loaded.log_prob_each(images, seeds)
            self.assertEqual(log_prob.dtype, np.float32)
            self.assertAllClose(log_prob, alone, rtol=1e-5)
        self.assertAllClose(
            self.loaded.log_prob(self.images[:1], seed=5), alone[:1], rtol=1e-5
        )
        by_xla = tf.function(self.loaded.log_prob_each, jit_compile=True)
        self.assertAllClose(
            by_xla(tf.constant(self.images), tf.constant(seeds)),
            alone,
            rtol=1e-4,
        )
        nothing = self.loaded.log_prob_each(self.images[:0], seeds[:0])
        self.assertEqual(nothing.shape, (0,))

    def assert_likely(self, log_prob):
        """Asserts that these are densities of the images with some noise."""
        draws = self.model.log_prob(np.tile(self.images, [64, 1, 1, 1]), 0)
        draws = np.reshape(draws, [64, -1])
        low, high = draws.min(axis=0), draws.max(axis=0)
        margin = high - low  # Of more draws than will ever be made.
        self.assertEqual(log_prob.shape, low.shape)
        self.assertAllGreater(log_prob - (low - margin), 0.0)
        self.assertAllLess(log_prob - (high + margin), 0.0)

    def test_density_without_seed(self):
        nats = self.loaded.log_prob(self.images)
        self.assert_likely(nats)
        bits = self.loaded.bits_per_dim(self.images)
        self.assert_likely(-bits * NUM_DIMS * math.log(2.0))

    def test_latents(self):
        latents = self.loaded.encode(self.images)
        self.assertEqual(latents.dtype, np.float32)
        self.assertAllClose(latents, self.model.encode(self.images), rtol=1e-4)
        self.assertAllEqual(self.loaded.decode(latents), self.images)
        for dtype in (np.float32, np.float64):
            images = self.loaded.decode(self.latents.astype(dtype))
            self.assertEqual(images.dtype, np.uint8)
            self.assertAllEqual(images, self.model.decode(self.latents))

    def test_nothing(self):
        for images in (
            self.loaded.sample(0),
            self.loaded.decode(self.latents[:0]),
        ):
            self.assertEqual(images.shape, (0, 4, 4, 1))
            self.assertEqual(images.dtype, np.uint8)
        self.assertEqual(self.loaded.log_prob(self.images[:0]).shape, (0,))

    def test_signatures(self):
        signatures = self.loaded.signatures
        images = {"images": ("uint8", "<unknown>")}
        self.assertEqual(
            inputs_of(signatures),
            {
                "serving_default": images,
                "sample": {
                    "n": ("int32", "()"),
                    "temperature": ("float32", "()"),
                    "seed": ("int64", "()"),
                },
                "encode": images,
                "decode": {"latents": ("float32", "<unknown>")},
            },
        )
        scores = signatures["serving_default"](images=tf.constant(self.images))
        self.assertEqual(set(scores), {"log_prob", "bits_per_dim"})
        self.assert_likely(scores["log_prob"])
        # Both from the same noise.
        self.assertAllClose(
            scores["bits_per_dim"],
            -scores["log_prob"] / (NUM_DIMS * math.log(2.0)),
            rtol=1e-5,
        )
        sampled = signatures["sample"](
            n=tf.constant(2),
            temperature=tf.constant(0.5),
            seed=tf.constant(5, tf.int64),
        )
        encoded = signatures["encode"](images=tf.constant(self.images))
        decoded = signatures["decode"](latents=tf.constant(self.latents))
        for result, name, expected in (
            (sampled, "images", self.model.sample(2, 0.5, seed=5)),
            (encoded, "latents", self.model.encode(self.images)),
            (decoded, "images", self.model.decode(self.latents)),
        ):
            self.assertEqual(set(result), {name})
            self.assertAllClose(result[name], expected, rtol=1e-4)

    def test_threads(self):
        """Several at once get what one gets."""

        def call(size):
            images = self.images[:size]
            return (
                self.loaded.encode(images).numpy(),
                self.loaded.decode(self.latents[:size]).numpy(),
                self.loaded.log_prob(images, 5).numpy(),
                self.loaded.sample(size, 0.5, 5).numpy(),
            )

        sizes = [1, 5] * 25  # Each is a trace of its own.
        expected = {size: call(size) for size in sizes[:2]}
        with futures.ThreadPoolExecutor(4) as pool:
            for size, results in zip(sizes, pool.map(call, sizes), strict=True):
                for result, its in zip(results, expected[size], strict=True):
                    self.assertAllEqual(result, its)

    def test_one_trace_for_all(self):
        """As the docstring of `save` promises: traces are large."""
        images = tf.TensorSpec(None, tf.uint8)
        seed = tf.TensorSpec([], tf.int64)
        for function, types, argument in (
            (self.loaded.log_prob, [images, seed], self.images),
            (self.loaded.encode, [images], self.images),
            (self.loaded.decode, [tf.TensorSpec(None)], self.latents),
        ):
            function.get_concrete_function(*types)
            count = function.experimental_get_tracing_count()
            for n in range(1, 5):
                seeds = [tf.constant(n, tf.int64)] * (seed in types)
                result = function(tf.constant(argument[:n]), *seeds)
                self.assertEqual(result.shape[0], n)
            self.assertEqual(function.experimental_get_tracing_count(), count)
        self.loaded.sample(tf.constant(3))
        count = self.loaded.sample.experimental_get_tracing_count()
        for n in range(4, 7):
            self.assertEqual(self.loaded.sample(tf.constant(n)).shape[0], n)
        self.assertEqual(
            self.loaded.sample.experimental_get_tracing_count(), count
        )


class OtherProgramsTest(ExportTestCase):
    def test_without_this_package(self):
        """Another program gets the same with a seed, else what is fresh."""
        np.savez(
            self.folder / "in.npz", images=self.images, latents=self.latents
        )
        client = pathlib.Path(model_client.__file__)
        (self.folder / client.name).write_bytes(client.read_bytes())
        code, _, stderr = command_lines.run(
            *(self.folder, client.name, self.path, "in.npz", "out.npz"),
            PYTHONPATH="",
            # As TensorFlow is by default on the newest processors.
            TF_ENABLE_ONEDNN_OPTS="1",
        )
        self.assertEqual(code, 0, stderr)
        with np.load(self.folder / "out.npz") as values:
            values = dict(values)
        images = self.model.sample(36, 0.5, seed=LARGE_SEED)
        self.assertAllEqual(values.pop("sample"), images)
        images = self.model.decode(self.latents)
        self.assertAllEqual(values.pop("decode"), images)
        log_prob = self.model.log_prob(self.images, 5)
        self.assertAllClose(values.pop("log_prob"), log_prob, rtol=1e-5)
        latents = self.model.encode(self.images)
        self.assertAllClose(values.pop("encode"), latents, rtol=1e-4)

        tf.random.set_seed(7)  # As that process has.
        here = model_client.draw(self.loaded, self.images)
        self.assertLen(values, len(here))
        draws = collections.defaultdict(list)
        for value in (*here, *values.values()):
            draws[value.shape].append(value.tobytes())
        for shape, contents in draws.items():
            # Two processes and calls.
            self.assertGreaterEqual(len(contents), 8)
            self.assertLen(set(contents), len(contents), shape)


class FilesTest(ExportTestCase, parameterized.TestCase):
    def test_no_seed_is_saved(self):
        """What is saved draws afresh, though this process has a seed."""
        saved_model = saved_model_pb2.SavedModel()
        saved_model.ParseFromString((self.path / "saved_model.pb").read_bytes())
        (meta_graph,) = saved_model.meta_graphs
        graph = meta_graph.graph_def
        nodes = list(graph.node)
        for function in graph.library.function:
            nodes.extend(function.node_def)
        self.assertIn("RandomUniformInt", {node.op for node in nodes})
        for node in nodes:
            # Zero, if there is no such attribute or it has its default.
            seeds = (node.attr["seed"].i, node.attr["seed2"].i)
            self.assertEqual(seeds, (0, 0), node.op)

    def test_variables(self):
        """All weights are in one variable, in the order of the model."""
        saved = small_models.loaded().weights
        expected = [
            variable.numpy().ravel() for variable in self.model.variables
        ]
        self.assertGreater(len(expected), 60)
        self.assertAllEqual(saved, np.concatenate(expected))

    def test_metadata(self):
        text = (self.path / metadata.FILE).read_text()
        # A person can read it, too.
        self.assertGreater(text.count("\n"), 10)
        content = json.loads(text)
        versions = content.pop("versions")
        self.assertEqual(versions["tensorflow"], tf.__version__)
        self.assertEqual(versions["keras"], keras.__version__)
        self.assertIn("tensorflow-probability", versions)
        self.assertEqual(
            content,
            {
                "format": metadata.FORMAT,
                "image_shape": [4, 4, 1],
                "latent_shape": [2, 2, 4],
                "num_colors": 17,
                "filters": 2,
                "num_blocks": 1,
                "alpha": small_models.ALPHA,
                "num_scales": 2,
                "num_couplings": [*small_models.NUM_COUPLINGS],
                "dequantization": "uniform",
                "num_parameters": self.model.num_parameters,
                **small_models.METADATA,
            },
        )

    def test_replaces_what_is_there_when_it_is_complete(self):
        path = self.folder / "model"
        (path / "assets").mkdir(parents=True)
        (path / "assets" / "old.txt").write_text("old")
        (path / "saved_model.pb").write_bytes(b"old")
        (path / "metadata.json").touch()
        link = self.folder / "link"
        link.symlink_to("model")
        error = OSError("No space left on device")

        def save(unused_module, new, **unused_kwargs):
            (pathlib.Path(new) / "saved_model.pb").write_bytes(b"half of it")
            if error is not None:
                raise error

        with (
            mock.patch.object(export, "_ServingModule"),
            mock.patch.object(tf.saved_model, "save", save),
        ):
            with self.assertRaisesRegex(OSError, "No space left"):
                export.save(self.model, path)
            self.assertEqual((path / "saved_model.pb").read_bytes(), b"old")
            self.assertTrue((path / "assets" / "old.txt").exists())
            error = None
            export.save(self.model, link)
        self.assertCountEqual(
            os.listdir(path), ["saved_model.pb", "metadata.json"]
        )
        self.assertTrue(link.is_symlink())
        self.assertCountEqual(os.listdir(self.folder), ["model", "link"])

    def test_what_is_no_model_is_not_replaced(self):
        self.enterContext(contextlib.chdir(self.folder))
        (self.folder / "letters").mkdir()
        (self.folder / "letters" / "to_you.txt").write_text("text")
        (self.folder / "link").symlink_to("letters")
        for name in ("letters", "letters/to_you.txt", "link", ".", ""):
            with self.assertRaisesRegex(UsageError, "is no model that could"):
                self.model.save(name)
        self.assertCountEqual(os.listdir("."), ["letters", "link"])
        self.assertEqual(os.listdir("letters"), ["to_you.txt"])
        # Another program's, and one with something of its user.
        os.mkdir("keras")
        (self.folder / "keras" / "saved_model.pb").touch()
        with self.assertRaisesRegex(UsageError, "is no model that could"):
            self.model.save("keras")
        shutil.copytree(small_models.saved(), "model")
        (self.folder / "model" / "notes.txt").touch()
        with self.assertRaisesRegex(UsageError, "model has notes.txt in it"):
            self.model.save("model")
        # An empty folder is nothing that could be lost.
        for name in ("new", "empty"):
            (self.folder / "empty").mkdir(exist_ok=True)
            export.check_path(name)

    @parameterized.parameters(
        ({"filters": 8}, "must not have `filters`"),
        ({"format": 1}, "must not have `format`"),
        ({"dataset": ["a"]}, "dataset is"),
        ({"source": 5}, "source is"),
        ({"names": {"a"}}, "what JSON knows: .* set"),
        ({"loss": np.nan}, "what JSON knows: .* float"),
    )
    def test_metadata_that_could_not_be_read(self, metadata, message):
        with self.assertRaisesRegex(ValueError, message):
            self.model.save(self.folder / "model", metadata)
        self.assertEqual(os.listdir(self.folder), [])

    def test_folder_that_tensorflow_could_not_read(self):
        for name in ("a[1]", "a\\b", "a\udcffb"):
            with self.assertRaisesRegex(UsageError, "give another folder$"):
                self.model.save(self.folder / name)
        self.assertEqual(os.listdir(self.folder), [])
        (self.folder / "a[1]").mkdir()
        with (
            contextlib.chdir(self.folder / "a[1]"),
            self.assertRaisesRegex(UsageError, "give another folder$"),
        ):
            export.check_path("model")


# No dtype and no value of these is a number.
NO_NUMBERS = st.one_of(
    st.none(),
    st.text(max_size=3),
    st.complex_numbers(),
    st.just({}),
    st.builds(object),
    st.just([[1], [1, 2]]),
    hnp.arrays(st.sampled_from([bool, complex, "U1"]), st.just((2,))),
)
NO_INTEGERS = st.one_of(
    NO_NUMBERS, st.floats(), st.floats(width=32).map(np.float32)
)
NO_SCALARS = st.one_of(
    st.lists(st.integers(0, 3), max_size=3),
    hnp.arrays(st.sampled_from([np.int64, np.float32]), st.just((1, 2))),
)
BAD = {
    "n": st.one_of(
        NO_INTEGERS,
        NO_SCALARS,
        st.integers(-(2**70), -1),
        st.integers(2**27, 2**31 - 1),  # Of 16 components each.
        st.integers(2**31, 2**70),
        st.integers(-(2**31), -1).map(np.int32),
    ),
    "temperature": st.one_of(
        NO_NUMBERS,
        NO_SCALARS,
        st.floats(max_value=-1e-30),
        st.floats(min_value=1e39),
        st.sampled_from((math.nan, np.float32(math.nan))),
    ),
    "seed": st.one_of(
        NO_INTEGERS.filter(lambda value: value is not None),
        NO_SCALARS,
        st.integers(2**64, 2**70),
    ),
}
DTYPES = [bool, *"bhilBHILefdFO", "U1"]


def arrays(event_shape, dtypes, elements):
    """Arrays of `[n, *event_shape]`, or of any dtype and shape."""
    shapes = st.integers(0, 3).map(lambda n: (n, *event_shape))
    any_shape = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3)
    return st.one_of(
        hnp.arrays(st.sampled_from(dtypes), shapes, elements=elements),
        hnp.arrays(st.sampled_from(dtypes), any_shape, elements=elements),
        hnp.arrays(st.sampled_from(DTYPES), shapes),
        hnp.arrays(st.sampled_from(DTYPES), any_shape),
    )


def over_examples(n):
    return hypothesis.settings(
        max_examples=n, derandomize=True, deadline=None, database=None
    )


class AnyArgumentsTest(ExportTestCase):
    """Gives a loaded model anything. Each new Python number is a new trace."""

    def assert_names(self, name, function, **arguments):
        """Asserts that there is an error, a documented one of `name`."""
        with self.assertRaises(
            (ValueError, OverflowError, tf.errors.InvalidArgumentError)
        ) as caught:
            with np.errstate(over="ignore"):  # To float32, by TensorFlow.
                function(**arguments)
        if isinstance(caught.exception, tf.errors.InvalidArgumentError):
            self.assertRegex(str(caught.exception), f"`{name}` must (be|have)")
        elif isinstance(caught.exception, ValueError):
            self.assertIn(f"name='{name}'", str(caught.exception))
        else:
            self.assertGreaterEqual(abs(arguments[name]), 2**63)

    @over_examples(30)
    @hypothesis.given(
        st.sampled_from([*BAD]).flatmap(
            lambda name: st.tuples(st.just(name), BAD[name])
        )
    )
    def test_sample(self, name_and_value):
        name, value = name_and_value
        arguments = {"n": 2, "temperature": 1.0, "seed": 0} | {name: value}
        self.assert_names(name, self.loaded.sample, **arguments)

    @over_examples(20)
    @hypothesis.given(
        st.sampled_from(["log_prob", "bits_per_dim", "encode"]),
        arrays((4, 4, 1), [np.uint8, np.int64], st.integers(0, MAX + 1)),
    )
    def test_images(self, name, images):
        function = getattr(self.loaded, name)
        if (
            images.dtype not in (np.uint8, np.int64)
            or images.shape[1:] != (4, 4, 1)
            or not np.all((images >= 0) & (images <= MAX))
        ):
            self.assert_names("images", function, images=images)
        else:
            values = function(images)
            event = [2, 2, 4] if name == "encode" else []
            self.assertEqual(values.shape, [len(images), *event])
            self.assertEqual(values.dtype, tf.float32)
            self.assertTrue(np.isfinite(values).all())

    @over_examples(30)
    @hypothesis.given(
        arrays((2, 2, 4), [np.float32, np.float64], st.floats(width=32))
    )
    def test_latents(self, latents):
        try:
            images = self.loaded.decode(latents)
        except tf.errors.InvalidArgumentError as error:
            if latents.shape[1:] == (2, 2, 4) and np.all(
                np.abs(latents) < 3e38
            ):
                # What they come to on the way is not finite.
                self.assertIn("`latents` must be smaller", str(error))
                self.assertGreater(np.abs(latents).max(), 1e30)
            else:
                self.assertRegex(str(error), "`latents` must (be|have)")
        except ValueError as error:
            self.assertNotIn(latents.dtype, (np.float32, np.float64))
            self.assertIn("name='latents'", str(error))
        else:
            self.assertEqual(images.shape, [len(latents), 4, 4, 1])
            self.assertTrue(np.all(images <= MAX))

    def test_signatures(self):
        """They take any shape, to tell what is wrong with it."""
        for name, images in (
            ("images", self.images[:, :, :2]),
            ("images", np.tile(self.images, 3)),
            ("images", self.images[0]),
            ("images", self.images[np.newaxis]),
            ("images", self.images[0, 0, 0, 0]),
            ("images", self.images + np.uint8(MAX)),
            ("latents", self.latents[0]),
            ("latents", np.full_like(self.latents, np.nan)),
        ):
            function = self.loaded.signatures[
                "decode" if name == "latents" else "serving_default"
            ]
            self.assert_names(name, function, **{name: tf.constant(images)})

    def test_seeds(self):
        for seeds in ([1, 2], 5, [[1]] * 5, [1.0] * 5, [None] * 5, ["1"] * 5):
            self.assert_names(
                "seeds",
                self.loaded.log_prob_each,
                images=self.images,
                seeds=seeds,
            )

    def test_python_integers_are_not_cut_off(self):
        self.assert_names("n", self.loaded.sample, n=2**32 + 1)
        for value in (-1, 256, 2**32):
            images = np.full([1, 4, 4, 1], value).tolist()
            with self.assertRaisesRegex(
                tf.errors.InvalidArgumentError, rf"from\] \[{value}\]"
            ):
                self.loaded.encode(images)
        images = np.full([1, 4, 4, 1], MAX)
        self.assertAllEqual(
            self.loaded.encode(images.tolist()), self.loaded.encode(images)
        )


if __name__ == "__main__":
    tf.test.main()
