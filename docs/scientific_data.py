# %% [markdown]
# # Scientific data
#
# This page is for you if your images have more than 8 bits or real numbers, or
# if you know a density, such as that of a field on a lattice, and want to draw
# from it.
#
# | | up to 256 levels | up to 65,536 levels | real numbers |
# | --- | --- | --- | --- |
# | `RealNVP(num_colors=…)` | 2 to 256 | 257 to 65,536 | `None` |
# | arrays, `.npy`, `.npz`, `tf.data` | uint8 | uint16 | floating-point |
# | files of single images | PNG, JPEG, TIFF | PNG, TIFF of 16 bits | `.npy` |
# | `sample`, `decode` return | uint8 | uint16 | float32 |
# | the loss is in | bits/dim | bits/dim | nats/dim |
#
# ## Levels beyond bytes
#
# ```sh
# python run.py --dataset scans --image_size 32
# python run.py --dataset scans --image_size 32 --num_bits 10
# ```
#
# If all files of a folder have 16 bits, or an array is uint16, the values are
# the levels. There are as many levels as the highest value needs bits for:
# images of a 12-bit sensor have 4,096 levels. An entry `num_colors` of an
# `.npz` file overrides that. `--num_bits N` keeps the `N` highest of these
# bits. Bits/dim of different numbers of bits cannot be compared, since each bit
# of pure noise adds one.
#
# Commands read and write 16-bit files whose values are the levels (times $2^k$,
# if `--num_bits` dropped $k$ bits). `export` and `explore` refuse these models.
#
# `decode(encode(images))` is exact up to 13 bits, for a model of 32 couplings.
# With 16 bits, 96.8 % of the images come back, the others with errors of up to
# 2 levels (`python -m benchmarks.round_trip models/realnvp_fashion_mnist`). See
# also a [model of 12-bit images](../benchmarks/results/twelve_bits.md).
#
# ## Real numbers
#
# ```python
# model = tf_realnvp.RealNVP((16, 16, 1), num_colors=None)
# history = tf_realnvp.train(model, fields)  # float [n, 16, 16, 1], finite
# history[-1].nats_per_dim()["test"]
# model.log_prob(fields)  # of the data as given, in nats
# ```
#
# There is no dequantization and no logit. The flow acts on data that are
# standardized by the training images (`model.standardize` sets their moments).
# Log-densities are those of the data as given, so they depend on its unit, and
# are no code lengths: `nats_per_dim` takes the place of `bits_per_dim`.
# `decode(encode(x))` differs from `x` by rounding.
#
# Commands take and write `.npy` files of one image each. `detect` has no method
# `complexity`, and `restoration.restore` works in Python only, with `noise`.
# `--dequantization variational`, `--importance_samples`, `export` and `explore`
# are refused.
#
# ## A field theory on a lattice
#
# Fields on a periodic lattice of 8×8 sites have the density $e^{-S(\phi)} / Z$
# with the action of [1904.12072](https://arxiv.org/abs/1904.12072),
#
# $$S(\phi) = \sum_x \phi(x) (4 \phi(x) -
# \sum_{y \sim x} \phi(y)) + m^2 \phi(x)^2 + \lambda \phi(x)^4,$$
#
# where $y$ are the neighbours of $x$, $m^2 = -4$ and $\lambda = 8$. With
# `padding="periodic"` convolutions wrap around the lattice, so translations by
# `2**num_scales` sites change no density.
#
# Hybrid Monte Carlo (HMC) draws fields. The flow learns from them, and then
# draws fields that are independent of each other. What it gets wrong can be
# corrected, since its density is known. The physics is in
# `benchmarks/lattice.py` of the repository.

# %%
import time

from tf_realnvp import runtime

runtime.configure(num_threads=1)  # Before TensorFlow is imported.

import keras
import matplotlib.pyplot as plt
import numpy as np

import tf_realnvp
from benchmarks import lattice
from tf_realnvp import importance
from tf_realnvp.analysis import plots

start = time.perf_counter()
chains, acceptance = lattice.hmc(num_kept=20, num_chains=500, size=8)
fields = chains.reshape(-1, 8, 8)
print(
    f"{len(fields):,} fields in {time.perf_counter() - start:.0f} s, "
    f"{acceptance:.0%} of the trajectories accepted"
)

# %%
keras.utils.set_random_seed(0)
model = tf_realnvp.RealNVP(
    (8, 8, 1),
    num_colors=None,
    filters=16,
    num_blocks=1,
    channel_masks="mixed",
    padding="periodic",
)
start = time.perf_counter()
history = tf_realnvp.train(
    model, fields.astype(np.float32), epochs=2, seed=0, progress=False
)
for metrics in history:
    print(f"epoch {metrics.epoch}: test {metrics.test_loss:.4f} nats/dim")
