"""Tests for trainer: steps of training and evaluation.

What does not depend on the model is tested with one that takes no time.
"""

import contextlib
import math
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import untraced
from absl.testing import parameterized
from small_models import (
    SmallModel,
    make_model,
    random_images,
    same,
    trainer_of,
    values,
)

from tf_realnvp.config import TrainingConfig
from tf_realnvp.errors import DivergedError
from tf_realnvp.training.trainer import MAX_SKIPPED_IN_A_ROW, Trainer
from tf_realnvp.utils import runtime

NUM_DIMS = 4 * 4 * 1
BATCH_SIZE = 4
STILL = 1e-30  # A learning rate that changes nothing.
IMAGES = random_images(BATCH_SIZE, seed=0)
LABELS = np.int32([2, 0, 2, 0])
# Of two steps, and of two batches of an evaluation.
SEEDS_OF_SEED_0 = [
    (-1496990542, 0),
    (-1496990542, 1),
    (-1054860931, 0),
    (-1054860931, 1),
]


def moved():
    return make_model(moved=True)


def conditional():
    model = SmallModel(num_classes=3, class_probs=[0.2, 0.3, 0.5])
    model.shifts.assign(tf.random.normal(model.shifts.shape))
    return model


class NoGradient(SmallModel):
    """A model with a finite density whose gradient is not finite."""

    def log_density(self, points, label=None):
        zero = self.offset - tf.stop_gradient(self.offset)
        return super().log_density(points, label) + tf.reduce_sum(tf.sqrt(zero))


@contextlib.contextmanager
def recorded_seeds(model):
    """Gives a list of the seeds that images are dequantized with."""
    seeds = []
    add_noise = model.add_noise

    def record(images, seed):
        seeds.append(seed)
        return add_noise(images, seed)

    with mock.patch.object(model, "add_noise", record):
        yield seeds


def train(trainer, images=IMAGES, labels=None, num_steps=1):
    """Trains on one batch; returns the mean loss."""
    batch = images, {} if labels is None else {"label": labels}
    batches = tf.data.Dataset.from_tensors(batch).repeat(num_steps)
    trainer.begin_epoch()
    trainer.train(iter(batches), num_steps)
    return trainer.mean_loss


def evaluate(trainer, images=IMAGES, labels=None, num_batches=1):
    """Returns the sum of the losses of a batch that is repeated."""
    batch = images, {} if labels is None else {"label": labels}
    batches = tf.data.Dataset.from_tensors(batch).repeat(num_batches)
    each = trainer.test(iter(batches.enumerate()), num_batches)
    assert each.shape == (len(images) * num_batches,)
    return each.sum(dtype=float)


def losses(model, seed, labels=None):
    """Returns the losses of the images, in nats per dimension."""
    points = model.add_noise(IMAGES, seed)
    return -model.log_density(points, labels) / NUM_DIMS


class LossTest(untraced.UntracedTestCase, parameterized.TestCase):
    @parameterized.parameters(
        (SmallModel, None, {}),
        # Parts of different sizes.
        (SmallModel, None, {"accumulate": 3, "clip_grad": 0.01}),
        (SmallModel, None, {"clip_grad": 1e3}),  # Far above the norm.
        (conditional, LABELS, {}),
        (conditional, LABELS, {"accumulate": 3}),
        # One of them is empty.
        (moved, None, {"accumulate": 5, "recompute": True}),
        (moved, None, {"precision": "bfloat16"}),
    )
    def test_loss_and_gradient(self, make, labels, options):
        model = make()
        trainer = trainer_of(model, STILL, seed=1, **options)
        with recorded_seeds(model) as seeds:
            loss = train(trainer, labels=labels)
            test_loss = evaluate(trainer, labels=labels)
        with tf.GradientTape() as tape:
            expected = tf.reduce_mean(losses(model, seeds[0], labels))
        gradients = tape.gradient(expected, [v.value for v in model.variables])
        is_exact = "precision" not in options
        self.assertAllClose(loss, expected, rtol=1e-5 if is_exact else 1e-2)
        self.assertAllClose(
            test_loss, np.sum(losses(model, seeds[1], labels)), rtol=1e-5
        )
        norm = float(tf.linalg.global_norm(gradients))
        self.assertGreater(norm, 0.1)
        scale = min(1.0, options.get("clip_grad", math.inf) / norm)
        # As Adam saw them in the only step.
        applied = [
            v.numpy() / (1.0 - trainer.optimizer.beta_1)
            for v in trainer.optimizer.variables
            if "momentum" in v.path
        ]
        errors = [
            g - a / scale for g, a in zip(gradients, applied, strict=True)
        ]
        error = float(tf.linalg.global_norm(errors)) / norm
        self.assertLess(error, 1e-4 if is_exact else 0.1)
        if not is_exact:
            self.assertNotAllClose(loss, expected, rtol=1e-6)
        else:
            self.assertAllClose(trainer.mean_gradient_norm, norm, rtol=1e-4)

    def test_parts_of_a_batch(self):
        """They are computed one after the other to save memory."""
        sizes = []

        class Model(SmallModel):
            def log_density(self, points, label=None):
                sizes.append(len(points))
                return super().log_density(points, label)

        train(trainer_of(Model(), accumulate=3))
        self.assertEqual(sizes, [1, 1, 2])

    def test_noise(self):
        """Each step, seed and batch of an evaluation has other noise."""
        model = SmallModel()
        seeds = []
        for seed in (0, 1):
            trainer = trainer_of(model, STILL, seed=seed)
            with recorded_seeds(model) as of_trainer:
                train(trainer)
                norm = trainer.mean_gradient_norm
                loss = train(trainer)
                evaluate(trainer, num_batches=2)
            # Each epoch has means of its own.
            expected = np.mean(losses(model, of_trainer[1]))
            self.assertAllClose(loss, expected, rtol=1e-5)
            self.assertAllClose(trainer.mean_gradient_norm, norm, rtol=0.5)
            seeds += [tuple(seed.numpy()) for seed in of_trainer]
            with recorded_seeds(model) as again:
                evaluate(trainer, num_batches=2)
            self.assertAllEqual(again, of_trainer[2:])  # The same each time.
        self.assertLen(set(seeds), 8)
        # Resumed runs depend on these, after an update of this code as well.
        self.assertEqual(seeds[:4], SEEDS_OF_SEED_0)


