"""Tests for export."""

import collections
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

import command_lines
import hypothesis
import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.protobuf import saved_model_pb2

from tf_realnvp import RealNVP
from tf_realnvp.serving import export

NUM_DIMS = 4 * 4 * 1
LARGE_SEED = 2**40 + 3  # More than 32 bits.

# What another program does with a SavedModel. It writes all values that it gets
# into one file, and what it learns in words into another.
CLIENT = """
import json
import sys

import numpy as np
import tensorflow as tf

modules = set(sys.modules)

path, inputs, outputs, words = sys.argv[1:]
inputs = np.load(inputs)
images, latents = inputs["images"], inputs["latents"]
values, errors = {}, {}
loaded = tf.saved_model.load(path)


def attempt(name, function, *arguments, **named):
    try:
        values[name] = function(*arguments, **named)
    except Exception as error:
        errors[name] = f"{type(error).__name__}: {error}"


attempt("sample", loaded.sample, 36)
attempt("sample_again", loaded.sample, 36)
attempt("sample_seed", loaded.sample, 36, seed=5)
attempt("sample_seed_again", loaded.sample, 36, seed=5)
attempt("sample_large_seed", loaded.sample, 4, seed=2**40 + 3)
attempt("sample_temperature", loaded.sample, 36, 0.5, 5)
for dtype in (np.float32, np.float64):
    name = f"sample_temperature_{dtype.__name__}"
    attempt(name, loaded.sample, 36, dtype(0.5), 5)
attempt("sample_0", loaded.sample, 0)
attempt("log_prob", loaded.log_prob, images)
attempt("log_prob_again", loaded.log_prob, images)
attempt("log_prob_seed", loaded.log_prob, images, seed=5)
attempt("bits_per_dim", loaded.bits_per_dim, images)
attempt("bits_per_dim_seed", loaded.bits_per_dim, images, seed=5)
attempt("encode", loaded.encode, images)
attempt("decode", loaded.decode, latents)
attempt("decode_float64", loaded.decode, latents.astype(np.float64))

signatures = loaded.signatures
for name, arguments in {
    "serving_default": {"images": images},
    "sample": {"n": 2, "temperature": 0.5, "seed": 5},
    "encode": {"images": images},
    "decode": {"latents": latents},
}.items():
    dtypes = signatures[name].structured_input_signature[1]
    arguments = {
        k: tf.constant(v, dtypes[k].dtype) for k, v in arguments.items()
    }
    for output, value in signatures[name](**arguments).items():
        values[f"signature_{name}_{output}"] = value


def score(images):
    return signatures["serving_default"](images=tf.constant(images))["log_prob"]


def decode(latents):
    return signatures["decode"](latents=tf.constant(latents))["images"]


def sample(n, temperature):
    return loaded.sample(tf.constant(n), tf.constant(temperature))


attempt("score_0", score, images[:0])
attempt("decode_0", decode, latents[:0])
attempt("sample_tensor", sample, 2, 0.0)

nan = np.full_like(latents, np.nan)
attempt("sample: n", loaded.sample, -1)
attempt("sample: n, a tensor", sample, -3, 1.0)
attempt("sample: n, large", loaded.sample, 10**9)
attempt("sample: n, the largest int32", loaded.sample, 2**31 - 1)
attempt("sample: n, a list", loaded.sample, [4, 4])
attempt("sample: temperature, a list", loaded.sample, 4, [0.5, 0.5])
attempt("sample: seed, a list", loaded.sample, 4, 0.5, [5, 6])
attempt("log_prob: seed, a list", loaded.log_prob, images, [5, 6])
attempt("sample: temperature, negative", sample, 2, -1.0)
attempt("sample: temperature, NaN", sample, 2, float("nan"))
attempt("sample: temperature, infinite", sample, 2, float("inf"))
attempt("log_prob: images, shape", loaded.log_prob, images[:, :2])
attempt("log_prob: images, range", loaded.log_prob, images + 17)
attempt("bits_per_dim: images, range", loaded.bits_per_dim, images + 17)
attempt("encode: images, rank", loaded.encode, images[0])
attempt("encode: images, range", loaded.encode, images + 17)
attempt("decode: latents, shape", loaded.decode, latents[:, :1])
attempt("decode: latents, NaN", loaded.decode, nan)
attempt("signature: images, shape", score, images[:, :, :2])
attempt("signature: images, channels", score, np.tile(images, 3))
attempt("signature: images, rank 3", score, images[0])
attempt("signature: images, rank 5", score, images[np.newaxis])
attempt("signature: images, rank 0", score, images[0, 0, 0, 0])
attempt("signature: images, range", score, images + 17)
attempt("signature: latents, rank", decode, latents[0])
# Errors leave nothing broken behind.
attempt("sample_after_errors", loaded.sample, 36, seed=5)

np.savez(outputs, **{name: np.array(v) for name, v in values.items()})
with open(words, "w") as file:
    json.dump(
        {
            "errors": errors,
            "new_modules": sorted(set(sys.modules) - modules),
            "modules": sorted(sys.modules),
            "inputs": {
                name: {
                    k: [v.dtype.name, str(v.shape)]
                    for k, v in s.structured_input_signature[1].items()
                }
                for name, s in signatures.items()
            },
            "outputs": {
                name: sorted(s.structured_outputs)
                for name, s in signatures.items()
            },
        },
        file,
    )
"""

