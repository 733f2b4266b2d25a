"""Image data sets as `tf.data` pipelines.

`load` gives an `ImageDataset`: uint8 images and the shuffled, batched pipelines
that training and evaluation read. CIFAR10 and CelebA come through TensorFlow
Datasets (TFDS), digits through scikit-learn; each is imported only when asked
for.
"""

import contextlib
import dataclasses
import io
import logging
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

DATASETS = ("CIFAR10", "CelebA", "digits")
SHUFFLE_BUFFER = 10_000

_CONNECT_TIMEOUT = 10  # Seconds.
_CELEBA_CROP = 148  # Pixels.
_CELEBA_SIZE = 32  # Pixels.


class DataError(Exception):
    """A data set that can't be had.

    The message is one or a few lines meant for the user.
    """


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """Training and test images, and the batches that are made of them.

    Images are decoded once: the first complete pass over `train` or `test`
    (by whatever pipeline, also by one that `train_batches` or `test_batches`
    returned) leaves them in memory, and all later passes read them there. A
    pass that stops early leaves nothing behind, and does no harm.

    Host memory is the cached uint8 images (`num_train + num_test` times
    `H * W * C` bytes, plus some 10 % of bookkeeping) and, in each training
    pipeline, a shuffle buffer of at most `SHUFFLE_BUFFER` images.

    Damage inside a prepared copy that `load` could not see appears during the
    first pass as `tf.errors.DataLossError`.

    Attributes:
      name: As on the command line, one of `DATASETS`.
      image_shape: `(H, W, C)`.
      num_colors: Number of values that a component can take; they are
        `0 ... num_colors - 1`.
      train: Single images, uint8 `[H, W, C]`, in a fixed order.
      test: Likewise.
      num_train: Number of images in `train`.
      num_test: Number of images in `test`.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_colors: int
    train: tf.data.Dataset
    test: tf.data.Dataset
    num_train: int
    num_test: int

    def train_batches(
        self, batch_size: int, seed: int, epoch: int, skip: int = 0
    ) -> tf.data.Dataset:
        """Returns one epoch of shuffled training batches.

        The order is a function of `seed` and `epoch` alone, in any process and
        whatever TensorFlow's global seed is. It is made by a buffer of
        `min(num_train, SHUFFLE_BUFFER)` images.

        Args:
          batch_size: Images in a batch.
          seed: Seed of the whole run, not negative.
          epoch: Number of the epoch, not negative.
          skip: Number of batches to leave out at the start of that same order,
            to go on with an interrupted epoch.

        Returns:
          A dataset of uint8 `[batch_size, H, W, C]`, prefetched. The last
          partial batch is dropped.
        """
        # spawn_key, since joining (seed, epoch) maps some pairs to one seed.
        sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
        graph_seed, op_seed = (int(s) for s in sequence.generate_state(2))

        def shuffled(_):
            # The seed of this function's graph: the global one stays out.
            tf.random.set_seed(graph_seed)
            return self.train.shuffle(
                min(self.num_train, SHUFFLE_BUFFER),
                seed=op_seed,
                reshuffle_each_iteration=False,
            )

        return (
            tf.data.Dataset.from_tensors(0)
            .flat_map(shuffled)
            .apply(tf.data.experimental.assert_cardinality(self.num_train))
            .batch(batch_size, drop_remainder=True)
            .skip(skip)
            .prefetch(tf.data.AUTOTUNE)
        )

    def test_batches(self, batch_size: int) -> tf.data.Dataset:
        """Returns all test images in batches, in a fixed order.

        Args:
          batch_size: Images in a batch.

        Returns:
          A dataset of uint8 `[batch_size, H, W, C]`, prefetched; the last batch
          holds the images that remain.
        """
        return self.test.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def load(name: str, data_dir: str) -> ImageDataset:
    """Loads a data set, and prepares it first if `data_dir` has none.

    CIFAR10 and CelebA are looked for in this order: a copy that TFDS prepared
    in `data_dir`; the archives in `data_dir/manual`; the network, which TFDS
    downloads from into `data_dir`. digits needs neither files nor a network.

    Args:
      name: One of `DATASETS`, in upper or lower case.
      data_dir: Local folder, in TFDS's layout. It is written to only when a
        copy has to be prepared.

    Returns:
      The data set. Images are read and decoded as they are asked for.

    Raises:
      DataError: If there is no such data set, or no way to its images.
    """
    names = {known.lower(): known for known in DATASETS}
    if name.lower() not in names:
        raise DataError(
            f"No data set is called {name!r}. There are: {', '.join(DATASETS)}."
        )
    name = names[name.lower()]
    if name == "digits":
        return _load_digits()
    return _load_tfds(name, pathlib.Path(data_dir).expanduser().absolute())


def _image_dataset(
    name: str, num_colors: int, train: tf.data.Dataset, test: tf.data.Dataset
) -> ImageDataset:
    """Puts a memory cache, common to all pipelines, behind the images."""
    return ImageDataset(
        name=name,
        image_shape=tuple(train.element_spec.shape),
        num_colors=num_colors,
        train=train.cache(),
        test=test.cache(),
        num_train=int(train.cardinality()),
        num_test=int(test.cardinality()),
    )


def _load_digits() -> ImageDataset:
    """Returns scikit-learn's 8x8 digits, 80 % of them for training."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(
            f"digits needs scikit-learn: pip install scikit-learn ({error})"
        ) from error
    images = datasets.load_digits().images.astype(np.uint8)[..., np.newaxis]
    # RandomState, since NumPy promises never to change its streams.
    images = images[np.random.RandomState(0).permutation(len(images))]
    num_train = int(0.8 * len(images))
    return _image_dataset(
        "digits",
        num_colors=17,
        train=tf.data.Dataset.from_tensor_slices(images[:num_train]),
        test=tf.data.Dataset.from_tensor_slices(images[num_train:]),
    )


