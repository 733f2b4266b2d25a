"""Export of a model as a SavedModel, which only needs TensorFlow."""

import functools
import inspect
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_realnvp.errors import UsageError
from tf_realnvp.serving import metadata as metadata_format
from tf_realnvp.utils import files, private, tensors

_VERSIONS = {
    "tensorflow": tf.__version__,
    "keras": keras.__version__,
    "tensorflow-probability": tfp.__version__,
}
# The contents of a model's folder.
_WRITTEN = {
    *("assets", "fingerprint.pb", "saved_model.pb", "variables"),
    metadata_format.FILE,
}


def save(
    model: tf.Module,
    path: str | os.PathLike,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model as a SavedModel, or replaces one.

    `tf.saved_model.load(path)` loads it, which requires neither this package
    nor Keras nor TensorFlow Probability. "Using a trained model" in the
    documentation describes its functions and signatures, and "Models with
    classes" those that take a label. The file `metadata.json` describes the
    data, the architecture and the library versions.

    Args:
      model: The `RealNVP`.
      path: Directory to write. It and its parents are created if needed. An
        existing model is replaced only once the new one is complete.
      metadata: Additional entries of `metadata.json`, with JSON values. They
        override entries of `model.metadata`.

    Raises:
      UsageError: If TensorFlow could not load a model from this path, or if the
        path exists and is not a model.
      ModelError: If `metadata` has other names of classes than the model needs.
      ValueError, TypeError: If `metadata` contradicts the model, or is not of
        JSON values.
    """
    path = check_path(path)
    entries = dict(model.metadata)
    if metadata and "dataset" in metadata:
        entries.pop("source", None)  # It is that of another one.
    content = _metadata(model, entries | dict(metadata or {}), path)
    with files.created(path.parent), files.replace_directory(path) as new:
        with private.saving():
            module = _ServingModule(model)
            signatures = module.signatures()
        tf.saved_model.save(module, str(new), signatures=signatures)
        (new / metadata_format.FILE).write_text(content + "\n")


def check_path(path: str | os.PathLike) -> pathlib.Path:
    """Checks that a model can be written to a path.

    Args:
      path: Directory to write.

    Returns:
      The absolute path, with symbolic links resolved.

    Raises:
      UsageError: As for `save`.
    """
    target = pathlib.Path(os.path.realpath(path))
    if reason := files.why_tensorflow_cannot(target):
        raise UsageError(f"{reason}: give another folder")
    if not target.exists():
        return target
    names = set(os.listdir(target)) if target.is_dir() else {target.name}
    # A file system's own: NFS renames a deleted file that is still open.
    lost = {name for name in names - _WRITTEN if not name.startswith(".nfs")}
    if not {"saved_model.pb", metadata_format.FILE} <= names:
        lost = names  # Another program's.
    if lost:
        raise UsageError(
            f"{os.fspath(path)} is there, and is no model that could be "
            f"replaced ({min(lost)} would be lost): give another folder, or "
            "move it away"
        )
    return target


def _metadata(model, entries, path):
    """Returns the content of `metadata.json`, checked as it will be read."""
    description = {
        "format": metadata_format.FORMAT,
        **model.get_config(),
        "latent_shape": model.latent_shape,
        "num_parameters": model.num_parameters,
        "versions": _VERSIONS,
    }
    if names := description.keys() & entries.keys():
        raise ValueError(f"`metadata` must not have `{min(names)}`.")
    content = json.dumps(description | entries, indent=2, allow_nan=False)
    metadata_format.check(json.loads(content), path)
    return content


class _ServingModule(tf.Module):
    """The functions of a SavedModel.

    Each function is traced for all combinations of dtypes that it accepts.
    These traces are small: they cast the arguments and call the flow, which is
    traced once each for density, encoding and decoding.
    """

    def __init__(self, model: tf.Module):
        """Traces the functions.

        Args:
          model: The `RealNVP`.
        """
        super().__init__(name="real_nvp")
        # A single variable. Each function captures all variables that it and
        # its callees read, and loading time grows with the number of captures:
        # tens of thousands, with hundreds of variables.
        self.weights = tf.Variable(
            tf.concat([tf.reshape(v, [-1]) for v in model.variables], axis=0),
            name="weights",
        )
        self._has_classes = model.num_classes is not None
        self._required = [] if model.observe == "mask" else ["context"]
        self._conditions = model.condition.specs
        self._image_shape = (None, *model.image_shape)
        self._latent_shape = (None, *model.latent_shape)
        self._values = model.values
        self._units_per_nat = model.values.per_dim(-1.0, model.num_dims)
        self._of_flow = {k: self._types(k)[0] for k in self._conditions}
        self._trace_parts(model)
        setattr(self, model.values.measure, self._per_dim)
        names = ["sample", "log_prob", "log_prob_each", model.values.measure]
        names += ["encode", "decode", *["classify"] * self._has_classes]
        for name in names:
            setattr(self, name, self._traced(getattr(self, name)))

    def _types(self, argument):
        """Returns the types of an argument; the flow takes the first."""
        # A loaded function also converts Python numbers to the first type, and
        # truncates integers that do not fit.
        images = tf.int64, tf.as_dtype(self._values.dtype)
        if self._values.are_real:
            images = tf.float32, tf.float64
        shape, *dtypes = {
            "n": ([], tf.int64, tf.int32),
            "temperature": ([], tf.float32, tf.float64),
            "seed": ([], tf.int64),
            "seeds": ([None], tf.int64),
            "images": (self._image_shape, *images),
            "latents": (self._latent_shape, tf.float32, tf.float64),
            "label": (None, tf.int64, tf.int32),  # A scalar, or `[n]`.
            "context": (None, tf.float32, tf.float64),
        }[argument]
        types = [tf.TensorSpec(shape, dtype, argument) for dtype in dtypes]
        if isinstance(named := self._conditions.get(argument), dict):
            return [dict.fromkeys(named, of_each) for of_each in types]
        return types

    def _traced(self, function):
        """Traces a function for all combinations of its arguments' types."""
        # An input signature would spare callers a trace for each new Python
        # number, but then refuses `None` and tensors of other dtypes.
        own = inspect.signature(function).parameters
        absent = own.keys() & {"label", "context"} - self._conditions.keys()
        parameters = [own[name] for name in own if name not in absent]
        types = [
            [None] * (p.default is None and p.name not in self._required)
            + self._types(p.name)
            for p in parameters
        ]

        def call(*args):
            names = [parameter.name for parameter in parameters]
            given = dict(zip(names, args, strict=True))
            return function(**given, **dict.fromkeys(absent))

        signature = inspect.Signature(parameters)
        call.__signature__ = signature  # type: ignore[attr-defined]
        traced = tf.function(call, autograph=False)
        for combination in itertools.product(*types):
            traced.get_concrete_function(*combination)
        return traced

    def _trace_parts(self, model):
        """Traces shared functions, for the first type of each argument."""
        n, temperature, images, latents, seeds = (
            self._types(name)[0]
            for name in ("n", "temperature", "images", "latents", "seeds")
        )
        points = tf.TensorSpec(images.shape, tf.float32)
        seed = tf.TensorSpec([2], tf.int32)  # Of stateless operations.
        context = {k: v for k, v in self._of_flow.items() if k != "label"}
        flow = functools.partial(self._concrete_flow, model.variables)

        def log_density(points, **condition):
            condition = model.condition(points, **condition)
            return model.log_density(points, **condition)

        def scores(points, context):
            if not self._has_classes:
                return {"log_prob": self._log_density(points, context)}
            joint = model.log_joint(points, self._density, **context)
            return {
                "log_prob": tf.reduce_logsumexp(joint, axis=-1),
                "class_log_probs": tf.nn.log_softmax(joint),
            }

        self._draw_latents = _concrete(
            model.sample_latents, n, temperature, seed
        )
        self._dequantize = _concrete(model.dequantize, images, seed)
        self._dequantize_each = _concrete(model.dequantize_each, images, seeds)
        self._encode = flow(model.encode, images)
        self._decode = flow(model.decode, latents)
        self._log_density = flow(log_density, points)
        self._scores = _concrete(scores, points, context)
        if self._has_classes:
            self._draw_labels = _concrete(model.sample_labels, n, seed)

    def _concrete_flow(self, variables, function, batch):
        """Traces a function of the model, with variables from `weights`."""

        def flow(batch, condition):
            sizes = [v.shape.num_elements() for v in variables]
            parts = tf.split(self.weights, sizes)
            pairs = zip(variables, parts, strict=True)
            values = [(v, tf.reshape(part, v.shape)) for v, part in pairs]
            with keras.StatelessScope(values):
                return function(batch, **condition)

        return _concrete(flow, batch, self._of_flow)

    def _condition(self, label, context):
        """Returns what the flow is conditioned on, which it checks."""
        if context is None and "context" in self._of_flow:  # Of masks.
            context = tf.zeros(self._conditions["context"].shape[1:])
        given = {"label": label, "context": context}
        return {
            name: tf.nest.map_structure(
                lambda value, spec: tf.cast(value, spec.dtype),
                *(given[name], spec),
            )
            for name, spec in self._of_flow.items()
            if given[name] is not None
        }

    def sample(self, n, temperature=1.0, seed=None, label=None, context=None):
        n, seed = tf.cast(n, tf.int64), _stateless_seed(seed)
        if label is None and self._has_classes:
            label = self._draw_labels(n, seed)
        temperature = tf.cast(temperature, tf.float32)
        latents = self._draw_latents(n, temperature, seed)
        return self._decode(latents, self._condition(label, context))

    def log_prob(self, images, seed=None, label=None, context=None):
        return self._density(self._noisy(images, seed), label, context)

    def log_prob_each(self, images, seeds, label=None, context=None):
        points = self._dequantize_each(self._checked(images), seeds)
        return self._density(points, label, context)

    def _per_dim(self, images, seed=None, label=None, context=None):
        density = self._density(self._noisy(images, seed), label, context)
        return -density * self._units_per_nat

    def classify(self, images, seed=None, context=None):
        points = self._noisy(images, seed)
        condition = self._condition(None, context)
        return self._scores(points, condition)["class_log_probs"]

    def encode(self, images, label, context=None):
        images = self._checked(images)
        return self._encode(images, self._condition(label, context))

    def decode(self, latents, label, context=None):
        latents = tf.ensure_shape(latents, self._latent_shape)
        latents = tf.cast(latents, tf.float32)
        return self._decode(latents, self._condition(label, context))

    def _checked(self, images):
        # A signature accepts any shape, and the flow might broadcast it.
        images = tf.ensure_shape(images, self._image_shape)
        return tf.cast(images, self._types("images")[0].dtype)

    def _noisy(self, images, seed):
        return self._dequantize(self._checked(images), _stateless_seed(seed))

    def _density(self, points, label, context=None):
        condition = self._condition(label, context)
        if label is None:
            return self._scores(points, condition)["log_prob"]
        return self._log_density(points, condition)

    def signatures(self) -> dict[str, Callable]:
        """Returns the functions with named inputs and outputs."""
        images = tf.TensorSpec(self._image_shape, self._values.dtype, "images")
        latents = tf.TensorSpec(self._latent_shape, tf.float32, "latents")
        n = tf.TensorSpec([], tf.int32, "n")
        temperature = tf.TensorSpec([], tf.float32, "temperature")
        seed = tf.TensorSpec([], tf.int64, "seed")

        of_all = self._conditions
        context = {k: v for k, v in of_all.items() if k != "label"}

        def signature(function, specs, *inputs, output=None):
            """Traces a function of inputs and, by name, conditions."""

            def call(*args):
                own, rest = args[: len(inputs)], args[len(inputs) :]
                condition = tf.nest.pack_sequence_as(specs, rest)
                result = function(*own, **condition)
                return {output: result} if output else result

            return _concrete(call, *inputs, *tf.nest.flatten(specs))

        def score(images, context=None):
            points = self._noisy(images, None)
            condition = self._condition(None, context)
            scores = self._scores(points, condition)
            per_dim = -scores["log_prob"] * self._units_per_nat
            return scores | {self._values.measure: per_dim}

        def sample(n, temperature, seed, **condition):
            if self._has_classes:  # -1 stands for a random label.
                label = condition["label"]
                drawn = self._draw_labels(
                    tf.cast(n, tf.int64), _stateless_seed(seed)
                )
                condition["label"] = tf.where(label == -1, drawn, label)
            return self.sample(n, temperature, seed, **condition)

        draw, encode, decode = (n, temperature, seed), self.encode, self.decode
        result = {
            "serving_default": signature(score, context, images),
            "sample": signature(sample, of_all, *draw, output="images"),
            "encode": signature(encode, of_all, images, output="latents"),
            "decode": signature(decode, of_all, latents, output="images"),
        }
        if self._has_classes:
            result["classify"] = signature(
                self.classify, context, images, output="class_log_probs"
            )
        return result


def _concrete(function, *specs):
    """Traces a function without AutoGraph."""
    function = tf.function(function, autograph=False)
    return function.get_concrete_function(*specs)


def _stateless_seed(seed):
    """Converts a 64-bit seed, or `None`, to a seed of stateless operations."""
    if seed is not None:
        return tensors.stateless_seed(seed)
    # `tf.random.uniform` would write this process's seed into the graph, so the
    # numbers would be the same wherever the model is loaded. With zero seeds,
    # TensorFlow reseeds the operation whenever it is loaded.
    return tf.raw_ops.RandomUniformInt(
        shape=[2], minval=tf.int32.min, maxval=tf.int32.max, seed=0, seed2=0
    )
