"""Tests for scores of images."""

import numpy as np
import small_models
import tensorflow as tf

from tf_realnvp.serving.saved_model import Scores
from tf_realnvp.serving.scorer import Scorer


class ScorerTest(tf.test.TestCase):
    def test_does_not_depend_on_the_batch(self):
        """Neither do scores that round by the size of the batch."""
        model = small_models.opened()

        def measure(batch, seed):
            mean = batch.mean(axis=(1, 2, 3)) + 1e-3 * len(batch)
            return Scores(mean + seed, np.zeros(len(batch), int))

        images = small_models.images(64)
        scorer = Scorer(model, measure, seed=3)
        expected = scorer(images)["log_prob"]
        self.assertAllClose(expected, images.mean(axis=(1, 2, 3)) + 3.064)
        for n in (0, 1, 5):
            found = scorer([*images[:n]])["log_prob"]
            self.assertAllEqual(found, expected[:n])
