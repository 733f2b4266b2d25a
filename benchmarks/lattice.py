"""Trains flows on lattice fields whose densities are known.

`python -m benchmarks.lattice` trains models of real numbers, on a periodic
lattice of 16x16 sites (benchmarks/results/lattice.md; docs/scientific_data.py
uses this module, too):

*   of a Gaussian random field with the power spectrum `1 / (k^2 + m^2)`, where
    `k^2` is that of the lattice, and compares the loss with the entropy, and
    the estimate of `log Z` with its value;
*   of the field theory with the action of https://arxiv.org/abs/1904.12072,

        S = sum_x phi(x) (4 phi(x) - sum_y phi(y)) + m^2 phi(x)^2
            + lambda phi(x)^4,

    with the four neighbours `y` of `x`, `m^2 = -4` and `lambda = 8`. The flow
    learns from `--fields` by Hybrid Monte Carlo (HMC), and from the action in
    `--steps`, or from one of them alone. It then proposes fields to a
    Metropolis chain, and expectations are compared with those of HMC.

`--init_from` starts from the weights of a saved model, of any lattice.
`--couplings 4 12` trains one flow for all lambda from 4 to 12, its context, and
tries five of them.
"""

import functools
import itertools
import time

import numpy as np

from benchmarks import measuring

SIZE = 16
MASS_SQUARED = -4.0
COUPLING = 8.0


def neighbours(fields: np.ndarray) -> np.ndarray:
    """Returns the sum of the four neighbours of each site, `[H, W, ...]`."""
    return sum(
        np.roll(fields, step, axis) for axis in (0, 1) for step in (-1, 1)
    )


def action(fields, coupling=COUPLING):
    """Returns the action `[n]` of fields `[H, W, n]`."""
    squares = fields * fields
    density = fields * (4.0 * fields - neighbours(fields))
    density += squares * (MASS_SQUARED + coupling * squares)
    return density.sum(axis=(0, 1))


def log_density(points, couplings=COUPLING, mass_squared=MASS_SQUARED):
    """Returns minus the action of fields `[n, H, W, 1]`, in TensorFlow.

    Args:
      points: The fields.
      couplings: Lambda of all fields, or of each, `[n, 1]`.
      mass_squared: The square of the mass.
    """
    import tensorflow as tf

    squares = tf.square(points)
    couplings = tf.reshape(tf.cast(couplings, tf.float32), [-1, 1, 1, 1])
    # Each pair of neighbours once, and its product twice.
    pairs = points * (tf.roll(points, 1, 1) + tf.roll(points, 1, 2))
    values = squares * (4.0 + mass_squared + couplings * squares) - 2.0 * pairs
    return -tf.reduce_sum(values, axis=[1, 2, 3])


def symmetries():
    """Returns the symmetries of the action: signs, turns and reflections."""
    import tensorflow as tf

    def move(sign, turns, is_reflected, points):
        turned = tf.image.rot90(points, turns)
        return sign * (turned[:, ::-1] if is_reflected else turned)

    options = itertools.product((1.0, -1.0), range(4), (False, True))
    return [functools.partial(move, *chosen) for chosen in options]


def hmc(
    num_kept: int,
    num_chains: int = 500,
    num_burnt: int = 200,
    num_between: int = 5,
    seed: int = 0,
    coupling: float | np.ndarray = COUPLING,
    size: int = SIZE,
) -> tuple[np.ndarray, float]:
    """Draws fields by Hybrid Monte Carlo, with leapfrog steps.

    Args:
      num_kept: Number of fields to keep of each chain.
      num_chains: Number of chains.
      num_burnt: Number of trajectories before the first field.
      num_between: Number of trajectories from one field to the next.
      seed: Seed.
      coupling: Lambda of all chains, or of each.
      size: Height and width of the lattice.

    Returns:
      The fields, `[num_kept, num_chains, size, size]`, each with a random sign,
      a symmetry of the action; and the rate of acceptance.
    """
    rng = np.random.default_rng(seed)
    step, num_steps = 0.08, 12

    def force(fields):
        return -2.0 * (
            (4.0 + MASS_SQUARED) * fields
            - neighbours(fields)
            + 2.0 * coupling * fields * fields * fields
        )

    # Sites first: neighbours are then moved as a whole.
    fields = 0.3 * rng.standard_normal([size, size, num_chains])
    kept, rates = [], []
    for index in range(num_burnt + num_kept * num_between):
        momenta = rng.standard_normal(fields.shape)
        energy = action(fields, coupling)
        energy += 0.5 * np.square(momenta).sum(axis=(0, 1))
        moved = fields
        momenta = momenta + 0.5 * step * force(moved)
        for leap in range(num_steps):
            moved = moved + step * momenta
            last = leap == num_steps - 1
            momenta = momenta + (0.5 if last else 1.0) * step * force(moved)
        change = action(moved, coupling) - energy
        change += 0.5 * np.square(momenta).sum(axis=(0, 1))
        accepted = np.log(rng.random(num_chains)) < -change
        fields = np.where(accepted, moved, fields)
        rates.append(accepted.mean())
        if index >= num_burnt and (index - num_burnt) % num_between == 0:
            kept.append(np.moveaxis(fields, -1, 0))
    signs = rng.choice([-1.0, 1.0], size=[num_kept, num_chains, 1, 1])
    return signs * np.stack(kept), float(np.mean(rates[num_burnt:]))


