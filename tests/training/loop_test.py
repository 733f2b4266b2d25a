"""Tests for loop: epochs of training, and what is evaluated after them."""

import collections
import contextlib
import functools
import io
import itertools
import math
from unittest import mock

import fast_command
import keras
import numpy as np
import tensorflow as tf
import untraced
from absl.testing import parameterized
from small_models import (
    SmallModel,
    make_dataset,
    random_images,
    same,
    set_seed,
    values,
)

from tf_realnvp.training import loop
from tf_realnvp.training import trainer as trainer_module
from tf_realnvp.training.trainer import MAX_SKIPPED_IN_A_ROW, Trainer
from tf_realnvp.utils.errors import DivergedError

BATCH_SIZE = 4
NUM_TRAIN = 10  # Two batches, and two images that make none.
NUM_TEST = 7  # A batch, and three images that count as well.


def make_model():
    """Returns the same model in each call."""
    set_seed(0)
    return SmallModel()


class Recorder(loop.Observer):
    """Keeps what it is told."""

    def __init__(self):
        self.passes = []
        self.metrics = []
        self.num_calls = 0

    def progress(self, title, num_steps):
        self.passes.append(Display(title, num_steps))
        return self.passes[-1]

    def after_steps(self):
        self.num_calls += 1

    def after_epoch(self, metrics):
        self.metrics.append(metrics)


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

    def train_step(self, images, label=None):
        self.traces["train"] += 1
        return super().train_step(images, label)

    def test_step(self, images, index, label=None):
        self.traces["test"] += 1
        return super().test_step(images, index, label)


def weights_are_same(first, second):
    return same(values(first.variables), values(second.variables))


@functools.cache
def held_out():
    """Returns a data set with images for validation."""
    train = random_images(60, seed=0, levels=(5, 12))
    dataset = make_dataset(train, random_images(9, seed=1, levels=(5, 12)))
    return fast_command.with_pipelines(dataset).hold_out(12, 0)


class KeepBestTest(untraced.UntracedTestCase, parameterized.TestCase):
    """A rate that diverges makes an early epoch the best one."""

    @staticmethod
    def fit(epochs, keep_best=True, **options):
        # After two epochs it leaps.
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            [6], [0.5, 30.0]
        )
        trainer = Trainer(make_model(), rate, keep_best=keep_best)
        loop.fit(trainer, held_out(), epochs, batch_size=16, **options)
        return trainer

    @classmethod
    @functools.cache
    def whole(cls, epochs, **options):
        """Returns a trainer that no test changes."""
        return cls.fit(epochs, **options)

    def test_result_is_the_best_epoch(self):
        trainer = self.fit(epochs=4)
        losses = [m.validation_loss for m in trainer.history]
        test_losses = [m.test_loss for m in trainer.history]
        self.assertEqual(test_losses[:2] + test_losses[3:], [None] * 4)
        self.assertEqual(np.argmin(losses), 2)
        self.assertGreater(losses[-1], losses[2] + 0.1)
        self.assertEqual(trainer.result_metrics(), trainer.history[2])
        # The same weights as of a training that ends there.
        whole, result = self.whole(2).model, trainer.result_model()
        self.assertTrue(all(weights_are_same(result, whole)))
        # The training itself goes on from its last step.
        self.assertIsNot(result, trainer.model)
        self.assertNotAllClose(trainer.model.variables[0], whole.variables[0])
        # The test images are for the result, the validation images are not.
        self.assertAllClose(
            loop.evaluate(trainer, held_out(), "validation", 16), losses[-1]
        )
        loss = loop.evaluate(trainer, held_out(), "test", 16)
        self.assertEqual(loss, test_losses[2])

    @parameterized.parameters({}, {"max_steps": 5})
    def test_last_epoch_is_the_best(self, **options):
        """Or what there is of it."""
        trainer = self.whole(2, **options)
        last = trainer.history[-1]
        step = options.get("max_steps", 6)
        self.assertEqual((last.epoch, last.step), (2, step))
        self.assertEqual(trainer.result_metrics(), last)
        self.assertTrue(
            all(weights_are_same(trainer.result_model(), trainer.model))
        )

    def test_cut_short_within_an_epoch(self):
        """The best so far was evaluated; what came after it was not."""
        whole = self.whole(1)
        with mock.patch.object(loop, "_calls", lambda n, unused: [1] * n):
            asked = itertools.count()
            cut = self.fit(epochs=2, should_stop=lambda: next(asked) == 6)
        self.assertBetween(cut.num_steps, 4, 5)
        self.assertLen(cut.history, 2)
        self.assertFalse(all(weights_are_same(cut.model, whole.model)))
        self.assertTrue(all(weights_are_same(cut.result_model(), whole.model)))

    @parameterized.parameters(0, 1)
    def test_cut_short_while_the_best_is_kept(self, epoch):
        """It is then the model as it is, and no mixture of two epochs."""
        trainers, keep_if_best = [], Trainer.keep_if_best
        assign = trainer_module._assign

        def assign_some(variables, values):
            assign(variables[:1], values[:1])
            raise KeyboardInterrupt

        def keep(trainer, loss):
            trainers.append(trainer)
            is_cut = len(trainers) == epoch + 1
            with mock.patch.object(
                trainer_module, "_assign", assign_some if is_cut else assign
            ):
                keep_if_best(trainer, loss)

        with (
            mock.patch.object(Trainer, "keep_if_best", keep),
            self.assertRaises(KeyboardInterrupt),
        ):
            self.fit(epochs=2)
        cut_short = trainers[-1]
        self.assertEqual(cut_short.num_steps, 3 * epoch)
        self.assertTrue(
            all(weights_are_same(cut_short.result_model(), cut_short.model))
        )

    def test_best_part_of_an_epoch_that_goes_on(self):
        """What is no longer in the history is not the result."""
        whole = self.whole(2)
        # One step before it leaps, the best of all.
        trainer = self.fit(epochs=4, max_steps=7)
        loss = trainer.history[-1].validation_loss
        self.assertLess(loss, trainer.history[-2].validation_loss)
        loop.fit(trainer, held_out(), 4, batch_size=16)
        self.assertEqual(trainer.result_metrics().step, 6)
        self.assertTrue(
            all(weights_are_same(trainer.result_model(), whole.model))
        )

    def test_loss_that_is_no_number_is_not_the_best(self):
        trainer = self.fit(epochs=2)
        best = values(trainer.model.variables)
        trainer.model.variables[0].assign_add(
            tf.ones_like(trainer.model.variables[0])
        )
        trainer.evaluated_model()
        trainer.keep_if_best(math.nan)
        trainer.end_epoch(3, "validation", math.nan)
        self.assertEqual(trainer.result_metrics(), trainer.history[2])
        result = values(trainer.result_model().variables)
        self.assertTrue(all(same(result, best)))
        # Nor is the first.
        trainer.history.insert(0, trainer.history.pop())
        self.assertEqual(trainer.result_metrics().epoch, 2)

    def test_same_training_as_without(self):
        kept, other = self.whole(1), self.fit(epochs=1, keep_best=False)
        self.assertTrue(all(weights_are_same(kept.model, other.model)))


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

    def train_step(self, images, label=None):
        self._look("train")
        self.step.assign_add(1)

    def test_step(self, images, index, label=None):
        self._look("test")
        return tf.constant(0.0)


