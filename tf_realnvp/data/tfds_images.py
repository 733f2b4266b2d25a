"""The image data sets of TensorFlow Datasets (TFDS)."""

import contextlib
import dataclasses
import difflib
import gzip
import hashlib
import io
import itertools
import logging
import os
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from tf_realnvp.data.image_dataset import (
    DECODING,
    ImageDataset,
    Split,
    default_size,
    file_error,
    resize,
)
from tf_realnvp.utils.errors import DataError, reason

SHUFFLE_BYTES = 128 * 2**20

_CONNECT_TIMEOUT = 10  # Seconds.
_MAX_CHECKS = 10
_TEST_SHARE = 0.1
_LABEL = "label"  # The feature that nearly all data sets with classes have.
_BUILDERS = {"CIFAR10": "cifar10", "CelebA": "celeb_a"}
_SQUARES = {"CelebA": 148}  # Pixels.
# SHA-256 of what is in archives that are also offered compressed anew, as by
# Debian's package dataset-fashion-mnist: TFDS knows those of the first ones.
_CONTENTS = {
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels-idx1-ubyte.gz": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        "t10k-images-idx3-ubyte.gz": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    }
}
_HOMEPAGES = {
    "CIFAR10": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "CelebA": "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
}


@dataclasses.dataclass(frozen=True)
class _Records:
    """A split of a prepared copy.

    Attributes:
      name: Of the split, or the part of it, as TFDS writes them.
      dataset: Single examples, as they are stored.
      num_examples: How many there are.
      num_bytes: Of one of them, on average.
    """

    name: str
    dataset: tf.data.Dataset
    num_examples: int
    num_bytes: float


class _UnusableError(Exception):
    """A data set that no copy or archive makes usable; the message says why."""


def load(
    name: str,
    data_dir: str,
    size: tuple[int, int] | None,
    flip: bool,
    labels: bool = False,
) -> ImageDataset:
    """Loads a data set, and prepares it first if `data_dir` has none.

    Without a `test` split its `validation` split is used, and without that the
    last 10 % of `train`. An alpha channel is dropped.

    The first epochs shuffle compressed images, `SHUFFLE_BYTES` of them at a
    time: the whole of CIFAR10. TFDS has shuffled them before, in the copy.

    Args:
      name: `CIFAR10`, `CelebA` or TFDS's name, as for `data.load`.
      data_dir: As for `data.load`.
      size: Height and width that `data.load` gives the images, if any.
      flip: As for `data.load`.
      labels: As for `data.load`.

    Returns:
      The data set.

    Raises:
      DataError: If TFDS does not know the name, the data set has no images (or
        labels, if they are asked for), or there is no way to them. Whatever
        goes wrong in TFDS becomes one.
    """
    folder = pathlib.Path(os.path.expanduser(data_dir)).absolute()
    if "[" in str(folder):  # It would find none of its own files there.
        raise DataError(
            f"{name}: TensorFlow takes the [ in the folder {folder} for a "
            "pattern: use another one (`data_dir`), or rename it"
        )
    builder_name = _BUILDERS.get(name, name)
    if not re.fullmatch(r"\w+", _folder(builder_name)):
        raise _unknown(name)
    builder = None
    try:
        with _quiet():
            builder = _find(builder_name, folder)
            key = _image_key(builder)
            if labels:
                classes = _classes(builder)
            if not builder.is_prepared():
                _prepare(builder, folder)
            train, test = _splits(builder)
            decode, image_shape = _decoder(
                builder, key, size, _SQUARES.get(name)
            )
            if labels:
                both = [_read_labels(builder, part) for part in (train, test)]
    except tfds.core.registered.DatasetNotFoundError as error:
        raise _unknown(name) from error
    except _UnusableError as error:
        raise DataError(f"{name}: {error}") from error
    except Exception as error:  # TFDS raises nearly anything.
        homepage = _HOMEPAGES.get(name) or (builder and builder.info.homepage)
        raise DataError(
            _explain(name, builder_name, homepage, folder, error)
        ) from error
    dataset = ImageDataset(
        name=re.sub(r"[^\w.-]+", "_", name),
        image_shape=image_shape,
        num_colors=256,
        train=Split(train.dataset, train.num_examples),
        test=Split(test.dataset, test.num_examples),
        decode=decode,
        shuffle_buffer=max(
            1, min(train.num_examples, int(SHUFFLE_BYTES / train.num_bytes))
        ),
        flip=flip,
        fingerprint=" ".join(
            [builder.info.full_name]
            + [f"{part.name} {part.num_examples}" for part in (train, test)]
        ),
        explain_damage=lambda text: f"{text}, in {builder.data_path}",
    )
    try:
        return dataset.with_labels(classes, *both) if labels else dataset
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def _find(name: str, data_dir: pathlib.Path):
    """Returns TFDS's builder of a prepared copy, or else of a new one."""
    # With a version TFDS takes any copy, not only its newest version.
    version = {} if ":" in name else {"version": "*.*.*"}
    try:
        return tfds.builder(name, data_dir=data_dir, **version)
    except tfds.core.registered.DatasetNotFoundError:
        raise
    except Exception as error:
        if "Parsing builder name" in str(error):
            raise tfds.core.registered.DatasetNotFoundError from error
        if not (data_dir / _folder(name)).exists():
            # TFDS first says how it called itself.
            what = _reason(error).rpartition('}": ')[-1]
            raise _UnusableError(what) from error
        raise DataError(
            f"the copy in {data_dir / _folder(name)} cannot be read: "
            f"{_reason(error)}"
        ) from error


