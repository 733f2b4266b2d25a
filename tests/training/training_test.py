"""Tests for training: trainings that end early, fail, and go on.

Each is started by the command and from Python, the two doors. What is trained
is a density of few parameters in place of RealNVP, step by step and without
compiling, so that a start takes a part of a second; data, training, checkpoints
and the command are the real ones. `kills_test` has the whole.
"""

import collections
import contextlib
import csv
import dataclasses
import errno
import functools
import io
import itertools
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
import folders
import numpy as np
import odd_images
import tensorflow as tf
from absl.testing import parameterized
from image_arrays import random_images, read_png, write_images
from small_models import SmallModel, set_seed

import tf_realnvp
from tf_realnvp import api, data, errors, initialization
from tf_realnvp.analysis import plots
from tf_realnvp.cli import train
from tf_realnvp.cli.main import train_main
from tf_realnvp.flow.architecture import ARCHITECTURE
from tf_realnvp.serving import export
from tf_realnvp.serving import metadata as serving_metadata
from tf_realnvp.serving import weights as serving_weights
from tf_realnvp.training import (
    choice,
    clock,
    loop,
    metrics,
    recorder,
    training,
    workers,
)
from tf_realnvp.training.checkpoints import Checkpoints
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.utils import files
from tf_realnvp.utils.console import Progress

COMMAND, PYTHON = DOORS = ("command", "python")
FULL = OSError(errno.ENOSPC, "No space left on device")
RUN = pathlib.Path("runs", "digits")
# Three steps an epoch: as many calls, and one more to evaluate.
SETTINGS = {
    **{"batch_size": 400, "epochs": 2, "filters": 4, "num_blocks": 1},
    **{"lr": 1e-3, "seed": 0, "channel_masks": "alternating"},
}
# After the first epoch the weights leap, so that the best is not the last.
LEAPING = {"num_validation": 200, "lr": 30.0, "epochs": 3, "warmup_steps": 2}


def command(**settings):
    """Runs the command; returns its code, standard output and error."""
    settings = {"dataset": "digits"} | SETTINGS | settings
    argv = []
    for name, value in settings.items():
        if value is not None and value is not False:
            argv.append(f"--{name}" + ("" if value is True else f"={value}"))
    return command_lines.call(train_main, *argv)


class Killed(errors.FailureError):
    """Ends a training at once, as a kill does: nothing more is saved."""


class Outcome(collections.namedtuple("Outcome", "error weights output")):
    """What came of a training.

    Attributes:
      error: The message, in which settings have no marks; "" if it is done.
      weights: Those of the result, if it is done.
      output: What was printed.
    """