class PrecisionTest(tf.test.TestCase):
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
        for around, precision in (
            (False, "tf32"),
            (True, "tf32"),
            (True, "float32"),
            (True, "bfloat16"),
        ):
            config.enable_tensor_float_32_execution(around)
            trainer = TensorFloat32Trainer(model, precision=precision)
            loop.fit(trainer, dataset, 1, BATCH_SIZE)
            self.assertEqual(config.tensor_float_32_execution_enabled(), around)
            self.assertEqual(
                trainer.seen, {"train": {precision == "tf32"}, "test": {False}}
            )


class FitTest(tf.test.TestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.dataset = fast_command.with_pipelines(
            make_dataset(
                random_images(NUM_TRAIN, seed=1),
                random_images(NUM_TEST, seed=2),
            )
        )
        cls.recorder = Recorder()
        cls.trainer = cls.fit(cls.recorder)
        cls.history = cls.trainer.history
        cls.weights = values(cls.trainer.model.variables)
        cls.traces = dict(cls.trainer.traces)

    @classmethod
    def fit(cls, observer=None):
        trainer = CountingTrainer(make_model(), learning_rate=0.1, seed=7)
        assert loop.fit(trainer, cls.dataset, 2, BATCH_SIZE, None, observer)
        return trainer

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
        passes = self.recorder.passes
        self.assertEqual(self.recorder.metrics, self.history)
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
        trainer = Trainer(make_model(), learning_rate=0.1, seed=7)
        for epoch in (1, 2):
            batches = self.dataset.train_batches(BATCH_SIZE, 7, epoch)
            losses = [trainer.train_step(images) for images in batches]
            self.assertLen(losses, 2)
            self.assertAllClose(
                self.history[epoch].train_loss, np.mean(losses), rtol=1e-4
            )

    def test_stopped_and_gone_on_with(self):
        """Again and again: the same weights and metrics in the end."""
        trainer = CountingTrainer(make_model(), learning_rate=0.1, seed=7)
        # An evaluation that is stopped starts anew: it has two calls.
        answers = itertools.cycle([False, False, True])
        num_stops = 0
        while not loop.fit(
            trainer,
            self.dataset,
            2,
            BATCH_SIZE,
            should_stop=lambda: next(answers),
        ):
            num_stops += 1
        self.assertGreater(num_stops, 2)
        self.assertEqual(trainer.history, self.history)
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
        recorder = Recorder()
        loop.fit(self.trainer, self.dataset, 2, BATCH_SIZE, max_steps, recorder)
        history = self.trainer.history
        self.assertEqual([m.step for m in history], expected)
        self.assertEqual([m.epoch for m in history], list(range(len(expected))))
        self.assertEqual(
            int(self.trainer.optimizer.iterations) - steps_before, expected[-1]
        )
        # The display knows that the epoch is a short one.
        for display in recorder.passes:
            num_steps = sum(steps for steps, _, _ in display.updates)
            self.assertEqual(num_steps, display.num_steps)
        # What was reached is evaluated.
        test_loss = loop.evaluate(
            self.trainer, self.dataset, batch_size=BATCH_SIZE
        )
        self.assertEqual(history[-1].test_loss, test_loss)

    def test_max_steps_that_have_been_passed(self):
        """Within an epoch: what was reached is evaluated all the same."""
        trainer = CountingTrainer(make_model(), learning_rate=0.1, seed=7)
        with mock.patch.object(Trainer, "max_steps_per_call", 1):
            answers = iter([False] * 2 + [False] * 2 + [False] * 2 + [True])
            self.assertFalse(
                loop.fit(
                    trainer,
                    self.dataset,
                    2,
                    BATCH_SIZE,
                    should_stop=lambda: next(answers),
                )
            )
        self.assertEqual(trainer.num_steps, 3)
        self.assertTrue(loop.fit(trainer, self.dataset, 1, BATCH_SIZE, 1))
        self.assertEqual([m.step for m in trainer.history], [0, 2, 3])
        loss = loop.evaluate(trainer, self.dataset, batch_size=BATCH_SIZE)
        self.assertEqual(trainer.history[-1].test_loss, loss)

    def test_defaults(self):
        # For a program: all epochs, by batches of 64, without a display.
        images = random_images(2 * 64 + 1, seed=5)
        dataset = make_dataset(images, images[:1])
        self.start_again()
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            loop.fit(self.trainer, dataset, epochs=2)
            loss = loop.evaluate(self.trainer, dataset)
        history = self.trainer.history
        self.assertEqual([m.step for m in history], [0, 2, 4])
        self.assertEqual(loss, history[-1].test_loss)
        self.assertEqual(output.getvalue(), "")

    def test_batch_larger_than_the_data_set(self):
        self.start_again()
        with self.assertRaisesRegex(ValueError, "64.*10 training.* random"):
            loop.fit(self.trainer, self.dataset, epochs=1)

    def test_loss_falls(self):
        batch = random_images(BATCH_SIZE, seed=3, levels=(2, 6))
        # Twenty steps on the same few images.
        dataset = make_dataset(np.tile(batch, [20, 1, 1, 1]), batch)
        self.start_again()
        loop.fit(self.trainer, dataset, 1, BATCH_SIZE)
        before, after = self.trainer.history
        self.assertEqual(after.step, 20)
        self.assertLess(after.test_loss, before.test_loss - 0.01)

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
        recorder = Recorder()
        loss = loop.evaluate(
            self.trainer, dataset, "test", BATCH_SIZE, recorder
        )
        sums = [
            float(self.trainer.test_step(batch, tf.constant(index, tf.int64)))
            for index, batch in enumerate((images[:4], images[4:]))
        ]
        self.assertAllClose(loss, sum(sums) / 5, rtol=1e-4)
        self.assertNotAllClose(
            sums[0] / 4, sums[1], atol=0.1, msg="This tests nothing."
        )
        (first, second) = recorder.passes[0].updates
        self.assertEqual((first[:2], second[:2]), ((1, 4), (1, 1)))
        bits = second[-1]
        self.assertAllClose(bits, loss / math.log(2.0))
        # The noise is the same each time.
        again = loop.evaluate(self.trainer, dataset, "test", BATCH_SIZE)
        self.assertEqual(again, loss)

    def test_divergence(self):
        """Weights that are not finite end it; finite ones would have stayed."""
        trainer = Trainer(make_model(), learning_rate=math.inf)
        images = random_images(20 * BATCH_SIZE, seed=1)
        dataset = make_dataset(images, images[:1])
        with self.assertRaisesRegex(DivergedError, "10 steps up to step 11"):
            loop.fit(trainer, dataset, 1, BATCH_SIZE)
        self.assertEqual(trainer.num_steps, 1 + MAX_SKIPPED_IN_A_ROW)

    def start_again(self):
        """Lets the trainer, which knows its position, begin a run anew."""
        self.trainer.step.assign(0)
        self.trainer.history = []


if __name__ == "__main__":
    tf.test.main()