# What every server of a model does, each with the same seed of its own, which
# must not matter. It writes all values that no other call may give.
SERVER = """
import sys

import numpy as np
import tensorflow as tf

tf.random.set_seed(7)
path, images, outputs = sys.argv[1:]
images = np.load(images)
values = {}
for load in range(2):
    loaded = tf.saved_model.load(path)
    for call in range(2):

        def add(name, value):
            values[f"{name} {load} {call}"] = value

        add("sample", loaded.sample(36))
        # None may be the beginning of another.
        add("sample of 4", loaded.sample(4))
        add("sample of 5", loaded.sample(5)[:4])
        add("sample of a tensor", loaded.sample(tf.constant(36)))
        add("sample of float64", loaded.sample(36, np.float64(1.0)))
        for name in ("log_prob", "bits_per_dim"):
            function = getattr(loaded, name)
            add(name, function(images))
            add(f"{name} of int64", function(images.astype(np.int64)))
        scores = loaded.signatures["serving_default"](tf.constant(images))
        for name, value in scores.items():
            add(f"serving {name}", value)
np.savez(outputs, **values)
"""

# What must be the same in every process, as TensorFlow's determinism asks.
DETERMINISTIC = """
import keras
import numpy as np
import tensorflow as tf

from tf_realnvp import RealNVP, export

tf.config.experimental.enable_op_determinism()
keras.utils.set_random_seed(0)
model = RealNVP((4, 4, 1), num_colors=17, filters=4, num_blocks=1)
export.save(model, "model")
loaded = tf.saved_model.load("model")
images = model.sample(5, 0.5, seed=2**40 + 3)
np.testing.assert_array_equal(images, model.sample(5, 0.5, seed=2**40 + 3))
np.testing.assert_array_equal(images, loaded.sample(5, 0.5, seed=2**40 + 3))
here, there = model.log_prob, loaded.log_prob
np.testing.assert_array_equal(here(images, seed=1), here(images, seed=1))
np.testing.assert_array_equal(there(images, seed=1), there(images, seed=1))
np.testing.assert_allclose(
    here(images, seed=1), there(images, seed=1), rtol=1e-5
)
np.testing.assert_array_equal(loaded.decode(loaded.encode(images)), images)
for call in (
    lambda: loaded.sample(5),
    lambda: loaded.log_prob(images),
    lambda: loaded.bits_per_dim(images),
    lambda: loaded.signatures["serving_default"](images),
):
    try:
        call()
    except tf.errors.InvalidArgumentError as error:
        assert "random ops must have a seed" in str(error), error
    else:
        raise AssertionError("There was no error.")
print("deterministic")
"""