class TrainingTestCase(command_lines.CommandTestCase, parameterized.TestCase):
    # What trainings have left that nothing stopped, by door and settings.
    _whole = {}

    def setUp(self):
        super().setUp()
        fast_command.patch(self.enterContext(contextlib.ExitStack()))
        self.enterContext(mock.patch.object(api, "RealNVP", SmallModel))
        # Epochs are short here, and most tests want one after each.
        self.set_seconds_between_checkpoints(0.0)

    def set_seconds_between_checkpoints(self, seconds):
        self.enterContext(
            mock.patch.object(recorder, "SECONDS_BETWEEN_CHECKPOINTS", seconds)
        )

    def train(self, door, model=None, images=None, **settings):
        """Trains by the command or from Python, to the end or to an error."""
        if door == COMMAND:
            code, stdout, stderr = command(resume=True, **settings)
            weights = None
            if code == 0:
                path = "realnvp_digits/variables/means.npy"
                weights = np.load(path).tobytes()
            error = re.sub(r"^run.py: (error: )?|\n$", "", stderr.strip("\n"))
            return Outcome(error.replace("--", ""), weights, stdout)
        settings = SETTINGS | settings
        if model is None:
            model = make_model(**settings)
        if images is None:
            labels = model.num_classes is not None
            images = data.load("digits", labels=labels)
        settings = {
            name: value
            for name, value in settings.items()
            if name not in (*ARCHITECTURE, "conditional")
        }
        error, weights = "", None
        with contextlib.redirect_stdout(io.StringIO()) as stdout:
            try:
                tf_realnvp.train(model, images, **{"run_dir": RUN} | settings)
                weights = model.means.numpy().tobytes()
            except KeyboardInterrupt:
                error = "interrupted by SIGINT"
            except errors.Error as failure:
                error = str(failure).replace("`", "").replace("--", "")
        return Outcome(error, weights, stdout.getvalue())

    def go_on(self, door, **settings):
        """Trains to the end; returns the weights."""
        outcome = self.train(door, **settings)
        self.assertEqual(outcome.error, "")
        return outcome.weights

    def whole(self, **settings):
        """Returns weights and metrics of an undisturbed training."""
        key = (*settings.items(), SmallModel.nan_below)
        if key not in self._whole:
            with (
                tempfile.TemporaryDirectory() as folder,
                contextlib.chdir(folder),
            ):
                weights = self.go_on(COMMAND, **settings)
                self._whole[key] = weights, (RUN / "metrics.csv").read_text()
        return self._whole[key]

    def assert_as_whole(self, door, **settings):
        """Goes on to the end, and compares it with an undisturbed training."""
        weights, table = self.whole(**settings)
        self.assertEqual(self.go_on(door, **settings), weights)
        self.assertEqual((RUN / "metrics.csv").read_text(), table)
        self.assertCountEqual(
            os.listdir(RUN),
            ["run.json", "lock", "checkpoints", "logs", "metrics.csv"],
        )

    def at_call(self, number, target, name, action):
        """Does something when a function is called for the nth time."""
        original, calls = getattr(target, name), []

        def function(*arguments, **keywords):
            calls.append(None)
            if len(calls) == number:
                action()
            return original(*arguments, **keywords)

        return mock.patch.object(target, name, function)

    def fail_at(self, number, target, name, error=FULL):
        """Lets the nth call of a function fail."""

        return self.at_call(number, target, name, mock.Mock(side_effect=error))

    def signal_at(self, number, target, name, signum=signal.SIGINT):
        """Sends a signal in the nth call of a function."""
        send = functools.partial(signal.raise_signal, signum)
        return self.at_call(number, target, name, send)

    def assert_refused(self, outcome, *messages):
        for message in messages:
            self.assertIn(message, outcome.error)
        self.assertIsNone(outcome.weights)

    def assert_changes_nothing(self, outcome, before, *messages):
        self.assert_refused(outcome, *messages)
        self.assertEqual(folders.contents("runs"), before)


def make_model(seed=0, image_shape=(8, 8, 1), conditional=False, **settings):
    """Returns the model that the command makes."""
    set_seed(seed)
    config = {name: settings.get(name) for name in ("filters", "num_blocks")}
    if conditional:
        probs = data.load("digits", labels=True).class_probs
        config |= {"num_classes": 10, "class_probs": probs}
    return SmallModel(image_shape, 17, **config)


def metadata_of(path):
    return json.loads(pathlib.Path(path, serving_metadata.FILE).read_text())


@contextlib.contextmanager
def recorded_trainers():
    """Gives a list of the trainers that are made."""
    trainers = []

    def record(*arguments):
        trainers.append(Trainer(*arguments))
        return trainers[-1]

    with mock.patch.object(training, "Trainer", record):
        yield trainers


def both_doors(*cases):
    """Parameters of a test: each case at each door."""
    cases = [case if isinstance(case, tuple) else (case,) for case in cases]
    return parameterized.parameters(
        *((door, *case) for case in cases or [()] for door in DOORS)
    )


