"""Tests for api: models that are loaded, trained and saved from Python."""

import contextlib
import dataclasses
import errno
import inspect
import io
import json
import os
import pathlib
import shutil
from unittest import mock

import fast_command
import folders
import numpy as np
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized
from settings import GIVEN
from small_models import (
    SmallModel,
    make_dataset,
    make_model,
    random_images,
    same,
    values,
)

import tf_realnvp
from tf_realnvp import api, data, initialization
from tf_realnvp.cli.main import train_main
from tf_realnvp.config import DataDescription, TrainingConfig
from tf_realnvp.serving import export, metadata, weights
from tf_realnvp.training import session
from tf_realnvp.training.checkpoints import Checkpoints
from tf_realnvp.training.runs import Run, open_run
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.utils import files
from tf_realnvp.utils.errors import (
    DataError,
    FailureError,
    ModelError,
    UsageError,
)


class NamesTest(tf.test.TestCase):
    def test_all_are_there(self):
        """Also where nobody has imported them."""
        self.enterContext(mock.patch.dict(vars(tf_realnvp)))
        for name in {*tf_realnvp.__all__} - {"__version__"}:
            vars(tf_realnvp).pop(name, None)
            self.assertIn(name, dir(tf_realnvp))
            self.assertIsNotNone(getattr(tf_realnvp, name))
        self.assertIs(tf_realnvp.data, data)
        with self.assertRaisesRegex(AttributeError, "no attribute 'trian'"):
            tf_realnvp.trian  # noqa: B018


def touch(unused_module, path, signatures):
    """Saves a model that nothing can load, in no time."""
    pathlib.Path(path, "saved_model.pb").touch()


