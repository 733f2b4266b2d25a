"""Measures everything on a machine with a GPU, unattended, in one command.

`python -m benchmarks.accelerator --out gpu.md` writes a table for each part as
soon as the part is done (docs/training.md):

*   speed: images per second in float32, TF32 and bfloat16, with `--jit` and
    without, at several batch sizes; the share of the rate that the convolutions
    of the model reach alone; peak memory; and the time to the first step;
*   torch: the same model in PyTorch, plain, with autocast and compiled, if
    PyTorch is installed;
*   sample: the time of 36 samples;
*   evaluation: whether TF32 in training changes the evaluation, which is always
    float32;
*   deterministic: what `--deterministic` costs;
*   kills: trainings that are killed and resumed, compared bit for bit;
*   CIFAR10: training for the rest of the time.

Each measurement has a process of its own. If one fails, its error is in the
table, and the next one follows. `--dry_run` measures the same with a tiny
model.
"""

import contextlib
import pathlib
import signal
import subprocess
import sys
import time

from benchmarks import kills, measuring
from benchmarks.measuring import once, timed

_RUN = str(pathlib.Path(__file__).parents[1] / "run.py")


def main() -> None:
    """Runs the parts one after another, and writes their tables."""
    flags = measuring.parse_flags(
        __doc__,
        out="accelerator.md",
        minutes=25.0,
        data_dir="datasets",
        dry_run=False,
    )
    end = time.monotonic() + 60.0 * flags.minutes
    batch_sizes = (2, 3) if flags.dry_run else (64, 256, 1024)
    precisions = ("float32", "bfloat16", "tf32")
    if flags.dry_run:  # A CPU has no TF32.
        precisions = ("float32", "bfloat16")
    parts = [
        ("speed", precision, jit, batch_size)
        for batch_size in batch_sizes
        for precision in precisions
        for jit in (False, True)
    ]
    parts += [
        ("torch", way, batch_size)
        for batch_size in batch_sizes
        for way in ("plain", "autocast", "compiled")
    ]
    parts += [("sample",), ("evaluation",)]
    parts += [("deterministic", value) for value in (False, True)]
    parts += [("kills", 1 if flags.dry_run else 10)]
    with open(flags.out, "w") as file, contextlib.redirect_stdout(file):
        print(_device())
        titles = None
        for part in parts:
            figures = _measure(part, flags.dry_run, end - time.monotonic())
            if figures.keys() != titles:
                titles = figures.keys()
                print()
                measuring.print_header("what", *titles)
            measuring.print_row(" ".join(map(str, part)), *figures.values())
        print(f"\n```\n{_train(flags, end - time.monotonic())}```")


def _measure(part, dry_run, seconds):
    """Returns the figures of a measurement, in a process of its own."""
    name, *arguments = part
    try:
        return measuring.in_new_process(
            _MEASUREMENTS[name], dry_run, *arguments, timeout=max(1.0, seconds)
        )
    except TimeoutError:
        return {"error": "no time left"}
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        return {"error": message[:200]}


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

    precision = runtime.settle_precision(precision)
    start = time.perf_counter()
    model = _model(dry_run)
    trainer = measuring.make_trainer(model, precision=precision, jit=jit)
    train = measuring.training_steps(trainer, batch_size)
    train(1)
    first_step = time.perf_counter() - start
    seconds = timed(lambda: train(10), 5) / 10
    peak = None
    if tf.config.list_physical_devices("GPU"):
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    with runtime.compiling(precision == "tf32"):
        dtype = "bfloat16" if precision == "bfloat16" else "float32"
        alone = training.convolutions_alone(model, batch_size, dtype)()
    figures = _figures(batch_size / seconds, first_step, peak)
    return figures | {
        "share of the convolutions alone": f"{alone / seconds:.0%}"
    }


def _torch(dry_run, way, batch_size):
    import torch

    from benchmarks import torch_realnvp

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = ((3, 8, 8), 4, 1) if dry_run else ((3, 32, 32),)
    model = torch_realnvp.RealNVP(*sizes).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 3e-4)
    x = 256 * torch.rand(batch_size, *sizes[0], device=device)
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

    first_step, seconds = once(step), timed(step, 20)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return _figures(batch_size / seconds, first_step, peak)


def _figures(rate, first_step, peak):
    figures = {
        "images/s": round(rate, 1),
        "first step, s": round(first_step, 1),
    }
    if peak is not None:
        figures["peak memory, GiB"] = round(peak / 2**30, 2)
    return figures


def _sample(dry_run):
    from tf_realnvp.utils import runtime

    runtime.configure()
    model = _model(dry_run)
    seconds = timed(lambda: model.sample(36, seed=0).numpy(), 20)
    return {"36 samples, ms": round(1e3 * seconds, 1)}


def _evaluation(dry_run):
    """Compares evaluations before and after steps in TF32."""
    from tf_realnvp.utils import runtime

    runtime.configure()
    import numpy as np
    import tensorflow as tf

    model = _model(dry_run)
    precision = "bfloat16" if dry_run else "tf32"
    trainer = measuring.make_trainer(model, 1e-30, precision=precision)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, [64, *model.image_shape]).astype(np.uint8)
    batches = tf.data.Dataset.from_tensors((images, {})).repeat().enumerate()

    def loss():
        return trainer.test(iter(batches), 1).sum(dtype=float)

    before = loss()
    measuring.training_steps(trainer, 64)(3)
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
    folder = pathlib.Path(flags.out).resolve().parent / "run"
    command = [sys.executable, _RUN, f"--dataset={dataset}", "--seed=0"]
    command += ["--resume", "--verbose", "--batch_size=256", "--lr=1e-3"]
    command += [f"--run_dir={folder}", f"--output_dir={folder}/results"]
    command += [f"--data_dir={flags.data_dir}"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        output, _ = process.communicate(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # It saves a checkpoint.
        output, _ = process.communicate()
    epochs = [line for line in output.splitlines(True) if ", step " in line]
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
