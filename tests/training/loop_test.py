"""Tests for loop: epochs of training, and what is evaluated after them."""

import functools
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
    same_weights,
    trainer_of,
)

from tf_realnvp.training import clock, loop
from tf_realnvp.utils.console import Progress

BATCH_SIZE = 4
NUM_TRAIN = 10  # Two batches, and two images that make none.
NUM_TEST = 7  # A batch, and three images that count as well.


class TracedModel(SmallModel):
    """Counts the traces of its steps."""

    num_traces = 0

    def add_noise(self, images, seed):
        self.num_traces += 1
        return super().add_noise(images, seed)


def make_model():
    """Returns the same model in each call."""
    keras.utils.set_random_seed(0)
    return TracedModel()


def make_trainer(**settings):
    defaults = {"epochs": 2, "batch_size": BATCH_SIZE, "seed": 7}
    defaults |= {"num_train": NUM_TRAIN}
    return trainer_of(make_model(), 0.1, **defaults | settings)


class Recorder(Progress):
    """Records all notifications, and serves as the display."""

    def __init__(self):
        self.passes = []  # Title, number of steps and updates.
        self.metrics = []
        self.num_calls = self.num_closed = 0

    def display(self, title, num_steps):
        self.passes.append((title, num_steps, []))
        return self

    def update(self, *arguments):
        self.passes[-1][-1].append(arguments)

    def __exit__(self, *exception):
        self.num_closed += 1

    def after_steps(self):
        self.num_calls += 1


@functools.cache
def held_out():
    """Returns a data set with images for validation."""
    train = random_images(60, seed=0, levels=(5, 12))
    dataset = make_dataset(train, random_images(9, seed=1, levels=(5, 12)))
    return fast_command.with_pipelines(dataset).hold_out(12, 0)