ERRORS = [
    # What was tried, and what its error has to name.
    ("sample: n", "`n` must be from 0 to", "-1"),
    ("sample: n, a tensor", "`n` must be from 0 to", "-3"),
    ("sample: n, large", "`n` must be from 0 to 134217727", "1000000000"),
    ("sample: n, the largest int32", "`n` must be from 0 to", "2147483647"),
    ("sample: n, a list", "`n` must be a whole number", "shape] [2]"),
    ("sample: temperature, a list", "`temperature` must be", "shape] [2]"),
    ("sample: seed, a list", "`seed` must be an integer", "shape] [2]"),
    ("log_prob: seed, a list", "`seed` must be an integer", "shape] [2]"),
    ("sample: temperature, negative", "`temperature` must be", "-1"),
    ("sample: temperature, NaN", "`temperature` must be", "nan"),
    ("sample: temperature, infinite", "`temperature` must be", "inf"),
    ("log_prob: images, shape", "`images` must have the shape", "5 2 4 1"),
    (
        "log_prob: images, range",
        "`images` must be in 0 ... 16",
        "from] [17] [to] [33]",
    ),
    (
        "bits_per_dim: images, range",
        "`images` must be in 0 ... 16",
        "from] [17] [to] [33]",
    ),
    ("encode: images, rank", "`images` must have the shape", "4 4 1"),
    (
        "encode: images, range",
        "`images` must be in 0 ... 16",
        "from] [17] [to] [33]",
    ),
    ("decode: latents, shape", "`latents` must have the shape", "5 1 2 4"),
    ("decode: latents, NaN", "`latents` must be finite", ""),
    ("signature: images, shape", "`images` must have the shape", "5 4 2 1"),
    ("signature: images, channels", "`images` must have the shape", "5 4 4 3"),
    ("signature: images, rank 3", "`images` must have the shape", "4 4 1"),
    ("signature: images, rank 5", "`images` must have the shape", "1 5 4 4 1"),
    ("signature: images, rank 0", "`images` must have the shape", ""),
    (
        "signature: images, range",
        "`images` must be in 0 ... 16",
        "from] [17] [to] [33]",
    ),
    ("signature: latents, rank", "`latents` must have the shape", "2 2 4"),
]


def make_model():
    """A small model, its weights moved off their initial values."""
    keras.utils.set_random_seed(0)
    model = RealNVP((4, 4, 1), num_colors=17, filters=4, num_blocks=1)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign_add(rng.normal(scale=0.3, size=variable.shape))
    return model


