"""Trains flows on lattice fields whose densities are known.

`python -m benchmarks.lattice` trains a model of real numbers on fields on a
periodic 16x16 lattice (docs/scientific_data.py, which also uses this module):

*   a Gaussian random field with the power spectrum `1 / (k^2 + m^2)`, where
    `k^2` is that of the lattice, and compares the loss with the entropy;
*   the field theory with the action of https://arxiv.org/abs/1904.12072,

        S = sum_x phi(x) (4 phi(x) - sum_y phi(y)) + m^2 phi(x)^2
            + lambda phi(x)^4,

    with the four neighbours `y` of `x`, `m^2 = -4` and `lambda = 8`, drawn by
    Hybrid Monte Carlo (HMC). The flow then proposes fields to an independent
    Metropolis chain, and expectations are compared with those of HMC.

The models are periodic as well, unless `--padding same` is given.

`--couplings 4 12` trains one flow for all lambda from 4 to 12, its context.
"""

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


def _action(fields, coupling):
    """Returns the action `[n]` of fields `[H, W, n]`."""
    squares = fields * fields
    density = fields * (4.0 * fields - neighbours(fields))
    density += squares * (MASS_SQUARED + coupling * squares)
    return density.sum(axis=(0, 1))


def action(fields: np.ndarray) -> np.ndarray:
    """Returns the action of fields `[n, H, W]`, `[n]`."""
    return _action(np.moveaxis(fields, 0, -1), COUPLING)


