"""Weights of a SavedModel, for models that are trained or changed."""

import os
import pathlib

import tensorflow as tf

from tf_realnvp.errors import ModelError, printable, reason
from tf_realnvp.model import RealNVP
from tf_realnvp.serving import metadata

# What two models must have in common for the weights of one to fit the other:
# convolutions know no height and width.
_OF_WEIGHTS = [
    *(name for name in metadata.ARCHITECTURE if name != "alpha"),
    "num_classes",
]


def load_model(path: str | os.PathLike) -> RealNVP:
    """Makes the model that was saved, to be trained or changed.

    Args:
      path: The folder that `export.save` wrote, with any version.

    Returns:
      A model with the same weights.

    Raises:
      ModelError: If there is no such model.
    """
    arguments = metadata.read_architecture(path)
    try:
        model = RealNVP(**arguments)
    except ValueError as error:
        raise ModelError(
            f"{printable(pathlib.Path(path) / metadata.FILE)} is damaged: "
            f"{error}"
        ) from error
    _assign(model, path)
    return model


def assign_weights(model: RealNVP, path: str | os.PathLike) -> None:
    """Gives a model the weights of one that was saved.

    Args:
      model: The model; its images may be of another size and number of levels.
      path: The folder that `export.save` wrote.

    Raises:
      ModelError: If there is no such model, or it does not fit; the message
        names what does not.
    """
    other = metadata.read_architecture(path)
    differences = [
        f"{other[name]} {name} instead of {getattr(model, name)}"
        for name in _OF_WEIGHTS
        if other[name] != getattr(model, name)
    ]
    (*size, channels), (*own_size, own) = (
        other["image_shape"],
        model.image_shape,
    )
    if channels != own:
        differences.append(f"{channels} channels instead of {own}")
    if model.per_position and size != own_size:
        differences.append(
            f"positions of {size[0]}x{size[1]} instead of "
            f"{own_size[0]}x{own_size[1]}"
        )
    if differences:
        raise ModelError(
            f"the model in {printable(path)} does not fit: it has "
            f"{', '.join(differences)}"
        )
    _assign(model, path)


def _assign(model, path):
    variables = os.path.join(path, "variables", "variables")
    names = [
        f"_model_variables/{index}/.ATTRIBUTES/VARIABLE_VALUE"
        for index in range(len(model.variables))
    ]
    try:
        reader = tf.train.load_checkpoint(variables)
        values = [reader.get_tensor(name) for name in names]
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(value)
    except Exception as error:  # TensorFlow raises nearly anything.
        raise ModelError(
            f"the weights in {printable(path)} cannot be read: "
            f"{printable(reason(error))}"
        ) from error
