"""The training command with a model that takes no time.

All around the model is as it is: data, loop, checkpoints, the folder of the
run.
"""

import contextlib
import functools
import json
import multiprocessing
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf
import untraced
from small_models import SmallModel
from tensorflow.python import pywrap_tfe

from tf_realnvp import data, initialization
from tf_realnvp.analysis import plots
from tf_realnvp.cli.main import train_main
from tf_realnvp.serving import export, metadata
from tf_realnvp.training import clock, training
from tf_realnvp.utils import files, runtime

_load = data.load


def with_pipelines(dataset):
    """Lets a data set make the same batches, which takes time, but once."""
    hold_out = dataset.hold_out
    for name, make in (
        ("train_batches", dataset.train_batches),
        ("batches", dataset.batches),
        ("hold_out", lambda *split: with_pipelines(hold_out(*split))),
    ):
        object.__setattr__(dataset, name, functools.cache(make))
    return dataset


@functools.cache
def _digits(*arguments, **settings):
    return with_pipelines(_load("digits", *arguments, **settings))


def load(name, *arguments, **settings):
    """Loads data as `data.load` does: digits in the same way but once."""
    return (_digits if name == "digits" else functools.partial(_load, name))(
        *arguments, **settings
    )


def initialize(model, images, unused_seed):
    """Starts a small model from what the images are."""
    images = tf.cast(images, tf.float32)
    model.means.assign(tf.reduce_mean(images, axis=0) + model.means)


def save_model(model, path, content, save=tf.saved_model.save):
    """Exports as `export.save` does, what there is of the small model."""
    module = tf.Module()
    module.means = model.means.value
    with files.replace_directory(path) as new:
        save(module, str(new))
        text = json.dumps(content, allow_nan=False)
        (new / metadata.FILE).write_text(text)


def _save_array(model, path, content):
    """The same without a graph, which takes a while to make."""

    def save(module, new):
        os.mkdir(f"{new}/variables")
        np.save(f"{new}/variables/means.npy", module.means.numpy())
        pathlib.Path(new, "saved_model.pb").touch()

    save_model(model, path, content, save)


def _save_curve(path, curves, title, unit):
    """A curve as text, since drawing one takes a second."""
    with files.replace_file(path) as new:
        new.write_text(ascii((title, unit, dict(curves))))


def patch(stack: contextlib.ExitStack) -> None:
    """Makes the command a fast one, whose steps can be counted.

    TensorFlow stays as it is set up.

    Args:
      stack: Undoes that at its end.
    """
    patch_model(stack)
    # To trace takes longer than a few small steps.
    stack.enter_context(untraced.untraced())
    for target, name, value in (
        (runtime, "configure", mock.Mock()),
        (data, "load", load),
        # Whatever sets a seed has all operations made anew.
        (pywrap_tfe, "TFE_ContextClearCaches", mock.Mock()),
        (plots, "TILE_SIZE", 1),  # Large pictures take a while.
        (export, "save", _save_array),
    ):
        stack.enter_context(mock.patch.object(target, name, value))


def patch_model(stack: contextlib.ExitStack) -> None:
    """Makes it a fast one that compiles what it computes.

    Args:
      stack: Undoes that at its end.
    """
    for target, name, value in (
        (training, "RealNVP", SmallModel),
        (initialization, "initialize", initialize),
        (export, "save", save_model),
        (plots, "save_loss_curve", _save_curve),
        (clock, "SECONDS_PER_CALL", 0.0),  # One step a call.
    ):
        stack.enter_context(mock.patch.object(target, name, value))


def fork(function: Callable, *arguments: Any) -> multiprocessing.Process:
    """Calls a function in a process of its own.

    It is forked from one that has imported TensorFlow, which takes seconds, and
    has not computed anything yet.

    Args:
      function: One of a module.
      *arguments: What `pickle` knows.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=function, args=arguments)
    # Python 3.11's server does not take over `sys.path`.
    path = os.pathsep.join(sys.path)
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        process.start()
    return process


def start(
    argv: list[str], folder: pathlib.Path, output: str | os.PathLike
) -> multiprocessing.Process:
    """Starts a process of the command.

    Args:
      argv: The flags of the command.
      folder: Where it is to run.
      output: Path of the file or terminal that it reads from and writes to.
    """
    return fork(_run, argv, str(folder), str(output))


def _run(argv, folder, output):
    os.chdir(folder)
    os.setsid()  # A terminal that it opens becomes its own.
    descriptor = os.open(output, os.O_RDWR)
    for standard in range(3):
        os.dup2(descriptor, standard)
    with contextlib.ExitStack() as patches:
        patch_model(patches)
        sys.exit(train_main(argv))