class SkippedTest(untraced.UntracedTestCase):
    def test_gradient_that_is_not_finite(self):
        """The weights do not change."""
        trainer = trainer_of(NoGradient(), 0.1)
        before = values(trainer.model.variables)
        self.assertTrue(math.isfinite(evaluate(trainer)))
        train(trainer, num_steps=2)
        self.assertTrue(all(same(before, values(trainer.model.variables))))
        self.assertEqual((trainer.num_steps, trainer.num_skipped), (2, 2))
        self.assertTrue(math.isnan(trainer.mean_loss))

    def test_many_in_a_row(self):
        """Training fails, even if it was interrupted among them."""

        class Model(SmallModel):
            pass

        trainer, resumed = trainer_of(Model()), trainer_of(Model())
        batches = iter(tf.data.Dataset.from_tensors((IMAGES, {})).repeat())
        most = MAX_SKIPPED_IN_A_ROW - 1
        for nan_below, num_steps in ((2.0, most), (0.0, 2), (2.0, most)):
            Model.nan_below = nan_below
            trainer.train(batches, num_steps)
        states = (tf.nest.flatten(each.state) for each in (resumed, trainer))
        for variable, saved in zip(*states, strict=True):
            variable.assign(saved)
        self.assertEqual(resumed.num_skipped, 2 * most)
        self.assertGreater(resumed.mean_gradient_norm, 0.0)
        for name in ("mean_loss", "mean_gradient_norm"):
            self.assertEqual(getattr(resumed, name), getattr(trainer, name))
        with self.assertRaises(DivergedError):
            resumed.train(batches, 5)
        self.assertEqual(resumed.num_steps, 2 * most + 3)


class WeightsTest(untraced.UntracedTestCase):
    def test_frozen(self):
        """Frozen weights stay the same in the model and the average."""
        model = moved()
        model.networks[1].trainable = False
        model.couplings[0].rescale.trainable = False
        is_frozen = [not v.trainable for v in model.variables]
        self.assertBetween(sum(is_frozen), 2, len(is_frozen) - 1)
        before = values(model.variables)
        trainer = trainer_of(model, 0.1, ema=0.5)
        train(trainer, num_steps=2)
        average = values(trainer.evaluated_model().variables)
        for current in (values(model.variables), average):
            self.assertEqual(same(current, before), is_frozen)
        self.assertFalse(any(same(average, values(model.variables))[:1]))
        for variable in model.variables:
            variable.trainable = False
        with self.assertRaisesRegex(ValueError, "no variable .* is trainable"):
            trainer_of(model)

    def test_moving_average(self):
        model = SmallModel()
        self.assertIs(trainer_of(model).evaluated_model(), model)
        trainer = trainer_of(model, 1e-2, ema=0.15)
        expected = values(model.variables)
        # Before any step there is nothing to average.
        averaged = trainer.evaluated_model()
        self.assertIsNot(averaged, model)
        self.assertTrue(all(same(expected, values(averaged.variables))))
        # It remembers little of the first weights, which are far off.
        for kept in (0.0, 1 / 10, 0.15, 0.15):
            train(trainer)
            now = values(model.variables)
            expected = [
                kept * average + (1 - kept) * weights
                for average, weights in zip(expected, now, strict=True)
            ]
        averaged = trainer.evaluated_model()
        self.assertAllClose(
            values(averaged.variables), expected, rtol=1e-5, atol=1e-6
        )
        # Training goes on from the weights themselves, and the average is
        # evaluated.
        self.assertTrue(all(same(now, values(model.variables))))
        with recorded_seeds(averaged) as seeds:
            loss = evaluate(trainer)
        self.assertAllClose(loss, np.sum(losses(averaged, seeds[0])))
        self.assertNotAllClose(loss, np.sum(losses(model, seeds[0])), rtol=1e-4)


