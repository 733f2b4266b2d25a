"""Loading a SavedModel into a `RealNVP`, and warm starts."""

import os
from typing import Any

import numpy as np
import tensorflow as tf

from tf_realnvp.errors import ModelError, reason
from tf_realnvp.flow.architecture import ARCHITECTURE
from tf_realnvp.flow.real_nvp import RealNVP
from tf_realnvp.serving import metadata

_KEPT = (
    *("dataset", "source", "class_names", "training_hashes", "dropped_bits"),
    "tiles",
)


def load_model(path: str | os.PathLike, name: str = "real_nvp") -> RealNVP:
    """Loads a SavedModel as a `RealNVP`, to train or change it.

    Args:
      path: The folder that `export.save` wrote.
      name: As for `RealNVP`.

    Returns:
      A model with the same weights, and with the metadata of the SavedModel.

    Raises:
      ModelError: If there is no such model.
    """
    content = metadata.read(path)
    names = {*ARCHITECTURE, "num_classes", "class_probs", "context_shape"}
    config: dict[str, Any] = {key: content[key] for key in names & {*content}}
    shape, num_colors = content["image_shape"], content["num_colors"]
    model = RealNVP(shape, num_colors, **config, name=name)
    file = os.path.join(path, "variables", "variables")
    try:
        weights = tf.train.load_checkpoint(file).get_tensor(
            "weights/.ATTRIBUTES/VARIABLE_VALUE"
        )
        sizes = [v.shape.num_elements() for v in model.variables]
        *parts, rest = np.split(weights, np.cumsum(sizes))
        if rest.size:
            raise ValueError(f"they are {weights.size}, not {sum(sizes)}")
        for variable, part in zip(model.variables, parts, strict=True):
            variable.assign(part.reshape(variable.shape))
    except Exception as error:  # TensorFlow may raise anything.
        raise ModelError(
            f"the weights in {path} cannot be read: {reason(error)}"
        ) from error
    model.metadata = {n: content[n] for n in _KEPT if n in content}
    return model


def assign_weights(model: RealNVP, path: str | os.PathLike) -> None:
    """Assigns the weights of a SavedModel to a model (warm start).

    Parts that only the model has keep their weights: additional couplings at
    the end of a scale, classes, a context, and variational dequantization. In a
    new model they are the identity, so a larger model starts with the same
    density. The models may differ in `padding`, which changes the density.

    Classes get the embeddings of the saved classes of the same names, by the
    metadata of both models; all other classes get the remaining embeddings.
    Without names, classes are matched by index.

    Args:
      model: The model; its images may be of another size and number of levels.
      path: The folder that `export.save` wrote.

    Raises:
      ModelError: If there is no model, or if it does not fit; the message names
        the differences.
    """
    other = load_model(path)
    if differences := _differences(model, other):
        raise ModelError(
            f"the model in {path} does not fit: it has {', '.join(differences)}"
        )
    names, saved_names = (m.metadata.get("class_names") for m in (model, other))
    classes: Any = slice(None)
    if names and saved_names:
        # Of the same name if there is one, or one of those left.
        left = (i for i, name in enumerate(saved_names) if name not in names)
        classes = [
            saved_names.index(name) if name in saved_names else next(left)
            for name in names
        ]
    # What is observed of images is in units of their levels.
    has_other_unit = model.observe and model.num_colors != other.num_colors
    saved = other.named_variables()
    for name, variable in model.named_variables().items():
        if name not in saved or (name.endswith("/moments") and has_other_unit):
            continue
        value = saved[name].numpy()
        if name.endswith("/embedding"):
            value = value[:, classes]
        variable.assign(value)


def _differences(model, other):
    """Returns descriptions of the parts of a saved model that do not fit."""
    may_differ = {"num_couplings", "dequantization", "padding", "observe"}
    fits = {
        name: getattr(other, name) == getattr(model, name)
        for name in ARCHITECTURE
        if name not in may_differ
    }
    pairs = zip(other.num_couplings, model.num_couplings, strict=True)
    fits["num_couplings"] = all(few <= many for few, many in pairs)
    # The weights act on logits of levels, or on standardized real numbers.
    fits["num_colors"] = other.values.are_real == model.values.are_real
    fits["num_classes"] = other.num_classes in (None, model.num_classes)
    # By their text, since the order of several contexts matters.
    shapes = "None", str(model.context_shape)
    fits["context_shape"] = str(other.context_shape) in shapes
    # The depth of a U-Net depends on the height and width.
    fits["image_shape"] = (
        other.condition.estimator is None
        or other.image_shape == model.image_shape
    )
    of_noise = "uniform", model.dequantization
    fits["dequantization"] = other.dequantization in of_noise
    differences = [
        f"{getattr(other, name)} {name} instead of {getattr(model, name)}"
        for name, does_fit in fits.items()
        if not does_fit
    ]
    # Other convolutions do not depend on the height and width.
    channels, expected = other.image_shape[2], model.image_shape[2]
    if channels != expected:
        differences.append(f"{channels} channels instead of {expected}")
    return differences
