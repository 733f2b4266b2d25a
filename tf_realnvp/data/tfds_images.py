"""Image data sets of TensorFlow Datasets (TFDS)."""

import contextlib
import io
import logging
import re

import numpy as np
import requests
import tensorflow as tf
import tensorflow_datasets as tfds

from tf_realnvp.data.image_dataset import ImageDataset
from tf_realnvp.data.pipeline import DECODING
from tf_realnvp.data.preprocessing import default_size, resize
from tf_realnvp.data.splits import Split
from tf_realnvp.errors import DataError, reason
from tf_realnvp.flow.values import Values
from tf_realnvp.utils import hashing, runtime

SHUFFLE_BYTES = 128 * 2**20

_CONNECT_TIMEOUT = 10  # Seconds.
_LABEL = "label"  # The name of this feature in nearly all data sets.
_BUILDERS = {"CIFAR10": "cifar10", "CelebA": "celeb_a"}
_CELEBA_SIDE = 148  # Side of the central square crop, in pixels.


def load(
    name: str, data_dir: str, size: tuple[int, int] | None, labels: bool = False
) -> ImageDataset:
    """Loads a data set, and prepares it first if it is not in `data_dir`.

    Without a `test` split, the `validation` split is used for testing, or else
    the last 10 % of `train`. An alpha channel is dropped.

    In the first epochs, the shuffle buffer holds `SHUFFLE_BYTES` of compressed
    images, which is all of CIFAR10. TFDS already shuffled the prepared copy.

    Args:
      name: `CIFAR10`, `CelebA` or a TFDS name, as for `data.load`.
      data_dir: As for `data.load`.
      size: Height and width to resize the images to, if any.
      labels: As for `data.load`.

    Returns:
      The data set.

    Raises:
      DataError: If TFDS does not know the name, if the data set has no images
        (or no labels, if requested), or if it cannot be obtained. All errors of
        TFDS are converted to it.
    """
    folder = tfds.core.Path(data_dir).expanduser()  # Or a bucket.
    # This wildcard accepts copies of any version, not just the newest.
    version = {} if ":" in name else {"version": "*.*.*"}
    builder = None
    try:
        with _quiet():
            stem = _builder_name(name)
            builder = tfds.builder(stem, data_dir=folder, **version)
            key = _image_key(builder)
            class_names = _class_names(builder) if labels else ()
            if not builder.is_prepared():
                _prepare(builder, folder)
            splits = _splits(builder, labels)
            decode, image_shape = _decoder(builder, key, size)
    except DataError:
        raise
    except Exception as error:  # TFDS may raise anything.
        raise DataError(_explain(name, builder, folder, error)) from error
    sizes = [f"{name} {split.num_images}" for name, split in splits.items()]
    train, test = splits.values()
    whole = builder.info.splits["train"]
    num_buffered = int(SHUFFLE_BYTES / (whole.num_bytes / whole.num_examples))
    return ImageDataset(
        name=re.sub(r"[^\w.-]+", "_", name),
        image_shape=image_shape,
        values=Values(1 + np.iinfo(builder.info.features[key].np_dtype).max),
        splits={"train": train, "test": test},
        decode=decode,
        shuffle_buffer=max(1, min(train.num_images, num_buffered)),
        image_fingerprint=" ".join([builder.info.full_name, *sizes]),
        class_names=class_names,
        explain_damage=lambda text: f"{text}, in {builder.data_path}",
    )


def _builder_name(name):
    stem, colon, version = name.partition(":")
    return _BUILDERS.get(stem, stem) + colon + version


def _image_key(builder):
    """Returns the name of the feature that holds the image."""
    features = builder.info.features
    keys = [
        key
        for key, feature in features.items()
        if type(feature) is tfds.features.Image
        and feature.np_dtype in (np.uint8, np.uint16)
        and feature.shape[-1] in (1, 3, 4)
    ]
    if "image" in keys:
        return "image"
    if len(keys) == 1:
        return keys[0]
    raise DataError(
        f"{builder.name}: there is no image feature, or more than one; its "
        f"features: {', '.join(features) or 'none'}"
    )


def _class_names(builder):
    """Returns the names of the classes, from the feature `label`."""
    label = dict(builder.info.features.items()).get(_LABEL)
    if not isinstance(label, tfds.features.ClassLabel):
        raise DataError(
            f"{builder.name}: its images have no labels, a feature {_LABEL!r}"
        )
    return tuple(label.names)


