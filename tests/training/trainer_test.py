"""Tests for trainer: single steps.

What does not depend on the model is tested with one that takes no time.
"""

import contextlib
import itertools
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
    values,
)

from tf_realnvp.training.trainer import MAX_SKIPPED_IN_A_ROW, Trainer

NUM_DIMS = 4 * 4 * 1
BATCH_SIZE = 4


class TrainerArgumentsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ("clip_grad", 0.0),
        ("clip_grad", -1.0),  # It would turn every gradient round.
        ("clip_grad", math.nan),
        ("precision", "float16"),
        ("precision", "auto"),
        ("accumulate", 0),  # All gradients would be zero.
        ("accumulate", 1.5),
        ("ema", 1.5),
    )
    def test_out_of_range(self, name, value):
        with self.assertRaisesRegex(ValueError, rf"`{name}\w*` must be"):
            Trainer(SmallModel(), **{name: value})


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


class BatchesTest(tf.test.TestCase):
    def test_no_levels(self):
        """Images from 0 to 1 would train, to something without a meaning."""
        trainer = Trainer(SmallModel())
        images = random_images(BATCH_SIZE, seed=0) / np.float32(16)
        batches = tf.data.Dataset.from_tensors(images)
        with self.assertRaisesRegex(TypeError, "uint8 .* got float32"):
            trainer.train(iter(batches))
        with self.assertRaisesRegex(TypeError, "uint8 .* got float32"):
            trainer.test(iter(batches.enumerate()))
        self.assertEqual(trainer.num_steps, 0)


class StepTest(tf.test.TestCase):
    """Single steps, outside of the compiled loop."""

    def test_loss_is_nats_per_dim(self):
        model = SmallModel()
        # With this learning rate the weights stay, and only the noise changes.
        trainer = Trainer(model, learning_rate=0.0, seed=1)
        images = random_images(BATCH_SIZE, seed=0)
        with recorded_seeds(model) as seeds:
            losses = [trainer.train_step(images) for _ in range(2)]
        for loss, seed in zip(losses, seeds, strict=True):
            log_prob = model.log_prob(images, seed)
            self.assertAllClose(loss, -np.mean(log_prob) / NUM_DIMS)
            self.assertEqual(loss.dtype, tf.float32)
        # Every step has noise of its own.
        self.assertNotAllEqual(seeds[0], seeds[1])
        self.assertNotEqual(float(losses[0]), float(losses[1]))
        # And every run.
        other = Trainer(model, learning_rate=0.0, seed=2)
        self.assertNotEqual(float(losses[0]), float(other.train_step(images)))

    def test_labels(self):
        model = SmallModel(num_classes=3, class_probs=[0.2, 0.3, 0.5])
        model.shifts.assign(tf.random.normal(model.shifts.shape))
        trainer = Trainer(model, learning_rate=0.0)
        images = random_images(BATCH_SIZE, seed=0)
        label = tf.constant([2, 0, 2, 0])
        with recorded_seeds(model) as seeds:
            loss = trainer.train_step(images, label)
            test_loss = trainer.test_step(
                images, tf.constant(0, tf.int64), label
            )
        for seed, value in zip(
            seeds, (BATCH_SIZE * loss, test_loss), strict=True
        ):
            points = model.add_noise(images, seed)
            log_prob = model.log_density(points, label)
            self.assertAllClose(value, -np.sum(log_prob) / NUM_DIMS)
        *_, gradient = applied_gradients(trainer)
        moved = np.abs(gradient).max(axis=(1, 2, 3))
        self.assertAllEqual(moved > 0.0, [True, False, True])
        # In parts, and in the compiled loop, it is the same.
        parts = Trainer(model, learning_rate=0.0, accumulate=3)
        batches = tf.data.Dataset.from_tensors((images, label))
        parts.train(iter(batches))
        self.assertAllClose(applied_gradients(parts)[-1], gradient, rtol=1e-4)
        total, number = parts.test(iter(batches.enumerate()))
        self.assertAllClose(total, test_loss, rtol=1e-5)
        self.assertEqual(number, BATCH_SIZE)

    def test_clipped_gradient(self):
        model = SmallModel()
        trainer = Trainer(model, clip_grad=0.01, learning_rate=0.0)
        images = random_images(BATCH_SIZE, seed=0)
        with recorded_seeds(model) as seeds:
            trainer.train_step(images)
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(model.log_prob(images, seeds[0])) / NUM_DIMS
        gradients = tape.gradient(loss, values_of(model))
        self.assertGreater(len(gradients), 1)
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in gradients))
        # The limit is far below the norm, or this tests nothing.
        self.assertGreater(norm, 0.1)
        clipped = applied_gradients(trainer)
        self.assertAllClose(
            np.sqrt(sum(np.sum(np.square(g)) for g in clipped)),
            0.01,
            rtol=1e-4,
        )
        for result, gradient in zip(clipped, gradients, strict=True):
            self.assertAllClose(
                result, gradient * (0.01 / norm), rtol=1e-3, atol=1e-7
            )

        unlimited = Trainer(model, learning_rate=0.0)
        unlimited.train_step(images)
        for result, gradient in zip(
            applied_gradients(unlimited), gradients, strict=True
        ):
            self.assertAllClose(result, gradient, rtol=1e-3, atol=1e-6)

    def test_gradient_that_is_not_finite(self):
        """Though the loss is: the weights stay as they are."""
        trainer = Trainer(SmallModel(), learning_rate=0.1)
        before = values(trainer.model.variables)
        for bad in (math.inf, math.nan):
            gradients = [tf.ones(v.shape) for v in trainer.model.variables]
            gradients[1] *= bad
            result = tf.constant(1.0), gradients
            with mock.patch.object(
                trainer, "_gradient_function", return_value=result
            ):
                trainer.train_step(random_images(BATCH_SIZE, seed=0))
        self.assertTrue(all(same(before, values(trainer.model.variables))))
        self.assertEqual((trainer.num_steps, trainer.num_skipped), (2, 2))

    def test_many_skipped_steps_but_not_in_a_row(self):
        batches = np.stack([random_images(BATCH_SIZE, seed=0)] * 40)
        trainer = Trainer(SmallModel())
        with mock.patch.object(SmallModel, "nan_below", 0.5):
            trainer.train(iter(tf.data.Dataset.from_tensor_slices(batches)), 40)
        self.assertEqual(trainer.num_steps, 40)
        self.assertBetween(trainer.num_skipped, MAX_SKIPPED_IN_A_ROW + 1, 30)

    def test_evaluation_noise(self):
        model = SmallModel()
        images = random_images(BATCH_SIZE, seed=0)
        trainer = Trainer(model)
        with recorded_seeds(model) as seeds:
            losses = [
                trainer.test_step(images, tf.constant(index, tf.int64))
                for index in (0, 1, 0)
            ]
        for loss, seed in zip(losses, seeds, strict=True):
            log_prob = model.log_prob(images, seed)
            self.assertAllClose(loss, -np.sum(log_prob) / NUM_DIMS)
        # Every batch has its own, which is the same in every evaluation.
        self.assertNotEqual(float(losses[0]), float(losses[1]))
        self.assertEqual(float(losses[0]), float(losses[2]))


