"""The settings that `minutes` chooses, for images and a machine."""

import math
import timeit
from typing import Any

import tensorflow as tf

from tf_realnvp.config import WITH_DEFAULT_LR, TrainingConfig
from tf_realnvp.data import ImageDataset
from tf_realnvp.utils import runtime

# What is best for up to so many minutes of images of 32x32 pixels on a machine
# of `_SPEED` (benchmarks/results/speedrun.md).
_BEST: tuple[tuple[float, dict[str, Any]], ...] = (
    (2.0, {"filters": 32, "channel_masks": "mixed"}),
    (25.0, {"filters": 64, "channel_masks": "mixed"}),
    (120.0, {"filters": 64, "ema": 0.999}),
    (math.inf, {"filters": 128, "ema": 0.999}),
)
_SHORT = 5.0  # Minutes in which a large model takes too few steps.
_SPEED = 4e11  # Operations a second in convolutions: two EPYC cores.


def choose(config: TrainingConfig, dataset: ImageDataset) -> dict[str, Any]:
    """Returns the settings that are best for `minutes`, by name.

    Args:
      config: The settings as they are given; with `init_from`, no architecture
        is chosen.
      dataset: The data set.
    """
    side, longer = sorted(dataset.image_shape[:2])
    assert config.minutes is not None
    minutes = config.minutes * _measure_speed(config.precision)
    at_32 = minutes * 32**2 / (side * longer)
    chosen = dict(next(best for limit, best in _BEST if at_32 <= limit))
    chosen["batch_size"] = 32 if side < 48 else 16
    # Tiles may be of few images. Others are soon learned by heart if there are
    # few of them, and by validation images the best epoch is kept.
    if dataset.num_train >= 100 and not dataset.are_tiles:
        chosen["num_validation"] = min(1000, dataset.num_train // 10)
    if config.init_from is not None:
        names = "batch_size", "num_validation", "ema"
        kept = {name: chosen[name] for name in names if name in chosen}
        # A model that has been trained wants a lower rate.
        return {**kept, **WITH_DEFAULT_LR, "lr": 3e-3}
    while longer * chosen["filters"] <= runtime.SMALL:
        chosen["filters"] += 32
    num_scales = 2 + sum(side >= least for least in (16, 48, 64))
    while math.gcd(side, longer) % 2 ** (num_scales - 1):
        num_scales -= 1
    num_couplings = (4, 4, 6) if num_scales > 3 else (6, 6, 8)
    if minutes <= _SHORT:
        num_couplings = 3, 3, 4
    elif not dataset.values.are_real:
        chosen["dequantization"] = "variational"
    return chosen | {
        "num_blocks": 1,
        "num_scales": num_scales,
        "num_couplings": num_couplings,
    }


def _measure_speed(precision):
    """Returns the speed of this machine, relative to that of the table."""
    is_bfloat16 = runtime.settle_precision(precision) == "bfloat16"
    dtype = tf.bfloat16 if is_bfloat16 else tf.float32
    num_parts, num_layers = runtime.parts_at_once(), 8
    parts = [tf.zeros([16, 32, 32, 64], dtype) for _ in range(num_parts)]
    kernel = tf.zeros([3, 3, 64, 64], dtype)

    @tf.function(autograph=False)
    def convolve(parts, kernel):
        for _ in range(num_layers):
            parts = [tf.nn.conv2d(p, kernel, 1, "SAME") for p in parts]
        return tf.add_n([part[0, 0, 0, 0] for part in parts])

    seconds = timeit.repeat(lambda: convolve(parts, kernel).numpy(), number=1)
    count = 2 * num_parts * num_layers * math.prod((16, 32, 32, 3, 3, 64, 64))
    return count / min(seconds) / _SPEED
