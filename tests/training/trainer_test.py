"""Tests for training."""

import collections
import contextlib
import io
import itertools
import math
import time
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from tf_realnvp import RealNVP, data
from tf_realnvp.training.trainer import Trainer, learning_rate

NUM_DIMS = 4 * 4 * 1
BATCH_SIZE = 4
NUM_TRAIN = 10  # Two batches, and two images that make none.
NUM_TEST = 7  # A batch, and three images that count as well.
GLOBAL_SEEDS = itertools.count(1)


def random_images(count, seed, levels=(0, 17)):
    rng = np.random.default_rng(seed)
    return rng.integers(*levels, size=(count, 4, 4, 1)).astype(np.uint8)


def make_dataset(train, test):
    return data.ImageDataset(
        name="random",
        image_shape=(4, 4, 1),
        num_colors=17,
        train=tf.data.Dataset.from_tensor_slices(train),
        test=tf.data.Dataset.from_tensor_slices(test),
        num_train=len(train),
        num_test=len(test),
    )


def make_model(moved=False):
    """The same model in each call; `moved` off its initial weights if asked."""
    keras.utils.set_random_seed(0)
    model = RealNVP((4, 4, 1), num_colors=17, filters=4, num_blocks=1)
    if moved:
        rng = np.random.default_rng(0)
        for variable in model.variables:
            variable.assign_add(rng.normal(scale=0.3, size=variable.shape))
    # Another one each time: nothing may depend on the global seed.
    tf.random.set_seed(next(GLOBAL_SEEDS))
    return model


def values(variables):
    return [variable.numpy().copy() for variable in variables]


def same(first, second):
    return [np.array_equal(a, b) for a, b in zip(first, second, strict=True)]


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
            Trainer(make_model(), **{name: value})


class Displays:
    """Stands in for `Progress`, and keeps what it is told."""

    def __init__(self):
        self.passes = []

    def __call__(self, title, num_steps):
        self.passes.append(Display(title, num_steps))
        return self.passes[-1]


class Display:
    def __init__(self, title, num_steps):
        self.title = title
        self.num_steps = num_steps
        self.updates = []
        self.closed = False

    def __enter__(self):
        return self

    def __exit__(self, *unused_exception):
        self.closed = True

    def update(self, num_steps, num_images, bits_per_dim):
        self.updates.append((num_steps, num_images, bits_per_dim))


class CountingTrainer(Trainer):
    """Counts how often Python runs its steps: once for each trace."""

    def __init__(self, *args, **kwargs):
        self.traces = collections.Counter()
        super().__init__(*args, **kwargs)

    def train_step(self, images):
        self.traces["train"] += 1
        return super().train_step(images)

    def test_step(self, images, index):
        self.traces["test"] += 1
        return super().test_step(images, index)


@contextlib.contextmanager
def recorded_seeds(model):
    """Gives a list of the seeds that images are dequantized with."""
    seeds = []
    dequantize = model.dequantize

    def record(images, seed=None):
        seeds.append(seed)
        return dequantize(images, seed)

    with mock.patch.object(model, "dequantize", record):
        yield seeds


class StepTest(tf.test.TestCase):
    """Single steps, outside of the compiled loop."""

    def test_loss_is_nats_per_dim(self):
        model = make_model(moved=True)
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

    def test_every_variable_is_trained(self):
        model = make_model()
        trainer = Trainer(model, learning_rate=1e-2)
        images = random_images(BATCH_SIZE, seed=0, levels=(2, 8))
        before = values(model.variables)
        gains = [network.last.gain for network in model.networks]
        self.assertLen(gains, 10)
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

    def test_clipped_gradient(self):
        model = make_model(moved=True)
        trainer = Trainer(model, clip_grad=0.01, learning_rate=0.0)
        images = random_images(BATCH_SIZE, seed=0)
        with recorded_seeds(model) as seeds:
            trainer.train_step(images)
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(model.log_prob(images, seeds[0])) / NUM_DIMS
        variables = [variable.value for variable in model.variables]
        gradients = tape.gradient(loss, variables)
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

    def test_evaluation_noise(self):
        model = make_model(moved=True)
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