def spectrum(mass_squared: float, size: int = SIZE) -> np.ndarray:
    """Returns the power spectrum of the Gaussian field, `[size, size]`."""
    waves = 2.0 - 2.0 * np.cos(2.0 * np.pi * np.arange(size) / size)
    return 1.0 / (waves[:, None] + waves + mass_squared)


def gaussian_fields(
    number: int, mass_squared: float, seed: int = 0, size: int = SIZE
) -> np.ndarray:
    """Draws Gaussian fields, `[number, size, size]`."""
    noise = np.random.default_rng(seed).standard_normal([number, size, size])
    waves = np.fft.fft2(noise) * np.sqrt(spectrum(mass_squared, size))
    return np.fft.ifft2(waves).real


def entropy(mass_squared: float, size: int = SIZE) -> float:
    """Returns the entropy of the Gaussian field in nats/dim."""
    logs = np.log(2.0 * np.pi * np.e * spectrum(mass_squared, size))
    return float(0.5 * logs.mean())


def gaussian_log_density(points, mass_squared: float):
    """Returns `log f` of Gaussian fields `[n, H, W, 1]`, in TensorFlow."""
    return 0.5 * log_density(points, 0.0, mass_squared)


def observables(fields: np.ndarray) -> dict[str, np.ndarray]:
    """Returns `phi^2` and two-point functions of fields `[n, H, W]`, by name.

    The two-point function at distance `r` is the mean of `phi(x) phi(y)` over
    all pairs of sites at that distance along an axis.
    """
    values = {"phi^2": np.square(fields).mean(axis=(1, 2))}
    for distance in (1, 2, 4, 8):
        moved = np.roll(fields, distance, 1) + np.roll(fields, distance, 2)
        values[f"G({distance})"] = 0.5 * (fields * moved).mean(axis=(1, 2))
    return values


def mean_and_error(
    values: np.ndarray, num_blocks: int = 50
) -> tuple[float, float]:
    """Returns the mean of a chain and its standard error, from blocks."""
    blocks = np.array_split(values, num_blocks)
    means = [block.mean() for block in blocks]
    return float(values.mean()), float(np.std(means, ddof=1) / num_blocks**0.5)


def make_model(flags, context_shape=None):
    """Returns a model of real numbers."""
    import keras

    import tf_realnvp

    keras.utils.set_random_seed(flags.seed)
    model = tf_realnvp.RealNVP(
        (flags.size, flags.size, 1),
        num_colors=None,
        filters=flags.filters,
        num_blocks=flags.num_blocks,
        num_couplings=flags.num_couplings,
        context_shape=context_shape,
        padding=flags.padding,
    )
    if flags.init_from is not None:
        model.assign(tf_realnvp.load(flags.init_from))
    return model


def train(model, flags, fields, epochs, context=None):
    """Trains a model on fields `[n, H, W]`; returns its metrics."""
    import tf_realnvp

    return tf_realnvp.train(
        model,
        fields.astype(np.float32),
        context=context,
        epochs=epochs,
        ema=flags.ema,
        seed=flags.seed,
        precision="float32",
    )[-1]


def main() -> None:
    """Prints the results."""
    flags = measuring.parse_flags(
        __doc__,
        size=SIZE,
        fields=40_000,
        gaussian_epochs=1,
        epochs=3,
        steps=0,
        batch_size=128,
        lr=1e-3,
        ema=0.998,
        filters=32,
        num_blocks=1,
        num_couplings=[8, 4, 6],
        proposals=50_000,
        mass_squared=0.5,
        couplings=[COUPLING],
        padding="periodic",
        init_from=str,
        out=str,
        seed=0,
    )
    from tf_realnvp.utils import runtime

    runtime.configure()
    if flags.gaussian_epochs:
        _gaussian(flags)
    _field_theory(flags)


def _gaussian(flags):
    from tf_realnvp import importance

    size, mass_squared = flags.size, flags.mass_squared
    start = time.perf_counter()
    fields = gaussian_fields(flags.fields, mass_squared, flags.seed, size)
    model = make_model(flags)
    loss = train(model, flags, fields, flags.gaussian_epochs).test_loss
    seconds = time.perf_counter() - start
    bound = entropy(mass_squared, size)
    variance = spectrum(mass_squared, size).mean()
    independent = 0.5 * np.log(2 * np.pi * np.e * variance)
    print(
        f"Gaussian field: test {loss:.4f} nats/dim, entropy {bound:.4f}, "
        f"difference {loss - bound:.4f}; independent pixels {independent:.4f}; "
        f"{seconds:.0f} s"
    )
    log_density = functools.partial(
        gaussian_log_density, mass_squared=mass_squared
    )
    drawn = importance.draw(model, log_density, flags.proposals, flags.seed)
    log_z, error = drawn.log_z
    exact = (bound - 0.5) * size**2
    print(
        f"log Z {log_z:.4f} +- {error:.4f}, exact {exact:.4f} "
        f"({(log_z - exact) / error:+.1f} sigma), effective share "
        "{:.3f} +- {:.3f}".format(*drawn.effective_share)
    )


