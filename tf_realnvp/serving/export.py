"""The SavedModel: a trained model that needs TensorFlow alone."""

import functools
import itertools
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow.python.saved_model import save_context

from tf_realnvp.model import RealNVP
from tf_realnvp.serving import metadata as metadata_format
from tf_realnvp.utils import assertions, files
from tf_realnvp.utils.errors import ModelError, UsageError
from tf_realnvp.utils.messages import printable

_VERSIONS = {
    "tensorflow": tf.__version__,
    "keras": keras.__version__,
    "tensorflow-probability": tfp.__version__,
}
# What is in the folder of a model.
_WRITTEN = {
    *("assets", "fingerprint.pb", "saved_model.pb", "variables"),
    metadata_format.FILE,
}
_AS_IS = {"autograph": False}  # There is no control flow to convert.
_INT64 = tf.TensorSpec(None, tf.int64)
_SEED = tf.TensorSpec([2], tf.int32)  # As `stateless_seed` makes it.
# The inputs of signatures.
_IMAGES = tf.TensorSpec(None, tf.uint8, "images")
_LATENTS = tf.TensorSpec(None, tf.float32, "latents")
_SAMPLE = (
    tf.TensorSpec([], tf.int32, "n"),
    tf.TensorSpec([], tf.float32, "temperature"),
    tf.TensorSpec([], tf.int64, "seed"),
)