class AccumulateTest(tf.test.TestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.whole = cls.loss_and_gradients(parts=1)

    @classmethod
    def loss_and_gradients(cls, parts):
        trainer = Trainer(make_model(moved=True), 0.0, seed=1, accumulate=parts)
        loss = trainer.train_step(random_images(BATCH_SIZE, seed=0))
        return loss, applied_gradients(trainer)

    @parameterized.parameters(
        2,  # Equal parts.
        3,  # Parts of different sizes.
        5,  # A part is empty.
    )
    def test_same_gradient_as_of_the_whole_batch(self, parts):
        loss, gradients = self.whole
        summed_loss, summed = self.loss_and_gradients(parts)
        self.assertAllClose(loss, summed_loss, rtol=1e-5)
        for a, b in zip(gradients, summed, strict=True):
            self.assertAllClose(a, b, rtol=1e-3, atol=1e-6)
        self.assertGreater(max(np.abs(g).max() for g in gradients), 1e-3)


class EmaTest(tf.test.TestCase):
    def test_evaluates_the_average(self):
        model = make_model(moved=True)
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
        model = make_model()
        self.assertIs(Trainer(model).evaluated_model(), model)


class KeepBestTest(tf.test.TestCase):
    """A rate that diverges makes an early epoch the best one."""

    def fit(self, epochs, keep_best=True, **options):
        train = random_images(60, seed=0, levels=(5, 12))
        dataset = make_dataset(train, random_images(9, seed=1, levels=(5, 12)))
        dataset = dataset.hold_out(12, seed=0)
        # After two epochs it leaps.
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            [6], [1e-2, 1.0]
        )
        trainer = Trainer(make_model(), rate, keep_best=keep_best)
        for _ in trainer.fit(dataset, epochs, batch_size=16, **options):
            pass
        return trainer, dataset

    def test_result_is_the_best_epoch(self):
        trainer, dataset = self.fit(epochs=4)
        losses = [m.validation_loss for m in trainer.history]
        test_losses = [m.test_loss for m in trainer.history]
        self.assertEqual(test_losses[:2] + test_losses[3:], [None] * 4)
        self.assertEqual(np.argmin(losses), 2)
        self.assertGreater(losses[-1], losses[2] + 0.1)
        self.assertEqual(trainer.result_metrics(), trainer.history[2])
        # The same weights as of a training that ends there.
        expected = [v.numpy() for v in self.fit(epochs=2)[0].model.variables]
        result = trainer.result_model()
        for variable, value in zip(result.variables, expected, strict=True):
            self.assertAllEqual(variable.numpy(), value)
        # The training itself goes on from its last step.
        self.assertIsNot(result, trainer.model)
        self.assertNotAllClose(trainer.model.variables[0], expected[0])
        # The test images are for the result, the validation images are not.
        self.assertAllClose(
            trainer.evaluate(dataset, 16, split="validation"), losses[-1]
        )
        images = tf.concat(list(dataset.test_batches(16)), axis=0)
        self.assertEqual(trainer.evaluate(dataset, 16), test_losses[2])
        self.assertAllClose(
            test_losses[2],
            -np.mean(result.log_prob(images, seed=3)) / NUM_DIMS,
            atol=0.2,
        )

    def test_last_epoch_is_the_best(self):
        trainer, _ = self.fit(epochs=2)
        self.assertEqual(trainer.result_metrics(), trainer.history[-1])
        for a, b in zip(
            trainer.result_model().variables,
            trainer.model.variables,
            strict=True,
        ):
            self.assertAllEqual(a.numpy(), b.numpy())

    def test_part_of_an_epoch_can_be_the_best(self):
        trainer, _ = self.fit(epochs=2, max_steps=5)
        last = trainer.history[-1]
        self.assertEqual((last.epoch, last.step), (2, 5))
        self.assertEqual(trainer.result_metrics(), last)
        self.assertAllEqual(
            trainer.result_model().variables[0].numpy(),
            trainer.model.variables[0].numpy(),
        )

    def test_same_training_as_without(self):
        kept, _ = self.fit(epochs=1)
        other, _ = self.fit(epochs=1, keep_best=False)
        for a, b in zip(
            kept.model.variables, other.model.variables, strict=True
        ):
            self.assertAllEqual(a.numpy(), b.numpy())


