# %% [markdown]
# # Scientific data
#
# An image has 256 levels by default. X-rays and CT slices have 12 bits,
# microscopes and depth cameras 16, and a simulation, a spectrogram or a climate
# map has real numbers. A model is of one of these kinds, and says which:
# `num_colors` is in its `metadata.json`, and `null` for real numbers.
#
# | | up to 256 levels | up to 65,536 levels | real numbers |
# | --- | --- | --- | --- |
# | `RealNVP(num_colors=…)` | 2 to 256 | 257 to 65,536 | `None` |
# | arrays, `.npy`, `.npz`, `tf.data` | uint8 | uint16 | floating-point |
# | files of single images | PNG, JPEG, TIFF | PNG, TIFF of 16 bits | `.npy` |
# | `sample`, `decode` give | uint8 | uint16 | float32 |
# | the loss is in | bits/dim | bits/dim | nats/dim |
#
# An array of another kind than the model's is an error of one line.
#
# ## Levels beyond bytes
#
# ```sh
# python run.py --dataset scans --image_size 32
# python run.py --dataset scans --image_size 32 --num_bits 10
# ```
#
# If all files of a folder have 16 bits, or an array is uint16, the values are
# the levels. There are as many levels as the highest value of the data set has
# bits for: images of a 12-bit sensor, which are stored in 16, have 4,096. An
# entry `num_colors` of an `.npz` file says it otherwise. Data sets of TFDS of
# 16 bits have 65,536 levels. `--num_bits N` drops all but the `N` highest of
# these bits. If only some files of a folder have 16 bits, 8 are kept of all,
# with a warning.
#
# Commands read and write 16-bit files whose values are the levels (times
# $2^k$, if `--num_bits` dropped $k$ bits), so viewers show those of 12 bits
# dark. A file with a higher level than the model has is refused.
#
# Bits/dim of different numbers of bits cannot be compared: each bit of pure
# noise adds one.
#
# **How exactly images come back.** `decode(encode(images))` is exact as far as
# float32 carries through the logit and all couplings. Here is a model of 32
# couplings, with test images of Fashion-MNIST to which random lower bits were
# added:
#
# | bits | images that come back |
# | --- | --- |
# | up to 13 | all of 500 |
# | 14 | 99.6 %, the others with errors up to 1 level |
# | 15 | 99.0 %, up to 1 |
# | 16 | 96.8 %, up to 2 |
#
# At 16 bits fewer than 1 of 10,000 values is off.
#
# ```sh
# python -m benchmarks.round_trip models/realnvp_fashion_mnist
# ```
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
# There is no dequantization and no logit. The flow acts on standardized data:
# the mean and the standard deviation of each channel over the training images
# are part of the model (the weight `moments`; `model.standardize` sets them).
# Log-densities are of the data as given, in nats: in another unit of the data
# they differ by the logarithm of the scale, for each component. They are no
# code lengths, so `bits_per_dim` is an error; `nats_per_dim` takes its place in
# Python, in the SavedModel and in CSV files. Seeds of `log_prob` have no
# effect. `decode(encode(x))` differs from `x` by rounding.
#
# * Training, resuming, `--conditional`, warm starts, saving and loading work.
# * `sample` draws a grid in colours with a bar, by the first channel, or writes
#   a folder of `.npy` files.
# * `evaluate`, `score`, `interpolate`, `manifold`, `reconstruct`, `translate`
#   and `direction` work, with `.npy` files of one image each. The maps of
#   `score` are in nats.
# * `detect` works without the method `complexity`, which compares with a
#   lossless coder; `combined` is of the two others.
# * `restoration.restore` works in Python, with `noise`; the command is refused.
# * PyTorch weights work; the standardization is not in the file, and is to be
#   set.
# * `--dequantization variational`, `--importance_samples`, `export` and
#   `explore` are refused.
#
# ## A field theory on a lattice
#
# This example shows what a density is for. Fields on a periodic lattice of
# 16×16 sites have the density $e^{-S(\phi)} / Z$ with the action of
# [1904.12072](https://arxiv.org/abs/1904.12072),
#
# $$S(\phi) = \sum_x \phi(x) (4 \phi(x) -
# \sum_{y \sim x} \phi(y)) + m^2 \phi(x)^2 + \lambda \phi(x)^4,$$
#
# where $y$ are the neighbours of $x$, $m^2 = -4$ and $\lambda = 8$. It is not
# Gaussian: the values of a site have two modes, as the last figure shows.
#
# With `RealNVP(…, padding="periodic")`, or `--padding periodic`, convolutions
# wrap around the lattice, so translations by `2**num_scales` sites change no
# density. Tiles are periodic as well; panoramas and functions of an angle are
# along one axis.
#
# Hybrid Monte Carlo (HMC) draws fields. The flow learns from them, and then
# draws fields that are independent of each other, which a chain of HMC cannot.
# What it gets wrong can be removed, since its density is known.
#
# This page is the program `docs/scientific_data.py`, with its output. HMC and
# the rest of the physics are in `benchmarks/lattice.py` of the repository.

