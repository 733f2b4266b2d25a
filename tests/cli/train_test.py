"""Tests for cli."""

import contextlib
import csv
import functools
import io
import itertools
import json
import math
import os
import pathlib
import re
import shutil
import signal
import stat
import tempfile
from unittest import mock

import command_lines
import hypothesis
import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized
from hypothesis import strategies as st

from tf_realnvp import data, pictures, plots, runtime
from tf_realnvp.cli import train
from tf_realnvp.errors import FailureError, UsageError
from tf_realnvp.training import workers

SWITCHES = (
    "--flip",
    "--deterministic",
    "--recompute",
    "--jit",
    "--resume",
    "--verbose",
)
FLAGS = (
    "--dataset",
    "--image_size",
    "--num_validation",
    "--epochs",
    "--lr",
    "--batch_size",
    "--clip_grad",
    "--lr_schedule",
    "--warmup_steps",
    "--ema",
    "--accumulate",
    "--seed",
    "--max_steps",
    "--filters",
    "--num_blocks",
    "--num_scales",
    "--precision",
    "--devices",
    "--data_dir",
    "--output_dir",
    "--run_dir",
    "--checkpoint_minutes",
    "--samples_every",
    *SWITCHES,
)
RESULTS = (
    "loss_digits.png",
    "metrics_digits.csv",
    "realnvp_digits",
    "samples_digits.png",
)
RUN = "run.json"
WEIGHTS = "variables/variables.data-00000-of-00001"
COLUMNS = [
    "epoch",
    "step",
    "train_loss_nats_per_dim",
    "train_bits_per_dim",
    "test_loss_nats_per_dim",
    "test_bits_per_dim",
]

# Flags, and what the message says beside the flag's name.
BAD_FLAGS = [
    *(
        (f"{flag}_{value}", [f"--{flag}", value], f"--{flag}", repr(value))
        for flag in (
            "epochs",
            "batch_size",
            "max_steps",
            "filters",
            "num_blocks",
            "num_scales",
            "num_validation",
            "image_size",
            "devices",
            "accumulate",
        )
        for value in ("0", "-1", "1.5", "1e3", "nan", "inf", "many", "")
    ),
    *(
        (f"seed_{value}", ["--seed", value], "--seed", repr(value))
        for value in ("-1", "1.5", "nan", "4294967296", "")
    ),
    *(
        (f"{flag}_{value}", [f"--{flag}", value], f"--{flag}", repr(value))
        for flag in ("lr", "clip_grad", "checkpoint_minutes")
        for value in ("0", "-1", "nan", "inf", "1e999", "fast", "")
    ),
    *(
        (f"ema_{value}", ["--ema", value], "--ema", repr(value))
        for value in ("0", "1", "-1", "1.5", "nan", "inf", "slow", "")
    ),
    ("warmup_steps_minus", ["--warmup_steps", "-1"], "--warmup_steps", "'-1'"),
    ("lr_schedule", ["--lr_schedule", "step"], "--lr_schedule", "'step'"),
    (
        "accumulate_too_many",
        ["--batch_size", "8", "--accumulate", "9"],
        "--accumulate",
        "a batch of 8 has no 9 parts",
    ),
    ("filters_odd", ["--filters", "33"], "--filters", "33"),
    ("filters_one", ["--filters", "1"], "--filters", "1"),
    ("lr_minus_inf", ["--lr=-inf"], "--lr", "-inf"),
    ("image_size_odd", ["--image_size", "31"], "--image_size", "31"),
    ("num_scales_one", ["--num_scales", "1"], "--num_scales", "'1'"),
    ("image_size_one", ["--image_size", "1"], "--image_size", "1"),
    ("precision", ["--precision", "float16"], "--precision", "'float16'"),
    ("precision_empty", ["--precision", ""], "--precision", "''"),
    ("dataset_empty", ["--dataset", ""], "--dataset", "''"),
    ("unknown", ["--learning_rate", "1"], "--learning_rate", ""),
    ("abbreviated", ["--epoch", "3"], "--epoch", ""),
    ("word", ["digits"], "digits", ""),
    *(
        (f"missing_{flag[2:]}", [flag], flag, "expected one argument")
        for flag in FLAGS
        if flag not in SWITCHES
    ),
    *(
        (f"too_much_{flag[2:]}", [f"{flag}=3"], flag, "'3'")
        for flag in SWITCHES
    ),
]


call = functools.partial(command_lines.call, train.main)


