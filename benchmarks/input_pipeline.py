"""Measures the input pipeline (benchmarks/results/input_pipeline.md).

`python -m benchmarks.input_pipeline` prints the images per second in the first
epoch, which decodes them, and later, and the size of the decoded images in
memory. The images are synthetic. They are stored in a temporary folder, and
read like a user's own.
"""

import contextlib
import io
import pathlib
import statistics
import sys
import tempfile

from benchmarks import measuring

_BATCH_SIZE = 64
_EPOCHS = 4
# Height, width and format of stored images.
_CIFAR10, _CELEBA = (32, 32, "PNG"), (218, 178, "JPEG")


def main() -> None:
    """Writes each data set and measures it, in processes of their own."""
    flags = measuring.parse_flags(__doc__, scale=1.0)  # Of numbers of images.
    print(
        f"batch {_BATCH_SIZE}, uint8 images of 32x32x3, shuffled; median of "
        f"{_EPOCHS - 1} later epochs"
    )
    measuring.print_header(
        *("data set", "images", "images/s, first epoch", "images/s, later"),
        "decoded images",
    )
    for title, write, picture, number in (
        ("32x32 PNG, TFDS", write_tfds, _CIFAR10, 50_000),
        ("218x178 JPEG, TFDS", write_tfds, _CELEBA, 20_000),
        ("218x178 JPEG, folder", write_folder, _CELEBA, 5_000),
    ):
        with tempfile.TemporaryDirectory() as folder:
            number = int(number * flags.scale)
            name = measuring.in_new_process(write, folder, picture, number)
            measuring.in_new_process(measure, title, name, folder)


def encode_pictures(height: int, width: int, kind: str) -> list[bytes]:
    """Returns 200 encoded images, about as smooth as photos."""
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


def write_tfds(data_dir: str, picture, number: int) -> str:
    """Lets TFDS write a data set; returns its name."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    height, width, kind = picture
    pictures = encode_pictures(height, width, kind)

    def examples(number):
        for i in range(number):
            yield i, {"image": pictures[i % len(pictures)]}

    image = tfds.features.Image(
        shape=(height, width, 3), encoding_format=kind.lower()
    )
    with contextlib.redirect_stdout(sys.stderr):
        tfds.dataset_builders.store_as_tfds_dataset(
            name="synthetic",
            version="1.0.0",
            features=tfds.features.FeaturesDict({"image": image}),
            split_datasets={"train": examples(number), "test": examples(10)},
            data_dir=data_dir,
        )
    return "synthetic"


def write_folder(folder: str, picture, number: int) -> str:
    """Writes image files; returns their folder."""
    pictures = encode_pictures(*picture)
    for i in range(number):
        content = pictures[i % len(pictures)]
        pathlib.Path(folder, f"{i:06}.jpg").write_bytes(content)
    return folder


def measure(title: str, name: str, data_dir: str) -> None:
    """Prints a row of the table.

    Args:
      title: The first cell.
      name: As for `data.load`.
      data_dir: As for `data.load`.
    """
    from tf_realnvp.utils import runtime

    runtime.configure()
    from tf_realnvp import data

    dataset = data.load(name, data_dir, image_size=32)

    def read(epoch):
        for _ in dataset.train_batches(_BATCH_SIZE, seed=0, epoch=epoch):
            pass

    seconds = [measuring.once(lambda e=e: read(e)) for e in range(_EPOCHS)]
    num_images = dataset.num_train // _BATCH_SIZE * _BATCH_SIZE
    measuring.print_row(
        title,
        f"{dataset.num_train:,}",
        f"{num_images / seconds[0]:,.0f}",
        f"{num_images / statistics.median(seconds[1:]):,.0f}",
        f"{dataset.num_train * 32 * 32 * 3 / 2**20:.0f} MiB",
    )


if __name__ == "__main__":
    main()
