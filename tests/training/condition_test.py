"""Tests that models with a context are trained."""

import folders
import numpy as np
import small_models
import tensorflow as tf
import untraced

import tf_realnvp
from tf_realnvp.errors import DataError, UsageError


class LearningTest(folders.FolderTestCase):
    def test_learns(self):
        """Images become likelier, given a context, which is standardized."""
        rng = np.random.default_rng(0)
        context = rng.normal(3.0, 2.0, size=[60, 1]).astype(np.float32)
        images = np.clip(2.0 * context[:, :, None, None] + 2.0, 0, 16)
        noise = rng.integers(2, size=[60, 4, 4, 1])
        images = np.uint8(np.minimum(images + noise, 16))
        model = make_model((1,))
        settings = {"epochs": 8, "batch_size": 6, "lr": 0.01}
        tf_realnvp.train(
            *(model, images),
            **settings,
            context=context,
            run_dir=self.folder / "run",
            progress=False,
        )
        right = model.log_prob(images, 0, context=context)
        wrong = model.log_prob(images, 0, context=context[::-1])
        self.assertGreater(np.mean(right), np.mean(wrong) + 3.0)
        dark, bright = (
            np.mean(model.sample(200, seed=0, context=[value]))
            for value in (0.0, 6.0)
        )
        self.assertLess(dark + 2.0, bright)
        [moments] = model.condition.moments.values()
        expected = [np.mean(context)], [np.std(context)]
        self.assertAllClose(moments, expected, atol=0.3)


class TrainingTest(untraced.UntracedTestCase):
    def test_frozen_parts_and_resumed(self):
        """They are initialized without a context, and trained with one."""

        def observe(images, seed):
            noise = tf.random.stateless_uniform(tf.shape(images), seed)
            images = tf.cast(images, tf.float32)
            return {"v": tf.reduce_mean(images, [1, 2]), "image": noise}

        def train(epochs, folder, is_trained=False):
            small_models.set_seed(0)
            model = make_model({"v": (1,), "image": (4, 4, 1)})
            model.networks[0].trainable = is_trained
            losses = tf_realnvp.train(
                *(model, small_models.images(24)),
                **{"epochs": epochs, "batch_size": 8, "observe": observe},
                run_dir=self.folder / folder,
                progress=False,
            )
            return model, [m.test_loss for m in losses]

        model, losses = train(2, "one")
        self.assertTrue(np.isfinite(losses).all())
        train(1, "two")
        resumed, others = train(2, "two")
        self.assertEqual(losses, others)
        self.assertTrue(small_models.same_weights(model, resumed))
        with self.assertRaisesRegex(UsageError, "other parts .* were frozen"):
            train(3, "two", True)
        loaded = tf_realnvp.load(self.folder / "two")
        for other in (loaded, loaded.clone()):
            self.assertTrue(small_models.same_weights(model, other))
            self.assertEqual(other.frozen, model.frozen)

    def test_of_another_model(self):
        images, context = small_models.images(40), np.zeros([40, 1], np.float32)
        model = make_model((2,))
        for wrong in (None, context):
            with self.assertRaisesRegex(DataError, r"\(2,\)"):
                tf_realnvp.train(model, images, context=wrong)
        with self.assertRaisesRegex(DataError, r"\(1,\)"):
            tf_realnvp.train(make_model(None), images, context=context)


def make_model(context_shape):
    small_models.set_seed(0)
    config = {"num_couplings": (1, 1, 1), "context_shape": context_shape}
    return tf_realnvp.RealNVP((4, 4, 1), 17, 4, 1, **config)