class ResumeTest(TrainingTestCase):
    @parameterized.parameters(
        (COMMAND, {}), (PYTHON, {"conditional": True, "num_validation": 100})
    )
    def test_interrupted_at_every_step(self, door, settings):
        """Each process gets one call further than the one before."""
        interruptions = 0
        while True:
            number = 2 if interruptions else 1
            with self.signal_at(number, Progress, "update"):
                outcome = self.train(door, **settings)
            if outcome.weights is not None:
                break
            interruptions += 1
            self.assertIn("interrupted by SIGINT", outcome.error)
        # The first evaluation, and then every second of two times four.
        self.assertGreater(interruptions, 4)
        self.assert_as_whole(door, **settings)

    @parameterized.parameters((COMMAND, {"ema": 0.5}), (PYTHON, LEAPING))
    def test_goes_on_at_the_other_door(self, door, settings):
        other = DOORS[door == COMMAND]
        self.go_on(other, **settings | {"epochs": 1})
        self.assert_as_whole(door, **settings)
        # Nothing is left to do, but to give the weights.
        with mock.patch.object(loop, "evaluate", side_effect=AssertionError):
            self.assert_as_whole(other, **settings)
        means = np.frombuffer(self.whole(**settings)[0], np.float32)
        loaded = tf_realnvp.load(RUN)
        self.assertAllEqual(loaded.means.numpy().ravel(), means)
        self.assertEqual(loaded.metadata, data.load("digits").metadata)
        shutil.rmtree(RUN / "checkpoints")
        with self.assertRaisesRegex(
            errors.ModelError, "there is no checkpoint yet"
        ):
            tf_realnvp.load(RUN)
        (RUN / "run.json").write_text("{}")
        with self.assertRaisesRegex(errors.UsageError, "run.json is damaged"):
            tf_realnvp.load(RUN)

    def test_longer_and_shorter(self):
        for settings in ({"max_steps": 1}, {"max_steps": 4}, {}):
            self.assert_as_whole(COMMAND, **settings)
        for shorter in ({"epochs": 1}, {"max_steps": 1}):
            self.assertEqual(self.go_on(PYTHON, **shorter), self.whole()[0])

    def test_short_epochs_share_a_checkpoint(self):
        """The last epoch always has one."""
        self.set_seconds_between_checkpoints(1e9)
        for number, settings in ((1, {"epochs": 1}), (2, {})):
            self.assert_as_whole(PYTHON, **settings)
            saved = (RUN / "checkpoints").glob("*.index")
            self.assertLen(list(saved), number)

    @parameterized.parameters(
        (3, "going on from step 1"), (5, "there is no checkpoint yet")
    )
    def test_checkpoints_within_an_epoch(self, minutes, message):
        """The clock goes on by a minute whenever it is read."""
        self.set_seconds_between_checkpoints(1e9)
        settings = {"checkpoint_minutes": minutes}
        clock = mock.Mock(monotonic=itertools.count(0.0, 60.0).__next__)
        with (
            mock.patch.object(recorder, "time", clock),
            self.fail_at(4, Progress, "update", Killed()),
        ):
            self.train(COMMAND, **settings)
        outcome = self.train(COMMAND, **settings)
        self.assertIn(message, outcome.output)
        self.assertEqual(outcome.weights, self.whole()[0])

    @both_doors()
    def test_damaged_checkpoints(self, door):
        self.go_on(door, epochs=1)
        paths = sorted((RUN / "checkpoints").glob("ckpt*.index"))
        os.truncate(paths[-1], 10)
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            outcome = self.train(door)
        self.assertIn("is damaged", stderr.getvalue() + outcome.error)
        self.assertEqual(outcome.weights, self.whole()[0])
        for path in (RUN / "checkpoints").glob("ckpt*"):
            os.truncate(path, 0)
        before = folders.contents("runs")
        with contextlib.redirect_stderr(io.StringIO()):
            outcome = self.train(door)
        self.assert_changes_nothing(outcome, before, "none of the 3 checkpoint")

    @both_doors()
    def test_other_settings(self, door):
        self.go_on(door, max_steps=4)
        message = "seed 1 instead of 0, filters 8 instead of 4"
        self.assert_refused(self.train(door, seed=1, filters=8), message)
        # The rate may change, and the precision.
        weights = self.go_on(door, lr=0.25, precision="bfloat16")
        self.assertNotEqual(weights, self.whole()[0])

    @both_doors()
    def test_other_images(self, door):
        self.go_on(door, max_steps=1)
        before, digits = folders.contents("runs"), data.load("digits")
        other = dataclasses.replace(digits, fingerprint="new")
        with mock.patch.object(data, "load", return_value=other):
            outcome = self.train(door)
        self.assert_changes_nothing(
            outcome, before, "other settings or images", "'new' instead of"
        )

    def test_without_resume(self):
        """A finished run is moved, and an unfinished one is an error."""
        self.go_on(COMMAND, max_steps=4)
        with mock.patch.object(export, "save", side_effect=FULL):
            _, stdout, _ = command()
        self.assertIn("runs/digits.1", stdout)
        before = folders.contents("runs")
        code, _, stderr = command()
        self.assertEqual(code, 2)
        self.assertIn("unfinished run: --resume goes on", stderr)
        self.assertEqual(folders.contents("runs"), before)
        self.assert_as_whole(COMMAND)


