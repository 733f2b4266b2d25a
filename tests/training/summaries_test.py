"""Tests for summaries."""

import collections
import contextlib
import io
import math
from unittest import mock

import folders
import numpy as np
import tensorflow as tf
from small_models import SmallModel, set_seed, trainer_of
from tensorflow.core.util import event_pb2

from tf_realnvp.analysis import plots
from tf_realnvp.training import summaries
from tf_realnvp.training.metrics import Metrics
from tf_realnvp.training.summaries import Summaries


class SummariesTest(folders.FolderTestCase):
    def setUp(self):
        super().setUp()
        set_seed(0)
        self.trainer = trainer_of(SmallModel(), 0.5, seed=3, batch_size=8)
        self.now = 100.0
        clock = mock.Mock(monotonic=lambda: self.now)
        self.enterContext(mock.patch.object(summaries, "time", clock))
        self.summaries = Summaries(self.trainer, None, self.folder)

    def progress(self, step, seconds, loss=1.0, norm=1.0):
        """Sets the state after so many seconds of training, up to a step."""
        variables = self.trainer.state["progress"]
        for variable, value in zip(
            variables, (step, step * loss, step * norm, step), strict=False
        ):
            variable.assign(value)
        self.now += seconds
        self.summaries.write_progress()

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
        self.progress(3, seconds=9.0)  # Too soon.
        self.progress(3, seconds=70.0)  # An evaluation, which adds no steps.
        self.summaries.write_epoch(Metrics(0, 0, None, 5.0))
        self.progress(7, seconds=16.0, loss=2.0 * math.log(2.0), norm=3.0)
        self.progress(8, seconds=1.0)  # Too soon again.
        expected = {
            "bits_per_dim/train": 2.0,
            "gradient_norm": 3.0,
            "learning_rate": 0.5,
            "images_per_second": 4 * 8 / 16,
        }
        values = self.read()
        self.assertCountEqual(values, [*expected, "bits_per_dim/test"])
        for tag, value in expected.items():
            ((step, content),) = values[tag]
            self.assertEqual(step, 7)
            self.assertAllClose(content, value)

    def test_samples_that_cannot_be_drawn(self):
        """Training goes on, since the weights may recover."""

        class Overflowing(SmallModel):
            def decode(self, latents, label=None):
                tf.debugging.assert_less(latents, -1e9, "it overflows")
                return super().decode(latents, label)

        writer = Summaries(trainer_of(Overflowing()), None, self.folder)
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            writer.write_samples(3)
        self.assertIn("cannot draw samples: ", stderr.getvalue())

    def test_epochs(self):
        self.summaries.write_epoch(Metrics(0, 0, None, 5.0 * math.log(2.0)))
        self.summaries.write_samples(0)
        self.progress(7, seconds=1.0, norm=3.0)
        for step in (7, 9):
            self.summaries.write_epoch(
                Metrics(1, step, 2.0 * math.log(2.0), None, math.log(2.0))
            )
        self.summaries.write_samples(9)
        values = self.read()
        steps = {tag: [s for s, _ in points] for tag, points in values.items()}
        self.assertEqual(
            steps,
            {
                "bits_per_dim/test": [0],
                "bits_per_dim/validation": [7, 9],
                "bits_per_dim/train": [7, 9],
                "gradient_norm": [7, 9],
                "samples": [0, 9],
            },
        )
        self.assertAllClose(values["bits_per_dim/test"][0][1], 5.0)
        self.assertAllClose(values["bits_per_dim/validation"][0][1], 1.0)
        self.assertAllClose(values["bits_per_dim/train"][0][1], 2.0)
        self.assertAllClose(values["gradient_norm"][0][1], 3.0)
        # The weights did not change, so neither did the images.
        first, second = (
            tf.io.decode_png(content[2]).numpy()
            for _, content in values["samples"]
        )
        self.assertAllEqual(first, second)
        images = self.trainer.model.sample(36, seed=3).numpy()
        self.assertAllEqual(first, plots.image_grid(images, 17))
        self.assertGreater(np.unique(first).size, 4)
