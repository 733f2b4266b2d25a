"""Tests for train: the flags, and what is done with them."""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
import re
from unittest import mock

import command_lines
import tensorflow as tf
from absl.testing import parameterized
from settings import GIVEN

from tf_realnvp.cli import arguments, main, train
from tf_realnvp.config import DataDescription, TrainingConfig
from tf_realnvp.errors import ModelError
from tf_realnvp.serving import metadata
from tf_realnvp.training import runs, workers
from tf_realnvp.utils import runtime


def call(*argv):
    return command_lines.call(main.train_main, *argv)


class FlagsTest(command_lines.CommandTestCase, parameterized.TestCase):
    """Tests the command without the training itself."""

    name = "run.py"

    def setUp(self):
        super().setUp()
        self.train = self.enterContext(
            mock.patch.object(train, "train", side_effect=self.begin)
        )
        # TensorFlow is set up by now; on what machine is not to matter.
        self.configure = self.enterContext(
            mock.patch.object(runtime, "configure")
        )
        self.enterContext(mock.patch.object(runtime, "num_cores", lambda: 8))
        other = {"filters": 6, "num_blocks": 3, "num_couplings": [4, 4, 6]}
        self.read = self.enterContext(
            mock.patch.object(metadata, "read", return_value=other)
        )

    def begin(self, config, run, *unused):
        """Begins a run, as a training does."""
        if run is not None:
            data = DataDescription((2, 2, 1), 2, 2, 2, "none")
            run.begin(config, data, {}, [])

    def config(self, *argv):
        """Returns the settings with which the training starts."""
        result = call("--resume", *argv)
        self.assertEqual(result, (0, "", ""))
        return self.train.call_args.args[0]

    def assert_refused(self, result, *messages):
        self.assert_usage_error(result, *messages)
        self.train.assert_not_called()

    @parameterized.parameters(
        # With a slash a folder is no named data set.
        ("--dataset=digits/", "dataset", "digits/"),
        ("--dataset=DIGITS", "dataset", "digits"),
        # Shells complete one, which may come and go.
        ("--init_from=M/", "init_from", "M"),
        ("--data_dir=~/a", "data_dir", os.path.expanduser("~/a")),
        ("--dataset=pictures", "run_dir", "runs/pictures"),
        ("--dataset=pictures/of cats/", "run_dir", "runs/of_cats"),
        # Not folders, but names of TFDS.
        ("--dataset=lsun/bedroom", "run_dir", "runs/lsun_bedroom"),
        ("--dataset=celeba", "run_dir", "runs/CelebA"),
    )
    def test_names(self, flag, name, value):
        (self.folder / "pictures" / "of cats").mkdir(parents=True)
        self.assertEqual(getattr(self.config(flag), name), value)

    def test_defaults(self):
        first, second = self.config(), self.config("--run_dir", "another")
        # A seed is drawn. The rest is as in Python.
        self.assertNotEqual(first.seed, second.seed)
        expected = TrainingConfig(
            dataset="CIFAR10", seed=first.seed, run_dir="runs/CIFAR10"
        )
        self.assertEqual(first, expected)

    def test_all_flags(self):
        expected = {name: value for name, (value, _) in GIVEN.items()}
        argv = [
            f"--{name}" if text is None else f"--{name}={text}"
            for name, (_, text) in GIVEN.items()
        ]
        self.assertEqual(dataclasses.asdict(self.config(*argv)), expected)
        self.configure.assert_called_once_with(3, 1, True, is_command=True)

    def test_batch_and_seed_are_kept(self):
        before = self.config("--batch_size", 40)
        expected = dataclasses.replace(before, accumulate=34)
        self.assertEqual(self.config("--accumulate", 34), expected)

    def test_warm_start(self):
        """The architecture is that of the other model, which may go then."""
        argv = ("--init_from=M", "--num_couplings=5,5,6")
        first = self.config(*argv)
        self.read.side_effect = ModelError("there is no model")
        self.assertEqual(self.config(*argv), first)
        found = (first.filters, first.num_blocks, first.num_couplings)
        self.assertEqual(found, (6, 3, (5, 5, 6)))
        self.train.reset_mock()
        result = call(*argv, "--run_dir=new")
        self.assert_refused(result, "--init_from", "there is no model")

    @parameterized.parameters(
        # What is trained; the cores; the parts at once, the threads of each.
        ("--dataset digits --filters 66", 8, 2, None),
        ("--dataset digits --filters 64", 8, 1, 1),
        ("--dataset digits --filters 64 --devices 2", 8, 2, 1),
        ("--image_size 8x32 --filters 64", 8, 2, None),
        ("--image_size 8 --filters 64", 1, 1, 1),
        ("--filters 64", 1, 1, None),
    )
    def test_processors(self, flags, cores, num_parts, num_threads):
        """Small models train fastest on one thread."""
        with mock.patch.object(runtime, "num_cores", lambda: cores):
            self.config(*flags.split())
        self.configure.assert_called_with(
            num_parts, num_threads, False, is_command=True
        )

    @parameterized.parameters("CIFAR10", "CelebA", "digits")
    def test_help(self, dataset):
        """The help states the actual defaults."""
        code, stdout, stderr = call("--help")
        self.assertEqual((code, stderr), (0, ""))
        flags = re.split(r"(?m)^  --(?=\w)", stdout)[1:]
        texts = {re.match(r"\w+", flag)[0]: flag.split() for flag in flags}
        self.assertCountEqual(texts, [*GIVEN, "resume"])
        num_compared = 0
        for name, words in texts.items():
            text = " ".join(words)
            default = re.search(r"\(default: ([\w.e-]+)", text)
            special = re.search(rf"([\d.e-]+) for {dataset}\b", text)
            special = special or re.search(rf"for {dataset} ([\d.e-]+)", text)
            shown = (special or default or [None, "none"])[1]
            config = TrainingConfig(dataset=dataset)
            value = getattr(config, name, None)  # Not of `resume`.
            if type(value) in (int, float) and name != "seed":
                num_compared += 1
                self.assertEqual(type(value)(shown), value, name)
        self.assertEqual(num_compared, 12)

    def start_worker(self, index, *argv, error=None):
        """Calls the command as one of two workers."""
        config = command_lines.tf_config(index, worker=["a:1", "b:1"])
        with (
            mock.patch.dict(os.environ, config),
            mock.patch.object(workers, "connect", side_effect=error),
        ):
            return call(*argv)

    def test_port_in_use(self):
        error = OSError(98, "Address already in use")
        code, _, stderr = self.start_worker(0, "--seed", 3, error=error)
        self.assertEqual(code, 2)
        self.assertIn("TF_CONFIG: [Errno 98] Address already in use", stderr)

    def test_workers_meet_before_one_of_them_is_refused(self):
        """Otherwise the other workers would wait for it."""
        pathlib.Path("other").mkdir()
        pathlib.Path("other", "run.json").write_text("{}")
        argv = ("--seed", 3, "--resume", "--run_dir", "other")
        result = self.start_worker(0, *argv)
        self.assertEqual(result[0], 2)
        self.assertIn("of another program or version", result[2])
        self.configure.assert_called_once()

    def test_workers(self):
        self.train.side_effect = lambda *_: print("training")
        argv = ("--seed", 3, "--deterministic")
        code, stdout, stderr = self.start_worker(0, *argv)
        self.assertEqual((code, stderr), (0, ""))
        self.assertEqual(stdout, "waiting for the other workers\ntraining\n")
        self.configure.assert_called_with(1, None, True, is_command=True)
        config, run, *_ = self.train.call_args.args
        self.assertEqual(config.seed, 3)
        self.assertEqual(str(run.path), "runs/CIFAR10")

        # The others write nothing.
        before = os.listdir()
        result = self.start_worker(1, "--seed", 3, "--output_dir", "out")
        waiting = "waiting for the other workers\n"
        self.assertEqual(result, (0, waiting, ""))
        config, run, *_ = self.train.call_args.args
        self.assertEqual(config.seed, 3)
        self.assertIsNone(run)
        self.assertEqual(os.listdir(), before)

    @parameterized.product(index=(0, 1), argv=((), ("--seed=3", "--devices=1")))
    def test_what_workers_cannot_do(self, index, argv):
        result = self.start_worker(index, *argv)
        self.assert_refused(result, "same --seed and take no --devices")
        self.assertEmpty(os.listdir())


class WordsTest(tf.test.TestCase):
    def test_any_value(self):
        """Any value of a flag is accepted, or refused in one line."""
        parser, configs = arguments.Parser(prog="run.py"), []
        run = runs.Run(pathlib.Path("new"))
        train.add_flags(parser)
        parser.set_defaults(
            run=lambda flags: configs.append(train.read_settings(flags, run))
        )
        words = "nan inf 1e999 -1 0 ٣ 1 2 64 .5 1e-3 x 2x 2x4 1,2, auto".split()
        for name, value in itertools.product(GIVEN, ("", "\udcff", *words)):
            code, _, stderr = command_lines.call(
                functools.partial(main.run, parser), f"--{name}={value}"
            )
            self.assertIn(code, (0, 2))
            if code or not value:
                error = rf"^run\.py: error: argument --{name}: .*\n$"
                self.assertRegex(stderr, error)
        self.assertNotEmpty(configs)
        for config in configs:
            config = dataclasses.replace(config, seed=config.seed or 0)
            stored = json.loads(json.dumps(dataclasses.asdict(config)))
            self.assertEqual(TrainingConfig(**stored), config)