class WeightsTest(untraced.UntracedTestCase):
    def test_every_variable_is_trained(self):
        model = make_model()
        trainer = Trainer(model, learning_rate=1e-2)
        images = random_images(BATCH_SIZE, seed=0, levels=(2, 8))
        before = values(model.variables)
        gains = [network.last.gain for network in model.networks]
        self.assertLen(gains, sum(model.num_couplings))
        self.assertFalse(np.concatenate(values(gains)).any())
        trainer.train_step(images)
        # A gain of zero keeps the gradient from all that lies before it, and
        # must not stay zero.
        for gain in values(gains):
            self.assertTrue(gain.any())
        for _ in range(2):
            trainer.train_step(images)
        self.assertEqual(int(trainer.optimizer.iterations), 3)
        unchanged = [
            variable.path
            for variable, is_same in zip(
                model.variables,
                same(before, values(model.variables)),
                strict=True,
            )
            if is_same
        ]
        self.assertEmpty(unchanged)

    def test_frozen(self):
        """What is not trained stays, and the rest is the same average."""
        model = make_model(moved=True)
        model.networks[1].trainable = False
        model.couplings[0].rescale.trainable = False
        is_frozen = [not v.trainable for v in model.variables]
        frozen = sum(is_frozen)
        self.assertBetween(frozen, 2, len(is_frozen) - 1)
        self.assertLen(model.trainable_variables, len(is_frozen) - frozen)
        before = values(model.variables)
        trainer = Trainer(model, 0.1, ema=0.5)
        batches = tf.data.Dataset.from_tensors(random_images(4, 0)).repeat(2)
        trainer.train(iter(batches), 2)
        average = values(trainer.evaluated_model().variables)
        for current in (values(model.variables), average):
            self.assertEqual(same(current, before), is_frozen)
        self.assertFalse(any(same(average, values(model.variables))[:1]))
        # A copy has all weights.
        self.assertEqual(
            same(values(model.clone().variables), values(model.variables)),
            [True] * len(is_frozen),
        )
        for variable in model.variables:
            variable.trainable = False
        with self.assertRaisesRegex(ValueError, "no variable .* is trainable"):
            Trainer(model)