def begin(flags, run, unused_start):
    """Does as training does with the folder of a run."""
    data = dict.fromkeys(("num_colors", "num_train", "num_test"), 2)
    data |= {"image_shape": [2, 2, 1], "fingerprint": "none"}
    run.begin(vars(flags), data)


class CliTestCase(command_lines.CommandTestCase):
    name = "run.py"


class FlagsTest(CliTestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.train = self.enterContext(mock.patch.object(train, "_train"))
        # TensorFlow is set up by now; on what machine is not to matter.
        self.configure = self.enterContext(
            mock.patch.object(runtime, "configure")
        )
        self.bfloat16 = self.enterContext(
            mock.patch.object(
                runtime, "has_native_bfloat16", return_value=False
            )
        )

    def parse(self, *argv):
        """Returns the flags with which the training starts."""
        result = call(*argv)
        self.assertEqual(result, (0, "", ""))
        (flags, _, _), _ = self.train.call_args
        return flags

    def test_defaults(self):
        flags = vars(self.parse())
        self.assertIn(flags.pop("seed"), range(2**32))
        self.assertEqual(
            flags,
            {
                "dataset": "CIFAR10",
                "image_size": None,
                "flip": False,
                "num_validation": None,
                "epochs": 350,
                "lr": 3e-4,
                "batch_size": 64,
                "clip_grad": None,
                "lr_schedule": "constant",
                "warmup_steps": 0,
                "ema": None,
                "accumulate": 1,
                "max_steps": None,
                "filters": 128,
                "num_blocks": 8,
                "num_scales": 2,
                "precision": "float32",
                "deterministic": False,
                "recompute": False,
                "jit": False,
                "devices": None,
                "data_dir": "datasets",
                "output_dir": ".",
                "run_dir": "runs/CIFAR10",
                "resume": False,
                "checkpoint_minutes": 10.0,
                "samples_every": 1,
                "verbose": False,
            },
        )
        self.configure.assert_called_once_with(1, False)

    @parameterized.parameters(
        ("CIFAR10", 350, 128, 8),
        ("CelebA", 50, 128, 8),
    )
    def test_defaults_of_data_set(self, name, epochs, filters, num_blocks):
        for spelling in (name, name.lower(), name.upper()):
            flags = self.parse("--dataset", spelling)
            self.assertEqual(flags.dataset, name)
            self.assertEqual(flags.epochs, epochs)
            self.assertEqual(flags.filters, filters)
            self.assertEqual(flags.num_blocks, num_blocks)
            self.assertEqual(flags.lr, 3e-4)
            self.assertEqual(flags.run_dir, f"runs/{name}")

    def test_digits_are_made_for_trying_out(self):
        for spelling in ("digits", "Digits", "DIGITS"):
            flags = self.parse("--dataset", spelling)
            self.assertEqual(flags.dataset, "digits")
            self.assertLess(flags.filters, 128)
            self.assertLess(flags.num_blocks, 8)

    def test_other_data_sets(self):
        flags = self.parse("--dataset", "Svhn_cropped")
        self.assertEqual(flags.dataset, "Svhn_cropped")
        self.assertEqual((flags.filters, flags.num_blocks), (128, 8))
        self.assertEqual((flags.epochs, flags.lr), (100, 3e-4))

    @parameterized.parameters(
        ("pictures", "runs/pictures"),
        ("pictures/of cats/", "runs/of_cats"),
        ("./pictures/../pictures", "runs/pictures"),
        # Not folders, but names of TFDS.
        ("lsun/bedroom", "runs/lsun_bedroom"),
        ("coco:1.1.0", "runs/coco_1.1.0"),
    )
    def test_run_dir_of_data_set(self, dataset, run_dir):
        (self.folder / "pictures" / "of cats").mkdir(parents=True)
        self.assertEqual(self.parse("--dataset", dataset).run_dir, run_dir)
        self.assertEqual(
            self.parse("--dataset", dataset, "--run_dir", "here").run_dir,
            "here",
        )

    def test_given_flags(self):
        flags = self.parse(
            *("--dataset", "digits", "--seed", "4294967295", "--lr", "1e-3"),
            *("--epochs", "7", "--batch_size", "3", "--clip_grad", "0.5"),
            *("--lr_schedule", "cosine", "--warmup_steps", "2"),
            *("--ema", "0.5", "--accumulate", "3"),
            *("--max_steps", "9", "--filters", "2", "--num_blocks", "1"),
            *("--num_scales", "3", "--deterministic", "--num_validation", "8"),
            *("--data_dir", "a b", "--output_dir", "c", "--run_dir", "d"),
            *("--image_size", "2", "--flip", "--precision", "bfloat16"),
            *("--recompute", "--jit", "--devices", "3", "--verbose"),
            *("--resume", "--checkpoint_minutes", "0.5"),
            *("--samples_every", "4"),
        )
        self.assertEqual(
            vars(flags),
            {
                "dataset": "digits",
                "image_size": 2,
                "flip": True,
                "num_validation": 8,
                "seed": 2**32 - 1,
                "lr": 1e-3,
                "epochs": 7,
                "batch_size": 3,
                "clip_grad": 0.5,
                "lr_schedule": "cosine",
                "warmup_steps": 2,
                "ema": 0.5,
                "accumulate": 3,
                "max_steps": 9,
                "filters": 2,
                "num_blocks": 1,
                "num_scales": 3,
                "precision": "bfloat16",
                "deterministic": True,
                "recompute": True,
                "jit": True,
                "devices": 3,
                "data_dir": "a b",
                "output_dir": "c",
                "run_dir": "d",
                "resume": True,
                "checkpoint_minutes": 0.5,
                "samples_every": 4,
                "verbose": True,
            },
        )
        self.configure.assert_called_once_with(3, True)

    def test_precision(self):
        self.bfloat16.return_value = True
        self.assertEqual(self.parse().precision, "bfloat16")
        flags = self.parse("--precision", "float32")
        self.assertEqual(flags.precision, "float32")

    def test_tf32_only_where_it_is(self):
        with mock.patch.object(
            runtime, "has_tensor_float_32", return_value=True
        ):
            flags = self.parse("--precision", "tf32")
            self.assertEqual(flags.precision, "tf32")
            # It rounds, so one has to ask for it.
            self.assertEqual(self.parse().precision, "float32")
        self.train.reset_mock()
        with mock.patch.object(
            runtime, "has_tensor_float_32", return_value=False
        ):
            result = call("--precision", "tf32")
        self.assert_usage_error(result, "--precision", "tf32", "float32")
        self.train.assert_not_called()
        self.assertEmpty(os.listdir())

    def start_worker(self, index, *argv):
        """Calls the command as one of two workers that have met."""
        config = {
            "cluster": {"worker": ["a:1", "b:1"]},
            "task": {"type": "worker", "index": index},
        }
        value = {"TF_CONFIG": json.dumps(config)}
        with (
            mock.patch.dict(os.environ, value),
            mock.patch.object(workers, "connect") as connect,
        ):
            result = call(*argv)
        if not result[0]:
            connect.assert_called_once_with()
        return result

    def test_workers(self):
        self.train.side_effect = lambda *_: print("training")
        code, stdout, stderr = self.start_worker(0, "--seed", 3)
        self.assertEqual((code, stderr), (0, ""))
        self.assertEqual(stdout, "waiting for the other workers\ntraining\n")
        (flags, run, _), _ = self.train.call_args
        self.assertEqual((flags.seed, flags.precision), (3, "float32"))
        self.assertEqual(str(run.path), "runs/CIFAR10")
        self.assertEmpty(os.listdir())

        # The others take the precision of the first, and write nothing.
        result = self.start_worker(1, "--seed", 3, "--output_dir", "out")
        self.assertEqual(result, (0, "", ""))
        (flags, run, _), _ = self.train.call_args
        self.assertEqual((flags.seed, flags.precision), (3, "auto"))
        self.assertIsNone(run)
        self.assertEmpty(os.listdir())

    @parameterized.parameters(0, 1)
    def test_what_workers_cannot_do(self, index):
        for flag, *argv in (
            ("--seed",),
            ("--devices", "--seed", 3, "--devices", 1),
        ):
            result = self.start_worker(index, *argv)
            self.assert_usage_error(result, f"argument {flag}: ")
            self.train.assert_not_called()

    @parameterized.product(name=("run_dir", "output_dir"), index=(None, 0, 1))
    def test_folder_that_tensorflow_cannot_use(self, name, index):
        """It is too late to find out when there is something to write."""
        for path, reason in (
            ("a\udcffb", "UTF-8"),
            ("all/*/runs", "pattern"),
            ("what?", "pattern"),
            ("a[b]", "pattern"),
            ("a\\b", "pattern"),
        ):
            argv = "--seed", 3, f"--{name}", path
            if index is None:
                result = call(*argv)
            else:
                result = self.start_worker(index, *argv)
            self.assert_usage_error(result, f"--{name}", reason)
            self.train.assert_not_called()
            self.assertEmpty(os.listdir())

    @parameterized.parameters(
        "-a", "ü ñ", "two\nlines", "$a_b$", "{a}]", "a" * 200
    )
    def test_folder_of_any_other_name(self, path):
        self.train.side_effect = begin
        for flags in ([], ["--resume"]):
            result = call(f"--run_dir={path}", f"--output_dir={path}/o", *flags)
            if flags:
                self.assertEqual(result, (0, "", ""))
            self.assertCountEqual(os.listdir(path), ["lock", "o", "run.json"])
        self.assert_usage_error(call(f"--run_dir={path}"), "unfinished run")

    @parameterized.parameters(
        "",
        "{",
        "3",
        "[]",
        "{}",
        '"two\\nlines"',
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": 3, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": 3}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": "a"}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": []}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "w", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, '
        '"task": {"type": "worker", "index": "0"}}',
        '{"cluster": {"worker": ["a:1"]}, '
        '"task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": [], "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, '
        '"task": {"type": "worker", "index": true}}',
        '{"cluster": {"worker": ["a"]}, '
        '"task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:b"]}, '
        '"task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:65536"]}, '
        '"task": {"type": "worker", "index": 0}}',
        # A parameter server trains nothing.
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, '
        '"task": {"type": "ps", "index": 0}}',
    )
    def test_damaged_workers(self, text):
        with mock.patch.dict(os.environ, {"TF_CONFIG": text}):
            result = call("--seed", "3")
        self.assert_usage_error(result, "TF_CONFIG", repr(text), "unset")
        self.train.assert_not_called()
        self.assertEmpty(os.listdir())

    def test_seed_is_drawn(self):
        self.assertNotEqual(self.parse().seed, self.parse().seed)
        self.assertEqual(self.parse("--seed", "0").seed, 0)

    @parameterized.named_parameters(*BAD_FLAGS)
    def test_bad(self, argv, *messages):
        self.assert_usage_error(call(*argv), *messages)
        self.train.assert_not_called()
        self.assertEmpty(os.listdir())

    def test_output_dir_is_made(self):
        output = self.folder / "a" / "b"
        self.train.side_effect = begin
        for _ in range(2):
            result = call("--output_dir", output, "--seed", 0, "--resume")
            self.assertEqual(result[0], 0)
            self.assertEmpty(os.listdir(output))

    @parameterized.parameters("out", "run/out", "run")
    def test_nothing_is_left_if_it_does_not_begin(self, output):
        self.train.side_effect = UsageError("no such data set")
        for before in ([], ["run"]):
            for name in before:
                os.mkdir(name)
            result = call("--run_dir", "run", "--output_dir", f"{output}/in")
            self.assert_usage_error(result, "no such data set")
            self.assertEqual(os.listdir(), before)
        self.assertEmpty(os.listdir("run"))

    def test_output_dir_in_the_folder_of_the_run(self):
        self.train.side_effect = begin
        self.parse("--run_dir", "run", "--output_dir", "run/results")
        self.assertEmpty(os.listdir("run/results"))

    @parameterized.parameters("file", "file/folder")
    def test_output_dir_is_a_file(self, name):
        (self.folder / "file").write_text("")
        result = call("--output_dir", self.folder / name)
        self.assert_usage_error(result, "--output_dir", str(self.folder / name))
        self.train.assert_not_called()

    def test_output_dir_is_not_writable(self):
        # A mode would not keep root out.
        error = PermissionError(13, "Permission denied")
        with mock.patch("tempfile.TemporaryFile", side_effect=error):
            result = call("--output_dir", self.folder)
        self.assert_usage_error(
            result, "--output_dir", str(self.folder), "Permission denied"
        )
        self.train.assert_not_called()

    @parameterized.parameters("file", "file/folder")
    def test_run_dir_is_a_file(self, name):
        (self.folder / "file").write_text("")
        self.assert_usage_error(
            call("--run_dir", name), "--run_dir", f"cannot write to {name}"
        )
        self.train.assert_not_called()

    def test_stored_flags(self):
        """What is stored is what some command line gives."""
        self.train.side_effect = begin
        for argv in (
            ["--seed", 3],
            ["--dataset", "digits", "--flip", "--lr", "1e-5", "--ema", 0.5],
            ["--dataset", "svhn", "--image_size", 4, "--max_steps", 1],
            ["--data_dir=--x", "--clip_grad", "1e-30", "--devices", 2],
        ):
            for _ in range(2):
                result = call("--run_dir", "run", "--resume", *argv)
                self.assertEqual(result, (0, "", ""))
            shutil.rmtree("run")

    def stored(self, **changes):
        """Lets a run have been started whose flags were changed afterwards."""
        self.train.side_effect = begin
        argv = "--dataset", "digits", "--seed", 3, "--run_dir", "run"
        self.assertEqual(call(*argv), (0, "", ""))
        self.train.reset_mock()
        path = pathlib.Path("run/run.json")
        content = json.loads(path.read_text())
        for name, value in changes.items():
            content["flags"][name] = value
            if value is ...:
                del content["flags"][name]
        path.write_text(json.dumps(content))
        return "--dataset", "digits", "--run_dir", "run", "--resume"

    @parameterized.parameters(
        *itertools.product(
            ("seed", "batch_size", "filters", "num_blocks"),
            (..., None, True, False, "x", "3", -1, 2.0, math.nan, [3], {}),
        ),
        *itertools.product(
            ("lr", "checkpoint_minutes", "ema"),
            (True, "0.5", 0, -0.5, math.nan, math.inf, [0.5], {"a": 1}),
        ),
        *itertools.product(
            ("flip", "resume", "jit"), (None, 0, 1, "", "true", [True], 0.5)
        ),
        *itertools.product(
            ("dataset", "data_dir", "run_dir", "output_dir"), (None, 3, [], {})
        ),
        *itertools.product(
            ("image_size", "num_scales", "accumulate", "max_steps"),
            (True, 0, 3.5, "4", [4], math.inf),
        ),
        ("precision", "int8"),
        ("precision", None),
        ("precision", ...),
        ("precision", ["float32"]),
        ("dataset", ""),
        ("dataset", "DIGITS"),
        ("dataset", ...),
        ("image_size", 5),
        ("filters", 33),
        ("accumulate", 65),
        ("epochs", None),
        ("lr_schedule", "step"),
        ("help", True),
        ("h", True),
        ("from_the_future", 3),
        ("--seed=4 --filters", 3),
        ("two\nlines", "two\nlines"),
        ("", ""),
        ("\udcff", "\udcff"),
    )
    def test_damaged_flags(self, name, value):
        argv = self.stored(**{name: value})
        before = pathlib.Path("run/run.json").read_bytes()
        result = call(*argv)
        self.assert_usage_error(result, "--run_dir", "run/run.json")
        self.train.assert_not_called()
        self.assertEqual(pathlib.Path("run/run.json").read_bytes(), before)

    def test_flags_of_an_older_version(self):
        """What came after it had its default."""
        later = dict.fromkeys(
            (
                *("image_size", "flip", "num_scales", "ema", "accumulate"),
                *("lr_schedule", "warmup_steps", "samples_every"),
            ),
            ...,
        )
        argv = self.stored(**later)
        self.assertEqual(call(*argv), (0, "", ""))
        (flags, _, _), _ = self.train.call_args
        self.assertEqual((flags.seed, flags.num_scales), (3, 2))
        for flag, *value in (("--flip",), ("--num_scales", 3), ("--ema", 0.5)):
            shutil.rmtree("run")
            argv = self.stored(**later)
            result = call(*argv, flag, *value)
            self.assert_usage_error(result, f"{flag} ", " instead of ")
            self.train.assert_not_called()

    def test_names_that_no_terminal_can_show(self):
        """Whatever the encoding of standard output is."""
        for encoding in ("ascii", "utf-8", "latin-1"):
            stdout = io.TextIOWrapper(io.BytesIO(), encoding)
            self.train.side_effect = lambda *_: print("ü 日 \udcff")
            with contextlib.redirect_stdout(stdout):
                code = train.main([])
            self.assertEqual(code, 0)
            stdout.flush()
            self.assertEndsWith(stdout.buffer.getvalue(), rb"\udcff" + b"\n")

    def test_help(self):
        code, stdout, stderr = call("--help")
        self.assertEqual((code, stderr), (0, ""))
        for flag in FLAGS:
            self.assertRegex(stdout, rf"(?m)^  (-\w, )?{flag}\b")
        for name in ("CIFAR10", "CelebA", "digits", "realnvp_DATASET"):
            self.assertIn(name, stdout)
        self.assertRegex(stdout, r"350 for\s+CIFAR10,\s+50 for\s+CelebA")
        self.train.assert_not_called()

    def fail(self, error):
        self.train.side_effect = error
        return call()

    def test_usage(self):
        result = self.fail(UsageError("no such thing"))
        self.assert_usage_error(result, "run.py: error: no such thing\n")

    @parameterized.parameters(
        FailureError("no luck"),
        OSError(28, "No space left on device", "x"),
    )
    def test_failure(self, error):
        code, stdout, stderr = self.fail(error)
        self.assertEqual((code, stdout), (1, ""))
        self.assertEqual(stderr, f"run.py: error: {error}\n")

    @parameterized.parameters(
        (1, 129, "SIGHUP"), (2, 130, "SIGINT"), (15, 143, "SIGTERM")
    )
    def test_interruption(self, signum, code, name):
        result = self.fail(lambda *_: signal.raise_signal(signum))
        self.assertEqual(
            result, (code, "", f"\nrun.py: interrupted by {name}\n")
        )


