"""Models in pipelines of Apache Beam.

It needs the extra `beam`. "Scoring and sampling at scale" in the documentation
has a pipeline, which needs little more than these parts.
"""

import functools
import logging
import os
from typing import Any

import apache_beam as beam
import numpy as np
import scipy.special
from apache_beam.io import fileio
from apache_beam.ml.inference.base import ModelHandler

from tf_realnvp.utils import runtime

runtime.configure()  # As the commands do, before TensorFlow is imported.

from tf_realnvp import api  # noqa: E402
from tf_realnvp.analysis import batched, detection, significance  # noqa: E402
from tf_realnvp.cli import image_sets  # noqa: E402
from tf_realnvp.cli.detection import score_batch  # noqa: E402
from tf_realnvp.data import image_files  # noqa: E402
from tf_realnvp.errors import ImageError  # noqa: E402
from tf_realnvp.serving import metadata  # noqa: E402
from tf_realnvp.utils.batches import BATCH_SIZE  # noqa: E402


class SavedModelHandler(ModelHandler[Any, Any, Any]):
    """Applies a SavedModel to batches, for `RunInference`.

    Results do not depend on the batch, nor on the number of workers. Wrap it
    in a `KeyedModelHandler` to keep the names of images.

    Methods, for an image `[H, W, C]` unless another input is named:

    *   `"score"`: a dictionary with `log_prob`, `bits_per_dim` and the other
        columns of the command `score`, whose values it equals.
    *   `"classify"`: log-probabilities of the classes, float64 `[num_classes]`.
    *   `"encode"`: latents, given the likeliest class.
    *   `"sample"`: for a number `k` from 0, images `64 * k` to `64 * k + 63`
        that the command `sample` draws, `[64, H, W, C]`.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        method: str = "score",
        seed: int = 0,
        context: Any = None,
        reference: str | None = None,
        temperature: float = 1.0,
    ):
        """Creates a handler.

        Args:
          path: The folder of the model, which all workers can read.
          method: See above.
          seed: Seed of the noise, or of the samples.
          context: As for `RealNVP.log_prob` and `RealNVP.sample`. `encode`
            takes none.
          reference: Of `score`, what `--reference` is of the command: a folder
            that all workers can read, or a data set. Each process measures it.
          temperature: Of `sample`.
        """
        # One large image has many batches of tiles.
        size = 1 if metadata.read(path).get("tiles") else BATCH_SIZE
        super().__init__(min_batch_size=size, max_batch_size=size)
        self._path, self._method = os.fspath(path), method
        self._seed, self._context = seed, context
        self._reference, self._temperature = reference, temperature

    def load_model(self):
        """Returns what maps a batch to its results."""
        return getattr(self, f"_{self._method}")(api.load(self._path))

    def run_inference(self, batch, model, inference_args=None):
        """Returns the result of each input."""
        return model(batch)

    def _score(self, model):
        reference, seed, context = None, self._seed, self._context
        measure: Any = functools.partial(batched.score_each, model)
        if self._reference is not None or model.metadata.get("tiles"):
            measure = detection.Measurer(model)
        if self._reference is not None:
            # As the command does by default.
            loader = image_sets.Loader(model, "datasets", 4000, seed, True)
            normal = loader.load(
                "reference", self._reference, "test", image_sets.MIN_IMAGES
            )
            measured = measure(normal.images, seed, context)
            reference = detection.Reference(measured, seed)

        def score(images):
            columns = score_batch(
                *(model, measure, seed, context, reference, images)
            )
            rows = zip(*(v.tolist() for v in columns.values()), strict=True)
            return [dict(zip(columns, row, strict=True)) for row in rows]

        return score

    def _classify(self, model):
        def classify(images):
            filled, rest = batched.fill(model, images), (self._seed, True)
            log_probs = batched.log_prob_of_classes(
                model, filled, *rest, self._context
            )
            joint = log_probs + batched.log_prior(model)
            return scipy.special.log_softmax(joint, axis=1)[: len(images)]

        return classify

    def _encode(self, model):
        def encode(images):
            filled = batched.fill(model, images)
            return batched.encode_likeliest(model, filled)[0][: len(images)]

        return encode

    def _sample(self, model):
        def draw(number):
            n, seed = (number + 1) * BATCH_SIZE, self._seed
            rest = self._temperature, seed, None, self._context
            draws = batched.sample(model, n, *rest, numbers=[number])
            return next(draws)

        return lambda numbers: map(draw, numbers)


@beam.ptransform_fn
def ReadImages(
    pipeline: beam.Pipeline,
    path: str | os.PathLike,
    pattern: str,
    keys: tuple[str, str] | None = None,
) -> beam.PCollection:
    """Reads images as the command `score` does: `(name, [H, W, C])`.

    Those that cannot be read are named in the log and counted by the metric
    `unreadable`.

    Args:
      pipeline: The pipeline, which Beam gives.
      path: The folder of the model, whose shape and levels the images get.
      pattern: Glob pattern of image files, whose names are their paths; on any
        file system that Beam knows.
      keys: If they are TFRecord files of `tf.train.Example`, the features that
        are name and content of an image file, such as `("image/filename",
        "image/encoded")`.
    """
    if keys is None:
        contents = (
            pipeline
            | fileio.MatchFiles(pattern)
            | beam.Reshuffle()
            | fileio.ReadMatches()
            | beam.Map(lambda file: (file.metadata.path, file.read()))
        )
    else:
        records = pipeline | beam.io.ReadFromTFRecord(pattern)
        contents = records | beam.Map(_parse, keys)
    return contents | beam.FlatMap(_decode, os.fspath(path))


def _parse(record, keys):
    import tensorflow as tf

    features = tf.train.Example.FromString(record).features.feature
    name, content = (features[key].bytes_list.value[0] for key in keys)
    return os.fsdecode(name), content


@functools.cache
def _form(path):
    """Returns how a model's images are read."""
    content = metadata.read(path)
    return dict(
        image_shape=content["image_shape"],
        values=metadata.values(content),
        has_tiles=content.get("tiles", False),
    )


def _decode(named, path):
    name, content = named
    try:
        image = image_files.read(name, content=content, **_form(path))
    except ImageError as error:
        beam.metrics.Metrics.counter(__name__, "unreadable").inc()
        logging.warning(error)
        return []
    return [(name, image)]


@beam.ptransform_fn
def PValues(
    scores: beam.PCollection, reference: beam.PCollection
) -> beam.PCollection:
    """Maps `(name, score)` to `(name, p-value)`, as `significance.p_values`.

    The values are exact: each worker holds the whole reference, of which ten
    million scores are 80 MB.

    Args:
      scores: Named scores, which Beam gives.
      reference: Scores of normal images, without names.
    """
    in_order = reference | beam.combiners.ToList() | beam.Map(np.sort)
    batches = scores | beam.BatchElements()
    return batches | beam.FlatMap(_p_values, beam.pvalue.AsSingleton(in_order))


def _p_values(named, reference):
    names, scores = zip(*named, strict=True)
    values = significance.p_values(np.array(scores), reference)
    return zip(names, values.tolist(), strict=True)
