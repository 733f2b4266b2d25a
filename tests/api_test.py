"""Tests for api: models that are loaded, trained and saved from Python."""

import ast
import dataclasses
import inspect
import pathlib
from unittest import mock

import fast_command
import numpy as np
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized
from settings import GIVEN
from small_models import SmallModel, make_dataset, random_images, same_weights

import tf_realnvp
from tf_realnvp import api, data, initialization
from tf_realnvp.data import arrays
from tf_realnvp.errors import DataError, ModelError, UsageError
from tf_realnvp.serving import weights
from tf_realnvp.training.trainer import Trainer


class NamesTest(tf.test.TestCase):
    def test_all_are_there(self):
        self.enterContext(mock.patch.dict(vars(tf_realnvp)))
        for name in {*tf_realnvp.__all__} - {"__version__"}:
            vars(tf_realnvp).pop(name, None)
            self.assertIn(name, dir(tf_realnvp))
            self.assertIsNotNone(getattr(tf_realnvp, name))
        self.assertIs(tf_realnvp.data, data)
        with self.assertRaisesRegex(AttributeError, "no attribute 'trian'"):
            tf_realnvp.trian  # noqa: B018

    def test_the_package_uses_these_alone(self):
        """Others are there once something else has imported them."""
        names = {*tf_realnvp.__all__, "__file__"}
        for path in pathlib.Path(tf_realnvp.__file__).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Attribute):
                    if getattr(node.value, "id", None) == "tf_realnvp":
                        self.assertIn(node.attr, names, path)