class KeepBestTest(untraced.UntracedTestCase, parameterized.TestCase):
    """The rate becomes so high that an early epoch is the best."""

    @staticmethod
    def make(epochs, max_steps=None):
        trainer = make_trainer(
            **{"epochs": epochs, "max_steps": max_steps, "batch_size": 16},
            **{"num_train": held_out().num_train, "num_validation": 12},
        )
        # After two epochs of three steps it leaps.
        rate = keras.optimizers.schedules.PiecewiseConstantDecay
        trainer.optimizer.learning_rate = rate([6], [0.5, 30.0])
        return trainer

    @classmethod
    def fit(cls, epochs, max_steps=None):
        trainer = cls.make(epochs, max_steps)
        loop.fit(trainer, held_out())
        return trainer

    @classmethod
    @functools.cache
    def whole(cls, epochs):
        """Returns a trainer that no test changes."""
        return cls.fit(epochs)

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
        self.assertTrue(same_weights(result, whole))
        # The training itself goes on from its last step.
        self.assertIsNot(result, trainer.model)
        self.assertNotAllClose(trainer.model.variables[0], whole.variables[0])
        # The test images are for the result, the validation images are not.
        self.assertAllClose(
            loop.evaluate(trainer, held_out(), "validation").mean(),
            losses[-1],
        )
        loss = loop.evaluate(trainer, held_out(), "test").mean()
        self.assertEqual(loss, test_losses[2])

    def test_cut_short_within_an_epoch(self):
        """The result is the best epoch that was evaluated."""
        cut = self.make(epochs=2)
        cut.max_steps_per_call = 1
        with self.assertRaises(StopIteration):
            answers = iter([None] * 6)
            loop.fit(cut, held_out(), after_steps=lambda: next(answers))
        self.assertBetween(cut.num_steps, 4, 5)
        self.assertLen(cut.history, 2)
        best = self.whole(1).model
        self.assertNotAllClose(cut.model.variables[0], best.variables[0])
        self.assertTrue(same_weights(cut.result_model(), best))

    def test_cut_short_while_the_best_is_kept(self):
        """The result is not a mixture of two epochs."""
        trainer = self.fit(1)
        *_, last = trainer.state["best"]
        for variable in trainer.model.variables:
            variable.assign_add(tf.ones_like(variable))
        trainer.step.assign_add(1)
        trainer.evaluated_model()
        with (
            mock.patch.object(last, "assign", side_effect=KeyboardInterrupt),
            self.assertRaises(KeyboardInterrupt),
        ):
            trainer.keep_if_best(-1.0)
        self.assertTrue(same_weights(trainer.result_model(), trainer.model))

    def test_best_part_of_an_epoch_that_goes_on(self):
        """The result is always in the history."""
        # One step before it leaps, the best of all.
        trainer = self.fit(epochs=4, max_steps=7)
        loss = trainer.history[-1].validation_loss
        self.assertLess(loss, trainer.history[-2].validation_loss)
        self.assertIsNotNone(trainer.history[-1].test_loss)
        self.assertEqual(trainer.result_metrics(), trainer.history[-1])
        self.assertTrue(same_weights(trainer.result_model(), trainer.model))
        trainer.last_step = 12
        loop.fit(trainer, held_out())
        # Nor is its loss on the test images.
        self.assertEqual(trainer.history, self.whole(4).history)
        self.assertEqual(trainer.result_metrics().step, 6)
        result = trainer.result_model()
        self.assertTrue(same_weights(result, self.whole(2).model))

    def test_loss_that_is_no_number_is_not_the_best(self):
        trainer = self.fit(epochs=2)
        best = trainer.model.clone()
        nan = np.full(3, math.nan)
        with mock.patch.object(loop, "evaluate", return_value=nan):
            trainer.last_step = 9
            loop.fit(trainer, held_out())
        self.assertTrue(math.isnan(trainer.history[-1].validation_loss))
        self.assertEqual(trainer.result_metrics(), trainer.history[2])
        self.assertTrue(same_weights(trainer.result_model(), best))


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
        cls.recorder, cls.trainer = Recorder(), make_trainer()
        loop.fit(
            cls.trainer,
            cls.dataset,
            on_epoch=cls.recorder.metrics.append,
            after_steps=cls.recorder.after_steps,
            display=cls.recorder.display,
        )
        cls.history = cls.trainer.history

        cls.num_traces = cls.trainer.model.num_traces

    def test_metrics_and_display(self):
        recorder, history = self.recorder, self.history
        self.assertEqual([m.epoch for m in history], [0, 1, 2])
        self.assertEqual([m.step for m in history], [0, 2, 4])
        self.assertIsNone(history[0].train_loss)
        self.assertEqual(recorder.metrics, history)
        titles = ["test", "epoch 1/2", "test", "epoch 2/2", "test"]
        losses = [history[0].test_loss]
        for metrics in history[1:]:
            losses += [metrics.train_loss, metrics.test_loss]
        self.assertLen(set(losses), 5)
        for (title, num_steps, updates), start, loss in zip(
            recorder.passes, titles, losses, strict=True
        ):
            self.assertStartsWith(title, start)
            steps, images, shown, _ = zip(*updates, strict=True)
            self.assertEqual((num_steps, sum(steps)), (2, 2))
            self.assertEqual(sum(images), 7 if start == "test" else 8)
            bits = f"{loss / math.log(2.0):.3f} bits/dim"
            self.assertEqual(shown[-1], bits)
        # It is known when a step has been timed, without what is compiled.
        of_all = [
            left for *_, updates in recorder.passes for *_, left in updates
        ]
        self.assertEqual(of_all[:4], [None] * 4)
        self.assertNotIn(None, of_all[-4:])
        self.assertEqual(self.num_traces, 2)  # Of training and evaluation.
        # After every call, of which each pass has two.
        self.assertEqual((recorder.num_closed, recorder.num_calls), (5, 10))

    # `max_steps`, and the number of steps after every epoch.
    @parameterized.parameters((2, [0, 2]), (3, [0, 2, 3]), (100, [0, 2, 4]))
    def test_max_steps(self, max_steps, expected):
        trainer, recorder = make_trainer(max_steps=max_steps), Recorder()
        loop.fit(trainer, self.dataset, display=recorder.display)
        # What was passed within an epoch is evaluated all the same.
        trainer.last_step = 1
        loop.fit(trainer, self.dataset)
        history = trainer.history
        self.assertEqual([m.step for m in history], expected)
        self.assertEqual([m.epoch for m in history], list(range(len(expected))))
        # The display knows that the epoch is a short one.
        for _, num_steps, updates in recorder.passes:
            self.assertEqual(sum(steps for steps, *_ in updates), num_steps)
        # What was reached is evaluated.
        loss = loop.evaluate(trainer, self.dataset).mean()
        self.assertEqual(history[-1].test_loss, loss)
        # A mean over images, not over batches of 4 and 3.
        batches = iter(self.dataset.batches("test", BATCH_SIZE).enumerate())
        self.assertEqual(loss, trainer.test(batches, 2).mean(dtype=float))
        # Alone, since it may be smaller, and a call has batches of one size.
        with mock.patch.object(trainer, "test", wraps=trainer.test) as test:
            loop.evaluate(trainer, self.dataset)
        self.assertEqual(test.mock_calls[-1].args[1], 1)

    def test_slow_batches_have_calls_of_their_own(self):
        trainer, now, counts = make_trainer(batch_size=1), [0.0], []

        def test(unused_batches, count):
            now[0] += count
            counts.append(count)
            return np.zeros(count)

        time = mock.Mock(perf_counter=lambda: now[0])
        with mock.patch.object(clock, "time", time):
            with mock.patch.object(trainer, "test", test):
                loop.evaluate(trainer, self.dataset)
        self.assertEqual(counts, [1] * self.dataset.num_test)

    def test_some_test_images_on_the_way(self):
        """The last epoch is tested on all images."""
        self.enterContext(mock.patch.object(loop, "MAX_TEST_IMAGES", 5))
        trainer, losses = make_trainer(), []
        some = self.dataset.sample_test(5, 7)

        def evaluate(metrics):
            images = self.dataset if metrics.epoch == 2 else some
            loss = loop.evaluate(trainer, images).mean()
            losses.append((metrics.test_loss, loss))

        loop.fit(trainer, self.dataset, on_epoch=evaluate)
        self.assertLen(losses, 3)
        for reported, expected in losses:
            self.assertEqual(reported, expected)
        self.assertEqual(trainer.history[2], self.history[2])
        self.assertNotEqual(trainer.history[1], self.history[1])
