"""Tests for session: runs that end early, fail, and go on.

What is trained is a density of few parameters in place of RealNVP, step by step
and without compiling, so that a start takes a part of a second; data, training,
checkpoints and the command are the real ones. `kills_test` has the whole.
"""

import collections
import contextlib
import csv
import dataclasses
import errno
import functools
import io
import json
import os
import pathlib
import re
import shutil
import signal
import tempfile
from unittest import mock

import command_lines
import disks
import fast_command
import keras
import matplotlib.image
import numpy as np
import odd_images
import tensorflow as tf
from absl.testing import parameterized
from image_arrays import read_png
from small_models import SmallModel
from tensorflow.core.util import event_pb2

from tf_realnvp import data, initialization
from tf_realnvp.cli import reporter
from tf_realnvp.cli.main import train_main
from tf_realnvp.images import files as image_files
from tf_realnvp.images import plots
from tf_realnvp.serving import export
from tf_realnvp.serving import metadata as serving_metadata
from tf_realnvp.serving import weights as serving_weights
from tf_realnvp.training import loop, metrics, session, workers
from tf_realnvp.training.checkpoints import Checkpoints
from tf_realnvp.training.progress import Progress
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.utils import files, runtime
from tf_realnvp.utils.errors import DataError, ModelError

METADATA = serving_metadata.FILE
SECONDS = "_SECONDS_BETWEEN_CHECKPOINTS"
FULL = OSError(errno.ENOSPC, "No space left on device")
# Three steps an epoch: as many calls, and one more to evaluate.
FLAGS = (
    *("--dataset", "digits", "--batch_size", "400", "--epochs", "2"),
    *("--filters", "4", "--num_blocks", "1", "--lr", "1e-3"),
)


call = functools.partial(command_lines.call, train_main, *FLAGS)


def weights():
    """Returns the weights among the results in the current folder."""
    return np.load("realnvp_digits/variables/means.npy").tobytes()


def results():
    """Returns the results in the current folder, bit for bit."""
    samples = matplotlib.image.imread("samples_digits.png")
    metrics = pathlib.Path("metrics_digits.csv").read_text()
    return weights(), samples.tobytes(), metrics


def rows():
    """Returns the metrics among the results in the current folder."""
    with open("metrics_digits.csv", newline="") as file:
        return list(csv.DictReader(file))


def run_contents():
    return {
        str(path): path.read_bytes()
        for path in pathlib.Path("runs").rglob("*")
        if path.is_file()
    }