class MinutesTest(TrainingTestCase):
    """A training step takes a second, and to evaluate a batch half of one."""

    settings = {"minutes": 0.5, "epochs": None, "batch_size": 160}
    num_updates = 24  # Of the display, when the number of steps is known.

    def setUp(self):
        super().setUp()
        self.now, self.slowness = 0.0, 1.0
        read = mock.Mock(side_effect=lambda: self.now)
        time = mock.Mock(monotonic=read, perf_counter=read)
        self.enterContext(mock.patch.object(clock, "time", time))
        self.enterContext(mock.patch.object(loop, "time", time))
        self.enterContext(mock.patch.object(train, "_STARTED", 0.0))
        for name, seconds in (("train", 1.0), ("test", 0.5)):
            slow = self.slow(getattr(Trainer, name), seconds)
            self.enterContext(mock.patch.object(Trainer, name, slow))

    def slow(self, function, seconds):
        def call(*arguments):
            self.now += self.slowness * seconds
            return function(*arguments)

        return call

    def planned(self):
        """Returns the settings of as many steps as the run has found to fit."""
        config = json.loads((RUN / "run.json").read_text())["config"]
        names = "epochs", "max_steps"
        return {"batch_size": 160} | {name: config[name] for name in names}

    @parameterized.parameters(*DOORS)
    def test_as_many_steps_as_fit(self, door):
        outcome = self.train(door, **self.settings)
        self.assertBetween(self.now, 27.0, 30.0)
        planned = self.planned()
        text = f"{planned['max_steps']} steps fit into 0.5 min, as with"
        self.assertIn(text, outcome.output)
        self.assertEqual(outcome.weights, self.whole(**planned)[0])

    @parameterized.parameters((COMMAND, 1), (PYTHON, 6), (COMMAND, num_updates))
    def test_interrupted(self, door, number):
        """Before a step is measured, meanwhile, and after it."""
        with self.signal_at(number, Progress, "update"):
            outcome = self.train(door, **self.settings)
        self.assertIn("interrupted", outcome.error)
        before = self.planned()
        self.assertEqual(before["epochs"] is None, number < self.num_updates)
        self.now = 0.0
        weights = self.go_on(door, **self.settings)
        planned = self.planned()
        self.assertEqual(weights, self.whole(**planned)[0])
        if number == self.num_updates:
            self.assertEqual(planned, before)
        # The command need not say it again, and can go on for longer.
        settings = self.settings | {"minutes": None}
        self.assertEqual(self.go_on(door, **settings), weights)
        settings["max_steps"] = planned["max_steps"] + 9
        expected = self.whole(**settings)[0]
        self.assertEqual(self.go_on(COMMAND, **settings), expected)

    def test_slower_machine(self):
        """It ends a little late, and can be gone on with."""

        def slower():
            self.slowness = 3.0

        with self.at_call(self.num_updates, Progress, "update", slower):
            outcome = self.train(COMMAND, **self.settings)
        self.assertIn("this machine has become slower", outcome.output)
        self.assertBetween(self.now, 30.0, 36.0)
        self.now, self.slowness = 0.0, 1.0
        self.assert_as_whole(COMMAND, **self.planned())

    def test_choice(self):
        """What is given precedes it, and it is made once."""
        chosen = {"filters": 6, "num_couplings": (1, 2, 3), "ema": 0.5}
        settings = self.settings | {"lr": None}
        with (
            mock.patch.object(choice, "choose", return_value=chosen),
            self.signal_at(1, Progress, "update"),
        ):
            outcome = self.train(COMMAND, **settings)
        flags = "--num_couplings 1,2,3 --ema 0.5"
        self.assertIn(f"chosen for 0.5 min: {flags}\n", outcome.output)
        with mock.patch.object(choice, "choose", side_effect=AssertionError):
            self.go_on(COMMAND, **settings)
        config = json.loads((RUN / "run.json").read_text())["config"]
        found = config["filters"], config["num_couplings"], config["ema"]
        self.assertEqual(found, (4, [1, 2, 3], 0.5))

    @both_doors("epochs", "max_steps")
    def test_either_minutes_or_steps(self, door, name):
        settings = self.settings | {name: 2}
        outcome = self.train(door, **settings)
        self.assert_refused(outcome, "minutes goes without epochs")
        self.assertEmpty(os.listdir())