class LoadTest(untraced.UntracedTestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path, cls.model = small_models.saved(), small_models.model()
        # Not in a test that traces nothing.
        small_models.saved(small_models.conditional)

    def test_damaged(self):
        """The sizes of the weights do not fit the metadata."""
        path = small_models.copied(self.path, self.folder, filters=6)
        with self.assertRaisesRegex(ModelError, "weights in .* cannot be read"):
            tf_realnvp.load(path)

    def test_padding(self):
        path = small_models.copied(self.path, self.folder, padding="periodic")
        self.assertEqual(tf_realnvp.load(path).networks[0].padding, "periodic")

    # A part of that with classes was frozen.
    @parameterized.parameters(small_models.model, small_models.conditional)
    def test_all_that_makes_a_model(self, make):
        other = tf_realnvp.load(small_models.saved(make))
        self.assertTrue(same_weights(other, make()))
        self.assertEqual(other.get_config(), make().get_config())

    @parameterized.parameters(
        (("bee", "dog", "cat"), [2, 1, 0]), ((), [0, 1, 2])
    )
    def test_classes_go_by_their_names(self, class_names, expected):
        """Classes with new names get the weights that are left."""
        self.assertEqual(small_models.CLASS_NAMES, ("cat", "dog", "old cow"))
        old = small_models.conditional()
        model = old.clone()
        path = small_models.saved(small_models.conditional)
        model.metadata = {"class_names": class_names}
        weights.assign_weights(model, path)
        points = old.dequantize(small_models.images(3), 1)
        for label, of_old in enumerate(expected):
            self.assertAllClose(
                model.log_density(points, label),
                old.log_density(points, of_old),
                rtol=1e-5,
            )

    def test_metadata(self):
        path = small_models.saved(small_models.conditional)
        other = {"source": "/my/pictures", "training_hashes": "0a ff"}
        path = small_models.copied(path, self.folder, **other)
        model = tf_realnvp.load(path)
        names = {"class_names": list(small_models.CLASS_NAMES)}
        expected = names | {"dataset": "digits"} | other
        self.assertEqual(model.metadata, expected)
        self.assertEqual(model.clone().metadata, expected)

    def test_weights_of_another_kind_of_images(self):
        config = self.model.get_config()
        config |= {"image_shape": (8, 12, 1), "num_colors": 256}
        config |= {"padding": "periodic"}  # It need not be the same either.
        model = tf_realnvp.RealNVP(**config)
        weights.assign_weights(model, self.path)
        self.assertTrue(same_weights(model, self.model))

    @parameterized.parameters(
        # What a model has, what the saved one has.
        ({"filters": 6}, {}, "2 filters instead of 6"),
        ({}, {"num_couplings": (1, 1, 2)}, r"2\) num_couplings instead"),
        ({"image_shape": (8, 8, 3)}, {}, "1 channels instead of 3"),
        ({}, {"num_colors": None}, "None num_colors instead of 256"),
        ({"num_classes": 2}, {"num_classes": 3}, "3 num_classes instead of 2"),
        ({"channel_masks": "mixed"}, {}, "alternating channel_masks instead"),
        (  # In another order.
            {"context_shape": {"a": (1,), "b": (1,)}},
            {"context_shape": {"b": (1,), "a": (1,)}},
            "context_shape instead",
        ),
        (
            *({}, {"dequantization": "variational"}),
            "variational dequantization instead of uniform",
        ),
    )
    def test_weights_that_do_not_fit(self, changes, others, message):
        config = {"image_shape": (4, 4, 1), "filters": 2, "num_blocks": 1}
        config["num_couplings"] = (1, 1, 1)
        model, other = (
            tf_realnvp.RealNVP(**config | kind) for kind in (changes, others)
        )
        before = model.clone()
        with (
            mock.patch.object(weights, "load_model", lambda unused_path: other),
            self.assertRaisesRegex(ModelError, message),
        ):
            weights.assign_weights(model, "a_model")
        self.assertTrue(same_weights(model, before))

    def test_a_model_of_masks_starts_as_a_model_of_whole_images(self):
        """If nothing is visible; with learned noise."""
        old = small_models.displaced(0.3, dequantization="variational")
        model = tf_realnvp.RealNVP(**old.get_config() | {"observe": "mask"})
        with mock.patch.object(weights, "load_model", lambda unused_path: old):
            weights.assign_weights(model, "a_model")
        images = small_models.images(3)
        self.assertAllClose(
            model.log_prob(images, 1), old.log_prob(images, 1), 1e-5
        )

    def test_a_context_of_levels_is_in_units_of_its_own(self):
        old = small_models.displaced(0.3, num_colors=256, observe="mask")
        model = tf_realnvp.RealNVP(**old.get_config() | {"num_colors": 17})
        moments = model.condition.moments["context"]
        moments.assign([[3.0, 0.5], [2.0, 0.5]])
        with mock.patch.object(weights, "load_model", lambda unused_path: old):
            weights.assign_weights(model, "a_model")
        self.assertAllEqual(moments, [[3.0, 0.5], [2.0, 0.5]])
        self.assertAllEqual(
            model.networks[0].weights[0], old.networks[0].weights[0]
        )

    def test_a_model_grows_and_stays_the_same_density(self):
        config = self.model.get_config() | {"num_couplings": (2, 2, 3)}
        config |= {"num_classes": 3, "dequantization": "variational"}
        model = tf_realnvp.RealNVP(**config)
        self.assertEqual(model.class_probs, (1 / 3,) * 3)
        weights.assign_weights(model, self.path)
        images = small_models.images(3)
        points = self.model.dequantize(images, 1)
        expected = self.model.log_density(points)
        self.assertAllClose(
            model.log_density(points, tf.constant([0, 1, 2])), expected, 1e-5
        )
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model.log_prob(images, 1, label=[0, 1, 2]))
        variables = model.named_variables()
        gradients = tape.gradient(loss, variables)
        new = variables.keys() - self.model.named_variables().keys()
        # What is new can learn.
        for part in ("channel_1/last_gain", "noise_0/last_gain", "embedding"):
            learns = [np.any(gradients[n]) for n in new if n.endswith(part)]
            self.assertTrue(any(learns), part)