class LoadTest(untraced.UntracedTestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path, cls.model = small_models.saved(), small_models.model()
        # Not in a test that traces nothing.
        small_models.saved_conditional()

    def copy(self, path):
        """Returns a copy of a model, to change."""
        return shutil.copytree(path, self.folder / "model", dirs_exist_ok=True)

    def assert_same_weights(self, model, other):
        weights = values(model.variables), values(other.variables)
        self.assertAllEqual(same(*weights), [True] * len(model.variables))

    def test_all_that_makes_a_model(self):
        path = self.copy(self.path)
        model, other = self.model, tf_realnvp.load(path)
        self.assert_same_weights(other, model)
        for name in (
            *("image_shape", "num_colors", "filters", "num_blocks"),
            *("alpha", "num_scales", "num_couplings"),
        ):
            self.assertEqual(getattr(other, name), getattr(model, name))
        # As versions wrote it that knew of one architecture only.
        file = path / "metadata.json"
        content = json.loads(file.read_text())
        del content["num_scales"], content["format"]
        file.write_text(json.dumps(content))
        self.assertEqual(tf_realnvp.load(path).num_scales, 2)
        del content["num_couplings"], content["dequantization"]
        file.write_text(json.dumps(content))
        architecture = metadata.architecture(metadata.read(path), path)
        self.assertEqual(architecture["num_couplings"], (3, 3, 4))
        self.assertEqual(architecture["dequantization"], "uniform")
        for name, value in (
            *(("filters", 3), ("alpha", "x"), ("num_scales", 9)),
            *(("num_couplings", [3, 3]), ("dequantization", 1)),
        ):
            file.write_text(json.dumps(content | {name: value}))
            with self.assertRaisesRegex(ModelError, f"damaged.*{name}"):
                tf_realnvp.load(path)
        # Of another size than its weights are.
        file.write_text(json.dumps(content | {"filters": 6}))
        with self.assertRaisesRegex(ModelError, "weights in .* cannot be read"):
            tf_realnvp.load(path)
        file.write_text(json.dumps(content | {"format": metadata.FORMAT + 1}))
        with self.assertRaisesRegex(ModelError, "another version"):
            tf_realnvp.load(path)

    def with_weights(self, **stored):
        """Returns a model's folder with other weights in it."""
        path = self.copy(self.path)
        checkpoint = tf.train.Checkpoint(**stored)
        checkpoint.write(str(path / "variables" / "variables"))
        return path

    @parameterized.parameters(1, 2)
    def test_older_format(self, version):
        """Each weight was a variable."""
        values = [tf.Variable(v.value + 1.0) for v in self.model.variables]
        path = self.with_weights(_model_variables=values)
        file = path / "metadata.json"
        content = json.loads(file.read_text()) | {"format": version}
        file.write_text(json.dumps(content))
        loaded = tf_realnvp.load(path)
        for own, expected in zip(loaded.variables, values, strict=True):
            self.assertAllEqual(own, expected)

    @parameterized.parameters(-1, 1)
    def test_more_or_fewer_weights_than_the_model_has(self, difference):
        """They have a meaning that this version does not know."""
        number = self.model.num_parameters + difference
        variables = [tf.Variable(0.0)] * (
            len(self.model.variables) + difference
        )
        for stored in (
            {"weights": tf.Variable(tf.zeros(number))},
            {"_model_variables": variables},
        ):
            path = self.with_weights(**stored)
            with self.assertRaisesRegex(ModelError, "weights in .* cannot be "):
                tf_realnvp.load(path)

    def test_classes(self):
        """Of a model that was saved with a part of it frozen, too."""
        path = small_models.saved_conditional()
        model, other = small_models.conditional(), tf_realnvp.load(path)
        self.assertEqual(other.get_config(), model.get_config())
        self.assertLess(len(model.trainable_variables), len(model.variables))
        images = small_models.images(3)
        self.assertAllEqual(
            other.log_prob(images, 1, label=1),
            model.log_prob(images, 1, label=1),
        )
        weights.assign_weights(other, path)
        without = small_models.model()
        with self.assertRaisesRegex(ModelError, "3 num_classes instead of N"):
            weights.assign_weights(without, path)

    @parameterized.parameters(
        (("old cow", "cat", "dog"), [2, 0, 1]),
        (("bee", "dog", "cat"), [2, 1, 0]),
        ((), [0, 1, 2]),
    )
    def test_classes_go_by_their_names(self, class_names, expected):
        """Those of other names get what is left."""
        self.assertEqual(small_models.CLASS_NAMES, ("cat", "dog", "old cow"))
        old = small_models.conditional()
        model = old.clone()
        path = small_models.saved_conditional()
        weights.assign_weights(model, path, class_names)
        points = old.dequantize(small_models.images(3), 1)
        for label, of_old in enumerate(expected):
            self.assertAllClose(
                model.log_density(points, label),
                old.log_density(points, of_old),
                rtol=1e-5,
            )

    def test_says_again_what_it_is_of(self):
        path = self.copy(small_models.saved_conditional())
        file = path / "metadata.json"
        content = json.loads(file.read_text()) | {"source": "/my/pictures"}
        file.write_text(json.dumps(content))
        model = tf_realnvp.load(path)
        names = {"class_names": list(small_models.CLASS_NAMES)}
        expected = names | {"dataset": "digits", "source": "/my/pictures"}
        self.assertEqual(model.metadata, expected)
        self.assertEqual(model.clone().metadata, expected)
        with (
            mock.patch.object(export, "_ConditionalModule"),
            mock.patch.object(tf.saved_model, "save", touch),
        ):
            model.save(path)
            again = metadata.read(path)
            self.assertEqual(again.class_names, small_models.CLASS_NAMES)
            self.assertEqual(again.source, "/my/pictures")
            # Unless it is told otherwise.
            model.save(path, {"dataset": "mnist"})
            self.assertEqual(metadata.read(path).source, "mnist")

    def test_save_makes_the_folders_around_it(self):
        """Which go again where it fails."""
        out, error = self.folder / "out", OSError("a full disk")
        with mock.patch.object(export, "_ServingModule"):
            with mock.patch.object(tf.saved_model, "save", touch):
                self.model.save(out / "first" / "model")
            self.assertTrue((out / "first/model/metadata.json").exists())
            with (
                mock.patch.object(tf.saved_model, "save", side_effect=error),
                self.assertRaisesRegex(OSError, "a full disk"),
            ):
                self.model.save(out / "second" / "model")
        self.assertEqual(os.listdir(out), ["first"])

    def test_no_model(self):
        with self.assertRaisesRegex(ModelError, "no SavedModel in nowhere"):
            tf_realnvp.load("nowhere")

    def test_weights_of_another_size_of_images(self):
        model = tf_realnvp.RealNVP(
            (8, 12, 1),
            256,
            filters=2,
            num_blocks=1,
            alpha=small_models.ALPHA,
            num_couplings=small_models.NUM_COUPLINGS,
        )
        weights.assign_weights(model, self.path)
        self.assert_same_weights(model, self.model)

    @parameterized.parameters(
        ({"filters": 6}, "2 filters instead of 6"),
        ({"num_blocks": 2}, "1 num_blocks instead of 2"),
        ({"alpha": 0.5}, "0.2 alpha instead of 0.5"),
        ({"num_scales": 3}, "2 num_scales instead of 3"),
        ({"num_couplings": (4, 3, 1)}, r"\(1, 1, 2\) num_couplings instead"),
        ({"image_shape": (8, 8, 3)}, "1 channels instead of 3"),
    )
    def test_weights_that_do_not_fit(self, changes, message):
        arguments = {"image_shape": (8, 8, 1), "filters": 2, "num_blocks": 1}
        arguments["num_couplings"] = small_models.NUM_COUPLINGS
        model = tf_realnvp.RealNVP(**arguments | changes)
        before = values(model.variables)
        with self.assertRaisesRegex(ModelError, message):
            weights.assign_weights(model, self.path)
        self.assertTrue(all(same(before, values(model.variables))))

    def test_noise_has_no_place(self):
        arguments = {"image_shape": (4, 4, 1), "filters": 2, "num_blocks": 1}
        arguments["num_couplings"] = (1, 1, 1)
        other = tf_realnvp.RealNVP(**arguments, dequantization="variational")
        with (
            mock.patch.object(weights, "load_model", lambda unused_path: other),
            self.assertRaisesRegex(
                ModelError,
                "variational dequantization instead of uniform",
            ),
        ):
            weights.assign_weights(tf_realnvp.RealNVP(**arguments), "a_model")

    def test_a_model_grows_and_stays_the_same_density(self):
        model = tf_realnvp.RealNVP(
            **self.model.get_config()
            | {
                "num_couplings": (2, 2, 3),
                "num_classes": 3,
                "dequantization": "variational",
            }
        )
        weights.assign_weights(model, self.path)
        images = small_models.images(3)
        points = self.model.dequantize(images, 1)
        expected = self.model.log_density(points)
        self.assertAllClose(
            model.log_density(points, tf.constant([0, 1, 2])), expected, 1e-5
        )
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model.log_prob(images, 1, label=[0, 1, 2]))
        grown = set(model.named_variables()) - set(self.model.named_variables())
        gradients = dict(
            zip(
                model.named_variables(),
                tape.gradient(loss, [*model.named_variables().values()]),
                strict=True,
            )
        )
        for part in ("channel_1/last_gain", "noise_0/last_gain", "embedding"):
            self.assertTrue(
                any(
                    np.any(gradients[name])
                    for name in grown
                    if name.endswith(part)
                )
            )