class FailureTest(TrainingTestCase):
    @parameterized.parameters(
        (COMMAND, files, "replace_file"),
        (PYTHON, Checkpoints, "save"),
        (COMMAND, recorder, "Summaries"),
    )
    def test_full_disk(self, door, target, name):
        """Each write fails once, and training goes on from there."""
        messages = []
        while True:
            with self.fail_at(1 + len(messages), target, name):
                outcome = self.train(door)
            if not outcome.error:
                break
            messages.append(outcome.error)
            self.assertIn("No space left on device. What", outcome.error)
        self.assertIn("cannot write to runs/digits: ", "\n".join(messages))
        self.assert_as_whole(door)

    @parameterized.parameters(
        (Checkpoints, "save", 50),
        (metrics, "write_csv", 50),
        (plots, "save_image_grid", 50),
        (export, "save", 300),
    )
    def test_no_room_for_what_is_written(self, target, name, size):
        """The disk is full in the middle of a file."""
        self.go_on(COMMAND, max_steps=4)
        limited = disks.full(size)(getattr(target, name))
        with mock.patch.object(target, name, limited):
            outcome = self.train(COMMAND)
        self.assert_refused(outcome, "cannot write", "resume")
        self.assert_as_whole(COMMAND)

    def test_memory(self):
        error = tf.errors.ResourceExhaustedError(None, None, "OOM: [9, 9]\nx")
        with self.fail_at(1, Trainer, "train", error):
            outcome = self.train(COMMAND)
        self.assert_refused(outcome, "memory: OOM", "accumulate 4", "recompute")

    @both_doors()
    def test_divergence(self, door):
        settings = {"batch_size": 120}  # So that an epoch has 11 steps.
        self.go_on(door, epochs=1, **settings)
        with mock.patch.object(SmallModel, "nan_below", 1.0):
            outcome = self.train(door, **settings)
        self.assert_refused(
            outcome, "diverged", "10 steps", "step 21", "clip_grad", "lr"
        )
        # As if it had not been tried.
        self.assert_as_whole(door, **settings)

    def test_steps_that_are_skipped(self):
        with mock.patch.object(SmallModel, "nan_below", 0.4):
            _, stdout, _ = command(run_dir="other")
        self.assertIn("\n3 steps were skipped", stdout)
        # All is written, even if the last epoch has no loss.
        with mock.patch.object(SmallModel, "nan_below", 1.0):
            code, _, _ = command(run_dir="third", max_steps=3)
        self.assertEqual(code, 0)

    @both_doors("train", "test")
    def test_damaged_image(self, door, split):
        for folder in ("train", "test"):
            write_images(f"faces/{folder}", random_images(2, 8, 8, 1))
        path = pathlib.Path("faces", split, "damaged.png")
        path.write_bytes(odd_images.undecodable_png())
        model = SmallModel((8, 8, 1), 256, filters=4)
        settings = {"model": model, "images": data.load("faces")}
        if door == COMMAND:
            settings = {"dataset": "faces"}
        outcome = self.train(door, **settings, batch_size=1)
        self.assert_refused(outcome, str(path.absolute()), "cannot be read")

    @both_doors(
        ({"batch_size": 1438}, "1,437 training images", "1438 for a batch"),
        ({"batch_size": 1400, "num_validation": 38}, "38 for validation"),
        ({"num_validation": 1437}, "1437 for validation"),
        ({"precision": "tf32"}, "precision: TensorFlow finds no GPUs"),
        ({"run_dir": "run?"}, "run_dir: TensorFlow cannot use"),
    )
    def test_refused(self, door, settings, *messages):
        self.assert_refused(self.train(door, **settings), *messages)
        self.assertEmpty(os.listdir())


