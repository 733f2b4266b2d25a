"""Weights of a SavedModel, for models that are trained or changed."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_realnvp.model import RealNVP
from tf_realnvp.serving import metadata
from tf_realnvp.utils.errors import ModelError, reason
from tf_realnvp.utils.messages import printable


def load_model(path: str | os.PathLike) -> RealNVP:
    """Makes the model that was saved, to be trained or changed.

    Args:
      path: The folder that `export.save` wrote, with any version.

    Returns:
      A model with the same weights, which when it is saved again says of its
      data what this one says.

    Raises:
      ModelError: If there is no such model.
    """
    saved = metadata.read(path)
    try:
        model = RealNVP(**metadata.architecture(saved, path))
    except ValueError as error:
        raise ModelError(
            f"{printable(pathlib.Path(path) / metadata.FILE)} is damaged: "
            f"{error}"
        ) from error
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
    """Gives a model the weights of one that was saved, which it may exceed.

    What only the model has stays as it is: the last of the couplings of a
    scale, classes and learned noise. All of them start as the
    identity, so a trained model can grow, and is at first the density that it
    was.

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
            f"the model in {printable(path)} does not fit: it has "
            f"{', '.join(differences)}"
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
    # Convolutions know no height and width.
    channels, its_channels = model.image_shape[2], other.image_shape[2]
    has_place = {
        "filters": other.filters == model.filters,
        "num_blocks": other.num_blocks == model.num_blocks,
        "alpha": other.alpha == model.alpha,
        "num_scales": other.num_scales == model.num_scales,
        "num_couplings": all(
            its <= own
            for its, own in zip(
                other.num_couplings, model.num_couplings, strict=True
            )
        ),
        "num_classes": other.num_classes in (None, model.num_classes),
        "dequantization": other.dequantization
        in ("uniform", model.dequantization),
    }
    for name, is_good in has_place.items():
        if not is_good:
            yield (
                f"{getattr(other, name)} {name} instead of "
                f"{getattr(model, name)}"
            )
    if its_channels != channels:
        yield f"{its_channels} channels instead of {channels}"


def _assign(model, path):
    file = os.path.join(path, "variables", "variables")
    try:
        values = _read(tf.train.load_checkpoint(file), model.variables)
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(value)
    except Exception as error:  # TensorFlow raises nearly anything.
        raise ModelError(
            f"the weights in {printable(path)} cannot be read: "
            f"{printable(reason(error))}"
        ) from error


def _read(reader, variables):
    """Returns the values of a model's variables."""
    value = "{}/.ATTRIBUTES/VARIABLE_VALUE".format
    if reader.has_tensor(value("weights")):
        weights = reader.get_tensor(value("weights"))
        sizes = [variable.shape.num_elements() for variable in variables]
        if weights.shape != (sum(sizes),):
            raise ValueError(f"they are {weights.size}, not {sum(sizes)}")
        return [
            part.reshape(variable.shape)
            for variable, part in zip(
                variables, np.split(weights, np.cumsum(sizes[:-1])), strict=True
            )
        ]
    # Formats 1 and 2.
    name, number = "_model_variables/{}", len(variables)
    if reader.has_tensor(value(name.format(number))):
        raise ValueError(f"there are more than {number}")
    return [
        reader.get_tensor(value(name.format(index))) for index in range(number)
    ]