def hmc(
    num_kept: int,
    num_chains: int = 500,
    num_burnt: int = 200,
    num_between: int = 5,
    seed: int = 0,
    coupling: float | np.ndarray = COUPLING,
) -> tuple[np.ndarray, float]:
    """Draws fields by Hybrid Monte Carlo, with leapfrog steps.

    Args:
      num_kept: Number of fields to keep of each chain.
      num_chains: Number of chains.
      num_burnt: Number of trajectories before the first field.
      num_between: Number of trajectories from one field to the next.
      seed: Seed.
      coupling: Lambda of all chains, or of each.

    Returns:
      The fields, `[num_kept, num_chains, H, W]`, each with a random sign, a
      symmetry of the action; and the rate of acceptance.
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
    fields = 0.3 * rng.standard_normal([SIZE, SIZE, num_chains])
    kept, rates = [], []
    for index in range(num_burnt + num_kept * num_between):
        momenta = rng.standard_normal(fields.shape)
        energy = _action(fields, coupling)
        energy += 0.5 * np.square(momenta).sum(axis=(0, 1))
        moved = fields
        momenta = momenta + 0.5 * step * force(moved)
        for leap in range(num_steps):
            moved = moved + step * momenta
            last = leap == num_steps - 1
            momenta = momenta + (0.5 if last else 1.0) * step * force(moved)
        change = _action(moved, coupling) - energy
        change += 0.5 * np.square(momenta).sum(axis=(0, 1))
        accepted = np.log(rng.random(num_chains)) < -change
        fields = np.where(accepted, moved, fields)
        rates.append(accepted.mean())
        if index >= num_burnt and (index - num_burnt) % num_between == 0:
            kept.append(np.moveaxis(fields, -1, 0))
    signs = rng.choice([-1.0, 1.0], size=[num_kept, num_chains, 1, 1])
    return signs * np.stack(kept), float(np.mean(rates[num_burnt:]))


def spectrum(mass_squared: float) -> np.ndarray:
    """Returns the power spectrum of the Gaussian field, `[H, W]`."""
    waves = 2.0 - 2.0 * np.cos(2.0 * np.pi * np.arange(SIZE) / SIZE)
    return 1.0 / (waves[:, None] + waves + mass_squared)


def gaussian_fields(
    number: int, mass_squared: float, seed: int = 0
) -> np.ndarray:
    """Draws Gaussian fields, `[number, H, W]`."""
    noise = np.random.default_rng(seed).standard_normal([number, SIZE, SIZE])
    waves = np.fft.fft2(noise) * np.sqrt(spectrum(mass_squared))
    return np.fft.ifft2(waves).real


def entropy(mass_squared: float) -> float:
    """Returns the entropy of the Gaussian field in nats/dim."""
    logs = np.log(2.0 * np.pi * np.e * spectrum(mass_squared))
    return float(0.5 * logs.mean())


def metropolis(
    log_weights: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, float]:
    """Runs an independent Metropolis chain.

    Args:
      log_weights: `-S - log q` of the proposals, `[n]`.
      seed: Seed.

    Returns:
      The number of the proposal at each step of the chain, `[n]`, and the rate
      of acceptance.
    """
    limits = np.log(np.random.default_rng(seed).random(len(log_weights)))
    chain = np.zeros(len(log_weights), int)
    for step in range(1, len(chain)):
        current = chain[step - 1]
        accepted = limits[step] < log_weights[step] - log_weights[current]
        chain[step] = step if accepted else current
    return chain, float(np.mean(np.diff(chain) != 0))


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


def train(
    fields: np.ndarray,
    epochs: int,
    filters: int,
    num_blocks: int,
    seed: int,
    padding: str,
    context: np.ndarray | None = None,
):
    """Trains a model of real numbers; returns it and its metrics."""
    import keras

    import tf_realnvp

    keras.utils.set_random_seed(seed)
    model = tf_realnvp.RealNVP(
        (SIZE, SIZE, 1),
        num_colors=None,
        filters=filters,
        num_blocks=num_blocks,
        context_shape=None if context is None else (1,),
        padding=padding,
    )
    history = tf_realnvp.train(
        model,
        fields.astype(np.float32),
        context=context,
        epochs=epochs,
        seed=seed,
        precision="float32",
        progress=False,
    )
    return model, history


def propose(
    model, number: int, seed: int = 0, context: list[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draws fields from a model; returns them and their log-densities."""
    import tensorflow as tf

    log_prob = tf.function(
        lambda fields: model.log_prob(fields, context=context), autograph=False
    )
    sample = tf.function(
        lambda part: model.sample(500, seed=part, context=context),
        autograph=False,
    )
    drawn = [sample(tf.constant([seed, k])) for k in range(number // 500)]
    densities = np.concatenate([log_prob(part) for part in drawn])
    return np.concatenate(drawn)[..., 0].astype(float), densities.astype(float)


def main() -> None:
    """Prints the results."""
    flags = measuring.parse_flags(
        __doc__,
        fields=40_000,
        gaussian_epochs=1,
        epochs=5,
        filters=32,
        num_blocks=2,
        proposals=50_000,
        mass_squared=0.5,
        couplings=[COUPLING],
        padding="periodic",
        seed=0,
    )
    from tf_realnvp.utils import runtime

    runtime.configure()
    size = flags.filters, flags.num_blocks, flags.seed, flags.padding

    start = time.perf_counter()
    fields = gaussian_fields(flags.fields, flags.mass_squared, flags.seed)
    _, history = train(fields, flags.gaussian_epochs, *size)
    seconds = time.perf_counter() - start
    loss, bound = history[-1].test_loss, entropy(flags.mass_squared)
    variance = spectrum(flags.mass_squared).mean()
    independent = 0.5 * np.log(2 * np.pi * np.e * variance)
    print(
        f"Gaussian field: test {loss:.4f} nats/dim, entropy {bound:.4f}, "
        f"difference {loss - bound:.4f}; independent pixels {independent:.4f}; "
        f"{seconds:.0f} s"
    )

    start = time.perf_counter()
    num_chains = 500
    fields, rate = hmc(flags.fields // num_chains, num_chains, seed=flags.seed)
    seconds = time.perf_counter() - start
    print(f"phi^4: HMC accepts {rate:.2f}, {seconds:.0f} s")
    start = time.perf_counter()
    seen, context, given = fields, None, None
    if len(flags.couplings) > 1:
        of_chains = np.linspace(*flags.couplings, num_chains)
        seen, _ = hmc(len(fields), num_chains, coupling=of_chains, seed=1)
        context = np.tile(of_chains, len(seen))[:, np.newaxis]
        given = [COUPLING]
    seen = seen.reshape(-1, SIZE, SIZE)
    model, history = train(seen, flags.epochs, *size, context)
    seconds = time.perf_counter() - start
    drawn, log_prob = propose(model, flags.proposals, flags.seed, given)
    log_weights = -action(drawn) - log_prob
    chain, rate = metropolis(log_weights, flags.seed)
    weights = np.exp(log_weights - log_weights.max())
    share = weights.sum() ** 2 / np.square(weights).sum() / len(weights)
    print(
        f"flow: test {history[-1].test_loss:.4f} nats/dim, {seconds:.0f} s; "
        f"{len(drawn):,} proposals, {rate:.3f} accepted, effective share "
        f"{share:.3f}"
    )
    by_proposals, by_flow = observables(drawn), observables(drawn[chain])
    # By chain, since fields of different chains are independent.
    by_hmc = observables(fields.swapaxes(0, 1).reshape(-1, SIZE, SIZE))
    for name in by_hmc:
        first, first_error = mean_and_error(by_hmc[name])
        second, second_error = mean_and_error(by_flow[name])
        sigmas = (second - first) / np.hypot(first_error, second_error)
        print(
            f"{name}: HMC {first:.5f} +- {first_error:.5f}, flow "
            f"{second:.5f} +- {second_error:.5f} ({sigmas:+.1f} sigma), "
            f"proposals alone {by_proposals[name].mean():.5f}"
        )


if __name__ == "__main__":
    main()