# Values that some flag takes, and some that none does.
_VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_characters="\0"), max_size=8),
    st.sampled_from(("auto", "float32", "digits", "1e-3", "2", "64", "٣", "-")),
)
_WORDS = st.one_of(
    st.sampled_from([flag for flag in FLAGS if flag != "--help"]),
    st.builds("{}={}".format, st.sampled_from(FLAGS), _VALUES),
    _VALUES,
)
_PAIRS = st.tuples(
    st.sampled_from([flag for flag in FLAGS if flag not in SWITCHES]), _VALUES
)


class FuzzTest(tf.test.TestCase):
    """Whatever the command line is, it makes sense or gets one line."""

    def check(self, argv):
        stderr = io.StringIO()
        try:
            with contextlib.redirect_stderr(stderr):
                flags = train._parse(argv)
        except SystemExit as error:
            self.assertEqual(error.code, 2)
            self.assertStartsWith(stderr.getvalue(), "run.py: error: ")
            self.assertLen(stderr.getvalue().splitlines(), 1)
            return
        self.assertEqual(stderr.getvalue(), "")
        self.assertCountEqual([f"--{name}" for name in vars(flags)], FLAGS)
        self.assertLessEqual(flags.accumulate, flags.batch_size)
        for name in ("epochs", "accumulate", "num_blocks"):
            self.assertGreaterEqual(getattr(flags, name), 1)
        self.assertGreaterEqual(flags.num_scales, 2)
        self.assertEqual(flags.filters % 2, 0)
        self.assertIn(flags.seed or 0, range(2**32))
        for name in ("lr", "checkpoint_minutes"):
            self.assertGreater(getattr(flags, name), 0.0)
            self.assertLess(getattr(flags, name), math.inf)
        self.assertTrue(flags.dataset)
        # What `run.json` and `metadata.json` are to hold.
        self.assertEqual(json.loads(json.dumps(vars(flags))), vars(flags))

    @hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
    @hypothesis.given(st.lists(_WORDS, max_size=6))
    def test_any_words(self, argv):
        if not {"-h", "--h", "--help"} & set(argv):
            self.check(argv)

    @hypothesis.settings(max_examples=500, deadline=None, derandomize=True)
    @hypothesis.given(st.lists(_PAIRS, max_size=2))
    def test_any_values(self, pairs):
        self.check([word for pair in pairs for word in pair])