class LearningRateTest(tf.test.TestCase, parameterized.TestCase):
    def rates(self, *args, steps):
        schedule = learning_rate(*args)
        return [float(schedule(step)) for step in steps]

    def test_constant(self):
        rates = self.rates(1e-3, 100, steps=(0, 1, 50, 99, 1000))
        self.assertAllEqual(rates, [np.float32(1e-3)] * 5)

    def test_warmup_then_constant(self):
        rates = self.rates(1e-3, 100, 4, steps=(0, 1, 2, 3, 4, 5, 99))
        expected = [0.2e-3, 0.4e-3, 0.6e-3, 0.8e-3, 1e-3, 1e-3, 1e-3]
        self.assertAllClose(rates, expected)

    def test_cosine(self):
        rates = self.rates(
            1e-3, 104, 4, "cosine", steps=(0, 4, 29, 54, 104, 999)
        )
        expected = [0.2e-3, 1e-3, 0.5e-3 * (1 + math.sqrt(0.5)), 0.5e-3, 0, 0]
        self.assertAllClose(rates, expected, atol=1e-9)

    def test_shorter_than_the_warmup(self):
        rates = self.rates(1e-3, 2, 9, "cosine", steps=(0, 1))
        self.assertAllClose(rates, [1e-4, 2e-4])

    @parameterized.product(
        [
            {"name": name, "value": value}
            for name, values in (
                ("peak", (0.0, -1e-3, math.nan, math.inf, "1e-3", None)),
                ("num_steps", (0, -1, 1.5, math.nan, "9", None)),
                ("warmup_steps", (-1, 1.5, math.nan, "9", None)),
                ("schedule", ("linear", "Cosine", "", None, ["cosine"])),
            )
            for value in values
        ]
    )
    def test_out_of_range(self, name, value):
        arguments = {"peak": 1e-3, "num_steps": 9, name: value}
        with self.assertRaisesRegex(ValueError, f"`{name}` must be") as caught:
            learning_rate(**arguments)
        if name == "schedule":
            self.assertRegex(str(caught.exception), "'constant', 'cosine'")

    def test_numbers_of_numpy(self):
        schedule = learning_rate(np.float64(0.1), np.int64(9), np.int32(0))
        self.assertAllEqual(schedule(0), np.float32(0.1))

    def test_what_the_trainer_uses(self):
        trainer = Trainer(
            make_model(), learning_rate(0.1, 3, 0, "cosine"), ema=0.5
        )
        self.assertAllClose(trainer.optimizer.learning_rate, 0.1)
        for _ in range(3):
            trainer.train_step(random_images(BATCH_SIZE, seed=0))
        self.assertAllClose(trainer.optimizer.learning_rate, 0.0)
        before = values(trainer.model.variables)
        trainer.train_step(random_images(BATCH_SIZE, seed=1))
        self.assertAllClose(before, values(trainer.model.variables))


