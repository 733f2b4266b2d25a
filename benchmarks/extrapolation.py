"""Fits bits/dim to hours of training, and says what more hours would give.

`python -m benchmarks.extrapolation runs/CIFAR10 --ms_per_step 200` fits the
power law `a + b * hours ** -c` to the validation bits/dim of a run at a fixed
rate, after each epoch. A falling rate bends the curve, so of such runs only the
ends can be compared: `python -m benchmarks.extrapolation 0.5:3.1 1:3.0 2:2.95
4:2.93` takes points, of hours and bits/dim. The fit to the first half of the
time, and what it says of the last point, tell how far to trust it.
"""

import argparse
import csv
import pathlib

import numpy as np
from scipy.optimize import curve_fit


def main() -> None:
    """Prints the fit, and what it says of more hours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("points", nargs="+", help="a run folder, or HOURS:BITS")
    parser.add_argument("--ms_per_step", type=float, default=None)
    parser.add_argument("--hours", type=float, nargs="*", default=[2, 10, 24])
    flags = parser.parse_args()
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
        predict, text = fit(hours[part], bits[part])
        print(f"{part.sum()} points, to {hours[part][-1]:.2f} h: {text}")
        print(f"the last: {predict(hours[-1]):.3f} for {bits[-1]:.3f}")
        for later in flags.hours:
            print(f"after {later:g} h: {predict(later):.3f}")


def fit(hours: np.ndarray, bits: np.ndarray):
    """Returns the power law as a function, and as text."""

    def law(hours, a, b, c):
        return a + b * hours**-c

    start = (bits.min() - 0.05, 0.05, 0.5)
    values, _ = curve_fit(law, hours, bits, start, maxfev=100_000)
    a, b, c = values
    error = np.sqrt(np.mean(np.square(law(hours, *values) - bits)))
    text = f"{a:.3f} + {b:.3f} * hours ** -{c:.2f} (RMS error {error:.4f})"
    return (lambda hours: law(hours, *values)), text


if __name__ == "__main__":
    main()
