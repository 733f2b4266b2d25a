"""Tests that what is done over and over again in a process leaves nothing."""

import contextlib
import tempfile

import graphs
import small_models
import tensorflow as tf
from absl.testing import parameterized

import tf_realnvp
from tf_realnvp import detection


def train(on_epoch=None, **settings):
    tf_realnvp.train(
        small_models.make_model(),
        small_models.images(40),
        max_steps=2,
        batch_size=8,
        on_epoch=on_epoch,
        progress=False,
        **settings,
    )


def train_recomputing():
    train(recompute=True, accumulate=2, ema=0.5, num_validation=8)


def interrupt():
    def stop(metrics):
        if metrics.step:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        train(stop)


def fail_to_trace():
    model = small_models.distinct()

    def half(images, label):
        return model.log_density(tf.cast(images, tf.float32), label[1:])

    with contextlib.suppress(ValueError):
        tf.function(half)(small_models.images(4), tf.zeros([4], tf.int32))


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
        train,
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


if __name__ == "__main__":
    tf.test.main()