class CommandTest(TrainingTestCase):
    """Tests what the command adds to a training."""

    def test_settings_arrive(self):
        settings = {
            **{"lr": 0.5, "clip_grad": 3.0, "seed": 7, "ema": 0.9, "epochs": 4},
            **{"recompute": True, "accumulate": 2, "optimizer": "muon"},
            **{"precision": "bfloat16"},
        }
        with mock.patch.object(Trainer, "__init__", return_value=None) as init:
            with self.assertRaises(AttributeError):
                command(**settings, num_couplings="1,2,3")
        model, config, *_ = init.call_args.args
        self.assertEqual(model.num_couplings, (1, 2, 3))
        self.assertContainsSubset(settings.items(), vars(config).items())
        error = errors.DataError("none")
        with mock.patch.object(data, "load", side_effect=error) as load:
            command(
                **{"flip": True, "data_dir": "a", "num_bits": 4, "seed": 3},
                **{"image_size": "4x6", "tiles": "2x4"},
            )
        rest = True, 4, False, (2, 4)
        load.assert_called_once_with("digits", "a", (4, 6), *rest)

    @parameterized.parameters(
        ({}, 2, "012", "02"),
        ({"verbose": True}, 2, "012", "012"),
        (LEAPING, 0, "0", "00"),  # Only the best is tested.
    )
    def test_results(self, settings, best, tested, shown):
        """They are those of the best epoch."""
        with recorded_trainers() as trainers:
            outcome = self.train(COMMAND, **settings)
        history = trainers[0].history
        text = pathlib.Path("metrics_digits.csv").read_text()
        self.assertEqual((RUN / "metrics.csv").read_text(), text)
        rows = [*csv.DictReader(text.splitlines())]
        found = [row["epoch"] for row in rows if row["test_bits_per_dim"]]
        self.assertEqual(found, [*tested])
        content = metadata_of("realnvp_digits")
        bits = history[best].bits_per_dim()
        row = rows[best]
        nats = float(row["test_loss_nats_per_dim"])
        self.assertAllClose(nats, history[best].test_loss)
        self.assertAllClose(float(row["test_bits_per_dim"]), bits["test"])
        self.assertContainsSubset(
            {f"{split}_bits_per_dim": bits[split] for split in bits}.items(),
            content["metrics"].items(),
        )
        self.assertEqual(content["metrics"]["epochs"], best)
        samples = trainers[0].result_model().sample(36, seed=0).numpy()
        self.assertAllEqual(
            read_png("samples_digits.png"), plots.image_grid(samples, 17)
        )
        pattern = r"(?m)^epoch (\d)/\d, step .* bits/dim$"
        self.assertEqual(re.findall(pattern, outcome.output), [*shown])
        self.assertIn(f"test {bits['test']:.3f} bits/dim\n", outcome.output)

    def test_classes(self):
        with recorded_trainers() as trainers:
            outcome = self.train(COMMAND, conditional=True, lr=1)
        self.assertIn("17 levels, 10 classes\n", outcome.output)
        content = metadata_of("realnvp_digits")
        self.assertEqual(content["class_names"], list("0123456789"))
        # A row a class.
        labels = np.repeat(range(10), 8)
        model = trainers[0].result_model()
        samples = model.sample(80, seed=0, label=labels).numpy()
        self.assertAllEqual(
            read_png("samples_digits.png"), plots.image_grid(samples, 17, 8)
        )

    def test_samples_for_tensorboard(self):
        """They are drawn after every second epoch."""
        drawn, grid = 0, plots.image_grid
        settings = {"epochs": 4, "samples_every": 2}
        for max_steps, number in ((7, 2), (9, 2), (None, 3)):
            with mock.patch.object(plots, "image_grid", side_effect=grid) as m:
                self.go_on(COMMAND, max_steps=max_steps, **settings)
            drawn += m.call_count - 1  # One more is among the results.
            self.assertEqual(drawn, number)

    @parameterized.parameters("save_loss_curve", "save_image_grid")
    def test_figure_that_cannot_be_drawn(self, name):
        """The model is saved all the same."""
        error = ValueError("\nno such\nfont")
        with mock.patch.object(plots, name, side_effect=error):
            outcome = self.train(COMMAND)
        self.assertRegex(outcome.error, r"^warning: cannot draw .*: no such$")
        self.assertEqual(outcome.weights, self.whole()[0])
        self.assertLen(re.findall(r"(?m)^  .*_digits", outcome.output), 3)
        self.assert_as_whole(COMMAND)
        self.assertLen(os.listdir(), 5)

    def test_any_name_of_a_data_set(self):
        name = "-two\nlines$ ü 日本 a*b?[c]\\d %s {x}\udcff"
        written = "-two_lines$ ü 日本 a_b__c]_d %s {x}_"
        write_images(name, random_images(4, 8, 8, 1))
        with mock.patch.object(export, "save", fast_command.save_model):
            code, stdout, stderr = command(
                dataset=f"./{name}", batch_size=1, max_steps=1
            )
        self.assertEqual((code, stderr), (0, ""))
        results = re.findall(r"(?m)^  (.*)$", stdout)
        self.assertLen([r for r in results if written in r], 4)
        self.assertCountEqual(os.listdir(), [name, "runs", *results])
        content = metadata_of(f"realnvp_{written}")
        self.assertEqual(content["dataset"], name)

    @parameterized.parameters(
        ({"run_dir": "realnvp_digits"}, "and is no model"),
        ({"output_dir": "what?"}, "TensorFlow cannot use paths with '?'"),
        ({"output_dir": "mine"}, "and is no model"),
        (
            {"dataset": "faces", "batch_size": 1, "output_dir": "faces/new"},
            "output_dir: faces/new is among the images to train on",
        ),
    )
    def test_places_of_results_that_are_taken(self, settings, message):
        """They are refused before training."""
        os.makedirs("mine/realnvp_digits")
        pathlib.Path("mine/realnvp_digits/letter.txt").touch()
        write_images("faces/all", random_images(4, 4, 4, 3))
        with recorded_trainers() as trainers:
            self.assert_refused(self.train(COMMAND, **settings), message)
        self.assertEmpty(trainers)
        self.assertCountEqual(os.listdir(), ["faces", "mine"])
        self.assertEqual(os.listdir("mine/realnvp_digits"), ["letter.txt"])

    def test_results_beside_the_images(self):
        write_images("faces/train", random_images(4, 4, 4, 3))
        settings = {"dataset": "faces", "batch_size": 1, "max_steps": 1}
        for _ in range(2):  # The second ones replace the first.
            code, _, stderr = command(**settings, output_dir="faces")
            self.assertEqual(code, 0, stderr)

    def test_starts_from_another_model(self):
        """The weights are not initialized from data."""

        def assign_weights(model, path):
            self.assertEqual(
                (path, model.metadata["dataset"]), ("other", "digits")
            )
            model.means.assign(tf.fill(model.means.shape, 5.0))

        settings = {"init_from": "other/", "lr": 1e-6}
        with (
            mock.patch.object(
                serving_weights, "assign_weights", side_effect=assign_weights
            ) as assign,
            mock.patch.object(initialization, "initialize") as initialize,
            mock.patch.object(serving_metadata, "read", return_value={}),
        ):
            weights = self.go_on(COMMAND, max_steps=1, **settings)
            means = np.frombuffer(weights, np.float32)
            self.assertAllClose(means, np.full([64], 5.0), atol=1e-3)
            self.go_on(COMMAND, **settings)
        assign.assert_called_once()
        initialize.assert_not_called()

    @parameterized.parameters(
        (signal.SIGINT, data, "load", 1, ""),
        (signal.SIGHUP, train, "say_header", 1, ""),
        (signal.SIGTERM, Progress, "update", 3, "saved a checkpoint at step"),
        (signal.SIGHUP, Checkpoints, "save", 1, "saved a checkpoint at step"),
        # The last one is saved when nobody asks for signals any more.
        (signal.SIGTERM, Checkpoints, "save", 3, "saved a checkpoint at step"),
    )
    def test_signal(self, signum, target, name, number, message):
        with self.signal_at(number, target, name, signum):
            code, stdout, stderr = command()
        self.assertEqual(code, 128 + signum)
        self.assertEqual(stderr, f"\nrun.py: interrupted by {signum.name}\n")
        self.assertIn(message, stdout)
        self.assertEqual(os.listdir(), ["runs"] if message else [])
        self.assert_as_whole(COMMAND)

    def test_signal_to_another_worker(self):
        """This worker stops after the same step, and saves."""
        stops = iter((False, False, True))
        with mock.patch.object(workers, "any_worker", lambda own: next(stops)):
            code, stdout, stderr = command()
        self.assertEqual(code, 143)
        self.assertEqual(stderr, "\nrun.py: interrupted by SIGTERM\n")
        self.assertIn("saved a checkpoint at step", stdout)
        self.assert_as_whole(COMMAND)

    @parameterized.parameters(
        (tf.train.Checkpoint, "restore"),
        (plots, "save_image_grid"),
        (np, "save"),
        (files, "exchange"),
    )
    def test_signal_where_results_are_there(self, target, name):
        expected = self.go_on(COMMAND, max_steps=4)
        if target is plots:  # The model is written first of all.
            expected, _ = self.whole()
        with self.signal_at(1, target, name, signal.SIGTERM):
            code, stdout, _ = command(resume=True)
        self.assertEqual(code, 143)
        is_written = "the same command with --resume writes them" in stdout
        self.assertEqual(is_written, target is not tf.train.Checkpoint)
        weights = np.load("realnvp_digits/variables/means.npy").tobytes()
        self.assertEqual(weights, expected)
        self.assert_as_whole(COMMAND)