class StartTest(CliTestCase):
    def test_no_tensorflow_before_training(self):
        """What ends at once must not wait for TensorFlow."""
        (self.folder / "file").write_text("")
        (self.folder / "other").mkdir()
        (self.folder / "other" / "thesis.tex").write_text("")
        script = """
            import sys
            from tf_realnvp import cli
            for argv in (
                ["--epochs", "0"],
                ["--filters", "3"],
                ["--image_size", "3"],
                ["--unknown"],
                ["--help"],
                ["--output_dir", "file"],
                ["--run_dir", "other"],
            ):
                try:
                    print("code", train.main(argv))
                except SystemExit as end:
                    print("code", end.code)
            slow = {"tensorflow", "keras", "numpy", "matplotlib"}
            print("slow", sorted(slow & set(sys.modules)))
        """
        lines = [line[12:] for line in script.splitlines()]
        code, stdout, stderr = command_lines.run(
            self.folder, "-c", "\n".join(lines)
        )
        self.assertEqual(code, 0, stderr)
        self.assertEqual(
            re.findall(r"^code (\d+)$", stdout, re.MULTILINE),
            ["2", "2", "2", "2", "0", "2", "2"],
        )
        self.assertIn("\nslow []\n", stdout)
        self.assertEqual(stderr.count("\n"), 6)