class AccumulateTest(untraced.UntracedTestCase, parameterized.TestCase):
    @parameterized.parameters(
        (SmallModel, 1),
        (SmallModel, 3),  # Parts of different sizes.
        (lambda: make_model(moved=True), 5),  # More than images: one is empty.
    )
    def test_same_gradient_as_of_the_whole_batch(self, make, parts):
        model = make()
        trainer = Trainer(model, 0.0, seed=1, accumulate=parts)
        images = random_images(BATCH_SIZE, seed=0)
        with (
            recorded_seeds(model) as seeds,
            mock.patch.object(
                trainer, "_gradient_function", wraps=trainer._gradient_function
            ) as gradient_function,
        ):
            summed_loss = trainer.train_step(images)
        calls = gradient_function.call_args_list
        sizes = [len(call.args[0]) for call in calls]
        self.assertLen(sizes, parts)
        self.assertEqual(sum(sizes), BATCH_SIZE)
        self.assertLessEqual(max(sizes) - min(sizes), 1)
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(model.log_prob(images, seeds[0])) / NUM_DIMS
        gradients = tape.gradient(loss, values_of(model))
        self.assertAllClose(loss, summed_loss, rtol=1e-5)
        for a, b in zip(gradients, applied_gradients(trainer), strict=True):
            self.assertAllClose(a, b, rtol=1e-3, atol=1e-6)
        self.assertGreater(max(np.abs(g).max() for g in gradients), 1e-3)


class EmaTest(tf.test.TestCase):
    def test_evaluates_the_average(self):
        model = SmallModel()
        trainer = Trainer(model, learning_rate=1e-2, ema=0.6)
        images = random_images(BATCH_SIZE, seed=0)
        start = values(model.variables)
        # Before any step there is nothing to average.
        self.assertNotEqual(trainer.evaluated_model(), model)
        self.assertAllEqual(
            same(start, values(trainer.evaluated_model().variables)),
            [True] * len(start),
        )
        expected = start
        # It remembers little of the first weights, which are far off.
        for kept in (0.0, 1 / 10, 2 / 11):
            trainer.train_step(images)
            now = values(model.variables)
            expected = [
                kept * a + (1 - kept) * w
                for a, w in zip(expected, now, strict=True)
            ]
        averaged = trainer.evaluated_model()
        for result, average in zip(
            values(averaged.variables), expected, strict=True
        ):
            self.assertAllClose(result, average, rtol=1e-5, atol=1e-6)
        # The training goes on from the weights themselves.
        self.assertAllEqual(
            same(now, values(model.variables)), [True] * len(now)
        )
        index = tf.constant(0, tf.int64)
        with recorded_seeds(averaged) as seeds:
            loss = trainer.test_step(images, index)
        log_prob = averaged.log_prob(images, seeds[0])
        self.assertAllClose(loss, -np.sum(log_prob) / NUM_DIMS)
        self.assertNotAllClose(
            log_prob, model.log_prob(images, seeds[0]), rtol=1e-4
        )

    def test_without_it_the_model_itself(self):
        model = SmallModel()
        self.assertIs(Trainer(model).evaluated_model(), model)