class CompilingTest(tf.test.TestCase, parameterized.TestCase):
    def seen(self, state, **settings):
        """Returns `state()` in a training step and in an evaluation."""
        states = []

        class Model(SmallModel):
            def add_noise(self, images, seed):
                tf.numpy_function(lambda: states.append(state()), [], [])
                return super().add_noise(images, seed)

        trainer = trainer_of(Model(), **settings)
        train(trainer)
        evaluate(trainer)
        return states

    @parameterized.product(around=[False, True], is_tf32=[False, True])
    def test_tf32_in_training_only(self, around, is_tf32):
        """Other operations keep the settings that they have."""
        config = tf.config.experimental
        is_enabled = config.tensor_float_32_execution_enabled
        self.assertFalse(is_enabled())  # The commands disable it.
        self.addCleanup(config.enable_tensor_float_32_execution, False)
        config.enable_tensor_float_32_execution(around)
        self.enterContext(mock.patch.object(runtime, "_gpus", lambda: ["GPU"]))

        def state():
            options = tf.config.optimizer.get_experimental_options()
            steps = ("layout_optimizer", "remapping")
            return is_enabled(), *(options.get(step, True) for step in steps)

        seen = self.seen(state, precision="tf32" if is_tf32 else "float32")
        # Graphs have another layout, so that cuDNN's plans are not shared.
        expected = [(is_tf32, not is_tf32, not is_tf32), (False, True, True)]
        self.assertEqual(seen, expected)
        self.assertEqual(is_enabled(), around)

    def test_graph_optimizer(self):
        """It is not used in training on processors, and is otherwise."""

        def is_disabled():
            options = tf.config.optimizer.get_experimental_options()
            return options.get("disable_meta_optimizer", False)

        states = *self.seen(is_disabled), is_disabled()
        self.assertEqual(states, (True, True, False))


class ConfigTest(untraced.UntracedTestCase, parameterized.TestCase):
    @parameterized.parameters((None, 6), (4, 4), (99, 6))
    def test_rate_at_the_end(self, max_steps, last_step):
        """The rate is zero at the last step."""
        limits = {"epochs": 3, "max_steps": max_steps}
        config = TrainingConfig(
            dataset="digits",
            batch_size=4,
            warmup_steps=0,
            precision="tf32",
            **limits,
        )
        trainer = Trainer(SmallModel(), config, num_train=11)
        rates = []
        for step in (0, last_step // 2, last_step):
            trainer.optimizer.iterations.assign(step)
            rates.append(float(trainer.optimizer.learning_rate))
        self.assertAllClose(rates, [config.lr, config.lr / 2, 0.0], atol=1e-7)

    def test_rate_before_the_end_is_known(self):
        settings = {"lr_schedule": "cosine", "warmup_steps": 0, "minutes": 1.0}
        config = TrainingConfig(dataset="digits", batch_size=4, **settings)
        trainer = Trainer(SmallModel(), config, num_train=11)
        trainer.end_at(6)
        trainer.optimizer.iterations.assign(6)
        self.assertAllClose(trainer.optimizer.learning_rate, config.lr)


@pytest.mark.long
class JitTest(tf.test.TestCase):
    def test_same_numbers(self):
        results = []
        for jit in (False, True):
            trainer = trainer_of(moved(), 1e-3, recompute=True, jit=jit)
            of_steps = [train(trainer) for _ in range(3)]
            weights = [np.ravel(v) for v in values(trainer.model.variables)]
            results.append((of_steps, np.concatenate(weights)))
        (first, weights), (second, other_weights) = results
        self.assertAllClose(first, second, rtol=1e-5)
        self.assertAllClose(weights, other_weights, rtol=1e-4, atol=1e-4)
