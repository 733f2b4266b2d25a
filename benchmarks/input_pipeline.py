"""Measures the speed and the memory of the input pipeline.

`python -m benchmarks.input_pipeline` prints one table: the time to the first
batch; images a second in the first epoch, which decodes them, and later; how
long it takes a new data set in the same process to resume an epoch near its
end; the size of the decoded images in memory; and the peak memory of the
process with and without TensorFlow itself. The images are synthetic; they are
stored in a temporary folder, and read as a user's own are.
"""

import argparse
import contextlib
import io
import pathlib
import statistics
import sys
import tempfile
import time

from benchmarks.measuring import in_new_process, peak_memory

BATCH_SIZE = 64
EPOCHS = 4
# Height, width and format of stored images.
CIFAR10, CELEBA = (32, 32, "PNG"), (218, 178, "JPEG")


def main() -> None:
    """Makes each data set and measures it, in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of the numbers of images"
    )
    flags = parser.parse_args()
    print(
        f"batch {BATCH_SIZE}, uint8 images of 32x32x3, shuffled; median of "
        f"{EPOCHS - 1} later epochs\n"
        "| data set | images | first batch after | images/s, first epoch "
        "| images/s, later | resumed at 90 % after | decoded images "
        "| peak memory | TensorFlow alone |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        small, large, pictures = (
            str(pathlib.Path(folder, name)) for name in ("s", "l", "p")
        )
        for title, name, data_dir, write, picture, count in (
            ("32x32 PNG, TFDS", "made_up", small, write_copy, CIFAR10, 50_000),
            (
                "218x178 JPEG, TFDS",
                "made_up",
                large,
                write_copy,
                CELEBA,
                20_000,
            ),
            ("218x178 JPEG, folder", pictures, "", write_folder, CELEBA, 5_000),
        ):
            in_new_process(
                write, data_dir or name, picture, int(count * flags.scale)
            )
            in_new_process(measure, title, name, data_dir)


def encode_pictures(height: int, width: int, kind: str) -> list[bytes]:
    """Returns 200 encoded images, about as smooth as photographs."""
    import numpy as np
    from PIL import Image

    random = np.random.RandomState(0)
    pictures = []
    for _ in range(200):
        coarse = random.randint(256, size=[height // 8, width // 8, 3])
        picture = Image.fromarray(coarse.astype(np.uint8))
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        grain = random.randint(-4, 5, size=[height, width, 3])
        pixels = np.clip(np.asarray(picture) + grain, 0, 255)
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, kind)
        pictures.append(file.getvalue())
    return pictures


def write_copy(data_dir: str, picture, count: int) -> None:
    """Has TFDS write a data set."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    height, width, kind = picture
    pictures = encode_pictures(height, width, kind)

    def examples(count):
        for i in range(count):
            yield i, {"image": pictures[i % len(pictures)]}

    image = tfds.features.Image(
        shape=(height, width, 3), encoding_format=kind.lower()
    )
    with contextlib.redirect_stdout(sys.stderr):
        tfds.dataset_builders.store_as_tfds_dataset(
            name="made_up",
            version="1.0.0",
            features=tfds.features.FeaturesDict({"image": image}),
            split_datasets={"train": examples(count), "test": examples(10)},
            data_dir=data_dir,
        )


def write_folder(folder: str, picture, count: int) -> None:
    """Writes a folder of images."""
    pathlib.Path(folder).mkdir()
    pictures = encode_pictures(*picture)
    for i in range(count):
        content = pictures[i % len(pictures)]
        pathlib.Path(folder, f"{i:06}.jpg").write_bytes(content)


def measure(title: str, name: str, data_dir: str) -> None:
    """Prints a row of the table."""
    from tf_realnvp.utils import runtime

    runtime.configure()
    import tensorflow as tf

    from tf_realnvp import data

    # The memory of TensorFlow's first pipeline is not counted.
    list(tf.data.Dataset.range(10).shuffle(10).map(tf.identity).batch(2))
    before = peak_memory()

    start = time.perf_counter()
    dataset = data.load(name, data_dir, image_size=32)
    rates = []
    for epoch in range(EPOCHS):
        epoch_start = time.perf_counter()
        num_images = 0
        for images in dataset.train_batches(BATCH_SIZE, seed=0, epoch=epoch):
            if not rates and not num_images:
                first_batch = time.perf_counter() - start
            num_images += len(images)
        del images
        rates.append(num_images / (time.perf_counter() - epoch_start))
    peak = peak_memory()

    start = time.perf_counter()
    dataset = data.load(name, data_dir, image_size=32)
    skip = int(0.9 * (dataset.num_train // BATCH_SIZE))
    next(iter(dataset.train_batches(BATCH_SIZE, seed=0, epoch=0, skip=skip)))
    resumed = time.perf_counter() - start

    decoded = dataset.num_train * 32 * 32 * 3 / 2**20
    print(
        f"| {title} | {dataset.num_train:,} | {first_batch:.2f} s "
        f"| {rates[0]:,.0f} | {statistics.median(rates[1:]):,.0f} "
        f"| {resumed:.2f} s | {decoded:.0f} MiB "
        f"| {peak:.0f} MiB | {before:.0f} MiB |",
        flush=True,
    )


if __name__ == "__main__":
    main()
