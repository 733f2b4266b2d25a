"""Fits bits/dim to hours of training, and predicts those of more hours.

`python -m benchmarks.extrapolation runs/CIFAR10 --ms_per_step 200` fits the
power law `a + b * hours ** -c` to the validation bits/dim of a run at a
constant learning rate, after each epoch. A falling rate bends the curve, so
only the ends of such runs can be compared: `python -m benchmarks.extrapolation
0.5:3.1 1:3.0 2:2.95 4:2.93` takes points of hours and bits/dim. The fit to the
first half of the time, and its prediction of the last point, tell how far to
trust it (docs/training.md, benchmarks/results/extrapolation.md).
"""

import csv
import pathlib

import numpy as np
from scipy.optimize import curve_fit

from benchmarks import measuring


def main() -> None:
    """Prints the fits and their predictions."""
    flags = measuring.parse_flags(
        __doc__, "points...", ms_per_step=float, hours=[2.0, 10.0, 24.0]
    )
    if ":" in flags.points[0]:
        points = [list(map(float, p.split(":"))) for p in flags.points]
    else:
        file = pathlib.Path(flags.points[0]) / "metrics.csv"
        with file.open(encoding="utf-8") as rows:
            points = [
                (
                    int(row["step"]) * flags.ms_per_step / 3.6e6,
                    float(row["validation_bits_per_dim"]),
                )
                for row in csv.DictReader(rows)
                if int(row["step"]) > 0
            ]
    hours, bits = np.transpose(points)
    for part in (hours <= hours[-1], hours <= hours[-1] / 2):
        if part.sum() <= 3:
            return  # Too few for three parameters.
        (a, b, c), error = fit(hours[part], bits[part])
        print(
            f"{part.sum()} points, to {hours[part][-1]:.2f} h: {a:.3f} + "
            f"{b:.3f} * hours ** -{c:.2f} (RMS error {error:.4f})"
        )
        print(f"the last: {law(hours[-1], a, b, c):.3f} for {bits[-1]:.3f}")
        for later in flags.hours:
            print(f"after {later:g} h: {law(later, a, b, c):.3f}")


def law(hours, a: float, b: float, c: float):
    """Returns the bits/dim after some hours."""
    return a + b * hours**-c


def fit(hours: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the parameters of the power law, and its RMS error."""
    start = (bits.min() - 0.05, 0.05, 0.5)
    values, _ = curve_fit(law, hours, bits, start, maxfev=100_000)
    return values, np.sqrt(np.mean(np.square(law(hours, *values) - bits)))


if __name__ == "__main__":
    main()