def contents(folder):
    """All files under a folder, path to bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def start(folder, *arguments):
    """Starts Python in a process that knows nothing of this package."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON")
    }
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        # With oneDNN, as TensorFlow is by default on the newest processors.
        env=environment | {"TF_ENABLE_ONEDNN_OPTS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    if process.returncode:
        raise AssertionError(f"exit code {process.returncode}: {output}")


class SavedModelTest(tf.test.TestCase, parameterized.TestCase):
    """Saves one model, and lets programs without this package use it."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.folder = folder = pathlib.Path(folder)
        cls.path = folder / "model"
        # Another SavedModel is in its place.
        old = tf.Module()
        old.variable = tf.Variable([1.0, 2.0])
        tf.saved_model.save(old, str(cls.path))
        (cls.path / "assets" / "old.txt").write_text("old")

        cls.model = make_model()
        export.save(cls.model, cls.path, {"dataset": "digits", "lr": 3e-4})

        rng = np.random.default_rng(1)
        cls.images = rng.integers(17, size=(5, 4, 4, 1)).astype(np.uint8)
        cls.images[:2, 0, 0, 0] = 0, 16
        cls.latents = rng.normal(size=(5, 2, 2, 4)).astype(np.float32)
        cls.run_programs()

    @classmethod
    def run_programs(cls):
        """Runs the clients side by side: most of their time is start-up."""
        # Nothing of this package is near: not even this test's own folder.
        outside = cls.enterClassContext(tempfile.TemporaryDirectory())
        outside = pathlib.Path(outside)
        (outside / "client.py").write_text(CLIENT)
        np.savez(outside / "inputs.npz", images=cls.images, latents=cls.latents)
        np.save(outside / "images.npy", cls.images)
        tool = ["-m", "tensorflow.python.tools.saved_model_cli", "run"]
        tool += ["--dir", cls.path, "--tag_set", "serve", "--signature_def"]
        client = start(
            outside,
            "client.py",
            cls.path,
            "inputs.npz",
            "outputs.npz",
            "words.json",
        )
        sampler = start(
            outside,
            *tool,
            "sample",
            "--input_exprs",
            "n=2;temperature=1.0;seed=3",
            "--outdir",
            "samples",
        )
        finish(sampler)
        scorer = start(
            outside,
            *tool,
            "serving_default",
            "--inputs",
            "images=images.npy",
            "--outdir",
            "scores",
        )
        finish(scorer)
        finish(client)
        with np.load(outside / "outputs.npz") as values:
            cls.values = dict(values)
        cls.words = json.loads((outside / "words.json").read_text())
        cls.samples, cls.scores = (
            {path.stem: np.load(path) for path in (outside / name).iterdir()}
            for name in ("samples", "scores")
        )

    def test_needs_tensorflow_alone(self):
        def packages(modules):
            return {module.partition(".")[0] for module in modules}

        self.assertIn("tensorflow", packages(self.words["modules"]))
        self.assertNoCommonElements(
            packages(self.words["modules"]),
            {"tf_realnvp", "tensorflow_probability", "tf_keras"},
        )
        # TensorFlow itself imports a little of Keras.
        self.assertNotIn("keras", packages(self.words["new_modules"]))

    def test_sample_without_seed(self):
        first, second = self.values["sample"], self.values["sample_again"]
        for images in (first, second):
            self.assertEqual(images.shape, (36, 4, 4, 1))
            self.assertEqual(images.dtype, np.uint8)
            self.assertLess(images.max(), 17)
        self.assertNotAllEqual(first, second)

    def test_sample_with_seed(self):
        images = self.values["sample_seed"]
        self.assertEqual(images.dtype, np.uint8)
        self.assertAllEqual(images, self.model.sample(36, seed=5))
        self.assertAllEqual(images, self.values["sample_seed_again"])
        self.assertAllEqual(images, self.values["sample_after_errors"])
        self.assertNotAllEqual(images, self.values["sample"])
        self.assertAllEqual(
            self.values["sample_large_seed"],
            self.model.sample(4, seed=LARGE_SEED),
        )
        self.assertNotAllEqual(self.values["sample_large_seed"], images[:4])

    def test_sample_with_temperature(self):
        images = self.values["sample_temperature"]
        self.assertAllEqual(
            images, self.model.sample(36, temperature=0.5, seed=5)
        )
        self.assertNotAllEqual(images, self.values["sample_seed"])
        for dtype in ("float32", "float64"):
            self.assertAllEqual(
                images, self.values[f"sample_temperature_{dtype}"]
            )

    def test_sample_of_temperature_zero(self):
        image = self.model.decode(np.zeros((1, 2, 2, 4), np.float32))
        self.assertAllEqual(
            self.values["sample_tensor"], np.tile(image, [2, 1, 1, 1])
        )

    def test_nothing(self):
        for name in ("sample_0", "decode_0"):
            self.assertEqual(self.values[name].shape, (0, 4, 4, 1))
            self.assertEqual(self.values[name].dtype, np.uint8)
        self.assertEqual(self.values["score_0"].shape, (0,))

    def test_density(self):
        log_prob = self.values["log_prob_seed"]
        self.assertEqual(log_prob.dtype, np.float32)
        self.assertAllClose(
            log_prob, self.model.log_prob(self.images, 5), rtol=1e-5
        )
        bits_per_dim = self.values["bits_per_dim_seed"]
        self.assertEqual(bits_per_dim.dtype, np.float32)
        self.assertAllClose(
            bits_per_dim, self.model.bits_per_dim(self.images, 5), rtol=1e-5
        )

    def test_density_without_seed(self):
        log_prob = self.values["log_prob"]
        self.assert_likely(log_prob)
        self.assertNotAllEqual(log_prob, self.values["log_prob_again"])
        self.assert_likely(
            -self.values["bits_per_dim"] * NUM_DIMS * math.log(2.0)
        )

    def assert_likely(self, log_prob):
        """Asserts that these are densities of the images with some noise."""
        draws = self.model.log_prob(np.tile(self.images, [64, 1, 1, 1]), 0)
        draws = np.reshape(draws, [64, -1])
        low, high = draws.min(axis=0), draws.max(axis=0)
        margin = high - low  # Of more draws than will ever be made.
        self.assertEqual(log_prob.shape, low.shape)
        self.assertAllGreater(log_prob - (low - margin), 0.0)
        self.assertAllLess(log_prob - (high + margin), 0.0)

    def test_latents(self):
        latents = self.values["encode"]
        self.assertEqual(latents.dtype, np.float32)
        self.assertAllClose(latents, self.model.encode(self.images), rtol=1e-4)
        images = self.values["decode"]
        self.assertEqual(images.dtype, np.uint8)
        self.assertAllEqual(images, self.model.decode(self.latents))
        self.assertAllEqual(images, self.values["decode_float64"])
        # Of the latents that `encode` gave, the images.
        self.assertAllEqual(self.model.decode(latents), self.images)

    @parameterized.named_parameters((name, name, *r) for name, *r in ERRORS)
    def test_error(self, name, message, value):
        self.assertIn(name, self.words["errors"], "There was no error.")
        error = self.words["errors"][name]
        self.assertIn(message, error)
        self.assertIn(value, error.partition(message)[2])

    def test_no_other_errors(self):
        others = set(self.words["errors"]) - {name for name, *_ in ERRORS}
        self.assertEmpty({n: self.words["errors"][n] for n in others})

    def test_signatures(self):
        images = {"images": ["uint8", "<unknown>"]}
        self.assertEqual(
            self.words["inputs"],
            {
                "serving_default": images,
                "sample": {
                    "n": ["int32", "()"],
                    "temperature": ["float32", "()"],
                    "seed": ["int64", "()"],
                },
                "encode": images,
                "decode": {"latents": ["float32", "<unknown>"]},
            },
        )
        self.assertEqual(
            self.words["outputs"],
            {
                "serving_default": ["bits_per_dim", "log_prob"],
                "sample": ["images"],
                "encode": ["latents"],
                "decode": ["images"],
            },
        )

    def test_results_of_signatures(self):
        values = self.values
        self.assertAllEqual(
            values["signature_sample_images"],
            self.model.sample(2, temperature=0.5, seed=5),
        )
        self.assertAllClose(
            values["signature_encode_latents"], values["encode"], rtol=1e-4
        )
        self.assertAllEqual(values["signature_decode_images"], values["decode"])
        self.assert_scores(
            values["signature_serving_default_log_prob"],
            values["signature_serving_default_bits_per_dim"],
        )

    def assert_scores(self, log_prob, bits_per_dim):
        self.assert_likely(log_prob)
        # Both from the same noise.
        self.assertAllClose(
            bits_per_dim, -log_prob / (NUM_DIMS * math.log(2.0)), rtol=1e-5
        )

    def test_saved_model_cli(self):
        self.assertEqual(set(self.samples), {"images"})
        self.assertEqual(self.samples["images"].dtype, np.uint8)
        self.assertAllEqual(
            self.samples["images"], self.model.sample(2, seed=3)
        )
        self.assertEqual(set(self.scores), {"log_prob", "bits_per_dim"})
        self.assert_scores(**self.scores)

    def test_variables(self):
        reader = tf.train.load_checkpoint(
            str(self.path / "variables" / "variables")
        )
        saved = collections.Counter(
            (tuple(shape), np.asarray(reader.get_tensor(name)).tobytes())
            for name, shape in reader.get_variable_to_shape_map().items()
            if name.endswith(".ATTRIBUTES/VARIABLE_VALUE")
            and not name.startswith("save_counter")
        )
        expected = collections.Counter(
            (tuple(variable.shape), variable.numpy().tobytes())
            for variable in self.model.variables
        )
        self.assertEqual(expected.total(), 10 * 15 + 20)
        self.assertEqual(saved, expected)

    def test_metadata(self):
        text = (self.path / export.METADATA_FILE).read_text()
        # A person can read it, too.
        self.assertGreater(text.count("\n"), 10)
        metadata = json.loads(text)
        versions = metadata.pop("versions")
        self.assertEqual(versions["tensorflow"], tf.__version__)
        self.assertEqual(versions["keras"], keras.__version__)
        self.assertIn("tensorflow-probability", versions)
        self.assertEqual(
            metadata,
            {
                "image_shape": [4, 4, 1],
                "latent_shape": [2, 2, 4],
                "num_colors": 17,
                "filters": 4,
                "num_blocks": 1,
                "alpha": 0.1,
                "num_scales": 2,
                "num_parameters": self.model.num_parameters,
                "dataset": "digits",
                "lr": 3e-4,
            },
        )

    def test_replaces_a_saved_model(self):
        self.assertEqual(os.listdir(self.folder), ["model"])
        self.assertNotIn("assets/old.txt", contents(self.path))

    def test_failure_leaves_the_old_one(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        path = folder / "model"
        shutil.copytree(self.path, path)
        before = contents(path)
        self.assertIn("saved_model.pb", before)

        def fail(unused_module, new, **unused_kwargs):
            pathlib.Path(new, "saved_model.pb").write_bytes(b"half of it")
            raise OSError("No space left on device")

        with mock.patch.object(tf.saved_model, "save", fail):
            with self.assertRaisesRegex(OSError, "No space left"):
                export.save(self.model, path)
        self.assertEqual(contents(path), before)
        self.assertEqual(os.listdir(folder), ["model"])


def node_defs(path):
    """All operations of a SavedModel."""
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((path / "saved_model.pb").read_bytes())
    for meta_graph in saved_model.meta_graphs:
        graph = meta_graph.graph_def
        yield from graph.node
        for function in graph.library.function:
            yield from function.node_def


class FreshTest(tf.test.TestCase):
    """What a loaded model draws without a seed, it draws once."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.folder = pathlib.Path(folder)
        # In a process whose generator has a seed, as that of training has.
        export.save(make_model(), cls.folder / "model")

    def test_no_seed_is_saved(self):
        nodes = list(node_defs(self.folder / "model"))
        self.assertIn("RandomUniformInt", {node.op for node in nodes})
        for node in nodes:
            # Zero, if there is no such attribute or it has its default.
            seeds = (node.attr["seed"].i, node.attr["seed2"].i)
            self.assertEqual(seeds, (0, 0), node.op)

    def test_two_processes(self):
        (self.folder / "server.py").write_text(SERVER)
        images = np.random.default_rng(1).integers(17, size=(5, 4, 4, 1))
        np.save(self.folder / "images.npy", images.astype(np.uint8))
        servers = [
            start(
                self.folder,
                "server.py",
                "model",
                "images.npy",
                f"outputs_{index}.npz",
            )
            for index in range(2)
        ]
        for server in servers:
            finish(server)
        draws = collections.defaultdict(list)
        for index in range(2):
            with np.load(self.folder / f"outputs_{index}.npz") as outputs:
                for value in outputs.values():
                    draws[value.shape].append(value.tobytes())
        for shape, values in draws.items():
            # Two processes, loads and calls.
            self.assertGreaterEqual(len(values), 8)
            self.assertLen(set(values), len(values), shape)


class DeterminismTest(tf.test.TestCase):
    def test_seeded_calls(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        code, stdout, stderr = command_lines.run(folder, "-c", DETERMINISTIC)
        self.assertEqual((code, stdout), (0, "deterministic\n"), stderr)


# No dtype and no value of these is a number.
NO_NUMBERS = st.one_of(
    st.none(),
    st.text(max_size=3),
    st.binary(max_size=3),
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
# Those of a sample: good values and bad ones. What a seed of 64 bits without
# sign is taken as, TensorFlow decides before a function sees it.
GOOD = {
    "n": st.integers(0, 3),
    "temperature": st.one_of(
        st.floats(0.0, 1e6),
        st.floats(0.0, 1e6).map(np.float64),
        st.floats(0.0, 1024.0, width=32).map(np.float32),
        st.integers(0, 3),
    ),
    "seed": st.none() | st.integers(-(2**63), 2**63 - 1),
}
BAD = {
    "n": st.one_of(
        NO_INTEGERS,
        NO_SCALARS,
        st.integers(-(2**70), -1),
        st.integers(2**27, 2**31 - 1),  # Of 16 components each.
        st.integers(2**31, 2**70),
    ),
    "temperature": st.one_of(
        NO_NUMBERS,
        NO_SCALARS,
        st.floats(max_value=-1e-30),
        st.floats(min_value=1e39),
        st.just(math.nan),
    ),
    "seed": st.one_of(
        NO_INTEGERS.filter(lambda value: value is not None),
        NO_SCALARS,
        st.integers(2**64, 2**70),
    ),
}
DTYPES = [bool, *"bhilBHILefdFO", "U1"]


@st.composite
def sample_arguments(draw):
    """Good arguments, or one bad one among them, and which is bad."""
    bad = draw(st.sampled_from([None, *BAD]))
    return {
        name: draw(BAD[name] if name == bad else GOOD[name]) for name in GOOD
    }, bad


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


over_examples = hypothesis.settings(
    max_examples=30, derandomize=True, deadline=None, database=None
)


class AnyArgumentsTest(tf.test.TestCase):
    """Gives a loaded model anything."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        export.save(make_model(), folder + "/model")
        cls.loaded = tf.saved_model.load(folder + "/model")

    def assert_names(self, name, function, **arguments):
        """Asserts that there is an error, a documented one of `name`."""
        with self.assertRaises(
            (ValueError, OverflowError, tf.errors.InvalidArgumentError)
        ) as caught:
            function(**arguments)
        if isinstance(caught.exception, tf.errors.InvalidArgumentError):
            self.assertRegex(str(caught.exception), f"`{name}` must (be|have)")
        elif isinstance(caught.exception, ValueError):
            self.assertIn(f"name='{name}'", str(caught.exception))
        else:
            self.assertGreaterEqual(abs(arguments[name]), 2**63)

    def assert_images(self, images, n):
        self.assertEqual(images.dtype, tf.uint8)
        self.assertEqual(images.shape, [n, 4, 4, 1])
        self.assertTrue(np.all(images < 17))

    @over_examples
    @hypothesis.given(sample_arguments())
    def test_sample(self, arguments_and_bad):
        arguments, bad = arguments_and_bad
        if bad is not None:
            self.assert_names(bad, self.loaded.sample, **arguments)
        else:
            images = self.loaded.sample(**arguments)
            self.assert_images(images, arguments["n"])

    @over_examples
    @hypothesis.given(
        st.sampled_from(["log_prob", "bits_per_dim", "encode"]),
        arrays((4, 4, 1), [np.uint8, np.int64], st.integers(0, 17)),
    )
    def test_images(self, name, images):
        function = getattr(self.loaded, name)
        if (
            images.dtype not in (np.uint8, np.int64)
            or images.shape[1:] != (4, 4, 1)
            or not np.all((images >= 0) & (images < 17))
        ):
            self.assert_names("images", function, images=images)
        else:
            values = function(images)
            event = [2, 2, 4] if name == "encode" else []
            self.assertEqual(values.shape, [len(images), *event])
            self.assertEqual(values.dtype, tf.float32)
            self.assertTrue(np.isfinite(values).all())

    @over_examples
    @hypothesis.given(
        arrays((2, 2, 4), [np.float32, np.float64], st.floats(width=32))
    )
    def test_latents(self, latents):
        if (
            latents.dtype not in (np.float32, np.float64)
            or latents.shape[1:] != (2, 2, 4)
            or not np.all(np.abs(latents) < 3e38)
        ):
            self.assert_names("latents", self.loaded.decode, latents=latents)
        elif np.any(np.abs(latents) > 1e30):
            try:
                images = self.loaded.decode(latents)
            except tf.errors.InvalidArgumentError as error:
                self.assertIn("`latents` must be smaller", str(error))
            else:
                self.assert_images(images, len(latents))
        else:
            self.assert_images(self.loaded.decode(latents), len(latents))

    @over_examples
    @hypothesis.given(
        st.sampled_from(["serving_default", "encode"]),
        hnp.arrays(
            np.uint8,
            st.sampled_from(
                [(0, 4, 4, 1), (2, 4, 4, 1), (2, 4), (2, 4, 4), ()]
            ),
            elements=st.integers(0, 18),
        ),
    )
    def test_signatures(self, name, images):
        function = self.loaded.signatures[name]
        images = tf.constant(images)
        if images.shape[1:] != [4, 4, 1] or np.any(images > 16):
            self.assert_names("images", function, images=images)
        else:
            for value in function(images=images).values():
                self.assertEqual(value.shape[0], images.shape[0])
                self.assertTrue(np.isfinite(value).all())

    def test_one_trace_for_all(self):
        """As the docstring of `save` promises: traces are large."""
        images = np.random.default_rng(0).integers(17, size=(9, 4, 4, 1))
        latents = self.loaded.encode(images)
        spec = tf.TensorSpec(None, tf.uint8)
        seed = tf.TensorSpec([], tf.int64)
        for function, types, arguments in (
            (self.loaded.log_prob, [spec], [images.astype(np.uint8)]),
            (self.loaded.bits_per_dim, [spec], [images.astype(np.uint8)]),
            (self.loaded.log_prob, [spec, seed], [images.astype(np.uint8)]),
            (self.loaded.encode, [spec], [images.astype(np.uint8)]),
            (self.loaded.decode, [tf.TensorSpec(None)], [latents]),
        ):
            function.get_concrete_function(*types)
            count = function.experimental_get_tracing_count()
            for n in range(4, 9):
                batch = [argument[:n] for argument in arguments]
                seeds = [tf.constant(n, tf.int64)] * (seed in types)
                self.assertEqual(function(*batch, *seeds).shape[0], n)
            self.assertEqual(function.experimental_get_tracing_count(), count)
        self.loaded.sample(tf.constant(3))
        count = self.loaded.sample.experimental_get_tracing_count()
        for n in range(4, 9):
            self.assertEqual(self.loaded.sample(tf.constant(n)).shape[0], n)
        self.assertEqual(
            self.loaded.sample.experimental_get_tracing_count(), count
        )

    def test_python_integers_are_not_cut_off(self):
        for n in (-1, -2, 2**27, 2**31, 2**32 + 1, 2**62):
            self.assert_names("n", self.loaded.sample, n=n)
        for value in (-1, 256, 300, 2**32):
            images = np.full([1, 4, 4, 1], value).tolist()
            with self.assertRaisesRegex(
                tf.errors.InvalidArgumentError, rf"from\] \[{value}\]"
            ):
                self.loaded.encode(images)
        images = np.full([1, 4, 4, 1], 16)
        self.assertAllEqual(
            self.loaded.encode(images.tolist()), self.loaded.encode(images)
        )


if __name__ == "__main__":
    tf.test.main()