WAITING = "waiting for the other workers\n"


class WorkersTest(TrainingTestCase):
    """Tests one worker alone; `distribution_test` has two."""

    def setUp(self):
        super().setUp()
        config = command_lines.tf_config(1, worker=["a:1", "b:1", "c:1"])
        self.enterContext(mock.patch.dict(os.environ, config))
        self.enterContext(
            mock.patch.object(workers, "connect", tf.distribute.get_strategy)
        )
        self.enterContext(mock.patch.object(workers, "gather", self.gather))
        # What the chief has in place of what this worker has.
        self.changes = collections.deque()

    def gather(self, record):
        """Returns the records of three workers, of which this is the second."""
        chief = record = json.loads(json.dumps(record))
        if self.changes and (change := self.changes.popleft()) is not None:
            chief = change(record)
        return [chief, record, chief]

    def assert_differs(self, *messages, **settings):
        code, stdout, stderr = command(**settings)
        self.assertEqual((code, stdout), (2, WAITING), stderr)
        self.assertIn("worker 1 differs from worker 0: ", stderr)
        for message in messages:
            self.assertIn(message, stderr)

    @parameterized.parameters(
        ({"lr": 0.125}, "--lr 0.001 instead of 0.125"),
        ({"num_train": 3}, "`num_train` 1437 instead of 3"),
        # What differs counts, not what does not fit.
        ({"batch_size": 5000}, "--batch_size 400 instead of"),
    )
    def test_settings_that_differ(self, others, message):
        self.changes.append(lambda record: record | others)
        with mock.patch.object(training, "RealNVP") as model:
            self.assert_differs(message)
        model.assert_not_called()
        self.assertEmpty(os.listdir())

    def test_other_weights(self):
        """The same path may hold other weights on each machine."""
        with mock.patch.dict(os.environ):
            del os.environ["TF_CONFIG"]
            self.go_on(COMMAND, max_steps=4)
        self.changes += [None, lambda record: {"run_dir": "nothing"}]
        self.assert_differs(
            "--run_dir 'step 4 read, ", "instead of 'nothing'", resume=True
        )
        self.changes += [None, None, lambda record: {"init_from": "others"}]
        with (
            mock.patch.object(serving_metadata, "read", return_value={}),
            mock.patch.object(serving_weights, "assign_weights"),
        ):
            self.assert_differs(
                *("--init_from 'weights read, ", "instead of 'others'"),
                init_from="other",
            )
        # As one of three that agree; only the chief writes.
        before = os.listdir()
        with recorded_trainers() as trainers:
            self.assertEqual(command(), (0, WAITING, ""))
        self.assertEqual(trainers[0].num_steps, 6)
        self.assertEqual(os.listdir(), before)

    @parameterized.parameters((workers, "gather"), (Trainer, "train"))
    def test_worker_that_is_gone(self, target, name):
        error = tf.errors.UnavailableError(
            None, None, "node at:\n\n\nCollective ops is aborted\nRestart"
        )
        with mock.patch.object(target, name, side_effect=error):
            code, _, stderr = command()
        self.assertEqual(code, 1)
        self.assertIn("a worker of the job has gone (Collective ops is", stderr)