def steps_of_samples():
    """Returns the steps at which samples were drawn for TensorBoard."""
    steps = set()
    for path in pathlib.Path("runs").glob("*/logs/events.*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(record.numpy())
            if any(value.tag == "samples" for value in event.summary.value):
                steps.add(event.step)
    return sorted(steps)


def die():
    raise KeyboardInterrupt


def write_pictures(folder, *shape, number=4):
    """Makes a folder of pictures, or other ones in their place."""
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng(number)
    for index in range(number):
        image = rng.integers(0, 256, shape, np.uint8)
        image_files.write(f"{folder}/{index}.png", image)


@contextlib.contextmanager
def recorded_trainers():
    """Gives a list of the trainers that are made."""
    trainers = []

    class Recorded(session.Trainer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.arguments, self.options = arguments, options
            trainers.append(self)

    with mock.patch.object(session, "Trainer", Recorded):
        yield trainers


class ExperimentTestCase(command_lines.CommandTestCase):
    # What runs have left and printed that nothing stopped, by their flags. All
    # tests of a process share it, since a run takes half a second.
    _runs = {}

    def setUp(self):
        super().setUp()
        fast_command.patch(self.enterContext(contextlib.ExitStack()))
        self.set_seconds_between_checkpoints(0.0)

    def set_seconds_between_checkpoints(self, seconds):
        """Epochs are short here, and most tests want one after each."""
        return self.enterContext(mock.patch.object(session, SECONDS, seconds))

    def run_in_peace(self, *argv):
        """Returns the folder and the standard output of a whole run."""
        key = argv, SmallModel.nan_below
        if key not in self._runs:
            folder = tempfile.TemporaryDirectory()
            with (
                contextlib.chdir(folder.name),
                mock.patch.object(session, SECONDS, 0.0),
            ):
                code, stdout, stderr = call("--seed", 0, *argv)
            self.assertEqual((code, stderr), (0, ""))
            self._runs[key] = folder, stdout
        folder, stdout = self._runs[key]
        return folder.name, stdout

    def never_stopped(self, *argv):
        """Returns the results of a run that nothing stops."""
        folder, _ = self.run_in_peace(*argv)
        with contextlib.chdir(folder):
            return results()

    def begin(self, *argv):
        """Leaves what a run leaves that has come to its end."""
        shutil.copytree(self.run_in_peace(*argv)[0], ".", dirs_exist_ok=True)

    def stop_early(self):
        """Leaves what a run leaves that stops in the second epoch."""
        self.begin("--max_steps", 4)

    def model_after_failure(self, target):
        """Stops early; returns the weights that are there after a failure.

        Args:
          target: What is about to fail, when the run goes on to its end.
        """
        self.stop_early()
        # The model is written first of all.
        return self.never_stopped()[0] if target is plots else results()[0]

    def assert_as_never_stopped(self, *argv):
        expected = self.never_stopped(*argv)
        for what, mine, its in zip(
            ("weights", "samples", "metrics"),
            results(),
            expected,
            strict=True,
        ):
            self.assertEqual(mine, its, what)
        run = pathlib.Path("runs/digits/metrics.csv").read_text()
        self.assertEqual(run, expected[2])
        self.assertCountEqual(
            os.listdir(),
            [
                *("runs", "realnvp_digits", "samples_digits.png"),
                *("loss_digits.png", "metrics_digits.csv"),
            ],
        )
        self.assertCountEqual(
            os.listdir("runs/digits"),
            ["run.json", "lock", "checkpoints", "logs", "metrics.csv"],
        )

    def go_on(self, *argv):
        """Resumes, and asserts that this succeeds."""
        code, stdout, stderr = call("--seed", 0, "--resume", *argv)
        self.assertEqual((code, stderr), (0, ""))
        return stdout

    def at_call(self, number, target, name, action):
        """Does something when a function is called for the nth time."""
        original = getattr(target, name)
        calls = []

        def function(*arguments, **keywords):
            calls.append(None)
            if len(calls) == number:
                action()
            return original(*arguments, **keywords)

        return mock.patch.object(target, name, function)

    def die_at_call(self, number, target, name, *argv):
        """Starts a run that dies when a function is called for the nth time."""
        with (
            self.at_call(number, target, name, die),
            self.assertRaises(KeyboardInterrupt),
        ):
            call("--seed", 0, *argv)

    def assert_error(self, result, code, *messages):
        """Asserts that there was one line on standard error."""
        actual, _, stderr = result
        self.assertEqual(actual, code, stderr)
        self.assertStartsWith(stderr, "run.py: error: ")
        self.assertEqual(stderr.count("\n"), 1, stderr)
        for message in messages:
            self.assertIn(message, stderr)


class TrainTest(ExperimentTestCase):
    def test_flags_arrive(self):
        # Resizing its images would take seconds.
        dataset = data.load("digits", "", flip=True)
        with (
            recorded_trainers() as trainers,
            mock.patch.object(data, "load", return_value=dataset) as load,
            mock.patch.object(
                keras.utils, "set_random_seed"
            ) as set_random_seed,
        ):
            code, stdout, stderr = call(
                *("--lr", "0.5", "--clip_grad", "3", "--seed", "7"),
                *("--precision", "bfloat16", "--recompute", "--jit"),
                *("--accumulate", "2", "--ema", "0.9", "--warmup_steps", "3"),
                *("--num_scales", "3", "--num_couplings", "1,2,3"),
                *("--lr_schedule", "cosine"),
                *("--image_size", "16", "--flip", "--data_dir", "my_data"),
                *("--num_bits", "4", "--max_steps", "5"),
            )
        self.assertEqual((code, stderr), (0, ""))
        (trainer,) = trainers
        (model, schedule), others = trainer.arguments, trainer.options
        # Of five steps, more than an epoch, two are left for the way down.
        rates = [float(schedule(step)) for step in range(6)]
        self.assertAllClose(rates, [0.125, 0.25, 0.375, 0.5, 0.25, 0.0])
        self.assertEqual(
            others,
            {
                "clip_grad": 3.0,
                "seed": 7,
                "precision": "bfloat16",
                "recompute": True,
                "jit": True,
                "accumulate": 2,
                "ema": 0.9,
                "keep_best": False,
            },
        )
        self.assertEqual((model.filters, model.num_blocks), (4, 1))
        self.assertEqual(model.num_scales, 3)
        self.assertEqual(model.num_couplings, (1, 2, 3))
        self.assertEqual(model.image_shape, (8, 8, 1))
        self.assertEqual(model.num_colors, 17)
        load.assert_called_once_with("digits", "my_data", 16, True, 4, False)
        set_random_seed.assert_called_once_with(7)
        self.assertIn("bfloat16, seed 7\n", stdout)
        self.assertEqual([row["step"] for row in rows()], ["0", "3", "5"])

    def test_losses_before_and_after(self):
        _, stdout = self.run_in_peace()
        lines = [n for n in stdout.splitlines() if "bits/dim" in n]
        lines = [n for n in lines if re.match(r"epoch \d/2, step", n)]
        self.assertLen(lines, 2)
        self.assertStartsWith(lines[0], "epoch 0/2, step 0: before training")
        self.assertStartsWith(lines[1], "epoch 2/2, step 6: train ")

    def test_verbose(self):
        _, stdout, _ = call("--seed", 0, "--verbose")
        self.assertEqual(
            re.findall(r"^epoch \d/2, step \d: train .*$", stdout, re.M),
            [
                f"epoch {epoch}/2, step {3 * epoch}: "
                f"train {float(row['train_bits_per_dim']):.3f}, "
                f"test {float(row['test_bits_per_dim']):.3f} bits/dim"
                for epoch, row in enumerate(rows()[1:], 1)
            ],
        )

    def test_last_samples(self):
        """Of the last epoch, whatever its number and whoever trained it."""
        flags = "--epochs", 4, "--samples_every", 2
        self.go_on(*flags, "--max_steps", 7)
        self.assertEqual(steps_of_samples(), [0, 6, 7])
        self.go_on(*flags, "--max_steps", 9)
        self.assertEqual(steps_of_samples(), [0, 6, 7, 9])
        self.go_on(*flags)
        self.assertEqual(steps_of_samples(), [0, 6, 7, 9, 12])

    def test_last_samples_of_a_run_that_was_stopped(self):
        """Those that it did not draw, since it was to go on."""
        self.die_at_call(6, Progress, "update", "--samples_every", 2)
        self.assertEqual(steps_of_samples(), [0])
        self.go_on("--samples_every", 2, "--epochs", 1)
        self.assertEqual(steps_of_samples(), [0, 3])

    def test_what_a_kill_before_a_checkpoint_leaves_out(self):
        """An epoch that has a checkpoint has its samples too."""
        self.die_at_call(2, Checkpoints, "save")
        self.assertEqual(steps_of_samples(), [0, 3])

    def test_batch_larger_than_the_data(self):
        result = call("--batch_size", "1438")
        self.assert_error(result, 2, "--batch_size", "1438", "1437")
        code, _, _ = call("--batch_size", "1437", "--epochs", 1)
        self.assertEqual(code, 0)

    def test_more_devices_than_gpus(self):
        gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
        with mock.patch.object(
            tf.config, "get_visible_devices", return_value=[gpu]
        ):
            result = call("--precision", "float32", "--devices", 2)
        self.assert_error(result, 2, "--devices", "2 is more", "finds, 1\n")

    def test_other_model_is_on_one_device(self):
        """The one to start from: its weights need no copies on the others."""

        def load_model(unused_path):
            self.assertFalse(tf.distribute.has_strategy())
            raise ModelError("loaded")

        strategy = tf.distribute.MirroredStrategy(["CPU:0"])
        with (
            mock.patch.object(runtime, "make_strategy", lambda _: strategy),
            mock.patch.object(serving_weights, "load_model", load_model),
        ):
            code, _, stderr = call("--init_from", "other")
        self.assertEqual(code, 2)
        self.assertIn("error: loaded\n", stderr)

    def test_starts_from_another_model(self):
        """Nothing is fitted to the images then, nor when it goes on."""

        def assign_weights(model, path, class_names):
            self.assertEqual((path, class_names), ("other", ()))
            model.means.assign(tf.fill(model.means.shape, 5.0))

        argv = "--init_from", "other", "--lr", 1e-6
        with (
            mock.patch.object(
                serving_weights, "assign_weights", side_effect=assign_weights
            ) as assign,
            mock.patch.object(initialization, "initialize") as initialize,
        ):
            self.go_on(*argv, "--max_steps", 1)
            means = np.load("realnvp_digits/variables/means.npy")
            self.assertAllClose(means, np.full([8, 8, 1], 5.0), atol=1e-3)
            self.go_on(*argv)
        assign.assert_called_once()
        initialize.assert_not_called()

    def test_files_left_out_are_named(self):
        dataset = dataclasses.replace(
            data.load("digits", ""),
            skipped=dict.fromkeys("abcdefg", "damaged"),
        )
        with mock.patch.object(data, "load", return_value=dataset):
            code, _, stderr = call("--max_steps", 1)
        self.assertEqual(code, 0)
        self.assertRegex(
            stderr,
            r"^warning: 7 files .* left out: a \(damaged\), .*e.*, \.\.\.\n$",
        )

    def test_data_that_cannot_be_had(self):
        error = DataError("CIFAR10: no way\nput it elsewhere")
        with mock.patch.object(data, "load", side_effect=error):
            result = call()
        self.assertEqual(result, (2, "", f"run.py: error: {error}\n"))
        self.assertEmpty(os.listdir())


class ConditionalTest(ExperimentTestCase, parameterized.TestCase):
    def test_results(self):
        with recorded_trainers() as trainers:
            code, stdout, stderr = call("--conditional", "--seed", 0, "--lr", 1)
        self.assertEqual(code, 0, stderr)
        self.assertIn("17 levels, 10 classes\n", stdout)
        content = json.loads(
            pathlib.Path("realnvp_digits", METADATA).read_text()
        )
        self.assertEqual(content["class_names"], list("0123456789"))
        self.assertTrue(content["config"]["conditional"])
        run = json.loads(pathlib.Path("runs/digits/run.json").read_text())
        self.assertAllClose(run["data"]["class_probs"], [0.1] * 10, atol=0.01)
        # A row a class.
        samples = (
            trainers[0]
            .result_model()
            .sample(80, seed=0, label=np.repeat(range(10), 8))
        )
        self.assertAllEqual(
            read_png("samples_digits.png"),
            plots.image_grid(samples.numpy(), 17, 8),
        )

    def test_resumed_bit_for_bit(self):
        flags = "--conditional", "--num_validation", 100
        self.go_on(*flags, "--max_steps", 2)
        self.assertIn("going on from step 2", self.go_on(*flags))
        self.assert_as_never_stopped(*flags)

    def test_no_labels(self):
        write_pictures("faces", 4, 4, 3, number=20)
        code, stdout, stderr = call(
            "--conditional", "--dataset", "faces", "--batch_size", 2
        )
        self.assertEqual((code, stdout), (2, ""))
        self.assertRegex(
            stderr, r"^run.py: error: faces: .* has no label: .*\n$"
        )


class ResultsTest(ExperimentTestCase, parameterized.TestCase):
    @parameterized.parameters(
        ("save_loss_curve", ValueError("\nno such\nfont"), "no such"),
        ("save_image_grid", RuntimeError(), "RuntimeError"),
    )
    def test_picture_that_cannot_be_drawn(self, name, error, reason):
        """It is no reason to lose the model."""
        self.stop_early()
        picture = "loss" if "loss" in name else "samples"
        os.remove(f"{picture}_digits.png")
        with mock.patch.object(plots, name, side_effect=error):
            code, stdout, stderr = call("--seed", 0, "--resume")
        self.assertEqual(code, 0)
        self.assertEqual(
            stderr, f"warning: cannot draw {picture}_digits.png: {reason}\n"
        )
        self.assertNotIn(f"  {picture}_digits.png", stdout)
        self.assertFalse(os.path.exists(f"{picture}_digits.png"))
        expected = self.never_stopped()
        self.assertEqual(weights(), expected[0])
        metrics = pathlib.Path("metrics_digits.csv").read_text()
        self.assertEqual(metrics, expected[2])
        # Another try is welcome.
        self.assertIn("going on from step 6\n", self.go_on())
        self.assert_as_never_stopped()

    @parameterized.parameters(
        ("-two\nlines$5_to_$9_\udcff", "-two_lines$5_to_$9__"),
        (" ü 日本 a*b?[c]\\d %s {x}", " ü 日本 a_b__c]_d %s {x}"),
    )
    def test_any_name_of_a_data_set(self, name, written):
        write_pictures(name, 8, 8, 1)
        argv = f"--dataset=./{name}", "--batch_size", 1, "--max_steps", 1
        # A terminal refuses what is not text.
        stdout = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="")
        with (
            mock.patch.object(export, "save", fast_command.save_model),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(io.StringIO()) as stderr,
        ):
            code = train_main([*FLAGS, *map(str, argv)])
        self.assertEqual((code, stderr.getvalue()), (0, ""))
        results = [
            *(f"realnvp_{written}", f"samples_{written}.png"),
            *(f"loss_{written}.png", f"metrics_{written}.csv"),
        ]
        self.assertCountEqual(os.listdir(), [name, "runs", *results])
        tf.saved_model.load(results[0])
        metadata = json.loads(pathlib.Path(results[0], METADATA).read_text())
        self.assertEqual(metadata["dataset"], name)
        self.assertEqual(metadata["source"], os.path.abspath(name))
        stdout.flush()
        lines = stdout.buffer.getvalue().decode().split("\n")
        self.assertEqual(
            lines[-5:], [*(f"  {result}" for result in results), ""]
        )
        self.assertIn(" 3 training and 1 test images ", lines[0])

    def test_name_that_is_too_long_for_the_results(self):
        name = "ü" * 124
        write_pictures(name, 8, 8, 1)
        with mock.patch.object(session, "RealNVP") as model:
            result = call("--dataset", name, "--batch_size", 1)
        model.assert_not_called()
        self.assert_error(result, 2, "260 bytes")
        self.assertEqual(os.listdir(), [name])


class ValidationTest(ExperimentTestCase):
    # After the first epoch the weights leap, so that the best is not the last.
    ARGV = (
        *("--num_validation", 200, "--lr", 30.0, "--epochs", 3),
        *("--warmup_steps", 2),
    )

    def test_result_is_of_the_best_epoch(self):
        _, stdout = self.run_in_peace(*self.ARGV)
        self.begin(*self.ARGV)
        self.assertIn("1,237 training, 200 validation and 360 test", stdout)
        epochs = rows()
        bits = [float(row["validation_bits_per_dim"]) for row in epochs]
        best = int(np.argmin(bits))
        self.assertLess(best, len(epochs) - 1)
        tested = [bool(row["test_bits_per_dim"]) for row in epochs]
        self.assertEqual(tested, [i == best for i in range(len(epochs))])
        metadata = json.loads(
            pathlib.Path("realnvp_digits", METADATA).read_text()
        )
        metrics = metadata["metrics"]
        self.assertEqual(metrics["epochs"], best)
        self.assertEqual(metrics["validation_bits_per_dim"], bits[best])
        self.assertEqual(
            metrics["test_bits_per_dim"],
            float(epochs[best]["test_bits_per_dim"]),
        )
        self.assertEqual(metadata["config"]["num_validation"], 200)
        lines = [line for line in stdout.splitlines() if "bits/dim" in line]
        self.assertIn(f"epoch {best}/3, ", lines[-2] + lines[-1])

    def test_resumed(self):
        self.go_on(*self.ARGV, "--max_steps", 4)
        self.go_on(*self.ARGV)
        self.assert_as_never_stopped(*self.ARGV)

    def test_test_images_are_looked_at_once(self):
        now = mock.patch.object(session, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        self.enterContext(now)
        self.go_on(*self.ARGV)
        with mock.patch.object(loop, "evaluate", side_effect=AssertionError):
            self.go_on(*self.ARGV)

    def test_extended(self):
        """What was the best of fewer epochs has no more test loss then."""
        argv = ("--num_validation", 200, "--lr", 1e-3)
        self.go_on(*argv, "--epochs", 1)
        self.assertLen([r for r in rows() if r["test_bits_per_dim"]], 1)
        self.go_on(*argv, "--epochs", 2)
        tested = [r["epoch"] for r in rows() if r["test_bits_per_dim"]]
        self.assertEqual(tested, ["2"])


class DataErrorTest(ExperimentTestCase, parameterized.TestCase):
    @parameterized.parameters("train", "test")
    def test_damaged_image(self, split):
        for i in range(4):
            path = pathlib.Path("pictures", "train" if i < 2 else "test")
            path.mkdir(parents=True, exist_ok=True)
            image = np.zeros((8, 8, 1), np.uint8)
            image_files.write(path / f"{i}.png", image)
        path = pathlib.Path("pictures", split, "damaged.png")
        path.write_bytes(odd_images.undecodable_png())
        result = call("--dataset", "pictures", "--batch_size", 1)
        self.assert_error(
            result,
            2,
            "an image of pictures cannot be read",
            str(path.absolute()),
        )

    def test_other_errors_are_no_damage(self):
        error = tf.errors.InvalidArgumentError(
            None, None, "Incompatible shapes"
        )
        with (
            mock.patch.object(Trainer, "train_step", side_effect=error),
            self.assertRaises(tf.errors.InvalidArgumentError),
        ):
            call()

    def test_memory(self):
        error = tf.errors.ResourceExhaustedError(None, None, "OOM: [9, 9]\nx")
        with mock.patch.object(Trainer, "train_step", side_effect=error):
            result = call()
        self.assert_error(result, 1, "OOM", "--accumulate", "--recompute")


class ResumeTest(ExperimentTestCase, parameterized.TestCase):
    def test_longer_runs(self):
        self.begin("--max_steps", 1)
        for argv in (("--max_steps", 4), ()):
            self.go_on(*argv)
            self.assert_as_never_stopped(*argv)

    def test_short_epochs_share_a_checkpoint(self):
        """The last epoch has one in any case."""
        self.set_seconds_between_checkpoints(1e9)
        for num_saved, message, argv in (
            (1, "starting from the beginning\n", ["--epochs", 1]),
            (2, "going on from step 3\n", []),
        ):
            self.assertIn(message, self.go_on(*argv))
            self.assert_as_never_stopped(*argv)
            saved = pathlib.Path("runs/digits/checkpoints").glob("*.index")
            self.assertLen(list(saved), num_saved)

    @parameterized.parameters((1e-9, "going on from step 2"), (9, "no check"))
    def test_checkpoints_within_an_epoch(self, minutes, message):
        self.set_seconds_between_checkpoints(1e9)
        flags = "--checkpoint_minutes", minutes
        self.die_at_call(4, Progress, "update", *flags)
        self.assertIn(message, self.go_on(*flags))
        self.assert_as_never_stopped()

    def test_checkpoint_of_an_epoch_that_was_cut_short_and_goes_on(self):
        """Its metrics take the place of others: their number stays."""
        self.set_seconds_between_checkpoints(1e9)
        self.go_on("--max_steps", 4)
        self.go_on("--max_steps", 5)
        stdout = self.go_on("--max_steps", 5)
        self.assertIn("going on from step 5\n", stdout)
        self.assert_as_never_stopped("--max_steps", 5)

    def test_place_of_the_model_that_is_taken(self):
        """It is refused before training, and not replaced."""
        letter = pathlib.Path("realnvp_digits", "letter.txt")
        letter.parent.mkdir()
        letter.write_text("text")
        with recorded_trainers() as trainers:
            result = call("--seed", 0)
        self.assertEmpty(trainers)
        self.assert_error(
            result, 2, "realnvp_digits is there, and is no model", "another"
        )
        self.assertEqual(letter.read_text(), "text")

    @parameterized.parameters("realnvp_digits", "realnvp_digits/run")
    def test_run_in_the_place_of_the_model(self, run_dir):
        with recorded_trainers() as trainers:
            result = call("--seed", 0, "--run_dir", run_dir)
        self.assertEmpty(trainers)
        self.assert_error(result, 2, "--run_dir: the model is to be written to")
        self.assertEmpty(os.listdir())

    @parameterized.parameters("realnvp_digits", "./realnvp_digits/")
    def test_model_that_it_starts_from_in_its_place(self, path):
        os.mkdir("realnvp_digits")
        pathlib.Path("realnvp_digits", "saved_model.pb").touch()
        with recorded_trainers() as trainers:
            result = call("--seed", 0, "--init_from", path)
        self.assertEmpty(trainers)
        self.assert_error(result, 2, "--init_from: ", "another --output_dir")

    @parameterized.parameters("faces", "faces/out", "faces/train/out")
    def test_results_among_the_pictures(self, output_dir):
        """A run that goes on would find other images."""
        write_pictures("faces/train", 4, 4, 3, number=4)
        argv = ("--dataset", "faces", "--seed", 0, "--batch_size", 1)
        argv += ("--max_steps", 1, "--output_dir", output_dir)
        if output_dir == "faces/train/out":
            result = call(*argv)
            self.assert_error(result, 2, "--output_dir: ", "pictures to train")
            return
        self.assertEqual(call(*argv)[0], 0)
        os.rename("faces/train", "faces/all")
        result = call(*argv, "--run_dir", "other")
        self.assert_error(result, 2, "--output_dir: ", "pictures to train on")

    def test_model_that_is_replaced(self):
        for is_there in (False, True):
            _, stdout, _ = call("--seed", 0, "--max_steps", 1)
            line = "realnvp_digits is there, and will be replaced in the end"
            self.assertEqual(line in stdout.splitlines(), is_there)

    def test_shorter_run_changes_nothing(self):
        self.begin()
        for argv in (["--epochs", 1], ["--max_steps", 1]):
            self.go_on(*argv)
            self.assert_as_never_stopped()

    def test_finished_run_writes_its_results_again(self):
        self.begin()
        for name in ("samples_digits.png", "metrics_digits.csv"):
            os.remove(name)
        stdout = self.go_on()
        self.assertIn("going on from step 6\n", stdout)
        self.assert_as_never_stopped()

    def test_other_flags(self):
        self.stop_early()
        before = run_contents()
        result = call(
            *("--seed", 1, "--resume", "--filters", 8, "--flip"),
            *("--run_dir", "runs/digits", "--dataset", "cifar10"),
        )
        self.assert_error(
            result,
            2,
            "runs/digits",
            "--seed 1 instead of --seed 0",
            "--filters 8 instead of --filters 4",
            "--flip instead of no --flip",
            "--dataset CIFAR10 instead of --dataset digits",
        )
        self.assertEqual(run_contents(), before)

    def test_too_many_scales(self):
        self.assert_error(
            call("--num_scales", 4), 2, "--num_scales", "8x8", "at most 3"
        )

    def test_run_of_an_older_version(self):
        """Flags that it did not have were as their defaults are."""
        self.stop_early()
        path = pathlib.Path("runs/digits/run.json")
        content = json.loads(path.read_text())
        for name in ("flip", "deterministic", "num_scales"):
            del content["config"][name]
        path.write_text(json.dumps(content))
        result = call("--seed", 0, "--resume", "--deterministic")
        self.assert_error(result, 2, "instead of no --deterministic")
        self.go_on()
        self.assert_as_never_stopped()

    def test_other_pictures(self):
        write_pictures("pictures", 8, 8, 3)
        argv = "--dataset", "pictures", "--batch_size", 1, "--seed", 0
        code, _, stderr = call(*argv, "--max_steps", 1)
        self.assertEqual((code, stderr), (0, ""))
        before = run_contents()
        for shape, number, message in (
            ((16, 16, 3), 4, "16x16x3 instead of 8x8x3"),
            ((8, 8, 3), 9, "training images instead of 3 training images"),
            # It is the pictures that changed, not the flag.
            ((8, 8, 3), 2, "instead of 3 training images"),
        ):
            shutil.rmtree("pictures")
            write_pictures("pictures", *shape, number=number)
            result = call(*argv, "--resume")
            self.assert_error(
                result,
                *(2, "images of pictures have changed", message, "--run_dir"),
            )
            self.assertNotIn("damaged", result[2])
            self.assertEqual(run_contents(), before)

    def test_other_data(self):
        self.stop_early()
        before = run_contents()
        dataset = dataclasses.replace(
            data.load("digits", ""), fingerprint="new\nprint"
        )
        with mock.patch.object(data, "load", return_value=dataset):
            result = call("--seed", 0, "--resume")
        self.assert_error(
            result,
            2,
            "images of digits have changed",
            r"fingerprint new\nprint",
        )
        self.assertEqual(run_contents(), before)

    def test_seed_and_precision_are_kept(self):
        with mock.patch.object(
            runtime, "has_native_bfloat16", return_value=True
        ):
            _, stdout, _ = call("--max_steps", 1)
        (seed,) = re.findall(r"bfloat16, seed (\d+)\n", stdout)
        with mock.patch.object(
            runtime, "has_native_bfloat16", return_value=False
        ):
            _, stdout, _ = call("--resume", "--max_steps", 1)
        self.assertIn(f"bfloat16, seed {seed}\n", stdout)

    def test_moving_average(self):
        flags = "--ema", 0.5
        self.go_on(*flags, "--max_steps", 4)
        with recorded_trainers() as trainers:
            self.go_on(*flags)
        self.assert_as_never_stopped(*flags)
        # What is saved is the average, not the weights themselves.
        means, *_ = results()
        (trainer,) = trainers
        average = trainer.evaluated_model().means.numpy()
        self.assertEqual(means, average.tobytes())
        self.assertNotEqual(means, trainer.model.means.numpy().tobytes())

    def test_other_learning_rate(self):
        self.stop_early()
        with recorded_trainers() as trainers:
            self.go_on("--lr", 0.25)
        rate = float(trainers[0].optimizer.learning_rate.numpy())
        self.assertEqual(rate, 0.25)
        self.assertNotEqual(results(), self.never_stopped())

    def test_without_resume(self):
        """A finished run is moved aside, an unfinished one is in the way."""
        self.stop_early()
        finished = run_contents()
        with mock.patch.object(export, "save", side_effect=FULL):
            _, stdout, _ = call("--seed", 0)
        self.assertIn("runs/digits.1", stdout)
        before = run_contents()
        for path, content in finished.items():
            path = path.replace("digits", "digits.1")
            self.assertEqual(before[path], content)
        result = call("--seed", 0)
        self.assert_error(result, 2, "unfinished", "--resume", "--run_dir")
        self.assertEqual(run_contents(), before)
        shutil.rmtree("runs/digits.1")
        self.assertIn("going on from step 6\n", self.go_on())
        self.assert_as_never_stopped()

    def test_metrics_without_checkpoint(self):
        """As a kill leaves them between the two."""
        self.die_at_call(1, Progress, "update")
        self.go_on("--max_steps", 4)
        os.remove("runs/digits/metrics.csv")
        self.go_on("--max_steps", 4)
        self.assert_as_never_stopped("--max_steps", 4)


class DamageTest(ExperimentTestCase):
    def test_newest_is_damaged(self):
        self.begin("--epochs", 1)
        names = sorted(os.listdir("runs/digits/checkpoints"))
        newest = pathlib.Path("runs/digits/checkpoints", names[-1])
        os.truncate(newest.with_suffix(".index"), 10)
        code, _, stderr = call("--seed", 0, "--resume")
        self.assertEqual(code, 0)
        self.assertRegex(stderr, r"^warning: .*ckpt-2 is damaged.*\n$")
        self.assert_as_never_stopped()

    def test_all_are_damaged(self):
        self.begin("--epochs", 1)
        for path in pathlib.Path("runs/digits/checkpoints").glob("ckpt*"):
            os.truncate(path, 0)
        before = run_contents()
        code, _, stderr = call("--seed", 0, "--resume")
        self.assertEqual(code, 2)
        *warnings, error = stderr.splitlines()
        self.assertLen(warnings, 2)
        self.assertStartsWith(error, "run.py: error: none of the 2 checkpoints")
        self.assertEqual(run_contents(), before)


class SignalTest(ExperimentTestCase, parameterized.TestCase):
    def signal_at(self, signum, target, name, number=1):
        """Sends a signal in the nth call of a function."""
        return self.at_call(
            number, target, name, lambda: signal.raise_signal(signum)
        )

    def test_at_every_step(self):
        """Every process makes one call more than the one before."""
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        interruptions = 0
        while True:
            signum = signals[interruptions % len(signals)]
            with self.signal_at(
                signum, Progress, "update", 2 if interruptions else 1
            ):
                code, stdout, stderr = call("--seed", 0, "--resume")
            if code == 0:
                break
            interruptions += 1
            self.assertEqual(code, 128 + signum)
            self.assertEqual(
                stderr, f"\nrun.py: interrupted by {signum.name}\n"
            )
            self.assertRegex(
                stdout, r"saved a checkpoint at step \d: .*--resume"
            )
            self.assertFalse(os.path.exists("realnvp_digits"))
        # The first evaluation, and then every second of two times four.
        self.assertGreater(interruptions, 4)
        self.assert_as_never_stopped()

    @parameterized.parameters(1, 3)
    def test_while_a_checkpoint_is_saved(self, number):
        """The last one is saved when nobody asks for signals any more."""
        with self.signal_at(signal.SIGTERM, Checkpoints, "save", number):
            code, stdout, _ = call("--seed", 0)
        self.assertEqual(code, 143)
        self.assertIn("saved a checkpoint", stdout)
        self.assertFalse(os.path.exists("realnvp_digits"))
        self.go_on()
        self.assert_as_never_stopped()

    @parameterized.parameters(
        (data, "load"),
        (session, "RealNVP"),
        (reporter, "say_header"),
    )
    def test_before_training(self, target, name):
        with self.signal_at(signal.SIGINT, target, name):
            code, _, stderr = call("--seed", 0)
        self.assertEqual(code, 130)
        self.assertEqual(stderr, "\nrun.py: interrupted by SIGINT\n")
        # The next command will start as the first does.
        self.assertEmpty(os.listdir())

    def test_while_a_checkpoint_is_restored(self):
        self.stop_early()
        with self.signal_at(signal.SIGTERM, tf.train.Checkpoint, "restore"):
            code, _, stderr = call("--seed", 0, "--resume")
        # It's no damage.
        self.assertEqual(code, 143)
        self.assertEqual(stderr, "\nrun.py: interrupted by SIGTERM\n")
        self.go_on()
        self.assert_as_never_stopped()

    @parameterized.parameters(
        (plots, "save_image_grid"),
        (np, "save"),
        (files, "_put_in_place"),
    )
    def test_while_the_results_are_written(self, target, name):
        expected = self.model_after_failure(target)
        with self.signal_at(signal.SIGTERM, target, name):
            code, stdout, stderr = call("--seed", 0, "--resume")
        self.assertEqual(code, 143)
        self.assertEqual(stderr, "\nrun.py: interrupted by SIGTERM\n")
        self.assertIn("the same command with --resume writes them", stdout)
        self.assertEqual(weights(), expected)
        self.go_on()
        self.assert_as_never_stopped()


class FullDiskTest(ExperimentTestCase, parameterized.TestCase):
    def fail_at(self, target, name, number, error):
        """Lets the nth call of a function fail."""

        def fail():
            raise error

        return self.at_call(number, target, name, fail)

    def fail_at_each(self, target, name, error):
        """Fails at the first call, at the second, ...; returns the messages.

        Each process goes on with what the one before has left.
        """
        messages = []
        while True:
            number = len(messages) + 1
            with self.fail_at(target, name, number, error):
                result = call("--seed", 0, "--resume")
            if result[0] == 0:
                return messages
            self.assert_error(
                result, 1, "cannot write", "make room", "--resume"
            )
            messages.append(result[2])

    def test_files(self):
        messages = self.fail_at_each(files, "replace_file", FULL)
        self.assert_as_never_stopped()
        text = "".join(messages)
        self.assertEqual(text.count("No space left on device"), len(messages))
        for what in (
            "the run's state to runs/digits",
            "the metrics to runs/digits",
            "the results to .",
        ):
            self.assertIn(what, text)

    def test_checkpoints(self):
        error = tf.errors.ResourceExhaustedError(None, None, "disk full\nat x")
        messages = self.fail_at_each(Checkpoints, "save", error)
        self.assertNotEmpty(messages)
        for message in messages:
            self.assertIn("a checkpoint to runs/digits: disk full. ", message)
        self.assert_as_never_stopped()

    def test_summaries(self):
        error = tf.errors.ResourceExhaustedError(None, None, "disk full")
        with mock.patch.object(session, "Summaries", side_effect=error):
            result = call("--seed", 0)
        self.assert_error(result, 1, "the summaries to runs/digits: disk full")
        self.go_on()
        self.assert_as_never_stopped()

    @parameterized.parameters(
        (plots, "save_loss_curve"), (files, "_put_in_place")
    )
    def test_results(self, target, name):
        expected = self.model_after_failure(target)
        with self.fail_at(target, name, 1, FULL):
            result = call("--seed", 0, "--resume")
        self.assert_error(result, 1, "the results to .", "No space left")
        self.assertEqual(weights(), expected)
        self.go_on()
        self.assert_as_never_stopped()

    @parameterized.parameters(
        (Checkpoints, "save", 50),
        (metrics, "write_csv", 50),
        (plots, "save_image_grid", 50),
        (export, "save", 300),
    )
    def test_no_room_for_what_is_written(self, target, name, size):
        """The system refuses the writing itself, in mid-file."""
        self.stop_early()
        limited = disks.full(size)(getattr(target, name))
        with mock.patch.object(target, name, limited):
            result = call("--seed", 0, "--resume")
        self.assert_error(result, 1, "cannot write", "--resume")
        code, _, _ = call("--seed", 0, "--resume")
        self.assertEqual(code, 0)
        self.assert_as_never_stopped()

    def test_interrupted_with_a_full_disk(self):
        def update(*_):
            signal.raise_signal(signal.SIGINT)

        self.stop_early()
        with (
            mock.patch.object(Progress, "update", update),
            mock.patch.object(Checkpoints, "save", side_effect=FULL),
        ):
            result = call("--seed", 0, "--resume")
        self.assert_error(result, 1, "a checkpoint")
        self.assertNotIn("saved", result[1])
        self.go_on()
        self.assert_as_never_stopped()


class WorkersTest(ExperimentTestCase, parameterized.TestCase):
    """What a worker makes of what others have; `distribution_test` has two."""

    def setUp(self):
        super().setUp()
        self.chief = {}
        config = command_lines.tf_config(1, worker=["a:1", "b:1", "c:1"])
        self.enterContext(mock.patch.dict(os.environ, config))
        self.enterContext(
            mock.patch.object(workers, "connect", tf.distribute.get_strategy)
        )
        self.enterContext(mock.patch.object(workers, "_gather", self.gather))
        self.gathered = collections.deque()

    def gather(self, record):
        """Gives what three workers have, of which this one is the second."""
        change = self.gathered.popleft() if self.gathered else None
        record = json.loads(json.dumps(record))
        chief = json.loads(json.dumps(record))
        if isinstance(record, dict) and record["config"]["precision"] == "auto":
            chief["config"]["precision"] = "bfloat16"
        if change is not None:
            chief = change(chief)
        return [chief, record, chief]

    def set_flags(self, **flags):
        def change(record):
            record["config"] |= flags
            return record

        self.gathered.append(change)

    def test_precision_of_the_chief(self):
        with recorded_trainers() as trainers:
            code, stdout, stderr = call("--seed", 0)
        self.assertEqual((code, stdout, stderr), (0, "", ""))
        self.assertEmpty(os.listdir())
        self.assertEqual(trainers[0].num_steps, 6)

        self.assertEqual(trainers[0].options["precision"], "bfloat16")

    @parameterized.parameters(
        ("lr", 0.125, []),
        ("flip", True, []),
        ("precision", "float32", ["--precision", "bfloat16"]),
    )
    def test_other_flags(self, name, value, argv):
        self.set_flags(**{name: value})
        self.assert_differs(name, f" instead of --{name}", *argv)

    def test_resumed_by_some(self):
        def change(record):
            return record | {"resume": True}

        self.gathered.append(change)
        self.assert_differs("resume", "no --resume instead of --resume")

    def test_other_version(self):
        self.set_flags(of_a_version_to_come=1)
        result = call("--seed", 0)
        self.assert_error(result, 2, "another version")

    def assert_differs(self, name, message, *argv):
        with mock.patch.object(session, "RealNVP") as model:
            result = call("--seed", 0, *argv)
        model.assert_not_called()
        self.assert_error(result, 2, "worker 1 differs from worker 0", message)
        self.assertLen(re.findall(f"--{name}", result[2]), 2)
        self.assertEqual(result[2].count("instead of"), 1)
        self.assertEmpty(os.listdir())

    def test_other_data(self):
        def change(record):
            record["data"] |= {"image_shape": [4, 4, 1], "fingerprint": "x"}
            return record

        self.gathered.append(change)
        self.assert_error(
            call("--seed", 0),
            2,
            "worker 1 differs from worker 0: 8x8x1 instead of 4x4x1, "
            "fingerprint ",
        )

    def test_batch_larger_than_the_data_of_one(self):
        """It is told what differs, not what does not fit."""
        self.set_flags(batch_size=64)
        result = call("--seed", 0, "--batch_size", 5000)
        self.assert_error(result, 2, "--batch_size 5000 instead of")

    @parameterized.parameters("nothing", "the checkpoint of step 9 (01234567)")
    def test_other_checkpoint(self, chief):
        with mock.patch.dict(os.environ):
            del os.environ["TF_CONFIG"]
            self.stop_early()
        before = run_contents()
        self.gathered += [None, lambda record: chief]
        with mock.patch.object(initialization, "initialize") as initialize:
            result = call("--seed", 0, "--resume")
        initialize.assert_not_called()
        self.assert_error(
            result,
            2,
            "the checkpoint of step 4 (",
            f"instead of {chief}",
            "--run_dir",
        )
        self.assertEqual(run_contents(), before)

    def test_other_first_weights(self):
        """A model of the same name may be another one on each machine."""
        self.gathered += [None, None, lambda record: "weights (01234567)"]
        with mock.patch.object(serving_weights, "assign_weights"):
            result = call("--seed", 0, "--init_from", "other")
        self.assert_error(
            result, 2, "weights (", "in --init_from", "instead of weights (0123"
        )

    def test_worker_that_is_gone(self):
        """Whenever that is."""
        error = tf.errors.UnavailableError(
            None, None, "node at:\n\n\nCollective ops is aborted\nRestart"
        )
        for target, name in (
            (workers, "_gather"),
            (session, "RealNVP"),
            (initialization, "initialize"),
            (Trainer, "train_step"),
        ):
            with mock.patch.object(target, name, side_effect=error):
                result = call("--seed", 0)
            self.assert_error(
                result, 1, "a worker of the job has gone", "Collective ops is"
            )


class NumbersTest(ExperimentTestCase):
    def test_skipped_steps_are_counted(self):
        with mock.patch.object(SmallModel, "nan_below", 0.4):
            expected = self.never_stopped()
            self.assertNotIn("nan", expected[2])
            self.die_at_call(6, Progress, "update")
            stdout = self.go_on()
            self.assert_as_never_stopped()
            _, whole = self.run_in_peace()
        for text in (stdout, whole):
            self.assertRegex(text, r"\n3 steps were skipped")
        self.assertNotEqual(expected, self.never_stopped())

    def test_divergence(self):
        flags = ("--batch_size", 120)  # So that an epoch has 11 steps.
        self.begin(*flags, "--epochs", 1)
        with mock.patch.object(SmallModel, "nan_below", 1.0):
            result = call("--seed", 0, "--resume", *flags)
        self.assert_error(
            result, 1, "10 steps", "step 21", "--clip_grad", "--lr", "--resume"
        )
        # As if it had not been tried.
        self.go_on(*flags)
        self.assert_as_never_stopped(*flags)

    def test_rate_too_large(self):
        result = call("--lr", "1e30", "--epochs", 9)
        self.assert_error(result, 1, "diverged", "--clip_grad", "--lr")


if __name__ == "__main__":
    tf.test.main()
