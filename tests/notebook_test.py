"""Tests for a notebook: many models in one process, and its settings."""

import contextlib
import functools
import tempfile

import graphs
import keras
import small_models
import tensorflow as tf
from absl.testing import parameterized

import tf_realnvp
from tf_realnvp import detection


def train(model, **settings):
    settings |= {"max_steps": 2, "batch_size": 8, "progress": False}
    tf_realnvp.train(model, small_models.images(40), **settings)


def train_recomputing():
    model = small_models.displaced(0.0, num_couplings=(1, 1, 1), filters=2)
    train(model, recompute=True, ema=0.5)


def interrupt():
    def stop(metrics):
        if metrics.step:
            raise KeyboardInterrupt

    model = small_models.SmallModel()
    model.offset.assign([1.0])  # It needs no data-dependent initialization.
    with contextlib.suppress(KeyboardInterrupt):
        train(model, on_epoch=stop)


def fail_to_trace():
    model = small_models.model().clone()
    model.couplings[-1].network = None
    with contextlib.suppress(TypeError):
        tf.function(model.log_prob, autograph=False)(small_models.images(4))


def save():
    with tempfile.TemporaryDirectory() as folder:
        small_models.model().save(f"{folder}/model")


def load():
    path = small_models.saved()
    tf_realnvp.load(path).log_prob(small_models.images(2))
    model = tf.saved_model.load(str(path))
    model.log_prob(small_models.images(3))


def measure():
    detection.Measurer(small_models.distinct())(small_models.images(2))


def compile_calls():
    model = small_models.distinct()
    images = small_models.images(2)
    for function in (
        model.log_prob,
        lambda images: model.decode(model.encode(images, 1), 1),
    ):
        tf.function(function, autograph=False)(images)


class MemoryTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        train_recomputing,
        interrupt,
        fail_to_trace,
        save,
        load,
        measure,
        compile_calls,
    )
    def test_leaves_no_graph(self, do):
        do()
        before = graphs.live()
        do()
        self.assertEqual(graphs.live(), before)


def call(compiled=lambda function: function):
    """Returns a model's numbers, with the functions in it compiled or not."""
    model = small_models.displaced(
        0.2,
        num_couplings=(1, 1, 1),
        filters=2,
        dequantization="variational",
        num_classes=2,
    )
    images = small_models.images(3)
    points = model.dequantize(images, seed=1)

    @compiled
    def density(points):
        with tf.GradientTape() as tape:
            tape.watch(points)
            density = model.log_density(points, [0, 1, 0])
        return density, tape.gradient(density, points)

    latents = model.encode(images, 1)
    decode = compiled(functools.partial(model.decode, label=1))
    return [*density(points), latents, decode(latents)]


@functools.cache
def expected():
    return call()


def in_a_layer(function):
    """Calls a function inside of a layer with mixed precision."""

    def call(argument):
        # A layer would cast its own argument.
        layer = keras.layers.Lambda(
            lambda _: function(argument), dtype="mixed_bfloat16"
        )
        return layer(tf.zeros([1]))

    return call


class SettingsTest(tf.test.TestCase, parameterized.TestCase):
    def assert_as_expected(self, results):
        for result, value in zip(results, expected(), strict=True):
            self.assertEqual(result.dtype, value.dtype)
            self.assertAllClose(result, value, rtol=1e-4, atol=1e-4)

    @parameterized.parameters(
        ("float32", "mixed_bfloat16"), ("float64", "float64")
    )
    def test_settings_of_keras(self, floatx, policy):
        expected()
        self.addCleanup(keras.config.set_floatx, "float32")
        self.addCleanup(keras.config.set_dtype_policy, "float32")
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
        self.assert_as_expected(call())

    @parameterized.parameters(
        in_a_layer, tf.function(autograph=False, jit_compile=True)
    )
    def test_part_of_a_program(self, compiled):
        self.assert_as_expected(call(compiled))