class RunTest(folders.FolderTestCase):
    def test_result_of_a_run(self):
        """With an average of the weights, which is not what it trains."""
        path = self.folder / "run"
        dataset = make_dataset(random_images(8, 0), random_images(2, 1))
        config = TrainingConfig.of_dataset(
            *("random",),
            epochs=1,
            batch_size=4,
            filters=4,
            num_blocks=1,
            num_couplings=small_models.NUM_COUPLINGS,
            ema=0.9,
            precision="float32",
        )
        trainer = Trainer.from_config(make_model(), config, dataset.num_train)
        with open_run(path, resume=False) as run:
            run.begin(config, DataDescription.of(dataset), dataset.metadata)
            with (
                mock.patch.object(api, "RealNVP", SmallModel),
                self.assertRaisesRegex(ModelError, "no checkpoint yet"),
            ):
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


class TrainTest(untraced.UntracedTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.images = random_images(40, seed=0, levels=(5, 12))

    def setUp(self):
        super().setUp()
        self.enterContext(
            mock.patch.object(
                initialization, "initialize", fast_command.initialize
            )
        )

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

    def test_start_that_is_cut_short(self):
        """The model is as new, so that the next training starts from data."""

        def initialize(model, *unused):
            fast_command.initialize(model, *unused)
            raise KeyboardInterrupt

        model = SmallModel()
        with (
            mock.patch.object(initialization, "initialize", initialize),
            self.assertRaises(KeyboardInterrupt),
        ):
            self.train(model, self.images)
        self.assertTrue(model.is_identity())

    def test_settings_arrive(self):
        names = inspect.signature(tf_realnvp.train).parameters.keys()
        names = names & GIVEN.keys() - {"run_dir"}
        self.assertLen(names, 15)
        settings = {name: GIVEN[name][0] for name in names}
        with (
            mock.patch.object(
                Trainer, "from_config", side_effect=KeyboardInterrupt
            ) as from_config,
            self.assertRaises(KeyboardInterrupt),
        ):
            self.train(SmallModel(), self.images, **settings)
        _, config, num_train = from_config.call_args.args
        given = {name: getattr(config, name) for name in names}
        self.assertEqual(given, settings)
        self.assertEqual(num_train, 36 - settings["num_validation"])

    def test_what_it_was_trained_on(self):
        """An array names no classes: those that the model has stay."""
        labels = np.arange(len(self.images)) % 2
        dataset = make_dataset(self.images, self.images)
        dataset = dataset.with_labels(("cat", "dog"), labels, labels)
        model = SmallModel(num_classes=2, class_probs=[0.5, 0.5])
        expected = {"source": None, "class_names": ["cat", "dog"]}
        self.train(model, dataset, epochs=1)
        self.assertEqual(model.metadata, expected | {"dataset": "random"})
        self.train(model, self.images, labels=labels, epochs=1)
        self.assertEqual(model.metadata, expected | {"dataset": "images"})

    def test_model_of_another_scope(self):
        """It would train on one replica of two, or not at all."""
        model = SmallModel()
        for strategy in (
            tf.distribute.OneDeviceStrategy("/cpu:0"),
            tf.distribute.MirroredStrategy(["/cpu:0"]),
        ):
            with (
                strategy.scope(),
                self.assertRaisesRegex(ValueError, "must be made in the scope"),
            ):
                self.train(model, self.images, epochs=1)

    def test_one_device(self):
        with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
            model = SmallModel()
            self.train(model, self.images, epochs=1)
        self.assertFalse(model.is_identity())

    def test_labels(self):
        """Of an array, or of a data set; a model without classes has none."""
        labels = np.arange(len(self.images)) % 3
        shifts = []
        for given in (labels, labels[::-1]):
            small_models.set_seed(0)
            model = SmallModel(num_classes=3, class_probs=[0.3, 0.3, 0.4])
            self.train(model, self.images, labels=given, epochs=1)
            shifts.append(model.shifts.numpy())
        self.assertNotAllClose(*shifts)
        pairs = tf.data.Dataset.from_tensor_slices((self.images, labels))
        small_models.set_seed(0)
        model = SmallModel(num_classes=3, class_probs=[0.3, 0.3, 0.4])
        self.train(model, pairs, epochs=1)
        self.assertAllEqual(model.shifts, shifts[0])
        dataset = data.arrays.from_images(self.images, 17, labels=labels)
        column = data.arrays.from_images(
            self.images, 17, labels=labels[:, np.newaxis]
        )
        self.assertEqual(column.fingerprint, dataset.fingerprint)
        # By the names of the classes, in whatever order they are.
        model.metadata = {"class_names": ["2", "0", "1"]}
        numbers = np.array([1, 2, 0])[labels]
        expected = model.clone()
        self.train(expected, self.images, labels=numbers, epochs=1)
        self.train(model, dataset, epochs=1)
        self.assertAllEqual(model.shifts, expected.shifts)
        with self.assertRaisesRegex(DataError, "have no classes, the model 3"):
            self.train(model, dataset.without_labels(), epochs=1)
        plain = SmallModel()
        self.train(plain, pairs, epochs=1)
        of_two = SmallModel(num_classes=2, class_probs=[0.5, 0.5])
        for other, images, given, message in (
            (plain, self.images, labels, "the model has no classes"),
            (model, dataset, labels, "`labels` are for images in an array"),
            (model, pairs, labels, "`labels` are for images in an array"),
            (model, self.images, None, "have no classes, the model 3"),
            (model, self.images, labels + 1, "must be from 0 to 2"),
            (model, self.images, labels[1:], "labels must be integers"),
            (of_two, dataset, None, "have 3 classes, the model 2"),
            (model, (self.images, labels), None, "give labels as `labels`"),
        ):
            with self.assertRaisesRegex(DataError, message):
                self.train(other, images, labels=given, epochs=1)

    def test_frozen_parts(self):
        """A checkpoint of some could not be told from one of all."""
        model = make_model()
        model.networks[0].trainable = False
        with self.assertRaisesRegex(ValueError, "frozen.*leave out `run_dir`"):
            self.train(model, self.images, run_dir=self.folder / "run")
        self.assertFalse((self.folder / "run").exists())

    def test_other_images(self):
        model = make_model()
        for images, message in (
            (self.images.astype(np.float32), "float32"),
            (self.images[:, :2], "2x4x1 with 17 levels"),
            (self.images + 9, "levels from 0 to 16"),
            (self.images[:1], "got 1"),
            ([self.images[0], self.images[0, :2]], "no array"),
            ("my_pictures", r"`data.load\('my_pictures'\)`"),
            (pathlib.Path("digits"), r"`data.load\('digits'\)`"),
        ):
            with self.assertRaisesRegex(DataError, message):
                self.train(model, images)
        with self.assertRaisesRegex(ValueError, "`epochs` must be"):
            self.train(model, self.images, epochs=0)
        for settings, message in (
            ({"precision": "tf32"}, "`precision`: .* no GPUs"),
            ({"batch_size": 64}, "`batch_size`: 64 is more than the 36"),
            ({"num_validation": 40}, "`num_validation`: 40 leaves none"),
            ({"num_validation": 30}, "`batch_size`: 16 is more than the 6"),
        ):
            with self.assertRaisesRegex(UsageError, message):
                self.train(model, self.images, epochs=1, **settings)
        self.assertTrue(model.is_identity())


class RunDirTest(folders.FolderTestCase, parameterized.TestCase):
    """Trainings that are kept in a folder, by this and by the command."""

    def setUp(self):
        super().setUp()
        fast_command.patch(self.enterContext(contextlib.ExitStack()))
        for target, name, value in (
            (api, "RealNVP", SmallModel),
            (session, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0),
        ):
            self.enterContext(mock.patch.object(target, name, value))
        self.enterContext(contextlib.chdir(self.folder))

    def command(self, run_dir, *argv):
        """Trains by the command; returns the weights."""
        flags = ["--dataset", "digits", "--batch_size", 400, "--seed", 3]
        flags += ["--filters", 4, "--num_blocks", 1, "--ema", 0.5, "--resume"]
        flags += ["--run_dir", run_dir, "--output_dir", f"{run_dir}_results"]
        with contextlib.redirect_stdout(io.StringIO()):
            code = train_main([*map(str, flags), *map(str, argv)])
        self.assertEqual(code, 0)
        return np.load(f"{run_dir}_results/realnvp_digits/variables/means.npy")

    def make_model(self, image_shape=(8, 8, 1), **config):
        small_models.set_seed(3)
        return SmallModel(image_shape, 17, filters=4, num_blocks=1, **config)

    def train(self, run_dir, model=None, images=None, **settings):
        """Trains in Python; returns the weights."""
        model = model or self.make_model()
        if images is None:
            images = data.load("digits", labels=model.num_classes is not None)
        defaults = {"batch_size": 400, "ema": 0.5, "seed": 3}
        defaults["progress"] = False
        tf_realnvp.train(model, images, run_dir=run_dir, **defaults | settings)
        return model.means.numpy()

    def stop(self, run_dir, epoch, error=KeyboardInterrupt):
        def stop(metrics):
            if metrics.epoch == epoch:
                raise error

        with self.assertRaises(error):
            self.train(run_dir, epochs=2, on_epoch=stop)

    def test_goes_on_wherever_it_began(self):
        expected = self.command("never_stopped", "--epochs", 2)
        self.stop("a", 1)
        epochs = []
        weights = self.train(
            "a", epochs=2, on_epoch=lambda m: epochs.append(m.epoch)
        )
        self.assertAllEqual(weights, expected)
        self.assertEqual(epochs, [2])
        self.stop("b", 1, TimeoutError)
        tf_realnvp.load("b")  # It left a checkpoint.
        self.assertAllEqual(self.command("b", "--epochs", 2), expected)
        self.command("c", "--epochs", 1)
        self.assertAllEqual(self.train("c", epochs=2), expected)
        # Nothing is left to do, but to give the weights.
        self.assertAllEqual(self.train("c", epochs=2), expected)
        metrics = pathlib.Path("never_stopped/metrics.csv").read_text()
        for run_dir in "abc":
            path = pathlib.Path(run_dir, "metrics.csv")
            self.assertEqual(path.read_text(), metrics)

    def test_classes(self):
        """As the command trains them; and they come back with the run."""
        self.command("a", "--epochs", 1, "--conditional")
        probs = data.load("digits", labels=True).class_probs
        model = self.make_model(num_classes=10, class_probs=probs)
        self.train("b", model, epochs=1)
        first, second = (
            pathlib.Path(run, "metrics.csv").read_text() for run in "ab"
        )
        self.assertEqual(first, second)
        for run in "ab":
            other = tf_realnvp.load(run)
            self.assertEqual(other.class_probs, probs)
            self.assertAllEqual(
                same(values(other.variables), values(model.variables)),
                [True] * 3,
            )

    def test_the_command_keeps_the_class_probabilities(self):
        probs = (0.55, *[0.05] * 9)
        model = self.make_model(num_classes=10, class_probs=probs)
        self.train("a", model, epochs=1)
        self.command("a", "--epochs", 2, "--conditional")
        stored = json.loads(pathlib.Path("a/run.json").read_text())
        self.assertAllEqual(stored["data"]["class_probs"], probs)

    def test_weights_that_no_seed_gives(self):
        """A run that begins with them can go on from its start."""
        model = self.make_model()
        model.offset.assign([5.0])
        settings = {"epochs": 1, "ema": None}
        expected = self.train(None, model.clone(), **settings)
        with (
            mock.patch.object(Trainer, "test", side_effect=KeyboardInterrupt),
            self.assertRaises(KeyboardInterrupt),
        ):
            self.train("run", model, **settings)
        self.assertAllEqual(self.train("run", **settings), expected)

    @parameterized.parameters(
        (files, "replace_file"), (Checkpoints, "save"), (Run, "finish")
    )
    def test_full_disk(self, target, name):
        """It is said in words, and the same call goes on."""
        error = OSError(errno.ENOSPC, "No space left on device")
        model = self.make_model()
        model.offset.assign([5.0])
        again = model.clone()
        settings = {"epochs": 1, "ema": None}
        expected = self.train(None, model.clone(), **settings)
        with (
            mock.patch.object(target, name, side_effect=error),
            self.assertRaisesRegex(
                FailureError, "cannot write .* to run: .*No space"
            ),
        ):
            self.train("run", model, **settings)
        self.assertAllEqual(self.train("run", again, **settings), expected)

    @parameterized.parameters("a run [1]", "a\udcffb")
    def test_folder_that_tensorflow_cannot_read(self, run_dir):
        with self.assertRaisesRegex(UsageError, "TensorFlow"):
            self.train(run_dir, epochs=1)
        self.assertEmpty(os.listdir())

    def test_images_by_other_names(self):
        """What counts are the images, and how they were loaded is kept."""
        flags = ["--image_size", 4, "--num_couplings", "3,3,4"]
        images = data.load("Digits", image_size=(4, 4))
        self.command("a", "--epochs", 1, *flags)
        model = self.make_model((4, 4, 1))
        expected = self.train("a", model, images, epochs=2)
        self.assertEqual(model.metadata["source"], "digits")
        self.train("b", self.make_model((4, 4, 1)), images, epochs=1)
        self.assertAllEqual(self.command("b", "--epochs", 2, *flags), expected)

    def test_interrupted(self):
        """A checkpoint is saved, also in the middle of an epoch."""
        expected = self.train("never_stopped", epochs=2)
        calls = []
        train = Trainer.train

        def interrupted(*arguments):
            train(*arguments)
            calls.append(arguments)
            if len(calls) == 2:
                raise KeyboardInterrupt

        with (
            mock.patch.object(session, "_SECONDS_BETWEEN_CHECKPOINTS", 1e9),
            mock.patch.object(Trainer, "train", interrupted),
            self.assertRaises(KeyboardInterrupt),
        ):
            self.train("run", epochs=2)
        with contextlib.redirect_stdout(io.StringIO()) as stdout:
            weights = self.train("run", epochs=2, progress=True)
        self.assertStartsWith(stdout.getvalue(), "going on from step 2 of run")
        self.assertAllEqual(weights, expected)

    def test_what_a_run_says_of_its_data(self):
        model = self.make_model(num_classes=10, class_probs=[0.1] * 10)
        self.train("run", model, epochs=1)
        names = [str(number) for number in range(10)]
        expected = {"dataset": "digits", "source": "digits"}
        expected["class_names"] = names
        self.assertEqual(model.metadata, expected)
        self.assertEqual(tf_realnvp.load("run").metadata, expected)
        # An array has no names of classes, and the model's stay.
        model = SmallModel(num_classes=2, class_probs=[0.5, 0.5])
        model.metadata = {"class_names": ["cat", "dog"]}
        images, labels = random_images(40, seed=0), np.arange(40) % 2
        settings = {"labels": labels, "batch_size": 16, "epochs": 1}
        self.train("other", model, images, **settings)
        expected = {"dataset": "images", "source": None}
        expected["class_names"] = ["cat", "dog"]
        self.assertEqual(tf_realnvp.load("other").metadata, expected)

    def test_classes_that_get_names(self):
        """Those of arrays are the model's: the run is of the same images."""
        images, labels = random_images(40, seed=0), np.arange(40) % 2
        settings = {"labels": labels, "batch_size": 16}
        for epochs, names in enumerate(([], ["cat", "dog"], ["a", "b"]), 1):
            model = SmallModel(num_classes=2, class_probs=[0.5, 0.5])
            model.metadata = {"class_names": names}
            self.train("run", model, images, epochs=epochs, **settings)
        settings["labels"] = 1 - labels
        with self.assertRaisesRegex(UsageError, "images .* have changed"):
            self.train("run", model, images, epochs=4, **settings)

    def test_other_classes(self):
        images = data.load("digits", labels=True)
        model = self.make_model(num_classes=10, class_probs=[0.1] * 10)
        model.metadata = {"class_names": [*"abcdefghi", "0"]}
        with self.assertRaisesRegex(DataError, "of 0, 1.* need the same label"):
            self.train("run", model, images, epochs=1)
        model.metadata = {"class_names": [*"abcdefghij"]}
        self.train("run", model, images, epochs=1)

    def test_labels_that_a_model_leaves_alone(self):
        images = data.load("digits", labels=True)
        self.train("run", images=images, epochs=1)
        self.train("run", epochs=2)

    def test_what_images_have_of_their_own(self):
        images = data.load("digits")
        with self.assertRaisesRegex(DataError, "`data.load` takes it, too"):
            self.train("run", images=images, flip=True)
        images = dataclasses.replace(images, skipped={"a.bmp": "it is none"})
        with self.assertWarnsRegex(UserWarning, "1 file is left out: a.bmp"):
            self.train("run", images=images, epochs=1)

    def test_architecture_is_kept(self):
        others = {
            "alpha": 0.5,
            "num_scales": 3,
            "num_couplings": (1, 2, 3),
            "dequantization": "variational",
        }
        self.train("run", self.make_model(**others), epochs=1)
        loaded = tf_realnvp.load("run")
        with self.assertRaisesRegex(UsageError, "other settings") as caught:
            self.train("run", epochs=2)
        for name, value in others.items():
            self.assertEqual(getattr(loaded, name), value)
            self.assertIn(f"`{name}` ", str(caught.exception))

    def test_gives_the_best(self):
        """As the command does, and so does what is loaded of the run."""
        flags = {"num_validation": 200, "lr": 30.0, "warmup_steps": 2}
        flags |= {"epochs": 3}
        argv = [word for name in flags for word in (f"--{name}", flags[name])]
        expected = self.command("a", *argv)
        rows = pathlib.Path("a/metrics.csv").read_text().splitlines()
        # Only the best is tested, and the last is not the best.
        self.assertEndsWith(rows[-1], ",,")
        self.assertAllEqual(self.train("b", **flags), expected)
        for run in "ab":
            self.assertAllEqual(tf_realnvp.load(run).means, expected)

    def test_file_by_another_path(self):
        images = np.stack(list(data.load("digits").train.stored))
        np.savez("digits.npz", images=images, num_colors=17)
        flags = "--dataset", "digits.npz"
        self.command("run", "--epochs", 1, *flags)
        model = self.make_model()
        with self.assertRaisesRegex(UsageError, "images .* have changed"):
            self.train("run", model, epochs=2)
        self.train("run", model, data.load("./digits.npz"), epochs=2)
        source = os.path.abspath("digits.npz")
        self.assertEqual(model.metadata["source"], source)
        # Wherever it is loaded.
        run = os.path.abspath("run")
        with contextlib.chdir("/"):
            self.assertEqual(tf_realnvp.load(run).metadata, model.metadata)

    def test_another_training(self):
        self.stop("run", 0)
        before = pathlib.Path("run/run.json").read_text()
        for settings, message in (
            ({"seed": 1}, "`seed` 1 instead of `seed` 3"),
            ({"ema": None}, "no `ema` instead of `ema` 0.5"),
        ):
            with self.assertRaisesRegex(UsageError, message):
                self.train("run", epochs=2, **settings)
        with open_run(pathlib.Path("run"), resume=True):
            with self.assertRaisesRegex(UsageError, "give another `run_dir`"):
                self.train("run", epochs=2)
        self.assertEqual(pathlib.Path("run/run.json").read_text(), before)


if __name__ == "__main__":
    tf.test.main()
