"""Tests for api: models that are loaded, trained and saved from Python."""

import json
import pathlib
import shutil
import tempfile
from unittest import mock

import fast_command
import numpy as np
import small_models
import tensorflow as tf
from absl.testing import parameterized
from small_models import (
    SmallModel,
    make_dataset,
    make_model,
    random_images,
    same,
    values,
)

import tf_realnvp
from tf_realnvp import initialization
from tf_realnvp.errors import DataError, ModelError
from tf_realnvp.serving import weights
from tf_realnvp.training.checkpoints import Checkpoints
from tf_realnvp.training.config import DataDescription, TrainingConfig
from tf_realnvp.training.runs import open_run
from tf_realnvp.training.trainer import Trainer


class LoadTest(tf.test.TestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path, cls.model = small_models.saved(), small_models.model()

    def assert_same_weights(self, model, other):
        weights = values(model.variables), values(other.variables)
        self.assertAllEqual(same(*weights), [True] * 170)

    def test_computes_what_the_saved_model_does(self):
        model, saved = tf_realnvp.load(self.path), small_models.loaded()
        self.assert_same_weights(model, self.model)
        images = saved.sample(9, seed=3)
        self.assertAllEqual(model.sample(9, seed=3), images)
        self.assertAllClose(
            model.log_prob(images, seed=1), saved.log_prob(images, seed=1)
        )
        latents = saved.encode(images)
        self.assertAllClose(model.encode(images), latents)
        self.assertAllEqual(model.decode(latents), images)

    def test_all_that_makes_a_model(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        path = pathlib.Path(folder, "model")
        shutil.copytree(self.path, path)
        model, other = self.model, tf_realnvp.load(path)
        for name in (
            *("image_shape", "num_colors", "filters", "num_blocks"),
            *("alpha", "num_scales"),
        ):
            self.assertEqual(getattr(other, name), getattr(model, name))
        # As versions wrote it that knew of two scales only.
        file = path / "metadata.json"
        content = json.loads(file.read_text())
        del content["num_scales"], content["format"]
        file.write_text(json.dumps(content))
        self.assertEqual(tf_realnvp.load(path).num_scales, 2)
        for name, value in (("filters", 3), ("alpha", "x"), ("num_scales", 9)):
            file.write_text(json.dumps(content | {name: value}))
            with self.assertRaisesRegex(ModelError, f"damaged.*{name}"):
                tf_realnvp.load(path)
        # Of another size than its weights are.
        file.write_text(json.dumps(content | {"filters": 6}))
        with self.assertRaisesRegex(ModelError, "weights in .* cannot be read"):
            tf_realnvp.load(path)
        file.write_text(json.dumps(content | {"format": 3}))
        with self.assertRaisesRegex(ModelError, "another version"):
            tf_realnvp.load(path)

    def test_no_model(self):
        with self.assertRaisesRegex(ModelError, "no SavedModel in nowhere"):
            tf_realnvp.load("nowhere")

    def test_weights_of_another_size_of_images(self):
        model = tf_realnvp.RealNVP((8, 12, 1), 256, filters=2, num_blocks=1)
        weights.assign_weights(model, self.path)
        self.assert_same_weights(model, self.model)

    @parameterized.parameters(
        ({"filters": 6}, "2 filters instead of 6"),
        ({"num_blocks": 2}, "1 num_blocks instead of 2"),
        ({"num_scales": 3}, "2 num_scales instead of 3"),
        ({"image_shape": (8, 8, 3)}, "1 channels instead of 3"),
    )
    def test_weights_that_do_not_fit(self, changes, message):
        arguments = {"image_shape": (8, 8, 1), "filters": 2, "num_blocks": 1}
        model = tf_realnvp.RealNVP(**arguments | changes)
        before = values(model.variables)
        with self.assertRaisesRegex(ModelError, message):
            weights.assign_weights(model, self.path)
        self.assertTrue(all(same(before, values(model.variables))))


class RunTest(tf.test.TestCase):
    def test_result_of_a_run(self):
        """With an average of the weights, which is not what it trains."""
        folder = self.enterContext(tempfile.TemporaryDirectory())
        path = pathlib.Path(folder) / "run"
        dataset = make_dataset(random_images(8, 0), random_images(2, 1))
        config = TrainingConfig.of_dataset(
            *("random",),
            epochs=1,
            batch_size=4,
            filters=4,
            num_blocks=1,
            ema=0.9,
            precision="float32",
        )
        trainer = Trainer.from_config(make_model(), config, dataset.num_train)
        with open_run(path, resume=False) as run:
            run.begin(config, DataDescription.of(dataset))
            with self.assertRaisesRegex(ModelError, "no checkpoint yet"):
                tf_realnvp.load(path)
            # As two steps change them.
            for change in (1.0, 2.0):
                variables = trainer.model.trainable_variables
                gradients = [tf.fill(v.shape, change) for v in variables]
                trainer.optimizer.apply(gradients, variables)
            trainer.end_epoch(1, "test", 3.0)
            Checkpoints(trainer, path / "checkpoints").save()
        loaded = values(tf_realnvp.load(path).variables)
        result = values(trainer.result_model().variables)
        self.assertTrue(all(same(loaded, result)))
        self.assertFalse(all(same(loaded, values(trainer.model.variables))))
        (path / "run.json").write_text("{}")
        with self.assertRaisesRegex(ModelError, "cannot load the run"):
            tf_realnvp.load(path)


class TrainTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.images = random_images(40, seed=0, levels=(5, 12))

    def train(self, model, data, **settings):
        defaults = {"batch_size": 16, "lr": 1e-2, "precision": "float32"}
        return tf_realnvp.train(
            model, data, progress=False, **defaults | settings
        )

    def test_course(self):
        """From what the images are, to where it is interrupted."""
        model = SmallModel()
        self.assertTrue(model.is_identity())
        before = -np.mean(model.log_prob(self.images, seed=0)) / model.num_dims
        history, trainers = [], []
        from_config = Trainer.from_config

        def record(*arguments):
            trainers.append(from_config(*arguments))
            return trainers[-1]

        def note(metrics):
            history.append(metrics)
            if metrics.epoch == 2:
                raise KeyboardInterrupt

        with (
            mock.patch.object(
                initialization, "initialize", fast_command.initialize
            ),
            mock.patch.object(Trainer, "from_config", record),
            self.assertRaises(KeyboardInterrupt),
        ):
            self.train(
                model,
                tf.data.Dataset.from_tensor_slices(self.images).batch(7),
                epochs=9,
                ema=0.5,
                on_epoch=note,
            )
        self.assertEqual([m.step for m in history], [0, 2, 4])
        self.assertLess(history[0].test_loss, before - 0.1)
        # The model has the average that was evaluated last.
        average = values(trainers[0].evaluated_model().variables)
        self.assertAllEqual(same(values(model.variables), average), [True] * 2)
        self.assertFalse(model.is_identity())
        after = -np.mean(model.log_prob(self.images, seed=0)) / model.num_dims
        self.assertAllClose(after, history[-1].test_loss, atol=0.2)

    def test_other_images(self):
        model = make_model()
        for images, message in (
            (self.images.astype(np.float32), "float32"),
            (self.images[:, :2], "2x4x1 with 17 levels"),
            (self.images + 9, "levels from 0 to 16"),
            (self.images[:1], "got 1"),
        ):
            with self.assertRaisesRegex(DataError, message):
                self.train(model, images)
        with self.assertRaisesRegex(ValueError, "`epochs` must be"):
            self.train(model, self.images, epochs=0)
        self.assertTrue(model.is_identity())


if __name__ == "__main__":
    tf.test.main()
