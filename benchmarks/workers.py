"""Compares trainings by one, two and four workers (docs/distributed.md).

`python -m benchmarks.workers` prints for each number of workers the peak memory
of each in an epoch of 1,024 training images and an evaluation on 64, and the
largest difference of a weight from that of a single worker. Images are random.
The workers share the cores of one machine, so times say nothing.
"""

import contextlib
import json
import os
import pathlib
import socket
import sys
import tempfile

import numpy as np

from benchmarks import measuring

_FLAGS = (
    "--dataset images --batch_size 64 --filters 8 --num_blocks 1 --epochs 1 "
    "--precision float32 --seed 0 --output_dir ."
)


def main() -> None:
    """Prints the table."""
    measuring.parse_flags(__doc__)
    from PIL import Image

    measuring.print_header("workers", "MB of each", "weights differ by")
    expected = None
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for split, number in (("train", 1024), ("test", 64)):
            path = pathlib.Path(folder, "images", split)
            path.mkdir(parents=True)
            for index in range(number):
                image = rng.integers(256, size=[28, 28], dtype=np.uint8)
                Image.fromarray(image).save(path / f"{index:04d}.png")
        for number in (1, 2, 4):
            memory = train(folder, number)
            weights = np.load(f"{folder}/weights.npy")
            expected = weights if expected is None else expected
            difference = np.abs(weights - expected).max()
            measuring.print_row(number, ", ".join(memory), f"{difference:.1g}")


def train(folder: str, number: int) -> list[str]:
    """Runs workers in processes of their own.

    Args:
      folder: Folder with the images; the chief writes `weights.npy` to it.
      number: Number of workers.

    Returns:
      The peak memory of each in MB.
    """
    ports = []
    for _ in range(number):
        with socket.create_server(("127.0.0.1", 0)) as server:
            ports.append(server.getsockname()[1])
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    with contextlib.ExitStack() as stack:
        results = []
        for index in range(number):
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": cluster, "task": task})
            process = stack.enter_context(measuring.new_process())
            results.append(
                process.submit(work, folder, config if number > 1 else None)
            )
        return [f"{result.result():.0f}" for result in results]


def work(folder: str, config: str | None) -> float:
    """Trains as one of the workers; returns the peak memory in MB."""
    if config is not None:
        os.environ["TF_CONFIG"] = config
    from tf_realnvp.utils import runtime

    runtime.configure()
    import tensorflow as tf

    from tf_realnvp.cli.main import train_main

    with tempfile.TemporaryDirectory() as run_dir, contextlib.chdir(folder):
        with contextlib.redirect_stdout(sys.stderr):
            train_main([*_FLAGS.split(), "--run_dir", run_dir])
        weights = tf.train.load_checkpoint("realnvp_images/variables/variables")
        name = "weights/.ATTRIBUTES/VARIABLE_VALUE"
        np.save("weights.npy", weights.get_tensor(name))
    return measuring.peak_memory()


if __name__ == "__main__":
    main()
