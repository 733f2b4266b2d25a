"""Trains with one, two and four workers, on one machine, and compares them.

`python -m benchmarks.workers` prints for each number of workers the peak memory
of each in an epoch of 1,024 training images and an evaluation on 64, and how
far any weight is from that of a single worker. Images are random. The workers
share the cores, so times say nothing.
"""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import numpy as np

from benchmarks.measuring import peak_memory

_FLAGS = (
    "--dataset images --batch_size 64 --filters 8 --num_blocks 1 --epochs 1 "
    "--precision float32 --seed 0"
)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().worker:
        work()
        return
    from PIL import Image

    print("| workers | MB of each | weights differ by |\n| --- | --- | --- |")
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
            print(
                f"| {number} | {', '.join(memory)} "
                f"| {np.abs(weights - expected).max():.1g} |",
                flush=True,
            )


def train(folder: str, number: int) -> list[str]:
    """Runs a number of workers; returns the peak memory of each."""
    ports = []
    for _ in range(number):
        with socket.create_server(("127.0.0.1", 0)) as server:
            ports.append(server.getsockname()[1])
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    processes = []
    for index in range(number):
        task = {"type": "worker", "index": index}
        of_several = json.dumps({"cluster": cluster, "task": task})
        variables = {"TF_CONFIG": of_several} if number > 1 else {}
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.workers", "--worker"],
            env=os.environ | variables | {"BENCHMARK_FOLDER": folder},
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
    outputs = [process.communicate()[0] for process in processes]
    return [output.splitlines()[-1] for output in outputs]


def work() -> None:
    """Trains as one of the workers, and prints what it took."""
    from tf_realnvp.utils import runtime

    runtime.configure()
    import tensorflow as tf

    from tf_realnvp.cli.main import train_main

    os.chdir(os.environ["BENCHMARK_FOLDER"])
    with tempfile.TemporaryDirectory() as run_dir:
        train_main([*_FLAGS.split(), "--run_dir", run_dir, "--output_dir", "."])
    file = "realnvp_images/variables/variables"
    weights = tf.train.load_checkpoint(file)
    name = "weights/.ATTRIBUTES/VARIABLE_VALUE"
    np.save("weights.npy", weights.get_tensor(name))
    print(round(peak_memory()))


if __name__ == "__main__":
    main()