class ForTrainingTest(tf.test.TestCase, parameterized.TestCase):
    """Models that share the weights and compute in another way."""

    @parameterized.product(
        compute_dtype=["float32", "bfloat16"], recompute=[False, True]
    )
    def test_density_and_gradients(self, compute_dtype, recompute):
        model = make_model(moved=True)
        other = model.for_training(compute_dtype, recompute)
        for first, second in zip(model.variables, other.variables, strict=True):
            self.assertIs(first, second)
        points = model.dequantize(random_images(3, seed=0), seed=1)

        def density_and_gradients(model):
            with tf.GradientTape() as tape:
                log_prob = model.distribution.log_prob(points)
            return log_prob, tape.gradient(log_prob, model.trainable_variables)

        expected, expected_gradients = density_and_gradients(model)
        log_prob, gradients = density_and_gradients(other)
        self.assertEqual(log_prob.dtype, tf.float32)
        exact = compute_dtype == "float32"
        self.assertAllClose(log_prob, expected, rtol=1e-6 if exact else 1e-2)
        if not exact:
            # Or the networks did not compute in bfloat16.
            self.assertNotAllClose(log_prob, expected, rtol=1e-6)
        self.assertLen(gradients, 170)
        for gradient in gradients:
            self.assertEqual(gradient.dtype, tf.float32)
        gradient, wanted = (
            np.concatenate([np.ravel(part) for part in parts])
            for parts in (gradients, expected_gradients)
        )
        error = np.linalg.norm(gradient - wanted) / np.linalg.norm(wanted)
        self.assertLess(error, 1e-5 if exact else 0.1)

    def test_model_stays_float32(self):
        model = make_model(moved=True)
        images = random_images(3, seed=0)
        before = model.log_prob(images, seed=1)
        model.for_training("bfloat16", recompute=True)
        self.assertAllEqual(model.log_prob(images, seed=1), before)


class TensorFloat32Trainer(Trainer):
    """Keeps whether TF32 is allowed when its steps run, which do nothing."""

    def __init__(self, *args, **kwargs):
        self.seen = {"train": set(), "test": set()}
        super().__init__(*args, **kwargs)

    def _look(self, what):
        def look():
            allowed = tf.config.experimental.tensor_float_32_execution_enabled()
            self.seen[what].add(allowed)

        tf.numpy_function(look, [], [])

    def train_step(self, images):
        self._look("train")
        self.step.assign_add(1)

    def test_step(self, images, index):
        self._look("test")
        return tf.constant(0.0)


class PrecisionTest(tf.test.TestCase):
    def test_trains_in_bfloat16_and_evaluates_in_float32(self):
        dataset = make_dataset(
            random_images(8, seed=1), random_images(NUM_TEST, seed=2)
        )
        losses = {}
        for precision in ("float32", "bfloat16"):
            model = make_model(moved=True)
            trainer = Trainer(model, 1e-3, precision=precision)
            (before, after) = trainer.fit(
                dataset, 1, BATCH_SIZE, None, Displays()
            )
            losses[precision] = (before.test_loss, after.train_loss)
        exact, rounded = losses["float32"], losses["bfloat16"]
        self.assertEqual(exact[0], rounded[0])
        self.assertNotEqual(exact[1], rounded[1])
        self.assertAllClose(exact[1], rounded[1], rtol=1e-2)

    def test_tf32_in_training_only(self):
        """Whatever is in force around it, when its operations run."""
        config = tf.config.experimental
        self.addCleanup(
            config.enable_tensor_float_32_execution,
            config.tensor_float_32_execution_enabled(),
        )
        dataset = make_dataset(
            random_images(8, seed=1), random_images(NUM_TEST, seed=2)
        )
        model = make_model()
        for around in (False, True):
            config.enable_tensor_float_32_execution(around)
            for precision in ("float32", "bfloat16", "tf32"):
                trainer = TensorFloat32Trainer(model, precision=precision)
                for _ in trainer.fit(dataset, 1, BATCH_SIZE):
                    self.assertEqual(
                        config.tensor_float_32_execution_enabled(), around
                    )
                self.assertEqual(
                    trainer.seen,
                    {"train": {precision == "tf32"}, "test": {False}},
                )

    def test_tf32_is_float32_elsewhere(self):
        """Weights and gradients have all of their digits, on CPUs all have."""
        images = tf.constant(random_images(BATCH_SIZE, seed=0))
        losses = [
            Trainer(
                make_model(moved=True), 1e-3, precision=precision
            ).train_step(images)
            for precision in ("float32", "tf32")
        ]
        self.assertAllEqual(*losses)


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