def _folder(name: str) -> str:
    """Returns a builder's name without its configuration and version."""
    return re.split("[/:]", name)[0]


def _unknown(name: str) -> DataError:
    """Returns the error of a name that TFDS does not know."""
    if os.path.isfile(name):
        return file_error(name)
    message = f"No data set and no folder is called {name!r}. "
    known = {*_BUILDERS, *tfds.list_builders(with_community_datasets=False)}
    close = difflib.get_close_matches(_folder(name), known, cutoff=0.7)
    if close:
        message += f"Names like it: {', '.join(close)}. "
    return DataError(
        f"{message}There are {', '.join([*_BUILDERS, *_CONTENTS])} and digits, "
        "folders of pictures, files of NumPy, and the image data sets of https://www.tensorflow.org/datasets"
    )


def _image_key(builder) -> str:
    """Returns the name of the feature that holds the image."""
    features = {
        key: feature
        for key, feature in (builder.info.features or {}).items()
        if type(feature) is tfds.features.Image
        and feature.np_dtype == np.uint8
        and feature.shape[-1] in (1, 3, 4)
    }
    if "image" in features:
        return "image"
    if len(features) == 1:
        return next(iter(features))
    raise _UnusableError(
        "there is no image in its examples, or more than one: they have "
        f"{', '.join(builder.info.features or ['nothing'])}"
    )


def _classes(builder) -> list[str]:
    """Returns the names of the classes, of which `label` tells."""
    features = dict((builder.info.features or {}).items())
    feature = features.get(_LABEL)
    if not isinstance(feature, tfds.features.ClassLabel):
        raise _UnusableError(
            f"its images have no labels: there is no feature {_LABEL!r} that "
            f"names a class, but {', '.join(features)}"
        )
    return list(feature.names)


def _read_labels(builder, records: _Records) -> np.ndarray:
    """Returns the labels of a split, in its order; no image is decoded."""
    features = tfds.decode.PartialDecoding({_LABEL: True}).extract_features(
        builder.info.features
    )
    labels = records.dataset.map(
        lambda record: features.deserialize_example(record)[_LABEL],
        num_parallel_calls=os.cpu_count(),
    ).batch(4096)
    return np.concatenate(list(labels.as_numpy_iterator()))


def _prepare(builder, data_dir: pathlib.Path):
    """Has TFDS prepare a copy from `data_dir/manual` or the network."""
    # TFDS takes any folder in its place for a complete copy.
    if builder.data_path.exists():
        raise DataError(f"{builder.data_path} is incomplete")
    _accept_same_contents(builder, data_dir / "manual")
    _check_network(builder, data_dir)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=data_dir / "manual", try_download_gcs=False
        )
    )


def _accept_same_contents(builder, manual: pathlib.Path):
    """Makes TFDS take archives that were only compressed anew."""
    known = _CONTENTS.get(builder.name, {})
    for url, info in builder.url_infos.items():
        archive = manual / _filename(url, info)
        if archive.name not in known or not archive.exists():
            continue
        with contextlib.suppress(OSError, EOFError, zlib.error):
            with gzip.open(archive) as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            if digest == known[archive.name]:
                builder.url_infos[url] = checksums.compute_url_info(archive)


def _filename(url: str, info) -> str:
    """Returns the name of an archive; TFDS knows it for most."""
    return info.filename or url.rsplit("/", 1)[-1]


def _check_network(builder, data_dir: pathlib.Path):
    """Raises `DataError` at once where TFDS would retry for minutes."""
    import requests
    from tensorflow_datasets.core.download import resource

    downloads = data_dir / "downloads"
    # Some data sets have thousands.
    urls = itertools.islice(builder.url_infos.items(), _MAX_CHECKS)
    for url, info in urls:
        cached = resource.get_dl_fname(url, info.checksum)
        places = (
            data_dir / "manual" / _filename(url, info),
            downloads / builder.name / cached,
            downloads / cached,
        )
        if any(place.exists() for place in places):
            continue
        try:
            with requests.get(
                url, stream=True, timeout=_CONNECT_TIMEOUT
            ) as response:
                response.raise_for_status()
        except requests.RequestException as error:
            # The cause is inside, after a list of hosts, ports and retries.
            cause = getattr(error.args[0] if error.args else None, "reason", 0)
            raise DataError(
                f"{_filename(url, info)} cannot be downloaded: {cause or error}"
            ) from error