def save(
    model: RealNVP,
    path: str | os.PathLike,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model as a SavedModel, or replaces one.

    `model = tf.saved_model.load(path)` gives back an object with these
    functions; it needs neither this package nor Keras nor TensorFlow
    Probability:

    *   `sample(n, temperature=1.0, seed=None)`: `uint8` images `[n, H, W, C]`.
    *   `log_prob(images, seed=None)`: float32 `[n]`, nats.
    *   `log_prob_each(images, seeds)`: the same, with a seed for each image:
        what an image gets does not depend on those beside it.
    *   `bits_per_dim(images, seed=None)`: float32 `[n]`.
    *   `encode(images)`: float32 latents `[n, H / 2, W / 2, 4 * C]`.
    *   `decode(latents)`: `uint8` images `[n, H, W, C]`.

    Of a model with classes all of them take a `label` as well, one integer for
    all or one for each: `sample(n, temperature=1.0, seed=None, label=None)`,
    and so on. `encode` and `decode` need one; without it `log_prob` and
    `bits_per_dim` are those of the mixture, and `sample` draws the classes. One
    more function is there:

    *   `classify(images, seed=None)`: float32 `[n, num_classes]`,
        log-probabilities of the classes.

    Keep the object in a variable: its functions do not keep the weights.

    They take Python's numbers, lists and arrays, and tensors: `n` int64 or
    int32, `temperature` float32 or float64, `seed` and `seeds` int64, `images`
    int64 or `uint8`, `latents` float32 or float64, `label` int64 or int32.
    Anything else is a `ValueError` that lists what was given and what can be,
    or an `OverflowError` if it needs more than 64 bits. Shapes and values that
    are wrong are a `tf.errors.InvalidArgumentError`, with the messages of
    `RealNVP`. A Python `seed` from 2**63 on is one without sign, and the same
    as `seed - 2**64`.

    Without a `seed` images and noise are fresh in every call and every process:
    neither the seed of the process that saves nor that of the one that loads
    (`tf.random.set_seed`) changes that. Where they can't be, give one: under
    `tf.config.experimental.enable_op_determinism` TensorFlow refuses a call
    without it, and under XLA (`jit_compile=True`) what it draws for itself is
    the same in every process.

    TensorFlow traces a loaded function anew, and keeps that, for each new
    Python number and each new shape of a batch; of the default model this
    takes seconds and some 17 MiB each time. Numbers that are tensors need one
    trace for all, and batches too once there is one of any shape:
    `model.log_prob.get_concrete_function(tf.TensorSpec(None, tf.uint8))`.

    The same are signatures with named inputs and outputs, traced once, and
    `serving_default` scores images. There a `label` of -1 asks `sample` to draw
    the class. Beside them lies `metadata.json`, which
    says what the model is of and what it was made with.

    Args:
      model: The model.
      path: Directory to write, made with its parents. A model that is there
        already stays as it is until the new one is complete.
      metadata: What else `metadata.json` is to say, beside `model.metadata` and
        in its place; values that JSON knows.

    Raises:
      UsageError: If TensorFlow could not read what is written there, or if
        there is anything but a model.
      ValueError: If `metadata` contradict the model or themselves.
    """
    path = check_path(path)
    given, own = dict(metadata or {}), dict(model.metadata)
    if "dataset" in given:
        own.pop("source", None)  # It is that of another one.
    content = _metadata(model, own | given, path)
    with files.made(path.parent), files.replace_directory(path) as new:
        # Otherwise `tf.saved_model.save` traces all functions once more.
        with save_context.save_context(tf.saved_model.SaveOptions()):
            module: tf.Module
            if model.num_classes is None:
                module = _ServingModule(model)
            else:
                module = _ConditionalModule(model, model.num_classes)
            signatures = module.signatures()
        tf.saved_model.save(module, str(new), signatures=signatures)
        (new / metadata_format.FILE).write_text(content + "\n")


def check_path(path: str | os.PathLike) -> pathlib.Path:
    """Checks that a model can be written somewhere.

    Args:
      path: Directory to write.

    Returns:
      The absolute path, of a link that where it leads to.

    Raises:
      UsageError: As `save`.
    """
    shown = printable(path)
    path = pathlib.Path(os.path.realpath(path))
    if reason := files.why_tensorflow_cannot(path):
        raise UsageError(f"{reason}: give another folder")
    if not path.exists():
        return path
    found = set(os.listdir(path)) if path.is_dir() else {""}
    others = {name for name in found - _WRITTEN if not name.startswith(".")}
    if found and not {"saved_model.pb", metadata_format.FILE} <= found:
        raise UsageError(
            f"{shown} is there, and is no model that could be "
            "replaced: give another folder, or move it away"
        )
    if others:
        raise UsageError(
            f"{shown} has {printable(min(others))} in it, which would go with "
            "the model that is replaced: give another folder, or move it away"
        )
    return path


def _metadata(model, given, path):
    """Returns the content of `metadata.json`, which can be read again."""
    own = {
        "format": metadata_format.FORMAT,
        **model.get_config(),
        "latent_shape": model.latent_shape,
        "num_parameters": model.num_parameters,
        "versions": _VERSIONS,
    }
    if taken := own.keys() & given.keys():
        raise ValueError(f"`metadata` must not have `{min(taken)}`.")
    try:
        content = json.dumps(own | given, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`metadata` must be what JSON knows: {error}."
        ) from error
    try:
        metadata_format.parse(json.loads(content), path)
    except ModelError as error:
        raise ValueError(f"`metadata` could not be read: {error}.") from error
    return content


def _stateless_seed(seed):
    """Returns what `stateless_seed` does, of any seed in a loaded model."""
    if seed is not None:
        return assertions.stateless_seed(seed)
    # `tf.random.uniform` would write this process's seed into the graph, and
    # what it draws would be the same wherever the model is loaded. With these
    # zeros TensorFlow seeds the operation anew each time that it loads it.
    return tf.raw_ops.RandomUniformInt(
        shape=[2], minval=tf.int32.min, maxval=tf.int32.max, seed=0, seed2=0
    )


def _concrete(function, *specs):
    return tf.function(function, **_AS_IS).get_concrete_function(*specs)


def _specs(name, *dtypes):
    return [tf.TensorSpec(None, dtype, name) for dtype in dtypes]


class _Module(tf.Module):
    """What the functions of a SavedModel, as `save` lists them, share.

    Every function is traced for the types that a caller is likely to have, and
    these traces are thin: what is large, the flow, is traced once for density,
    once for latents and once for sampling. Any shape is let in, so that a wrong
    one meets the model's message rather than TensorFlow's list of the
    signatures that it knows.
    """

    def __init__(self, model: RealNVP):
        super().__init__(name="real_nvp")
        # As one variable, since each of the functions captures all that it and
        # those that it calls read, and loading takes as long as there are
        # captures: tens of thousands, with hundreds of variables.
        self.weights = tf.Variable(
            tf.concat([tf.reshape(v, [-1]) for v in model.variables], axis=0),
            name="weights",
        )
        self._bits_per_nat = 1.0 / (model.num_dims * math.log(2.0))
        # Small beside the flow, which all that is drawn or scored shares.
        self._sample_latents = _concrete(
            model.sample_latents, _INT64, tf.TensorSpec(None), _SEED
        )
        self._dequantize_pair = _concrete(model.dequantize, _INT64, _SEED)
        self._dequantize_seeds = _concrete(
            model.dequantize_each, _INT64, _INT64
        )
        # Unlike the shape of images, this shows in no type.
        self._num_colors = _concrete(lambda: tf.constant(model.num_colors))

    def _concrete_flow(self, model, function, *specs):
        """Traces a function of a model, whose variables are in `weights`."""
        variables = model.variables

        def flow(*inputs):
            sizes = [v.shape.num_elements() for v in variables]
            values = [
                tf.reshape(part, variable.shape)
                for variable, part in zip(
                    variables, tf.split(self.weights, sizes), strict=True
                )
            ]
            with keras.StatelessScope([*zip(variables, values, strict=True)]):
                return function(*inputs)

        return _concrete(flow, *specs)

    def _draw_latents(self, n, temperature, seed):
        temperature = tf.cast(temperature, tf.float32)
        return self._sample_latents(tf.cast(n, tf.int64), temperature, seed)

    def _dequantize(self, images, seed):
        images = tf.cast(images, tf.int64)
        return self._dequantize_pair(images, _stateless_seed(seed))

    def _dequantize_each(self, images, seeds):
        return self._dequantize_seeds(tf.cast(images, tf.int64), seeds)

    def _scores(self, log_prob):
        bits_per_dim = -log_prob * self._bits_per_nat
        return {"log_prob": log_prob, "bits_per_dim": bits_per_dim}

    def _trace(self, label=None):
        """Traces every function for what it is to take once it is loaded.

        Args:
          label: The types of labels, if functions take any.
        """
        # A loaded function gives Python's numbers the first dtype in which it
        # was traced, and cuts off the bits of integers that do not fit.
        n = _specs("n", tf.int64, tf.int32)
        temperature = _specs("temperature", tf.float32, tf.float64)
        seed = [None, *_specs("seed", tf.int64)]
        seeds = _specs("seeds", tf.int64)
        images = _specs("images", tf.int64, tf.uint8)
        latents = _specs("latents", tf.float32, tf.float64)
        may_have = [] if label is None else [[None, *label]]
        must_have = [] if label is None else [label]
        for function, *arguments in (
            (self.sample, n, temperature, seed, *may_have),
            (self.log_prob, images, seed, *may_have),
            (self.log_prob_each, images, seeds, *may_have),
            (self.bits_per_dim, images, seed, *may_have),
            (self.encode, images, *must_have),
            (self.decode, latents, *must_have),
        ):
            for types in itertools.product(*arguments):
                function.get_concrete_function(*types)


class _ServingModule(_Module):
    """The functions of a model without classes."""

    def __init__(self, model: RealNVP):
        super().__init__(model)
        flow = functools.partial(self._concrete_flow, model)
        points = tf.TensorSpec([None, *model.image_shape])
        self._log_density = flow(model.log_density, points)
        self._encode = flow(model.encode, _INT64)
        self._decode = flow(model.decode, tf.TensorSpec(None))
        self._trace()

    @tf.function(**_AS_IS)
    def sample(self, n, temperature=1.0, seed=None):
        seed = _stateless_seed(seed)
        return self._decode(self._draw_latents(n, temperature, seed))

    @tf.function(**_AS_IS)
    def log_prob(self, images, seed=None):
        return self._log_density(self._dequantize(images, seed))

    @tf.function(**_AS_IS)
    def log_prob_each(self, images, seeds):
        return self._log_density(self._dequantize_each(images, seeds))

    @tf.function(**_AS_IS)
    def bits_per_dim(self, images, seed=None):
        log_prob = self._log_density(self._dequantize(images, seed))
        return -log_prob * self._bits_per_nat

    @tf.function(**_AS_IS)
    def encode(self, images):
        return self._encode(tf.cast(images, tf.int64))

    @tf.function(**_AS_IS)
    def decode(self, latents):
        return self._decode(tf.cast(latents, tf.float32))

    def signatures(self) -> dict[str, Callable]:
        """Returns the functions with named inputs and outputs."""

        def score(images):
            return self._scores(self.log_prob(images))

        def sample(n, temperature, seed):
            return {"images": self.sample(n, temperature, seed)}

        def encode(images):
            return {"latents": self.encode(images)}

        def decode(latents):
            return {"images": self.decode(latents)}

        return {
            "serving_default": _concrete(score, _IMAGES),
            "sample": _concrete(sample, *_SAMPLE),
            "encode": _concrete(encode, _IMAGES),
            "decode": _concrete(decode, _LATENTS),
        }


class _ConditionalModule(_Module):
    """Those of one with classes."""

    def __init__(self, model: RealNVP, num_classes: int):
        super().__init__(model)
        self._num_classes = num_classes
        flow = functools.partial(self._concrete_flow, model)
        self._sample_labels = _concrete(model.sample_labels, _INT64, _SEED)
        points = tf.TensorSpec([None, *model.image_shape])
        self._log_density = flow(
            lambda points, label: model.log_density(
                points,
                assertions.labels(label, num_classes, tf.shape(points)[0]),
            ),
            points,
            _INT64,
        )
        self._log_joint = _concrete(
            lambda points: model.log_joint(
                points,
                lambda points, label: self._log_density(
                    points, tf.cast(label, tf.int64)
                ),
            ),
            points,
        )
        self._log_mixture = _concrete(
            lambda points: tf.reduce_logsumexp(self._log_joint(points), -1),
            points,
        )
        self._encode = flow(model.encode, _INT64, _INT64)
        self._decode = flow(model.decode, tf.TensorSpec(None), _INT64)
        self._trace(_specs("label", tf.int64, tf.int32))
        for types in itertools.product(
            _specs("images", tf.int64, tf.uint8),
            [None, *_specs("seed", tf.int64)],
        ):
            self.classify.get_concrete_function(*types)

    @tf.function(**_AS_IS)
    def sample(self, n, temperature=1.0, seed=None, label=None):
        seed = _stateless_seed(seed)
        if label is None:
            label = self._draw_labels(n, seed)
        latents = self._draw_latents(n, temperature, seed)
        return self._decode(latents, tf.cast(label, tf.int64))

    def _draw_labels(self, n, seed):
        return self._sample_labels(tf.cast(n, tf.int64), seed)

    @tf.function(**_AS_IS)
    def log_prob(self, images, seed=None, label=None):
        return self._density(self._dequantize(images, seed), label)

    @tf.function(**_AS_IS)
    def log_prob_each(self, images, seeds, label=None):
        return self._density(self._dequantize_each(images, seeds), label)

    def _density(self, points, label):
        if label is None:
            return self._log_mixture(points)
        return self._log_density(points, tf.cast(label, tf.int64))

    @tf.function(**_AS_IS)
    def bits_per_dim(self, images, seed=None, label=None):
        log_prob = self._density(self._dequantize(images, seed), label)
        return -log_prob * self._bits_per_nat

    @tf.function(**_AS_IS)
    def classify(self, images, seed=None):
        joint = self._log_joint(self._dequantize(images, seed))
        return tf.nn.log_softmax(joint)

    @tf.function(**_AS_IS)
    def encode(self, images, label):
        return self._encode(tf.cast(images, tf.int64), tf.cast(label, tf.int64))

    @tf.function(**_AS_IS)
    def decode(self, latents, label):
        return self._decode(
            tf.cast(latents, tf.float32), tf.cast(label, tf.int64)
        )

    def signatures(self) -> dict[str, Callable]:
        """Returns the functions with named inputs and outputs."""
        num_classes = self._num_classes

        def score(images):
            joint = self._log_joint(self._dequantize(images, None))
            return {
                **self._scores(tf.reduce_logsumexp(joint, axis=-1)),
                "class_log_probs": tf.nn.log_softmax(joint),
            }

        def classify(images):
            return {"class_log_probs": self.classify(images)}

        def sample(n, temperature, seed, label):
            drawn = self._draw_labels(n, _stateless_seed(seed))
            # Checks the shape; of the values -1 is no class.
            label += assertions.labels(tf.zeros_like(label), num_classes, n)
            label = tf.where(label == -1, drawn, label)
            return {"images": self.sample(n, temperature, seed, label)}

        def encode(images, label):
            return {"latents": self.encode(images, label)}

        def decode(latents, label):
            return {"images": self.decode(latents, label)}

        label = tf.TensorSpec(None, tf.int32, "label")
        return {
            "serving_default": _concrete(score, _IMAGES),
            "classify": _concrete(classify, _IMAGES),
            "sample": _concrete(sample, *_SAMPLE, label),
            "encode": _concrete(encode, _IMAGES, label),
            "decode": _concrete(decode, _LATENTS, label),
        }