class RunTest(tf.test.TestCase):
    """Runs the command for real; `kills_test` does so twice and compares."""

    flags = (
        *("--dataset", "digits", "--filters", "4", "--num_blocks", "1"),
        *("--max_steps", "3", "--seed", "0"),
        *("--output_dir", "results", "--run_dir", "the run"),
    )

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.output = pathlib.Path(folder, "results")
        cls.run_dir = pathlib.Path(folder, "the run")
        cls.addClassCleanup(os.umask, os.umask(0o002))  # For a group's work.
        code, cls.stdout, cls.stderr = command_lines.run(
            folder, command_lines.REPOSITORY / "run.py", *cls.flags
        )
        if code:
            raise AssertionError(f"exit code {code}: {cls.stderr}")
        cls.model = tf.saved_model.load(str(cls.output / "realnvp_digits"))

    def read_metrics(self):
        path = self.output / "metrics_digits.csv"
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    def test_nothing_on_stderr(self):
        self.assertEqual(self.stderr, "")

    def test_output(self):
        self.assertNotIn("\r", self.stdout)
        lines = self.stdout.splitlines()
        self.assertStartsWith(lines[0], "RealNVP on digits: ")
        self.assertIn("1,437 training and 360 test images", lines[0])
        self.assertIn("8x8x1, 17 levels", lines[0])
        self.assertEndsWith(lines[1], ", seed 0")
        # 360 images are five batches of 64, and 40 images that count too.
        tests = [line for line in lines if line.startswith("test: 6/6 steps")]
        self.assertLen(tests, 2)
        epochs = [line for line in lines if "3/3 steps" in line]
        self.assertLen(epochs, 1)
        self.assertRegex(
            epochs[0], r"^epoch 1/\d+.* \d+\.\d+ bits/dim, [\d,]+ images/s, "
        )
        self.assertEqual(
            lines[-4:],
            [
                "  results/realnvp_digits",
                "  results/samples_digits.png",
                "  results/loss_digits.png",
                "  results/metrics_digits.csv",
            ],
        )

    def test_results(self):
        self.assertCountEqual(os.listdir(self.output), RESULTS)

    def test_umask(self):
        for folder in (self.output, self.run_dir):
            for path in (folder, *folder.rglob("*")):
                self.assertEqual(
                    stat.S_IMODE(path.stat().st_mode),
                    0o775 if path.is_dir() else 0o664,
                    path,
                )

    def test_run_dir(self):
        self.assertCountEqual(
            os.listdir(self.run_dir),
            ["checkpoints", "lock", "logs", "metrics.csv", RUN],
        )
        content = json.loads((self.run_dir / RUN).read_text())
        self.assertTrue(content["finished"])
        self.assertEqual(content["flags"]["max_steps"], 3)
        self.assertEqual(
            (self.run_dir / "metrics.csv").read_bytes(),
            (self.output / "metrics_digits.csv").read_bytes(),
        )

    def test_metrics(self):
        before, after = self.read_metrics()
        self.assertEqual(list(before), COLUMNS)
        self.assertEqual((before["epoch"], before["step"]), ("0", "0"))
        self.assertEqual((after["epoch"], after["step"]), ("1", "3"))
        self.assertEqual(before["train_bits_per_dim"], "")
        for row, split in (
            (before, "test"),
            (after, "test"),
            (after, "train"),
        ):
            bits = float(row[f"{split}_bits_per_dim"])
            nats = float(row[f"{split}_loss_nats_per_dim"])
            self.assertAllClose(bits, nats / math.log(2.0))
            # A uniform density has log2(17) = 4.09 bits/dim.
            self.assertBetween(bits, 1.0, 8.0)
        self.assertLess(
            float(after["test_bits_per_dim"]),
            float(before["test_bits_per_dim"]),
        )
        # The same as people are shown.
        lines = self.stdout.splitlines()
        for row in (before, after):
            bits = float(row["test_bits_per_dim"])
            start, end = f"epoch {row['epoch']}/", f"test {bits:.3f} bits/dim"
            self.assertTrue(
                any(n.startswith(start) and n.endswith(end) for n in lines)
            )

    def test_metrics_are_of_the_saved_model(self):
        images = np.stack(list(data.load("digits", "").test))
        bits = np.mean(self.model.bits_per_dim(images, seed=0))
        # The noise is another one.
        expected = float(self.read_metrics()[-1]["test_bits_per_dim"])
        self.assertAllClose(bits, expected, atol=0.02)

    def test_metadata(self):
        path = self.output / "realnvp_digits" / "metadata.json"
        metadata = json.loads(path.read_text())
        self.assertEqual(metadata["dataset"], "digits")
        self.assertEqual(metadata["image_shape"], [8, 8, 1])
        self.assertEqual(metadata["num_colors"], 17)
        flags = metadata["flags"]
        self.assertEqual({f"--{name}" for name in flags}, set(FLAGS))
        self.assertEqual((flags["seed"], flags["max_steps"]), (0, 3))
        last = self.read_metrics()[-1]
        self.assertEqual(
            metadata["metrics"],
            {
                "epochs": 1,
                "steps": 3,
                "train_bits_per_dim": float(last["train_bits_per_dim"]),
                "test_bits_per_dim": float(last["test_bits_per_dim"]),
            },
        )

    def test_deterministic(self):
        """On a CPU it changes no bit."""
        folder = self.enterContext(tempfile.TemporaryDirectory())
        code, _, stderr = command_lines.run(
            folder,
            command_lines.REPOSITORY / "run.py",
            *self.flags,
            "--deterministic",
        )
        self.assertEqual((code, stderr), (0, ""))
        output = pathlib.Path(folder, "results")
        for name in (
            "metrics_digits.csv",
            "samples_digits.png",
            f"realnvp_digits/{WEIGHTS}",
        ):
            plain, deterministic = (
                (path / name).read_bytes() for path in (self.output, output)
            )
            self.assertEqual(plain, deterministic, name)
        run_dir = pathlib.Path(folder, "the run")
        for run, path, expected in (
            (self.run_dir, self.output, False),
            (run_dir, output, True),
        ):
            for file in (run / RUN, path / "realnvp_digits" / "metadata.json"):
                flags = json.loads(file.read_text())["flags"]
                self.assertIs(flags["deterministic"], expected)

    def test_pictures(self):
        def read(name):
            pixels = matplotlib.image.imread(self.output / name)
            return np.round(255 * pixels[..., :3]).astype(np.uint8)

        images = self.model.sample(36, seed=0).numpy()
        self.assertAllEqual(
            read("samples_digits.png"), plots.image_grid(images, 17)
        )
        curves = read("loss_digits.png").reshape(-1, 3)
        self.assertGreater(len(np.unique(curves, axis=0)), 10)

    def test_samples_depend_on_their_seed(self):
        images = self.model.sample(36, seed=1).numpy()
        self.assertEqual(images.shape, (36, 8, 8, 1))
        self.assertAllEqual(images, self.model.sample(36, seed=1))
        self.assertNotAllEqual(images, self.model.sample(36, seed=2))