def applied_gradients(trainer):
    """The gradients of a trainer's only step, as Adam saw them."""
    momenta = [v for v in trainer.optimizer.variables if "momentum" in v.path]
    return [v.numpy() / (1.0 - trainer.optimizer.beta_1) for v in momenta]


class FitTest(tf.test.TestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.dataset = make_dataset(
            random_images(NUM_TRAIN, seed=1), random_images(NUM_TEST, seed=2)
        )
        cls.displays = Displays()
        cls.trainer, cls.history = cls.fit(cls.displays)
        cls.weights = values(cls.trainer.model.variables)
        cls.traces = dict(cls.trainer.traces)

    @classmethod
    def fit(cls, displays):
        trainer = CountingTrainer(make_model(), learning_rate=1e-2, seed=7)
        history = trainer.fit(
            cls.dataset, 2, BATCH_SIZE, max_steps=None, progress=displays
        )
        return trainer, list(history)

    def test_metrics(self):
        self.assertEqual([m.epoch for m in self.history], [0, 1, 2])
        self.assertEqual([m.step for m in self.history], [0, 2, 4])
        self.assertIsNone(self.history[0].train_loss)
        losses = [m.test_loss for m in self.history]
        losses += [m.train_loss for m in self.history[1:]]
        for loss in losses:
            self.assertIsInstance(loss, float)
            self.assertTrue(math.isfinite(loss))
        self.assertLen(set(losses), 5)

    def test_display(self):
        passes = self.displays.passes
        titles = ["test", "epoch 1/2", "test", "epoch 2/2", "test"]
        for display, title in zip(passes, titles, strict=True):
            self.assertStartsWith(display.title, title)
            self.assertEqual(display.num_steps, 2)
        losses = [self.history[0].test_loss]
        for metrics in self.history[1:]:
            losses += [metrics.train_loss, metrics.test_loss]
        for display, loss in zip(passes, losses, strict=True):
            self.assertTrue(display.closed)
            steps, images, bits_per_dim = zip(*display.updates, strict=True)
            is_test = display.title == "test"
            self.assertEqual(sum(steps), 2)
            self.assertEqual(sum(images), 7 if is_test else 8)
            bits_per_dim = bits_per_dim[-1]
            self.assertAllClose(bits_per_dim, loss / math.log(2.0))

    def test_steps_are_traced_once(self):
        self.assertEqual(self.traces, {"train": 1, "test": 1})

    def test_same_as_single_steps(self):
        trainer = Trainer(make_model(), learning_rate=1e-2, seed=7)
        for epoch in (1, 2):
            batches = self.dataset.train_batches(BATCH_SIZE, 7, epoch)
            losses = [trainer.train_step(images) for images in batches]
            self.assertLen(losses, 2)
            self.assertAllClose(
                self.history[epoch].train_loss, np.mean(losses), rtol=1e-4
            )

    def test_same_seed_gives_the_same_run(self):
        trainer, history = self.fit(Displays())
        self.assertEqual(history, self.history)
        weights = values(trainer.model.variables)
        self.assertTrue(all(same(weights, self.weights)))

    @parameterized.named_parameters(
        # `max_steps`, and the number of steps after every epoch.
        ("end_of_an_epoch", 2, [0, 2]),
        ("within_an_epoch", 3, [0, 2, 3]),
        ("more_than_all", 100, [0, 2, 4]),
    )
    def test_max_steps(self, max_steps, expected):
        self.start_again()
        steps_before = int(self.trainer.optimizer.iterations)
        displays = Displays()
        history = list(
            self.trainer.fit(self.dataset, 2, BATCH_SIZE, max_steps, displays)
        )
        self.assertEqual([m.step for m in history], expected)
        self.assertEqual([m.epoch for m in history], list(range(len(expected))))
        self.assertEqual(
            int(self.trainer.optimizer.iterations) - steps_before, expected[-1]
        )
        # The display knows that the epoch is a short one.
        for display in displays.passes:
            num_steps = sum(steps for steps, _, _ in display.updates)
            self.assertEqual(num_steps, display.num_steps)
        # What was reached is evaluated.
        test_loss = self.trainer.evaluate(self.dataset, BATCH_SIZE, Displays())
        self.assertEqual(history[-1].test_loss, test_loss)

    def test_defaults(self):
        # For a program: all epochs, by batches of 64, without a display.
        images = random_images(2 * 64 + 1, seed=5)
        dataset = make_dataset(images, images[:1])
        self.start_again()
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            history = list(self.trainer.fit(dataset, epochs=2))
            loss = self.trainer.evaluate(dataset)
        self.assertEqual([m.step for m in history], [0, 2, 4])
        self.assertEqual(loss, history[-1].test_loss)
        self.assertEqual(output.getvalue(), "")

    def test_batch_larger_than_the_data_set(self):
        self.start_again()
        with self.assertRaisesRegex(ValueError, "64.*10 training.* random"):
            list(self.trainer.fit(self.dataset, epochs=1))

    def test_loss_falls(self):
        batch = random_images(BATCH_SIZE, seed=3, levels=(2, 6))
        # Twenty steps on the same few images.
        dataset = make_dataset(np.tile(batch, [20, 1, 1, 1]), batch)
        self.start_again()
        before, after = self.trainer.fit(
            dataset, 1, BATCH_SIZE, None, Displays()
        )
        self.assertEqual(after.step, 20)
        self.assertLess(after.test_loss, before.test_loss - 0.3)

    def test_evaluation_is_a_mean_over_images(self):
        # The images of the smaller batch are much less likely: a mean of the
        # batches' means would show.
        images = np.concatenate(
            [
                np.full((BATCH_SIZE, 4, 4, 1), 8, np.uint8),
                random_images(1, seed=4) // 16 * 16,
            ]
        )
        dataset = make_dataset(images, images)
        displays = Displays()
        loss = self.trainer.evaluate(dataset, BATCH_SIZE, displays)
        sums = [
            float(self.trainer.test_step(batch, tf.constant(index, tf.int64)))
            for index, batch in enumerate((images[:4], images[4:]))
        ]
        self.assertAllClose(loss, sum(sums) / 5, rtol=1e-4)
        self.assertNotAllClose(
            sums[0] / 4, sums[1], atol=0.1, msg="This tests nothing."
        )
        (first, second) = displays.passes[0].updates
        self.assertEqual((first[:2], second[:2]), ((1, 4), (1, 1)))
        bits = second[-1]
        self.assertAllClose(bits, loss / math.log(2.0))
        # The noise is the same each time.
        again = self.trainer.evaluate(dataset, BATCH_SIZE, Displays())
        self.assertEqual(again, loss)

    def test_time_of_the_first_step(self):
        trainer = self.trainer
        self.start_again()
        times = []
        train_steps = trainer._train_steps

        def record(*args):
            result = train_steps(*args)
            times.append(time.monotonic())
            return result

        trainer.first_step_done = None
        with mock.patch.object(trainer, "_train_steps", record):
            list(trainer.fit(self.dataset, 2, BATCH_SIZE, None, Displays()))
        self.assertLen(times, 4)
        self.assertBetween(trainer.first_step_done, times[0], times[1])

    def start_again(self):
        """Lets the trainer, which knows its position, begin a run anew."""
        self.trainer.step.assign(0)
        self.trainer.history = []


if __name__ == "__main__":
    tf.test.main()