def _field_theory(flags):
    import tf_realnvp
    from tf_realnvp import importance

    # The first fields that are seen are those that expectations are of.
    num_chains, size = 500, flags.size
    num_kept = max(flags.fields, 20_000) // num_chains
    fields, rate = hmc(num_kept, num_chains, seed=flags.seed, size=size)
    print(f"phi^4: HMC accepts {rate:.2f}")
    start = time.perf_counter()
    seen, context, given = fields, None, None
    if len(flags.couplings) > 1:
        of_chains = np.linspace(*flags.couplings, num_chains)
        if flags.fields:
            seen, _ = hmc(num_kept, num_chains, 200, 5, 1, of_chains, size)
        context = np.tile(of_chains, len(seen))[:, np.newaxis]
        given = [COUPLING]
    model = make_model(flags, given and (1,))
    if flags.fields:
        seen = seen.reshape(-1, size, size)
        loss = train(model, flags, seen, flags.epochs, context).test_loss
        seconds = time.perf_counter() - start
        print(f"of fields: test {loss:.4f} nats/dim, {seconds:.0f} s")
    if flags.steps:
        last = tf_realnvp.train(
            model,
            log_density=log_density,
            context=context,
            max_steps=flags.steps,
            epochs=-(-flags.steps // 100),
            batch_size=flags.batch_size,
            optimizer="muon",
            lr=flags.lr,
            lr_schedule="cosine",
            warmup_steps=100,
            clip_grad=1.0,
            ema=flags.ema,
            seed=flags.seed,
            precision="float32",
        )[-1]
        seconds = time.perf_counter() - start
        print(f"of the action: {last.describe(model.values)}, {seconds:.0f} s")
    if flags.out is not None:
        model.save(flags.out)

    measuring.print_header(
        "", "accepted", "effective share", "log Z", "tau", "ms"
    )
    others = np.linspace(*flags.couplings, 5) if given else []
    proposers = [
        *((f"lambda {coupling:g}", coupling, ()) for coupling in others),
        ("the flow", COUPLING, ()),
        ("all symmetries", COUPLING, symmetries()),
    ]
    for name, coupling, group in proposers:
        start = time.process_time()
        drawn = importance.draw(
            model,
            functools.partial(log_density, couplings=coupling),
            flags.proposals,
            flags.seed,
            given and [coupling],
            group,
        )
        milliseconds = 1e3 * (time.process_time() - start) / flags.proposals
        chain = importance.metropolis(drawn.log_weights, flags.seed)
        proposed = observables(drawn.points[..., 0].astype(float))
        measuring.print_row(
            name,
            f"{chain.acceptance:.3f}",
            "{:.3f} ± {:.3f}".format(*drawn.effective_share),
            "{:.3f} ± {:.3f}".format(*drawn.log_z),
            f"{chain.autocorrelation_time(proposed['phi^2']):.2f}",
            f"{milliseconds:.2f}",
        )
    # Every trajectory of some chains.
    start = time.process_time()
    num_steps = 400
    steps, _ = hmc(num_steps, 100, num_between=1, seed=2, size=size)
    seconds = time.process_time() - start
    milliseconds = 1e3 * seconds / (num_steps + 200) / 100
    squares = np.square(steps).mean(axis=(2, 3)).T
    whole = importance.Chain(np.arange(num_steps), rate)
    times = [whole.autocorrelation_time(values) for values in squares]
    measuring.print_row(
        "HMC",
        f"{rate:.3f}",
        "",
        "",
        f"{np.mean(times):.2f}",
        f"{milliseconds:.2f}",
    )
    positive = np.mean(drawn.points.mean(axis=(1, 2, 3)) > 0.0)
    print(f"of the draws {positive:.3f} have a positive mean")
    # By chain, since fields of different chains are independent.
    by_hmc = observables(fields.swapaxes(0, 1).reshape(-1, size, size))
    for name, values in by_hmc.items():
        first, first_error = mean_and_error(values)
        second, second_error = chain.mean(proposed[name])
        sigmas = (second - first) / np.hypot(first_error, second_error)
        print(
            f"{name}: HMC {first:.5f} +- {first_error:.5f}, flow "
            f"{second:.5f} +- {second_error:.5f} ({sigmas:+.1f} sigma), "
            f"proposals alone {proposed[name].mean():.5f}"
        )


if __name__ == "__main__":
    main()