@pytest.mark.long
class DeterministicTest(CliTestCase):
    def test_same_bits_and_no_seed_is_missed(self):
        """In training, in a resumed one, and in commands on the model."""
        rng = np.random.default_rng(0)
        for name in ("train/abcdefghijk", "test/abc"):
            split, names = name.split("/")
            folder = self.folder / "photos" / split
            folder.mkdir(parents=True)
            for letter in names:
                pixels = rng.integers(0, 256, [4, 4, 1], np.uint8)
                pictures.write(folder / f"{letter}.png", pixels, 256)
        # In one process, since TensorFlow takes seconds to start: what is set
        # once stays for all that comes after.
        script = """
            from tf_realnvp import cli, commands
            flags = ["--dataset", "photos", "--flip", "--ema", "0.5"]
            flags += ["--filters", "2", "--num_blocks", "1", "--seed", "0"]
            flags += ["--batch_size", "5", "--epochs", "2"]
            here = ["--run_dir", "2", "--output_dir", "2", "--deterministic"]
            for argv in (
                ["--run_dir", "1", "--output_dir", "1"],
                [*here, "--max_steps", "1"],
                [*here, "--resume"],
            ):
                assert train.main([*flags, *argv]) == 0, argv
            for name, *argv in (
                ("sample",),
                ("evaluate",),
                ("score", "photos/train"),
            ):
                command = [name, "2/realnvp_photos", *argv]
                assert commands.main(command) == 0, command
        """
        lines = [line[12:] for line in script.splitlines()]
        code, _, stderr = command_lines.run(self.folder, "-c", "\n".join(lines))
        self.assertEqual((code, stderr), (0, ""))
        for name in (
            "metrics_photos.csv",
            "samples_photos.png",
            f"realnvp_photos/{WEIGHTS}",
        ):
            plain, deterministic = (
                (self.folder / run / name).read_bytes() for run in "12"
            )
            self.assertEqual(plain, deterministic, name)


if __name__ == "__main__":
    tf.test.main()