class ForTrainingTest(untraced.UntracedTestCase):
    """Models that share the weights and compute in another way."""

    def test_density_and_gradients(self):
        model = make_model(moved=True)
        points = model.dequantize(random_images(3, seed=0), seed=1)

        def density_and_gradients(model):
            with tf.GradientTape() as tape:
                log_prob = model.distribution.log_prob(points)
            return log_prob, tape.gradient(log_prob, model.trainable_variables)

        expected, expected_gradients = density_and_gradients(model)
        for dtype, recompute in itertools.product(
            ("float32", "bfloat16"), (False, True)
        ):
            with self.subTest(dtype, recompute=recompute):
                other = model.for_training(dtype, recompute)
                for first, second in zip(
                    model.variables, other.variables, strict=True
                ):
                    self.assertIs(first, second)
                log_prob, gradients = density_and_gradients(other)
                self.assertEqual(log_prob.dtype, tf.float32)
                exact = dtype == "float32"
                rtol = 1e-6 if exact else 1e-2
                self.assertAllClose(log_prob, expected, rtol=rtol)
                if not exact:
                    # Or the networks did not compute in bfloat16.
                    self.assertNotAllClose(log_prob, expected, rtol=1e-6)
                    # They alone did.
                    log_prob = model.distribution.log_prob(points)
                    self.assertAllClose(log_prob, expected, rtol=1e-6)
                self.assertLen(gradients, len(model.variables))
                for gradient in gradients:
                    self.assertEqual(gradient.dtype, tf.float32)
                gradient, wanted = (
                    np.concatenate([np.ravel(part) for part in parts])
                    for parts in (gradients, expected_gradients)
                )
                error = np.linalg.norm(gradient - wanted)
                error /= np.linalg.norm(wanted)
                self.assertLess(error, 1e-5 if exact else 0.1)


class PrecisionTest(untraced.UntracedTestCase):
    def test_trains_in_bfloat16_and_evaluates_in_float32(self):
        model = make_model(moved=True)
        images = random_images(BATCH_SIZE, seed=1)
        trainer = Trainer(model, learning_rate=0.0, precision="bfloat16")
        with recorded_seeds(model) as seeds:
            tested = trainer.test_step(images, tf.constant(0, tf.int64))
            trained = trainer.train_step(images)
        tested_exactly, trained_exactly = (
            -np.mean(model.log_prob(images, seed)) / NUM_DIMS for seed in seeds
        )
        self.assertAllClose(tested / BATCH_SIZE, tested_exactly, rtol=1e-6)
        self.assertAllClose(trained, trained_exactly, rtol=1e-2)
        self.assertNotAllClose(trained, trained_exactly, rtol=1e-6)

    def test_tf32_is_float32_elsewhere(self):
        """Weights and gradients have all of their digits, on CPUs all have."""
        with mock.patch.object(
            SmallModel,
            "for_training",
            autospec=True,
            side_effect=lambda model, *_: model,
        ) as for_training:
            for precision in ("float32", "tf32"):
                Trainer(SmallModel(), precision=precision)
            Trainer(SmallModel(), precision="bfloat16", recompute=True)
        calls = [call.args[1:] for call in for_training.call_args_list]
        self.assertEqual(
            calls,
            [
                *(("float32", False), (), ("float32", False), ()),
                *(("bfloat16", True), ()),
            ],
        )

    def test_what_is_compiled(self):
        for jit in (False, True):
            trainer = Trainer(SmallModel(), jit=jit)
            points = tf.TensorSpec([3, *trainer.model.image_shape])
            function = trainer._gradient_function.get_concrete_function(
                points, None, tf.TensorSpec([])
            )
            attributes = function.function_def.attr
            self.assertEqual(attributes["_XlaMustCompile"].b, jit)

    def test_streams_of_noise(self):
        """Resumed runs go on with them, also after an update of this."""
        trainer = Trainer(SmallModel(), seed=0)
        self.assertAllEqual(trainer._train_seed, [-409271666, 0])
        self.assertAllEqual(trainer._test_seed, [-409271666, 1])


@pytest.mark.long
class JitTest(tf.test.TestCase):
    def test_same_numbers(self):
        images = tf.constant(random_images(BATCH_SIZE, seed=0))
        losses, weights = [], []
        for jit in (False, True):
            trainer = Trainer(
                make_model(moved=True), 1e-3, recompute=True, jit=jit
            )
            losses.append([trainer.train_step(images) for _ in range(3)])
            weights.append(
                np.concatenate(
                    [
                        np.ravel(value)
                        for value in values(trainer.model.variables)
                    ]
                )
            )
        self.assertAllClose(losses[0], losses[1], rtol=1e-5)
        self.assertAllClose(weights[0], weights[1], rtol=1e-4, atol=1e-4)


def values_of(model):
    """What a gradient may be taken by."""
    return [variable.value for variable in model.variables]


def applied_gradients(trainer):
    """The gradients of a trainer's only step, as Adam saw them."""
    momenta = [v for v in trainer.optimizer.variables if "momentum" in v.path]
    return [v.numpy() / (1.0 - trainer.optimizer.beta_1) for v in momenta]


if __name__ == "__main__":
    tf.test.main()