class TrainTestCase(untraced.UntracedTestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.images = random_images(40, seed=0, levels=(5, 12))
        cls.labels = np.arange(40) % 3

    def setUp(self):
        super().setUp()
        for target, name, value in (
            (initialization, "initialize", fast_command.initialize),
            (api, "RealNVP", SmallModel),
        ):
            self.enterContext(mock.patch.object(target, name, value))

    def train(self, model, data, **settings):
        defaults = {"batch_size": 16, "lr": 1e-2, "precision": "float32"}
        defaults |= {"epochs": 1, "progress": False}
        return tf_realnvp.train(model, data, **defaults | settings)

    def conditional(self, num_classes=3, class_names=None):
        small_models.set_seed(0)
        probs = [1.0 / num_classes] * num_classes
        model = SmallModel(num_classes=num_classes, class_probs=probs)
        if class_names is not None:
            model.metadata = {"class_names": list(class_names)}
        return model


class TrainTest(TrainTestCase):
    def test_course(self):
        """Training starts from the images and ends in the callback."""
        model = SmallModel()
        start = model.clone()
        self.assertTrue(model.is_identity())
        before = -np.mean(model.log_prob(self.images, seed=0)) / model.num_dims
        history = []

        def note(metrics):
            history.append(metrics)
            if metrics.epoch == 2:
                raise TimeoutError

        with self.assertRaises(TimeoutError):
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
        self.assertFalse(model.is_identity())
        plain = start.clone()
        self.train(start, self.images, epochs=9, ema=0.5, max_steps=4)
        self.assertTrue(same_weights(start, model))
        self.train(plain, self.images, epochs=9, max_steps=4)
        self.assertFalse(same_weights(plain, model))

    def test_start_that_is_cut_short(self):
        """The model is as before, so that the next training can start anew."""

        def initialize(model, *unused):
            fast_command.initialize(model, *unused)
            model.offset.assign([1.0])
            raise KeyboardInterrupt

        model = SmallModel()
        before = model.clone()
        with (
            mock.patch.object(initialization, "initialize", initialize),
            self.assertRaises(KeyboardInterrupt),
        ):
            self.train(model, self.images)
        self.assertTrue(same_weights(model, before))

    def test_settings_arrive(self):
        names = inspect.signature(tf_realnvp.train).parameters.keys()
        names = names & GIVEN.keys() - {"run_dir", "observe"}
        self.assertLen(names, 17)
        settings = {name: GIVEN[name][0] for name in names}
        with (
            mock.patch.object(
                Trainer, "__init__", side_effect=KeyboardInterrupt
            ) as make,
            self.assertRaises(KeyboardInterrupt),
        ):
            self.train(SmallModel(), self.images, **settings)
        _, config, num_train, _ = make.call_args.args
        arrived = {name: getattr(config, name) for name in names}
        self.assertEqual(arrived, settings)
        dataset = arrays.from_images(self.images)
        self.assertEqual(
            num_train, dataset.num_train - settings["num_validation"]
        )

    def test_scope_of_the_model(self):
        """In another scope, replicas would not be trained together."""
        model = SmallModel()
        strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
        with strategy.scope():
            with self.assertRaisesRegex(ValueError, "must be made in the scop"):
                self.train(model, self.images)
            model = SmallModel()
            self.train(model, self.images)
        self.assertFalse(model.is_identity())


class LabelsTest(TrainTestCase):
    def pairs(self):
        return tf.data.Dataset.from_tensor_slices((self.images, self.labels))

    def dataset(self):
        return data.arrays.from_images(self.images, 17, labels=self.labels)

    def test_same_of_all_kinds_of_data(self):
        """Labels are matched by the names of their classes."""
        shifts = []
        for images, labels, names, expected in (
            (self.images, self.labels, None, "012"),
            # An array names no classes: those that the model has stay.
            (self.images, self.labels[:, np.newaxis], "abc", "abc"),
            (self.pairs(), None, None, "012"),
            (self.dataset(), None, None, "012"),
            (self.dataset(), None, "abc", "012"),
            (self.dataset(), None, "201", "201"),
            (self.images, self.labels[::-1], None, "012"),
        ):
            model = self.conditional(class_names=names)
            self.train(model, images, labels=labels)
            shifts.append(model.shifts.numpy())
            self.assertEqual(model.metadata["class_names"], [*expected])
        *equal, renumbered, other = shifts
        for found in equal:
            self.assertAllEqual(found, shifts[0])
        self.assertAllClose(renumbered, shifts[0][[2, 0, 1]])
        self.assertNotAllClose(other, shifts[0])
        # A model without classes leaves them alone.
        for images in (self.pairs(), self.dataset()):
            self.train(SmallModel(), images)

    def test_refused(self):
        model, two = self.conditional(), self.conditional(2)
        named = self.conditional(class_names="ab0")
        plain, wide = SmallModel(), SmallModel(num_colors=4096)
        too_high = np.full(self.images.shape, 40005, np.uint16)
        for other, images, labels, message in (
            (plain, self.images[:, :2], None, "2x4x1 with 17 levels"),
            (wide, too_high, None, "must be integers .* to 40005"),
            (plain, self.images, self.labels, "a model with classes"),
            (model, self.dataset(), self.labels, "`labels` are for an array"),
            (model, self.pairs(), self.labels, "`labels` are for an array"),
            (model, self.images, None, "have no classes, the model 3"),
            (named, self.images, None, "have no classes, the model 3"),
            (named, self.dataset(), None, "of 0, 1, 2, .* need the same label"),
            (model, self.images, self.labels + 1, "must be from 0 to 2"),
            (two, self.dataset(), None, "have 3 classes, the model 2"),
        ):
            with self.assertRaisesRegex(DataError, message):
                self.train(other, images, labels=labels)
            self.assertTrue(other.is_identity())
        with self.assertRaisesRegex(ValueError, "`epochs` must be"):
            self.train(plain, self.images, epochs=0)


class RunDirTest(TrainTestCase):
    """`training_test` has what the command and Python share."""

    def test_weights_that_no_seed_gives(self):
        """A run keeps the initial weights, and can be resumed from them."""
        model = SmallModel()
        model.offset.assign([5.0])
        expected = model.clone()
        self.train(expected, self.images)
        run = self.folder / "run"
        error = tf.errors.InternalError(None, None, "at once")
        with (
            mock.patch.object(Trainer, "test", side_effect=error),
            self.assertRaises(tf.errors.InternalError),
        ):
            self.train(model, self.images, run_dir=run)
        model = SmallModel()
        self.train(model, self.images, run_dir=run)
        self.assertAllEqual(model.means, expected.means)

    def test_frozen_parts(self):
        """They are still frozen when a run is resumed."""
        whole = SmallModel()
        parts = whole.clone()
        for model in (whole, parts):
            model.freeze([1])
        self.train(whole, self.images, epochs=2)
        for epochs in (1, 2):
            run = self.folder / "run"
            self.train(parts, self.images, epochs=epochs, run_dir=run)
        self.assertAllEqual(parts.means, whole.means)
        self.assertAllEqual(parts.offset, [0.0])

    def test_error_of_a_callback(self):
        """It is not reported as an error of writing to the run."""
        with self.assertRaisesRegex(OSError, "no printer"):
            self.train(
                SmallModel(),
                self.images,
                run_dir=self.folder / "run",
                on_epoch=mock.Mock(side_effect=OSError("no printer")),
            )

    def test_flip_of_a_data_set_is_kept(self):
        images = make_dataset(self.images, self.images)
        run = self.folder / "run"
        flipped = dataclasses.replace(images, flip=True)
        self.train(SmallModel(), flipped, run_dir=run)
        with self.assertRaisesRegex(UsageError, "`flip` False instead of True"):
            self.train(SmallModel(), images, run_dir=run)

    def test_model_is_kept(self):
        others = {"alpha": 0.5, "num_scales": 3, "num_couplings": (1, 2, 3)}
        others |= {"dequantization": "variational", "padding": "periodic"}
        probs = {"num_classes": 3, "class_probs": (0.5, 0.25, 0.25)}
        run = self.folder / "run"
        model = SmallModel(**others, **probs)
        self.train(model, self.images, labels=self.labels, run_dir=run)
        loaded = tf_realnvp.load(run)
        for name, value in (others | probs).items():
            self.assertEqual(getattr(loaded, name), value)
        self.assertEqual(loaded.metadata, model.metadata)
        model = SmallModel(**probs)
        with self.assertRaisesRegex(UsageError, "other settings") as caught:
            self.train(model, self.images, labels=self.labels, run_dir=run)
        for name in others:
            self.assertIn(f"`{name}` ", str(caught.exception))