def _shrink_celeba(image: tf.Tensor) -> tf.Tensor:
    """Cuts the middle out of a CelebA picture and shrinks it.

    Args:
      image: uint8 `[218, 178, 3]`.

    Returns:
      uint8 `[32, 32, 3]`.
    """
    height, width, _ = image.shape
    image = tf.image.crop_to_bounding_box(
        image,
        (height - _CELEBA_CROP) // 2,
        (width - _CELEBA_CROP) // 2,
        _CELEBA_CROP,
        _CELEBA_CROP,
    )
    image = tf.image.resize(image, [_CELEBA_SIZE, _CELEBA_SIZE], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


@dataclasses.dataclass(frozen=True)
class _Source:
    """A data set in TFDS.

    Attributes:
      builder: TFDS's name for it.
      homepage: Where a person gets its archives.
      transform: Maps an image as TFDS decodes it to the uint8 `[H, W, C]` that
        is cached.
    """

    builder: str
    homepage: str
    transform: Callable[[tf.Tensor], tf.Tensor]


_SOURCES = {
    "CIFAR10": _Source(
        "cifar10",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        tf.identity,
    ),
    "CelebA": _Source(
        "celeb_a",
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        _shrink_celeba,
    ),
}


def _load_tfds(name: str, data_dir: pathlib.Path) -> ImageDataset:
    """Loads a TFDS data set; whatever goes wrong becomes a `DataError`."""
    try:
        import tensorflow_datasets  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"{name} needs tensorflow-datasets: "
            f"pip install tensorflow-datasets ({error})"
        ) from error

    source = _SOURCES[name]
    try:
        with _quiet():
            builder = _find(source.builder, data_dir)
            if not builder.is_prepared():
                _prepare(builder, data_dir)
            train, test = (
                _read(builder, split).map(
                    source.transform, num_parallel_calls=tf.data.AUTOTUNE
                )
                for split in ("train", "test")
            )
    except Exception as error:  # TFDS raises nearly anything.
        raise DataError(_explain(name, data_dir, error)) from error
    return _image_dataset(name, 256, train, test)


def _find(name: str, data_dir: pathlib.Path):
    """Returns TFDS's builder of a prepared copy, or else of a new one."""
    import tensorflow_datasets as tfds

    try:
        # With a version TFDS takes any copy, not only its newest version.
        return tfds.builder(name, version="*.*.*", data_dir=data_dir)
    except Exception as error:
        raise DataError(
            f"the copy in {data_dir / name} cannot be read: {_reason(error)}"
        ) from error


def _prepare(builder, data_dir: pathlib.Path):
    """Has TFDS prepare a copy from `data_dir/manual` or the network."""
    import tensorflow_datasets as tfds

    # TFDS takes any folder in its place for a complete copy.
    if builder.data_path.exists():
        raise DataError(f"{builder.data_path} is incomplete")
    _check_network(builder, data_dir)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=data_dir / "manual", try_download_gcs=False
        )
    )


def _check_network(builder, data_dir: pathlib.Path):
    """Raises `DataError` at once where TFDS would retry for minutes."""
    import requests
    from tensorflow_datasets.core.download import resource

    downloads = data_dir / "downloads"
    for url, info in builder.url_infos.items():
        cached = resource.get_dl_fname(url, info.checksum)
        places = (
            data_dir / "manual" / info.filename,
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
                f"{info.filename} cannot be downloaded: {cause or error}"
            ) from error


def _read(builder, split: str) -> tf.data.Dataset:
    """Returns a prepared split as single images, decoded in parallel."""
    import tensorflow_datasets as tfds

    info = builder.info.splits[split]
    if builder.info.file_format == tfds.core.FileFormat.TFRECORD:
        # A copy cut short is found now, not hours into the first epoch.
        size = sum(os.path.getsize(path) for path in info.filepaths)
        # Each record has 16 bytes of framing.
        expected = int(info.num_bytes) + 16 * info.num_examples
        if size < expected:
            raise DataError(
                f"{builder.data_path} is damaged: its {split} split has "
                f"{size} bytes instead of {expected}"
            )
    dataset = builder.as_dataset(
        split=split,
        decoders=tfds.decode.PartialDecoding({"image": True}),
        # One cache is enough: ImageDataset has its own.
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    return dataset.map(lambda example: example["image"])


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
    line = (str(error).strip() or "no details").splitlines()[0].rstrip(":.")
    if isinstance(error, DataError):
        return line
    return f"{type(error).__name__}: {line}"


def _explain(name: str, data_dir: pathlib.Path, error: Exception) -> str:
    """Returns what went wrong, and what the user can do about it."""
    import tensorflow_datasets as tfds

    source = _SOURCES[name]
    lines = [f"{name}: {_reason(error)}"]

    prepared = data_dir / source.builder
    if prepared.exists():
        lines.append(f"If the prepared copy is damaged, delete {prepared}")

    manual = data_dir / "manual"
    lines.append(f"Get from {source.homepage} the files")
    for info in tfds.builder_cls(source.builder).url_infos.values():
        missing = "" if (manual / info.filename).exists() else " (missing)"
        lines.append(f"  {info.filename}{missing}")
    lines.append(f"and put them, as they are, into the folder {manual}")
    return "\n".join(lines)
