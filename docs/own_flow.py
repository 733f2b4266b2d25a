# %% [markdown]
# # A flow of your own
#
# `AffineCoupling` is a bijector like those of TensorFlow Probability (TFP). It
# takes any Keras model, or any other function, that gives two numbers for each
# component: a log-scale and a shift. Here it becomes a small flow on points in
# the plane: a component is a coordinate, and each coupling moves one coordinate
# depending on the other.
#
# This page is the program `docs/own_flow.py`, with its output.

# %%
from tf_realnvp import runtime

runtime.configure()  # Before TensorFlow is imported.

import keras
import matplotlib.pyplot as plt
import numpy as np
import sklearn.datasets
import tensorflow as tf
import tensorflow_probability as tfp

from tf_realnvp import bijectors

tfb, tfd = tfp.bijectors, tfp.distributions

NUM_STEPS = 1500

# %%
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
# From latents to points the last bijector comes first; the scale of the data is
# the outermost.
bijector = tfb.Chain(
    [
        tfb.Shift(train_points.mean(axis=0)),
        tfb.Scale(train_points.std(axis=0)),
        *couplings,
    ]
)
base = tfd.Sample(tfd.Normal(0.0, 1.0), [2])
flow = tfd.TransformedDistribution(base, bijector)

# TFP's objects do not track Keras variables: ask the networks.
variables = [v for c in couplings for v in c.network.trainable_variables]
optimizer = keras.optimizers.Adam(
    keras.optimizers.schedules.CosineDecay(3e-3, NUM_STEPS)
)
optimizer.build(variables)


@tf.function
def train_step(batch):
    """Takes a gradient step on the negative log-likelihood."""
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(flow.log_prob(batch))
    optimizer.apply(tape.gradient(loss, variables), variables)


def test_log_density():
    """Returns the mean over the held-out points, in nats."""
    return float(tf.reduce_mean(flow.log_prob(test_points)))


print(f"before training: {test_log_density():.3f} nats a point")
batches = tf.data.Dataset.from_tensor_slices(train_points)
batches = batches.shuffle(3000, seed=0).repeat().batch(256)
for batch in batches.take(NUM_STEPS):
    train_step(batch)
print(f"after training: {test_log_density():.3f} nats a point")

# %% [markdown]
# The density is normalized: its integral over the plane is one. The thin bridge
# between the moons is unavoidable: a flow cannot tear the plane apart.

# %%
x, y = np.meshgrid(np.linspace(-2, 3, 250), np.linspace(-1.5, 2, 175))
grid = np.stack([x, y], axis=-1).astype(np.float32)
density = flow.prob(grid).numpy()
area = (x[0, 1] - x[0, 0]) * (y[1, 0] - y[0, 0])
print(f"the density adds up to {density.sum() * area:.3f}")

drawn = flow.sample(1000, seed=0).numpy()
figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4), layout="constrained"
)
left.pcolormesh(x, y, density)
left.set_title("density")
right.scatter(*test_points.T, s=4, label="held-out points")
right.scatter(*drawn.T, s=4, label="samples")
right.set_title("points")
right.legend()
for axes in (left, right):
    axes.set(xlim=(-2, 3), ylim=(-1.5, 2), aspect="equal")
figure.savefig("own_flow.png")