def _prepare(builder, data_dir):
    """Prepares a copy with TFDS, from `data_dir/manual` or the network."""
    # TFDS would consider any folder at this path a complete copy.
    if builder.data_path.exists():
        raise ValueError(f"{builder.data_path} is incomplete")
    manual = data_dir / "manual"
    missing = _missing(builder.url_infos, manual)
    if missing and not (data_dir / "downloads").exists():
        # Fails at once without a network, while TFDS retries for minutes.
        requests.get(
            next(iter(missing)), stream=True, timeout=_CONNECT_TIMEOUT
        ).raise_for_status()
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=manual, try_download_gcs=False
        )
    )


def _missing(url_infos, manual):
    """Returns the names of archives that a folder lacks, by URL."""
    # TFDS knows the names of most archives.
    names = {u: i.filename or u.split("/")[-1] for u, i in url_infos.items()}
    return {u: n for u, n in names.items() if not (manual / n).exists()}


def _splits(builder, labels):
    """Returns the training and test images, keyed by their names in TFDS."""
    sizes = {n: split.num_examples for n, split in builder.info.splits.items()}
    if sizes.get("train", 0) < 2:
        raise ValueError(f"it has no training images: {sizes or 'no splits'}")
    train = _read(builder, "train", labels)
    for name in ("test", "validation"):
        if sizes.get(name):
            return {"train": train, name: _read(builder, name, labels)}
    n = max(1, int(hashing.TEST_SHARE * train.num_images))
    return {
        f"train[:-{n}]": train.select(slice(-n)),
        f"train[-{n}:]": train.select(slice(-n, None)),
    }


def _read(builder, name, labels):
    """Returns a whole split of TFDS."""
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise ValueError("only TFRecord files can be read")
    whole = builder.info.splits[name]
    # `as_dataset` parses the records as well, and is 20 times as slow.
    records = tf.data.TFRecordDataset(whole.filepaths, buffer_size=2**20)
    classes = _read_labels(builder, records) if labels else None
    return Split(np.arange(whole.num_examples), classes, records)


def _parser(builder, key):
    """Returns a function that maps a record to one of its features."""
    features = tfds.decode.PartialDecoding({key: True}).extract_features(
        builder.info.features
    )
    return lambda record: features.deserialize_example(record)[key]


def _read_labels(builder, records):
    """Returns the labels of records, without decoding images."""
    labels = records.map(
        _parser(builder, _LABEL), num_parallel_calls=runtime.num_cores()
    ).batch(4096)
    return np.concatenate(list(labels.as_numpy_iterator())).astype(np.int32)


def _decoder(builder, key, size):
    """Returns a function that maps a record to an image, and its shape."""
    parse = _parser(builder, key)
    *of_all, channels = builder.info.features[key].shape
    size, channels = size or default_size(*of_all), min(channels, 3)

    @tf.function(autograph=False)
    def decode(record):
        with tf.name_scope(DECODING):
            image = parse(record)[..., :channels]
            if builder.name == "celeb_a":
                image = tf.image.resize_with_crop_or_pad(
                    image, _CELEBA_SIDE, _CELEBA_SIDE
                )
            return resize(image, size)

    # Traced once for all epochs, and now, while TFDS's warnings are silenced.
    decode = decode.get_concrete_function(tf.TensorSpec([], tf.string))
    return decode, (*size, channels)


@contextlib.contextmanager
def _quiet():
    """Silences the prints and warnings of TFDS, but not its progress bars."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _explain(name, builder, folder, error):
    """Returns an error message that says how to fix the problem."""
    stem = re.split("[/:]", _builder_name(name))[0]
    is_unknown = isinstance(error, tfds.core.registered.DatasetNotFoundError)
    if is_unknown or "Parsing builder name" in str(error):
        similar = re.search("Did you mean.* ", str(error))
        return (
            f"No data set or folder is called {name!r}. "
            f"{similar[0] if similar else ''}Available are "
            f"{', '.join(_BUILDERS)}, fashion_mnist and digits, folders of "
            "images, NumPy files, and the image data sets of "
            "https://www.tensorflow.org/datasets"
        )
    lines = [f"{name}: {type(error).__name__}: {reason(error)}"]
    if (folder / stem).exists():
        lines.append(f"If the prepared copy is damaged, delete {folder / stem}")
    with contextlib.suppress(ValueError):  # Not for the user's own data sets.
        cls, manual = tfds.builder_cls(stem), folder / "manual"
        missing = _missing(cls.url_infos, manual)
        if builder is not None and missing:
            # Some data sets have thousands of archives.
            names = ", ".join([*missing.values()][:10])
            lines.append(
                f"Without a network: get {names} from {builder.info.homepage} "
                f"and put them, unextracted, into the folder {manual}"
            )
        elif instructions := cls.MANUAL_DOWNLOAD_INSTRUCTIONS:
            instructions = " ".join(instructions.split())
            lines.append(f"TFDS's instructions for {manual}: {instructions}")
    return "\n".join(lines)
