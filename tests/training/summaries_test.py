"""Tests for summaries."""

import collections
import contextlib
import io
import math
from unittest import mock

import folders
import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from small_models import SmallModel, set_seed
from tensorflow.core.util import event_pb2

from tf_realnvp.images import plots
from tf_realnvp.training import summaries
from tf_realnvp.training.summaries import Summaries
from tf_realnvp.training.trainer import Metrics, Trainer


class LayoutTest(tf.test.TestCase):
    def test_a_row_a_class(self):
        model = SmallModel(num_classes=3, class_probs=[0.2, 0.3, 0.5])
        count, labels, columns = summaries.layout_of_samples(model)
        rows = labels.reshape(-1, columns)
        self.assertAllEqual(rows, [[k] * columns for k in range(3)])
        self.assertLen(labels, count)
        many = SmallModel(num_classes=99, class_probs=[1 / 99] * 99)
        count, labels, columns = summaries.layout_of_samples(many)
        rows = labels.reshape(-1, columns)
        self.assertAllEqual(rows[:, 0], range(20))
        self.assertLen(labels, count)
        layout = summaries.layout_of_samples(SmallModel())
        self.assertEqual(layout, (36, None, None))


class SummariesTest(folders.FolderTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        set_seed(0)
        self.trainer = Trainer(SmallModel(), learning_rate=0.5)
        self.now = 100.0
        clock = mock.Mock(monotonic=lambda: self.now)
        self.enterContext(mock.patch.object(summaries, "time", clock))
        self.summaries = Summaries(
            self.trainer, self.folder, batch_size=8, seed=3
        )

    def set_progress(self, step, updates, loss, norm):
        """Stands in for training."""
        self.trainer.step.assign(step)
        self.trainer._epoch_updates.assign(updates)
        self.trainer._epoch_loss.assign(loss)
        self.trainer._epoch_norm.assign(norm)

    def read(self):
        """Tag to a list of step and value; those of images are encoded."""
        self.summaries._writer.flush()
        (path,) = tf.io.gfile.glob(f"{self.folder}/events.*")
        values = collections.defaultdict(list)
        for record in tf.data.TFRecordDataset(path):
            event = event_pb2.Event.FromString(record.numpy())
            for value in event.summary.value:
                content = tf.make_ndarray(value.tensor)
                values[value.tag].append((event.step, content))
        return values

    def test_progress(self):
        self.set_progress(3, updates=3, loss=1.0, norm=1.0)
        self.now += 9.0
        self.summaries.write_progress()  # Too soon.
        self.set_progress(4, updates=4, loss=8.0 * math.log(2.0), norm=12.0)
        self.now += 7.0
        self.summaries.write_progress()
        self.summaries.write_progress()  # Too soon again.
        self.now += 20.0
        self.summaries.write_progress()  # Nothing was done meanwhile.
        values = self.read()
        expected = {
            "bits_per_dim/train": 2.0,
            "gradient_norm": 3.0,
            "learning_rate": 0.5,
            "images_per_second": 4 * 8 / 16,
        }
        self.assertCountEqual(values, expected)
        for tag, value in expected.items():
            ((step, content),) = values[tag]
            self.assertEqual(step, 4)
            self.assertAllClose(content, value)

    def test_evaluation_is_not_shown_as_slow_training(self):
        self.set_progress(4, updates=4, loss=8.0, norm=12.0)
        self.now += 9.0
        self.summaries.write_progress()
        self.now += 7.0
        self.summaries.write_progress()  # No step was done since.
        self.assertEmpty(self.read())

    @parameterized.parameters(
        tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError
    )
    def test_samples_that_cannot_be_drawn(self, kind):
        """Training goes on: weights may recover."""
        error = kind(None, None, "it overflows")
        stderr = io.StringIO()
        with (
            mock.patch.object(self.summaries, "_decode", side_effect=error),
            contextlib.redirect_stderr(stderr),
        ):
            self.summaries.write_samples(3)
        self.assertEqual(
            stderr.getvalue(), "warning: cannot draw samples: it overflows\n"
        )

    def test_epochs(self):
        self.summaries.write_epoch(Metrics(0, 0, None, 5.0 * math.log(2.0)))
        self.summaries.write_samples(0)
        self.set_progress(7, updates=7, loss=14.0, norm=21.0)
        for step in (7, 9):
            self.summaries.write_epoch(
                Metrics(1, step, 2.0 * math.log(2.0), 3.0)
            )
        for _ in range(2):  # The second time is no news.
            self.summaries.write_samples(9)
        values = self.read()
        steps = {tag: [s for s, _ in points] for tag, points in values.items()}
        self.assertEqual(
            steps,
            {
                "bits_per_dim/test": [0, 7, 9],
                "bits_per_dim/train": [7, 9],
                "gradient_norm": [7, 9],
                "samples": [0, 9],
            },
        )
        self.assertAllClose(values["bits_per_dim/test"][0][1], 5.0)
        self.assertAllClose(values["bits_per_dim/train"][0][1], 2.0)
        self.assertAllClose(values["gradient_norm"][0][1], 3.0)
        # The weights did not change, so neither did the pictures.
        first, second = (
            tf.io.decode_png(content[2]).numpy()
            for _, content in values["samples"]
        )
        self.assertAllEqual(first, second)
        images = self.trainer.model.sample(36, seed=3).numpy()
        self.assertAllEqual(first, plots.image_grid(images, 17))
        self.assertGreater(np.unique(first).size, 4)

    def test_evaluation_is_no_training_time(self):
        self.now += 1000.0
        self.summaries.write_epoch(Metrics(0, 0, None, 5.0))
        self.set_progress(5, updates=5, loss=1.0, norm=1.0)
        self.now += 10.0
        self.summaries.write_progress()
        ((_, rate),) = self.read()["images_per_second"]
        self.assertAllClose(rate, 4.0)


if __name__ == "__main__":
    tf.test.main()
