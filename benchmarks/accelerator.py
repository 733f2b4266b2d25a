"""Measures everything on a machine with a GPU, unattended, in one command.

`python -m benchmarks.accelerator --out gpu.md` writes a table for each part as
soon as the part is done, so what was measured before an end stays:

*   speed: images a second in float32, TF32 and bfloat16, with `--jit` and
    without, at several batch sizes; the share of the rate that the model's
    convolutions reach alone; peak memory; and the time to the first step;
*   torch: the same model in PyTorch, plain, under autocast and compiled, and
    the largest difference of its log-densities, where PyTorch is installed;
*   sample: the time of 36 samples;
*   evaluation: whether TF32 in training changes the evaluation, which is
    always float32;
*   deterministic: what `--deterministic` costs;
*   kills: trainings that are killed and resumed, compared bit for bit;
*   CIFAR10: training for the rest of the time.

Each measurement is a process of its own. One that fails has its error in the
table, and the next one follows. `--dry_run` is the same in small.
"""

import argparse
import json
import pathlib
import signal
import subprocess
import sys
import time

from benchmarks import kills

_RUN = str(pathlib.Path(__file__).parents[1] / "run.py")


def main() -> None:
    """Runs the parts one after another, and writes their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="accelerator.md")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--data_dir", help="as for training")
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure is not None:
        name, *arguments = json.loads(flags.measure)
        print(json.dumps(_MEASUREMENTS[name](flags.dry_run, *arguments)))
        return
    end = time.monotonic() + 60.0 * flags.minutes
    batches = (2, 3) if flags.dry_run else (64, 256, 1024)
    precisions = ("float32", "bfloat16")
    if not flags.dry_run:  # A CPU has no TF32.
        precisions += ("tf32",)
    parts = [
        ("speed", precision, jit, batch_size)
        for batch_size in batches
        for precision in precisions
        for jit in (False, True)
    ]
    parts += [
        ("torch", way, batch_size)
        for batch_size in batches
        for way in ("plain", "autocast", "compiled")
    ]
    parts += [("sample",), ("evaluation",)]
    parts += [("deterministic", value) for value in (False, True)]
    parts += [("kills", 1 if flags.dry_run else 10)]
    with open(flags.out, "w") as file:
        file.write(f"{_device()}\n")
        before = None
        for part in parts:
            left = end - time.monotonic()
            row = _measured(part, flags, left)
            if row.keys() != before:
                before = row.keys()
                file.write(f"\n| what | {' | '.join(row)} |\n")
                file.write(f"| --- {'| --- ' * len(row)}|\n")
            cells = " | ".join(map(str, row.values()))
            file.write(f"| {' '.join(map(str, part))} | {cells} |\n")
            file.flush()
        left = end - time.monotonic()
        file.write(f"\n```\n{_train(flags, left)}```\n")


def _measured(part, flags, limit):
    """Returns the figures of a measurement, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.accelerator"]
    command += ["--measure", json.dumps(part)]
    command += ["--dry_run"] * flags.dry_run
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=max(1.0, limit)
        )
    except subprocess.TimeoutExpired:
        return {"error": "no time left"}
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        lines = done.stderr.splitlines() or [f"exit code {done.returncode}"]
        return {"error": lines[-1]}


