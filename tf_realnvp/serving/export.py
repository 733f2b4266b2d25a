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

from tf_realnvp.serving import metadata as metadata_format
from tf_realnvp.utils import assertions, files, private
from tf_realnvp.utils.errors import UsageError

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
    lost = {name for name in names - _WRITTEN if not name.startswith(".")}
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
        # What the flow is conditioned on: `label` and `context`.
        self._conditions: dict[str, Any] = {}
        if model.num_classes is not None:
            self._conditions["label"] = tf.TensorSpec([None], tf.int64, "label")
        if model.context_shape is not None:
            self._conditions["context"] = model.context_specs
        self._needs_context = model.observe != "mask"
        self._image_shape = (None, *model.image_shape)
        self._latent_shape = (None, *model.latent_shape)
        self._values = model.values
        self._units_per_nat = model.values.per_dim(-1.0, model.num_dims)
        self._trace_parts(model)
        setattr(self, model.values.measure, self._per_dim)
        names = ["sample", "log_prob", "log_prob_each", model.values.measure]
        names += ["encode", "decode", *["classify"] * self._has_classes]
        for name in names:
            setattr(self, name, self._traced(name, getattr(self, name)))

    @property
    def _has_classes(self):
        return "label" in self._conditions

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
        if isinstance(by_name := self._conditions.get(argument), dict):
            return [dict.fromkeys(by_name, of_each) for of_each in types]
        return types

    def _traced(self, name, function):
        """Traces a function for all combinations of its arguments' types."""
        conditions = [
            condition
            for condition in self._conditions
            if (name, condition) != ("classify", "label")
        ]
        # In place of `**condition`.
        *parameters, _ = inspect.signature(function).parameters.values()
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        for condition in conditions:
            parameters.append(inspect.Parameter(condition, kind, default=None))
        is_required = {
            "label": name in ("encode", "decode"),
            "context": self._needs_context,
        }
        types = [
            [None] * (p.default is None and not is_required.get(p.name))
            + self._types(p.name)
            for p in parameters
        ]

        def call(*args):
            own = len(args) - len(conditions)
            condition = dict(zip(conditions, args[own:], strict=True))
            return function(*args[:own], **condition)

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
        condition = self._conditions
        context = {k: v for k, v in condition.items() if k != "label"}
        flow = functools.partial(self._concrete_flow, model.variables)

        def log_density(points, condition):
            return model.log_density(
                points, **model.condition(points, **condition)
            )

        def scores(points, condition):
            if not self._has_classes:
                return {"log_prob": self._log_density(points, condition)}

            def density(points, label):
                return self._density(points, label=label, **condition)

            joint = model.log_joint(points, density)
            return {
                "log_prob": tf.reduce_logsumexp(joint, axis=-1),
                "class_log_probs": tf.nn.log_softmax(joint),
            }

        self._draw_latents = _concrete(
            model.sample_latents, n, temperature, seed
        )
        self._dequantize = _concrete(model.dequantize, images, seed)
        self._dequantize_each = _concrete(model.dequantize_each, images, seeds)
        self._encode = flow(
            lambda images, condition: model.encode(images, **condition),
            *(images, condition),
        )
        self._decode = flow(
            lambda latents, condition: model.decode(latents, **condition),
            *(latents, condition),
        )
        self._log_density = flow(log_density, points, condition)
        self._scores = _concrete(scores, points, context)
        if self._has_classes:
            self._draw_labels = _concrete(model.sample_labels, n, seed)

    def _concrete_flow(self, variables, function, *specs):
        """Traces a function of the model, with variables from `weights`."""

        def flow(*inputs):
            sizes = [v.shape.num_elements() for v in variables]
            parts = tf.split(self.weights, sizes)
            pairs = zip(variables, parts, strict=True)
            values = [(v, tf.reshape(part, v.shape)) for v, part in pairs]
            with keras.StatelessScope(values):
                return function(*inputs)

        return _concrete(flow, *specs)

    def _condition(self, batch, label=None, context=None):
        """Returns what the flow is conditioned on, for each of a batch."""
        values = {"label": label, "context": context}
        if context is None:
            values["context"] = 0.0  # Nothing is visible.
        return {
            name: tf.nest.map_structure(
                lambda spec, value: tf.broadcast_to(
                    tf.cast(value, spec.dtype),
                    [tf.shape(batch)[0], *spec.shape[1:]],
                ),
                specs,
                values[name],
            )
            for name, specs in self._conditions.items()
            if values[name] is not None
        }

    def sample(self, n, temperature=1.0, seed=None, **condition):
        n, seed = tf.cast(n, tf.int64), _stateless_seed(seed)
        if self._has_classes and condition.get("label") is None:
            condition["label"] = self._draw_labels(n, seed)
        temperature = tf.cast(temperature, tf.float32)
        latents = self._draw_latents(n, temperature, seed)
        return self._decode(latents, self._condition(latents, **condition))

    def log_prob(self, images, seed=None, **condition):
        return self._density(self._noisy(images, seed), **condition)

    def log_prob_each(self, images, seeds, **condition):
        points = self._dequantize_each(self._checked(images), seeds)
        return self._density(points, **condition)

    def _per_dim(self, images, seed=None, **condition):
        return -self.log_prob(images, seed, **condition) * self._units_per_nat

    def classify(self, images, seed=None, **condition):
        points = self._noisy(images, seed)
        condition = self._condition(points, **condition)
        return self._scores(points, condition)["class_log_probs"]

    def encode(self, images, **condition):
        images = self._checked(images)
        return self._encode(images, self._condition(images, **condition))

    def decode(self, latents, **condition):
        latents = tf.ensure_shape(latents, self._latent_shape)
        latents = tf.cast(latents, tf.float32)
        return self._decode(latents, self._condition(latents, **condition))

    def _checked(self, images):
        # A signature accepts any shape, and the flow might broadcast it.
        images = tf.ensure_shape(images, self._image_shape)
        return tf.cast(images, self._types("images")[0].dtype)

    def _noisy(self, images, seed):
        return self._dequantize(self._checked(images), _stateless_seed(seed))

    def _density(self, points, **condition):
        condition = self._condition(points, **condition)
        if self._has_classes and "label" not in condition:
            return self._scores(points, condition)["log_prob"]
        return self._log_density(points, condition)

    def signatures(self) -> dict[str, Callable]:
        """Returns the functions with named inputs and outputs."""
        images = tf.TensorSpec(self._image_shape, self._values.dtype, "images")
        latents = tf.TensorSpec(self._latent_shape, tf.float32, "latents")
        n = tf.TensorSpec([], tf.int32, "n")
        temperature = tf.TensorSpec([], tf.float32, "temperature")
        seed = tf.TensorSpec([], tf.int64, "seed")
        conditions = dict(self._conditions)
        if self._has_classes:
            conditions["label"] = tf.TensorSpec([None], tf.int32, "label")

        def signature(function, *inputs, without=()):
            """Traces a function of inputs and, by name, conditions."""
            specs = {k: v for k, v in conditions.items() if k not in without}

            def call(*args):
                own, rest = args[: len(inputs)], args[len(inputs) :]
                return function(*own, **tf.nest.pack_sequence_as(specs, rest))

            return _concrete(call, *inputs, *tf.nest.flatten(specs))

        def score(images, **condition):
            points = self._noisy(images, None)
            condition = self._condition(points, **condition)
            scores = self._scores(points, condition)
            per_dim = -scores["log_prob"] * self._units_per_nat
            return scores | {self._values.measure: per_dim}

        def sample(n, temperature, seed, label=None, **condition):
            if label is not None:  # -1 stands for a random label.
                drawn = self._draw_labels(
                    tf.cast(n, tf.int64), _stateless_seed(seed)
                )
                condition["label"] = tf.where(label == -1, drawn, label)
            return self.sample(n, temperature, seed, **condition)

        def named(output, function):
            return lambda *args, **condition: {
                output: function(*args, **condition)
            }

        result = {
            "serving_default": signature(score, images, without=["label"]),
            "sample": signature(named("images", sample), n, temperature, seed),
            "encode": signature(named("latents", self.encode), images),
            "decode": signature(named("images", self.decode), latents),
        }
        if self._has_classes:
            classify = named("class_log_probs", self.classify)
            result["classify"] = signature(classify, images, without=["label"])
        return result


def _concrete(function, *specs):
    """Traces a function without AutoGraph."""
    function = tf.function(function, autograph=False)
    return function.get_concrete_function(*specs)


def _stateless_seed(seed):
    """Converts a 64-bit seed, or `None`, to a seed of stateless operations."""
    if seed is not None:
        return assertions.stateless_seed(seed)
    # `tf.random.uniform` would write this process's seed into the graph, so the
    # numbers would be the same wherever the model is loaded. With zero seeds,
    # TensorFlow reseeds the operation whenever it is loaded.
    return tf.raw_ops.RandomUniformInt(
        shape=[2], minval=tf.int32.min, maxval=tf.int32.max, seed=0, seed2=0
    )
