"""Weights of a SavedModel, for models that are trained or changed."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_realnvp.config import ARCHITECTURE
from tf_realnvp.model import RealNVP
from tf_realnvp.serving import metadata
from tf_realnvp.utils.errors import ModelError, reason


def load_model(path: str | os.PathLike) -> RealNVP:
    """Makes the model that was saved, to be trained or changed.

    Args:
      path: The folder that `export.save` wrote.

    Returns:
      A model with the same weights, which when it is saved again says of its
      data what this one says.

    Raises:
      ModelError: If there is no such model.
    """
    saved = metadata.read(path)
    names = (*ARCHITECTURE, "num_classes", "class_probs")
    config: dict[str, Any] = {name: saved.others.get(name) for name in names}
    try:
        model = RealNVP(saved.image_shape, saved.num_colors, **config)
    except (TypeError, ValueError) as error:
        raise metadata.damaged(path, error) from error
    _assign(model, path)
    model.metadata = {
        name: saved.others[name]
        for name in ("dataset", "source", "class_names")
        if name in saved.others
    }
    return model


def assign_weights(
    model: RealNVP,
    path: str | os.PathLike,
    class_names: Sequence[str] = (),
) -> None:
    """Gives a model the weights of a saved one: a warm start.

    What only the model has stays as it is: the last of the couplings of a
    scale, classes and the variational dequantization. All of them start as the
    identity, so that after a warm start a larger model is the same density.

    Args:
      model: The model; its images may be of another size and number of levels.
      path: The folder that `export.save` wrote.
      class_names: Names of the model's classes. They get the embeddings of the
        saved classes of the same names, and the others those that are left.
        Default: it goes by numbers, as it does where the saved model has none.

    Raises:
      ModelError: If there is no such model, or it does not fit; the message
        names what does not.
    """
    other = load_model(path)
    differences = [*_differences(model, other)]
    if differences:
        raise ModelError(
            f"the model in {path} does not fit: it has {', '.join(differences)}"
        )
    variables = model.named_variables()
    its_names = other.metadata.get("class_names", ())
    for name, variable in other.named_variables().items():
        value = variable.numpy()
        if name.endswith("/embedding") and class_names and its_names:
            value = value[:, _same_classes(its_names, class_names)]
        variables[name].assign(value)


def _same_classes(names, own):
    """Returns the numbers in `names` of its `own` classes, or of what is left.

    Args:
      names: Names of classes.
      own: As many names.
    """
    left = (i for i, name in enumerate(names) if name not in own)
    return [names.index(n) if n in names else next(left) for n in own]


def _differences(model, other):
    """Yields what of another model has no place in a model, a phrase each."""
    fits = {
        name: getattr(other, name) == getattr(model, name)
        for name in ("filters", "num_blocks", "alpha", "num_scales")
    }
    pairs = zip(other.num_couplings, model.num_couplings, strict=True)
    fits["num_couplings"] = all(its <= own for its, own in pairs)
    fits["num_classes"] = other.num_classes in (None, model.num_classes)
    fits["dequantization"] = other.dequantization in (
        "uniform",
        model.dequantization,
    )
    for name, does_fit in fits.items():
        if not does_fit:
            yield (
                f"{getattr(other, name)} {name} instead of "
                f"{getattr(model, name)}"
            )
    # Convolutions know no height and width.
    channels, its_channels = model.image_shape[2], other.image_shape[2]
    if its_channels != channels:
        yield f"{its_channels} channels instead of {channels}"


def _assign(model, path):
    """Gives a model the weights that `export.save` wrote."""
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
    except Exception as error:  # TensorFlow raises nearly anything.
        raise ModelError(
            f"the weights in {path} cannot be read: {reason(error)}"
        ) from error