def _device():
    """Describes the machine."""
    command = "nvidia-smi --query-gpu=name,memory.total,driver_version"
    try:
        return subprocess.check_output(
            [*command.split(), "--format=csv,noheader"], text=True
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return "no GPU"


def _model(dry_run):
    from tf_realnvp import RealNVP

    if dry_run:
        return RealNVP((8, 8, 3), filters=4, num_blocks=1)
    return RealNVP((32, 32, 3))


def _speed(dry_run, precision, jit, batch_size, deterministic=False):
    from tf_realnvp.utils import runtime

    runtime.configure(deterministic=deterministic)
    import tensorflow as tf

    from benchmarks import training
    from benchmarks.measuring import timed, training_steps
    from tf_realnvp.training.trainer import Trainer

    precision = runtime.settle_precision(precision)
    start = time.perf_counter()
    model = _model(dry_run)
    trainer = Trainer(model, precision=precision, jit=jit)
    train = training_steps(trainer, batch_size)
    train(1)
    first_step = time.perf_counter() - start
    seconds = timed(lambda: train(10), 5) / 10
    figures = {"images/s": round(batch_size / seconds, 1)}
    figures["first step, s"] = round(first_step, 1)
    if tf.config.list_physical_devices("GPU"):
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
        figures["peak memory, GiB"] = round(peak / 2**30, 2)
    with runtime.tensor_float_32(precision == "tf32"):
        dtype = "bfloat16" if precision == "bfloat16" else "float32"
        convolutions = training.list_convolutions(model)
        alone = sum(
            convolutions.count(shape)
            * timed(training.make_convolution(batch_size, shape, dtype), 5)
            for shape in set(convolutions)
        )
    figures["share of the convolutions alone"] = f"{alone / seconds:.0%}"
    return figures


def _torch(dry_run, way, batch_size):
    import torch

    from benchmarks import torch_realnvp
    from benchmarks.measuring import once, timed

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = ((3, 8, 8), 4, 1) if dry_run else ()
    model = torch_realnvp.RealNVP(*sizes).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 3e-4)
    side = 8 if dry_run else 32
    x = 256 * torch.rand(batch_size, 3, side, side, device=device)
    log_prob = model.log_prob
    if way == "compiled":
        log_prob = torch.compile(log_prob)

    def step():
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=way != "plain"):
            loss = -log_prob(x).mean() / x[0].numel()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    first_step = once(step)
    seconds = timed(step, 20)
    figures = {"images/s": round(batch_size / seconds, 1)}
    figures["first step, s"] = round(first_step, 1)
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
        figures["peak memory, GiB"] = round(peak / 2**30, 2)
    return figures


def _sample(dry_run):
    from tf_realnvp.utils import runtime

    runtime.configure()
    from benchmarks.measuring import timed

    model = _model(dry_run)
    seconds = timed(lambda: model.sample(36, seed=0).numpy(), 20)
    return {"36 samples, ms": round(1e3 * seconds, 1)}


def _evaluation(dry_run):
    """Compares evaluations before and after steps in TF32."""
    from tf_realnvp.utils import runtime

    runtime.configure()
    import numpy as np
    import tensorflow as tf

    from benchmarks.measuring import training_steps
    from tf_realnvp.training.trainer import Trainer

    model = _model(dry_run)
    precision = "bfloat16" if dry_run else "tf32"
    trainer = Trainer(model, learning_rate=0.0, precision=precision)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, [64, *model.image_shape]).astype(np.uint8)
    batches = tf.data.Dataset.from_tensors(images).repeat().enumerate()

    def loss():
        return trainer.test(iter(batches), 1)[0]

    before = loss()
    training_steps(trainer, 64)(3)
    return {"difference of the loss": loss() - before}


def _deterministic(dry_run, deterministic):
    batch_size = 2 if dry_run else 256
    return _speed(dry_run, "auto", False, batch_size, deterministic)


def _kills(unused_dry_run, number):
    """Compares a training with one that is killed and resumed."""
    killed, is_same = kills.kill_and_compare(number, 0, [])
    return {"killed": killed, "same bits": is_same}


def _train(flags, seconds):
    """Trains on CIFAR10 for the rest of the time; returns the last lines."""
    dataset = "digits" if flags.dry_run else "CIFAR10"
    command = [sys.executable, _RUN, f"--dataset={dataset}", "--seed=0"]
    command += ["--resume", "--verbose", "--batch_size=256", "--lr=1e-3"]
    folder = pathlib.Path(flags.out).resolve().parent
    command += [f"--run_dir={folder}/run", f"--output_dir={folder}/run/results"]
    if flags.data_dir is not None:
        command.append(f"--data_dir={flags.data_dir}")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        output, _ = process.communicate(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # It saves a checkpoint.
        output, _ = process.communicate()
    epochs = [line for line in output.splitlines(True) if "bits/dim" in line]
    return "".join(epochs[-20:])


_MEASUREMENTS = {
    "speed": _speed,
    "torch": _torch,
    "sample": _sample,
    "evaluation": _evaluation,
    "deterministic": _deterministic,
    "kills": _kills,
}


if __name__ == "__main__":
    main()