print(f"{time.perf_counter() - start:.0f} s")

# %% [markdown]
# Fields by HMC are in the first row, draws of the flow in the second.

# %%
drawn = importance.draw(model, lattice.log_density, 1000)
rows = np.concatenate([fields[::1000][:8, ..., np.newaxis], drawn.points[:8]])
plots.save_image_grid("fields.png", rows, None, columns=8)
figure, axes = plt.subplots(figsize=(8, 2.4))
axes.imshow(plt.imread("fields.png"))
axes.axis("off")
figure.tight_layout()

# %% [markdown]
# `importance.draw` gives each draw its weight, the ratio of $e^{-S}$ to the
# density of the flow. So expectations are right whatever the flow has learned;
# a better flow has a larger effective share of the draws. The mean weight is an
# estimate of $Z$.
#
# The action stays the same if the field is turned, reflected or multiplied by
# -1. The mean of the flow's density over these 16 `symmetries` is closer to
# $e^{-S} / Z$.

# %%
for name, group in (
    ("the flow", ()),
    ("with symmetries", lattice.symmetries()),
):
    drawn = importance.draw(model, lattice.log_density, 1000, symmetries=group)
    share, error = drawn.effective_share
    log_z, log_z_error = drawn.log_z
    print(
        f"{name}: effective share {share:.3f} ± {error:.3f}, "
        f"log Z {log_z:.3f} ± {log_z_error:.3f}"
    )

# %% [markdown]
# An independent Metropolis chain takes the draws as proposals, and accepts them
# by the ratio of their weights.

# %%
chain = importance.metropolis(drawn.log_weights)
proposed = lattice.observables(drawn.points[..., 0])
time_of = chain.autocorrelation_time(proposed["phi^2"])
print(
    f"{chain.acceptance:.1%} of the proposals accepted, integrated "
    f"autocorrelation time {time_of:.1f}"
)
by_hmc = lattice.observables(chains.swapaxes(0, 1).reshape(-1, 8, 8))
for name in ("phi^2", "G(1)", "G(2)", "G(4)"):
    mean, error = lattice.mean_and_error(by_hmc[name])
    own, own_error = chain.mean(proposed[name])
    print(
        f"{name}: HMC {mean:.4f} ± {error:.4f}, "
        f"flow {own:.4f} ± {own_error:.4f}"
    )

figure, axes = plt.subplots()
bins = np.linspace(-1.2, 1.2, 60)
for values, label in ((fields, "HMC"), (drawn.points, "flow")):
    axes.hist(values.ravel(), bins, density=True, histtype="step", label=label)
axes.set(xlabel="$\\phi(x)$", ylabel="density")
axes.legend()
figure.savefig("values.png")

# %% [markdown]
# ## From the action alone
#
# No fields are needed. In place of images, `train` takes the logarithm of any
# density, up to a constant, and minimizes the reverse Kullback-Leibler
# divergence of the draws from it. An epoch is 100 steps.

# %%
keras.utils.set_random_seed(0)
small = tf_realnvp.RealNVP(
    (8, 8, 1),
    num_colors=None,
    filters=16,
    num_blocks=1,
    num_couplings=(2, 2, 2),
    padding="periodic",
)
small.standardize(0.0, 0.4)  # About the scale of the fields.
history = tf_realnvp.train(
    small,
    log_density=lattice.log_density,  # float32 [n, 8, 8, 1] to [n], nats
    max_steps=100,
    batch_size=64,
    progress=False,
)
for metrics in history:
    print(
        f"step {metrics.step}: loss {metrics.test_loss:.4f} nats/dim, "
        f"effective share {metrics.effective_share:.3f} ± "
        f"{metrics.effective_share_error:.3f}"
    )

# %% [markdown]
# A hundred steps are far too few. The loss is $-\log Z$ per site where the flow
# is right. A flow that misses a mode cannot know: the effective share is that
# of the modes it has. Start on a small lattice: `large.assign(small)` copies
# the weights to a model of any size.
#
# After 1,500 steps on 8×8 and 500 more on 16×16 sites, 40 minutes of one core,
# 72.1 % of the proposals on 16×16 sites are accepted, and 87.5 % with
# symmetries. HMC is the better sampler by far at this coupling, but does not
# give $Z$. One flow given $\lambda$ as its
# [context](conditional.md#numbers-and-images) serves all couplings from 4 to
# 12. [All figures and commands](../benchmarks/results/lattice.md) are in the
# repository.