def _splits(builder) -> tuple[_Records, _Records]:
    """Returns the training and the test split of a prepared copy."""
    sizes = {
        name: split.num_examples for name, split in builder.info.splits.items()
    }
    if sizes.get("train", 0) < 2:
        raise DataError(f"it has no training images, but {sizes or 'nothing'}")
    for name in ("test", "validation"):
        if sizes.get(name):
            return _read(builder, "train"), _read(builder, name)
    num_test = max(1, int(_TEST_SHARE * sizes["train"]))
    return (
        _read(builder, "train", f"[:-{num_test}]"),
        _read(builder, "train", f"[-{num_test}:]"),
    )


def _read(builder, split: str, part: str = "") -> _Records:
    """Returns a split of a prepared copy, or the part of it in brackets."""
    info = builder.info.splits[split]
    file_format = builder.info.file_format
    if file_format != tfds.core.FileFormat.TFRECORD:
        raise DataError(
            f"{builder.data_path} has files of type {file_format.value}, and "
            "only tfrecord can be read"
        )
    # A copy cut short is found now, not hours into the first epoch.
    size = sum(os.path.getsize(path) for path in info.filepaths)
    # Each record has 16 bytes of framing.
    expected = int(info.num_bytes) + 16 * info.num_examples
    if size < expected:
        raise DataError(
            f"{builder.data_path} is damaged: its {split} split has "
            f"{size} bytes instead of {expected}"
        )
    selected = builder.info.splits[split + part]
    paths, skips, takes = zip(
        *(
            (os.fspath(file.filename), file.skip, file.take)
            for file in selected.file_instructions
        ),
        strict=True,
    )

    def records(path, skip, take):
        file = tf.data.TFRecordDataset(path, buffer_size=2**20)
        return file.skip(skip).take(take)

    # Not by as_dataset, which parses as it reads: 20 times as slow.
    dataset = tf.data.Dataset.from_tensor_slices(
        (list(paths), np.array(skips, np.int64), np.array(takes, np.int64))
    ).flat_map(records)
    return _Records(
        split + part, dataset, selected.num_examples, size / info.num_examples
    )


def _decoder(
    builder, key: str, size: tuple[int, int] | None, square: int | None
) -> tuple[Callable[[tf.Tensor], tf.Tensor], tuple[int, int, int]]:
    """Returns the map from a record to its image, and that image's shape."""
    features = tfds.decode.PartialDecoding({key: True}).extract_features(
        builder.info.features
    )
    height, width, channels = features[key].shape
    if size is None:
        size = default_size(height, width)
    channels = min(channels, 3)
    if size is not None:
        height, width = size

    @tf.function(autograph=False)
    def decode(record):
        with tf.name_scope(DECODING):
            image = features.deserialize_example(record)[key][..., :channels]
            return image if size is None else resize(image, size, square)

    # Traced now, since TFDS warns meanwhile, and once for all epochs.
    decode = decode.get_concrete_function(tf.TensorSpec([], tf.string))
    return decode, (height, width, channels)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS's prints and warnings; its progress bars stay."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _reason(error: Exception) -> str:
    """Returns an error in one line."""
    line = reason(error).rstrip(":.")
    if isinstance(error, DataError):
        return line
    return f"{type(error).__name__}: {line}"


def _explain(
    name: str,
    builder_name: str,
    homepage: str | None,
    data_dir: pathlib.Path,
    error: Exception,
) -> str:
    """Returns what went wrong, and what the user can do about it."""
    lines = [f"{name}: {_reason(error)}"]

    builder_name = _folder(builder_name)
    prepared = data_dir / builder_name
    if prepared.exists():
        lines.append(f"If the prepared copy is damaged, delete {prepared}")

    try:
        builder = tfds.builder_cls(builder_name)
    except ValueError:  # TFDS has no such name: the copy is somebody's own.
        return "\n".join(lines)
    manual = data_dir / "manual"
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        instructions = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        lines.append(f"TFDS says about {manual}: {instructions}")
    files = builder.url_infos
    if files:
        lines.append(f"Get from {homepage or 'its home page'} the files")
        for url, info in files.items():
            filename = _filename(url, info)
            missing = "" if (manual / filename).exists() else " (missing)"
            lines.append(f"  {filename}{missing}")
        lines.append(f"and put them, as they are, into the folder {manual}")
    return "\n".join(lines)