# %%
import time

from tf_realnvp import runtime

runtime.configure()  # Before TensorFlow is imported.

import keras
import matplotlib.pyplot as plt
import numpy as np

import tf_realnvp
from benchmarks import lattice
from tf_realnvp import importance
from tf_realnvp.analysis import plots

start = time.perf_counter()
chains, acceptance = lattice.hmc(num_kept=20, num_chains=500)
fields = chains.reshape(-1, 16, 16)
print(
    f"{len(fields):,} fields in {time.perf_counter() - start:.0f} s, "
    f"{acceptance:.0%} of the trajectories accepted"
)

# %%
keras.utils.set_random_seed(0)
model = tf_realnvp.RealNVP(
    (16, 16, 1),
    num_colors=None,
    filters=32,
    num_blocks=1,
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
# density of the flow. So expectations are right, whatever the flow learned;
# what the flow learned is the effective share of the draws. The mean weight is
# an estimate of $Z$.
#
# The action stays the same if the field is turned, reflected or multiplied by
# -1. With these 16 `symmetries`, the density of the draws is the mean over all
# of them, which is closer to $e^{-S} / Z$ than the flow is.

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
by_hmc = lattice.observables(chains.swapaxes(0, 1).reshape(-1, 16, 16))
for name in by_hmc:
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
# No fields are needed. `train` takes the logarithm of any density, up to a
# constant, in place of images, and brings the density of the draws closer to it
# by the reverse Kullback-Leibler divergence. Everything else is as ever:
# optimizers, `ema`, `run_dir`, TensorBoard. An epoch is 100 steps.

# %%
keras.utils.set_random_seed(0)
small = tf_realnvp.RealNVP(
    (8, 8, 1), num_colors=None, filters=16, num_blocks=1, padding="periodic"
)
small.standardize(0.0, 0.4)  # About the scale of the fields.
history = tf_realnvp.train(
    small,
    log_density=lattice.log_density,  # float32 [n, 8, 8, 1] to [n], nats
    max_steps=200,
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
# Two hundred steps show how it is done, and are far too few. The loss is
# $-\log Z$ per site where the flow is right. A flow that misses a
# mode cannot know: the effective share is that of the modes it has. Start on a
# small lattice: `large.assign(small)` copies the weights to one of any size.
#
# The error of an encoded and decoded field, in standard deviations:

# %%
given = fields[:2000, ..., np.newaxis].astype(np.float32)
back = model.decode(model.encode(given)).numpy()
print(f"{np.abs(back - given).max() / given.std():.1e} at most")

# %% [markdown]
# ## Evidence
#
# All figures are of two CPU cores that were shared with other work.
#
# **The field theory, from the action alone**: 20 couplings of 32 filters and
# one block, 1,500 steps of 128 draws on 8×8 in 23 minutes of one core, and 500
# on 16×16 in 17 minutes (ea17084):
#
# ```sh
# python -m benchmarks.lattice --gaussian_epochs 0 --fields 0 --size 8 \
#   --steps 1500 --lr 1e-2 --proposals 4000 --out small
# python -m benchmarks.lattice --gaussian_epochs 0 --fields 0 \
#   --init_from small --steps 500 --lr 3e-3 --proposals 10000 --out flow
# python -m benchmarks.lattice --gaussian_epochs 0 --fields 0 \
#   --init_from flow --size 32 --proposals 4000
# ```
#
# | lattice | | accepted | effective share | $\log Z$ | $\tau$ | ms |
# | --- | --- | --- | --- | --- | --- | --- |
# | 8² | the flow | 85.2 % | 0.917 ± 0.006 | 9.283 ± 0.005 | 1.57 | 0.74 |
# | | symmetries | **92.6 %** | 0.982 ± 0.001 | 9.292 ± 0.002 | 1.19 | 5.26 |
# | | HMC | 92.1 % | | | 1.93 | 0.02 |
# | 16² | the flow | 72.1 % | 0.780 ± 0.005 | 37.141 ± 0.005 | 1.97 | 1.44 |
# | | symmetries | **87.5 %** | 0.953 ± 0.001 | 37.147 ± 0.002 | 1.30 | 15.4 |
# | | HMC | 84.5 % | | | 2.23 | 0.07 |
# | 32² | the flow | 49.5 % | 0.342 ± 0.034 | 148.60 ± 0.02 | 4.33 | 4.53 |
# | | symmetries | **76.0 %** | 0.811 ± 0.005 | 148.594 ± 0.008 | 1.69 | 63.2 |
# | | HMC | 69.1 % | | | 3.08 | 0.17 |
#
# $\tau$ is the integrated autocorrelation time of $\phi^2$ in steps, and ms the
# processor time of a step on an AMD EPYC. Here HMC is the better sampler by
# far, since its chains decorrelate fast this far from the critical point; it
# does not give $Z$. Convolutions do not know the size of the lattice: the flow
# for 32×32 is that for 16×16, without further training, and that of 8×8 has
# 85.6 % on 16×16. All expectations are within 2.0 σ of those of HMC, and of the
# draws 49.7, 49.3 and 49.9 % have a positive mean.
#
# **One flow for all couplings** from 4 to 12, its
# [context](context.md), in as many steps on 8×8 (12 minutes of two cores of a
# Xeon with AMX, 0bebbe8):
#
# ```sh
# python -m benchmarks.lattice --gaussian_epochs 0 --fields 0 --size 8 \
#   --steps 1500 --lr 1e-2 --proposals 4000 --couplings 4 12
# ```
#
# | $\lambda$ | 4 | 6 | 8 | 10 | 12 |
# | --- | --- | --- | --- | --- | --- |
# | accepted | 56.5 % | 76.9 % | 84.2 % | 86.2 % | 86.2 % |
# | effective share | 0.479 | 0.827 | 0.909 | 0.933 | 0.937 |
#
# With symmetries 93.0 % are accepted at 8.
#
# What mattered:
#
# * The rate: 300 steps on 8×8 with `--lr` 1e-3, 3e-3 and 6e-3 gave effective
#   shares of 0.008, 0.251 and 0.753, with symmetries.
# * The density from the action instead of fields: 3,375 steps on 40,000 fields
#   by HMC (`python -m benchmarks.lattice --gaussian_epochs 0 --out flow`, 27
#   minutes, 4212170) gave 62.6 % and 0.598 on 16×16, and 76.6 % and 0.829 with
#   symmetries.
# * 20 couplings of one block, where 10 of two had 52.5 % of those fields after
#   8,430 steps; and `padding="periodic"`: 12.9 % without.
#
# For comparison, the flow of [2101.08176](https://arxiv.org/abs/2101.08176),
# written again in PyTorch (16 couplings of 8 channels, Adam at 1e-3, 2,500
# steps of 64 draws, one seed): 23.8 % and 0.060 on 8×8 in 3.8 minutes of one
# core, 2.2 % and 0.002 on 16×16 in 6.5. At other couplings
# [2110.02673](https://arxiv.org/abs/2110.02673) reports an effective share of
# 1 % by RealNVP and 66 % by a continuous flow, on 32×32.
#
# **A Gaussian field** with the power spectrum $1 / (k^2 + 0.5)$ has an entropy
# of 0.7354 nats/dim, and independent pixels of the same variance one of 0.8433.
# After one epoch of 40,000 fields the test loss was 0.7358, and 20,000 draws
# gave $\log Z$ as 60.2547 ± 0.0084, which is 60.2533:
#
# ```sh
# python -m benchmarks.lattice --proposals 20000
# ```
#
# **Twelve bits.** CIFAR10 averaged to 16×16 grey pixels, each a sum of 12 bytes
# plus noise, in 4,096 levels: no images of a 12-bit sensor, but of its
# precision. Test images cost 9.927 bits/dim, and 5.937 with the 8 highest bits
# only: the 4 others are nearly pure noise to this small model. Noise on a
# square of 4×4 pixels, with a standard deviation of 800 levels, is found with
# an AUROC of 0.735 by the method `local` (0.713 to 0.756) and 0.697 by
# `combined`; of 250 levels only with 0.56 by the likelihood.
#
# ```sh
# python -m benchmarks.twelve_bits twelve && cd twelve
# python ../run.py --dataset twelve_bits.npz --filters 32 --num_blocks 1 \
#   --epochs 1 --batch_size 32 --max_steps 1000 --seed 0 --precision float32
# PYTHONPATH=.. python -m tf_realnvp detect realnvp_twelve_bits \
#   --fit twelve_bits.npz --normal normal --unusual unusual --max_images 1000
# ```
