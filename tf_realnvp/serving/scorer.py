"""Scores of images that do not depend on what is scored with them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_realnvp.serving.saved_model import BATCH_SIZE, SavedModel

if TYPE_CHECKING:
    from tf_realnvp.analysis.detection import Reference


class Scorer:
    """Scores batches of images, as the command `score` does.

    All images have the same noise. All batches have the same size, since
    convolutions and matrix products round in ways that depend on it. So the
    score of an image is the same in any batch and process, bit for bit, on
    processors of one kind.
    """

    def __init__(
        self,
        model: SavedModel,
        measure: Callable[[np.ndarray, int], Any],
        seed: int = 0,
        reference: "Reference | None" = None,
    ):
        """Creates a scorer.

        Args:
          model: The model.
          measure: `model.score_each`, or a `detection.Measurer`, which a
            reference requires.
          seed: Seed of the noise.
          reference: Adds the scores of all methods, and p-values.
        """
        self._model, self._measure = model, measure
        self._seed, self._reference = seed, reference

    def __call__(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Scores images.

        Args:
          images: `n` images `[H, W, C]`, at most `BATCH_SIZE`.

        Returns:
          Columns `[n]` by name.
        """
        model, n = self._model, len(images)
        measured = self._measure(fill(model, images), self._seed)
        nats, values = measured.log_prob, model.values
        columns = {
            "log_prob": nats,
            values.measure: values.per_dim(nats, model.num_dims),
        }
        if model.class_names:
            names = np.take(model.class_names, measured.label)
            columns["likeliest_label"] = names
        if self._reference is not None:
            columns |= self._reference(measured)
        return {name: column[:n] for name, column in columns.items()}


def fill(model: SavedModel, images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns a batch of `BATCH_SIZE` that begins with some images.

    Args:
      model: The model.
      images: As for `Scorer`.
    """
    shape = BATCH_SIZE, *model.image_shape
    batch = np.zeros(shape, model.values.dtype)
    for place, image in enumerate(images):
        batch[place] = image
    return batch
