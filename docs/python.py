# %% [markdown]
# # Python and API
#
# This page is for you if you want a model inside of your own program, a
# training loop of your own, or another flow.
#
# ## The model

# %%
from tf_realnvp import runtime

# Before TensorFlow is imported: the threads that are fastest for this size.
runtime.configure(*runtime.fastest_cpus(image_size=8, filters=16))

import keras
import numpy as np
import tensorflow as tf

import tf_realnvp

keras.utils.set_random_seed(0)
model = tf_realnvp.RealNVP(
    image_shape=(8, 8, 1),
    num_colors=17,  # default: 256
    filters=16,  # default: 128
    num_blocks=1,  # default: 8
    alpha=0.1,
    num_scales=2,
    num_couplings=(2, 2, 2),  # default: (3, 3, 4)
    num_classes=None,
    class_probs=None,
    dequantization="uniform",
    context_shape=None,
    observe=None,
    padding="same",
    channel_masks="alternating",
    name="real_nvp",
)
images = model.sample(4, temperature=0.9, seed=1)  # uint8 [4, 8, 8, 1]
print(model.log_prob(images, seed=1))  # in nats
np.testing.assert_array_equal(model.decode(model.encode(images)), images)
print(model.distribution)  # of dequantized images
print(model.bijector.name, len(model.couplings), len(model.networks))

# %% [markdown]
# What is not marked is the default. For $S$ scales and `num_couplings` of
# $(n_1, n_2, n_3)$ there are $(n_1 + n_2)\,(S - 1) + n_3$ couplings, each with
# a Keras model in `model.networks`. `model.variables` are all weights; TFP's
# objects do not track Keras variables.
#
# The events of `model.distribution`, a `tfd.TransformedDistribution`, are
# dequantized images: real numbers in `[0, num_colors]`, as
# `model.dequantize(images)` returns them. The support is larger than that by
# `alpha / (2 - 2 * alpha) * num_colors` on both sides, and **outside of it
# `log_prob` is NaN**. So run Markov chains on latents.
#
# * A `tf.Module` with the model in an attribute finds its weights; a
#   `keras.Model` does not. Give that another attribute, `self.flow_variables =
#   flow.trainable_variables`, and its `fit` trains them.
# * `model.networks[0].trainable = False` freezes a network for `train`, but not
#   for a `tf.Module` around it.
# * Keras's global policies change nothing: use `train(precision="bfloat16")`.
# * Under `jit_compile=True` the same seed draws other noise, and values are not
#   checked.
# * On a CPU, do not compute gradients in several Python threads: TensorFlow
#   2.21 crashes in oneDNN's convolution.
#
# For gradients by the image use points. For many images compile a function,
# which takes half the time, and call it with batches:

# %%
points = model.dequantize(images)
with tf.GradientTape() as tape:
    tape.watch(points)
    density = model.log_density(points)
gradient = tape.gradient(density, points)

bits_per_dim = tf.function(model.bits_per_dim, reduce_retracing=True)
bits = np.concatenate(
    [bits_per_dim(images[i : i + 64]) for i in range(0, len(images), 64)]
)

# %% [markdown]
# ## Training, saving and loading

# %%
from tf_realnvp import data

digits = data.load("digits")  # or a folder, a NumPy file, a name of TFDS
history = tf_realnvp.train(
    model, digits, epochs=1, seed=0, run_dir="runs/mine", progress=False
)
print([metrics.bits_per_dim()["test"] for metrics in history])
model.save("my_model")
model = tf_realnvp.load("my_model")  # or the folder of a run, "runs/mine"

# %% [markdown]
# `train` takes what `data.load` returns, an array `[n, H, W]` or `[n, H, W,
# C]`, or a `tf.data.Dataset` of images, or of pairs of images and labels, which
# must give the same images in each pass. [A tenth](data.md#held-out-images) of
# arrays and pipelines is kept for testing. The settings are [the
# flags](training.md#flags) of the command, but the default seed is 0. The
# weights are the command's, bit for bit, if `keras.utils.set_random_seed(seed)`
# was called before the model was made, with as many devices and threads.
#
# With `run_dir`, the same call in a new process resumes the run. `on_epoch` is
# called with the metrics of each epoch, in place of callbacks. Whatever ends
# `train`, the model stays usable. A model that was made in the scope of a
# `tf.distribute` strategy, such as `runtime.make_strategy()`, trains on all of
# its replicas.
#
# `clone`, `copy.deepcopy` and `pickle` copy a model. Each further `train` or
# `save` in a process leaves 1 to 2 MB (`python -m benchmarks.memory`): where
# this adds up, use a process for each model. You can call the parts of `train`
# one by one:

# %%
from tf_realnvp import RealNVP, initialization
from tf_realnvp.config import TrainingConfig
from tf_realnvp.training import loop
from tf_realnvp.training.trainer import Trainer

config = TrainingConfig(
    dataset="digits",
    filters=16,
    num_blocks=1,
    num_couplings=(2, 2, 2),
    max_steps=30,
    seed=0,
)
model = RealNVP(digits.image_shape, digits.num_colors, **config.architecture)
initialization.initialize(model, digits.initial_images(seed=0), seed=0)
trainer = Trainer(model, config, digits.num_train)
loop.fit(trainer, digits)
model = trainer.result_model()

# %% [markdown]
# A loop of your own needs only the model:

# %%
optimizer = keras.optimizers.Adam(1e-3)
variables = model.trainable_variables


@tf.function
def step(images):
    with tf.GradientTape() as tape:
        points = model.dequantize(images)
        loss = -tf.reduce_mean(model.log_density(points))  # nats per image
    optimizer.apply(tape.gradient(loss, variables), variables)
    return loss


for images, _ in digits.train_batches(32, seed=0, epoch=1).take(10):
    loss = step(images)
print(f"{loss:.1f} nats")

# %% [markdown]
# ## A flow of your own
#
# `AffineCoupling`, `Squeeze` and `FactorOut` are bijectors like those of TFP
# and work in any chain. The network of an `AffineCoupling` is a Keras model or
# any other function that gives two numbers for each component: a log-scale and
# a shift. Here is a flow of points in the plane, in which each coupling moves
# one coordinate depending on the other.

# %%
import matplotlib.pyplot as plt
import sklearn.datasets
import tensorflow_probability as tfp

from tf_realnvp import bijectors

tfb, tfd = tfp.bijectors, tfp.distributions

points, _ = sklearn.datasets.make_moons(4000, noise=0.07, random_state=0)
train_points, test_points = np.split(points.astype(np.float32), [3000])

couplings = []
for index in range(8):
    network = keras.Sequential(
        [
            keras.Input([2]),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            # Zeros make a coupling that starts as the identity.
            keras.layers.Dense(4, kernel_initializer="zeros"),
        ]
    )
    mask = [index % 2 == 0, index % 2 == 1]
    couplings.append(bijectors.AffineCoupling(mask, network))
# From latents to points the last bijector comes first.
scale = tfb.Scale(train_points.std(axis=0))
chain = tfb.Chain([tfb.Shift(train_points.mean(axis=0)), scale, *couplings])
base = tfd.Sample(tfd.Normal(0.0, 1.0), [2])
flow = tfd.TransformedDistribution(base, chain)

variables = [v for c in couplings for v in c.network.trainable_variables]
optimizer = keras.optimizers.Adam(
    keras.optimizers.schedules.CosineDecay(3e-3, 1000)
)
optimizer.build(variables)


@tf.function
def step(batch):
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(flow.log_prob(batch))
    optimizer.apply(tape.gradient(loss, variables), variables)


batches = tf.data.Dataset.from_tensor_slices(train_points)
for batch in batches.shuffle(3000, seed=0).repeat().batch(256).take(1000):
    step(batch)

x, y = np.meshgrid(np.linspace(-2, 3, 250), np.linspace(-1.5, 2, 175))
density = flow.prob(np.stack([x, y], axis=-1).astype(np.float32))
figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4), layout="constrained"
)
left.pcolormesh(x, y, density)
right.scatter(*test_points.T, s=4, label="held-out points")
right.scatter(*flow.sample(1000, seed=0).numpy().T, s=4, label="samples")
right.legend()
figure.savefig("own_flow.png")

# %% [markdown]
# The value of a coupling and its log-determinant come from one run of the
# network, by way of TFP's cache, which does not see that weights change. So
# take the density of `tf.identity(x)` if `x = flow.sample(n)` was drawn before
# a training step or outside of a `GradientTape`.
#
# Other keyword arguments of the network are conditions, tensors whose shapes
# begin with the batch shape. With `network(x, context)` and
# `bijectors.AffineCoupling(mask, network, name="first")`,
# `flow.log_prob(points, bijector_kwargs=bijectors.condition_kwargs(chain,
# context=context))` passes the context to it.
#
# ## API reference
#
# These modules are public. Other modules, and names that begin with an
# underscore, may change without notice. Most can be imported by their last
# name, as in `from tf_realnvp import detection`. `tf_realnvp.beam` is public,
# too, and needs [Apache Beam](distributed.md#apache-beam).
#
# ```{eval-rst}
# .. include:: modules.rst
# ```
