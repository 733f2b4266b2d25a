# %% [markdown]
# # RealNVP on digits, in a minute
#
# Train a model on scikit-learn's 8×8 digits, draw new ones, walk from one to
# another, and score images by how likely they are. At the end the package's
# coupling goes into a small flow of our own, on points in the plane.
#
# The cells below run one by one in VS Code or Jupyter (by Jupytext), and all at
# once as a program: `python examples/digits.py`. Pictures are written to the
# current folder. Nothing is downloaded.

# %%
import sys

# So that a checkout needs no installation: the program finds its top from where
# it lies, a notebook from the current folder.
sys.path += [f"{sys.path[0]}/..", ".", ".."]

from tf_realnvp import runtime

# Faster kernels and no log on the screen; before TensorFlow is imported.
runtime.configure()

import keras
import matplotlib.pyplot as plt
import numpy as np
import sklearn.datasets
import tensorflow as tf
import tensorflow_probability as tfp

from tf_realnvp import RealNVP, bijectors, data, initialization, latents, plots
from tf_realnvp.training import loop
from tf_realnvp.training.metrics import bits_from_nats
from tf_realnvp.training.trainer import Trainer

tfb, tfd = tfp.bijectors, tfp.distributions

EPOCHS = 25  # The command `run.py` takes 50.
MOONS_STEPS = 1500
SEED = 0

# %% [markdown]
# ## Data
#
# 17 levels of grey, as unsigned bytes. `data.load` knows other data sets, and
# folders of pictures too.

# %%
dataset = data.load("digits")
test_images = next(iter(dataset.test_batches(dataset.num_test))).numpy()
print(
    f"{dataset.num_train} training and {dataset.num_test} test images of "
    f"{dataset.image_shape}, {dataset.num_colors} levels"
)


def show(name, images, columns=None):
    """Writes a grid of images to a file, and shows it in a notebook."""
    plots.save_image_grid(name, images, dataset.num_colors, columns)
    print(f"wrote {name}")
    _, axes = plt.subplots()
    axes.imshow(plots.image_grid(images, dataset.num_colors, columns))
    axes.axis("off")


show("digits_data.png", test_images[:36])

# %% [markdown]
# ## Training
#
# The loss is the negative log-likelihood, here of the test images and in bits
# per dimension: what a pixel would cost in a file that this model compresses.
# If all levels were equally likely, that would be log2(17) = 4.09 bits.
# `initialize` lets every coupling begin with the linear prediction that fits a
# few images best. `loop.fit` trains, and tells an observer how it goes on.

# %%
keras.utils.set_random_seed(SEED)  # The weights; the trainer has its own seed.
model = RealNVP(
    dataset.image_shape, dataset.num_colors, filters=32, num_blocks=2
)
images = next(iter(dataset.train_batches(128, SEED, epoch=0)))
initialization.initialize(model, images, SEED)


class Printer(loop.Observer):
    """Prints what comes out of every epoch, the one before the first too."""

    def after_epoch(self, metrics):
        bits = bits_from_nats(metrics.test_loss)
        print(f"epoch {metrics.epoch}: test {bits:.3f} bits/dim", flush=True)


trainer = Trainer(model, learning_rate=1e-3, seed=SEED)
loop.fit(trainer, dataset, EPOCHS, observer=Printer())

# %% [markdown]
# ## Samples
#
# A sample is what the flow makes of a draw from a normal distribution. A lower
# temperature narrows that, and the samples vary less.

# %%
for temperature in (1.0, 0.7):
    samples = model.sample(36, temperature, seed=SEED).numpy()
    spread = samples.std(axis=0).mean()
    print(f"at temperature {temperature} pixels vary by {spread:.2f} levels")
    show(f"digits_samples_{temperature}.png", samples)

# %% [markdown]
# ## Interpolation
#
# The mean of two images is a double exposure. The flow gives each image latents
# and each point between them an image. `latents.slerp` goes along an arc, which
# stays as far from the origin as the latents of images are.

# %%
pairs = test_images[:10].reshape(5, 2, *dataset.image_shape)
rows = []
for pair in pairs:
    start, end = model.encode(pair)
    rows.append(model.decode(latents.slerp(start, end, steps=10)).numpy())
rows = np.stack(rows)
exact = np.all(rows[:, [0, -1]] == pairs)
print(f"the interpolations end at the pictures, pixel for pixel: {exact}")
show("digits_interpolation.png", rows.reshape(-1, *dataset.image_shape), 10)

# %% [markdown]
# ## Scores
#
# How likely does the model think images are that it never saw? Test digits
# should cost the fewest bits, and images of something else more. The noise that
# `bits_per_dim` adds to the levels has a seed, so that scores can be compared.

# %%
rng = np.random.default_rng(SEED)
kinds = {
    "test digits": test_images,
    "mirrored": test_images[:, :, ::-1],
    "inverted": dataset.num_colors - 1 - test_images,
    "noise": rng.integers(
        dataset.num_colors, size=test_images.shape, dtype=np.uint8
    ),
}
scores = {
    kind: model.bits_per_dim(images, seed=SEED).numpy()
    for kind, images in kinds.items()
}
figure, axes = plt.subplots()
bins = np.geomspace(1.0, 100.0, 80)
for kind, bits in scores.items():
    share = np.mean(bits > scores["test digits"].max())
    print(
        f"{kind}: {bits.mean():.3f} bits/dim, {share:.0%} worse than all test "
        "digits"
    )
    axes.hist(bits, bins, alpha=0.6, label=kind)
axes.set(xscale="log", xlabel="bits/dim", ylabel="images")
axes.legend()
figure.savefig("digits_scores.png")
print("wrote digits_scores.png")

# %% [markdown]
# The likeliest test digits (first row) are mostly ones, upright and plain; the
# least likely (second row) are oddly written.

# %%
order = np.argsort(scores["test digits"])
extremes = np.concatenate([order[:10], order[-10:]])
show("digits_extremes.png", test_images[extremes], columns=10)

# %% [markdown]
# ## A flow of your own
#
# `AffineCoupling` is a bijector like those of TensorFlow Probability. It takes
# any Keras model, or any other function, that gives two numbers for each
# component: a log-scale and a shift. Here the components are the coordinates of
# a point, and each coupling moves one of them, as the other one tells.

# %%
points, _ = sklearn.datasets.make_moons(4000, noise=0.07, random_state=SEED)
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
# From latents to points the last comes first. Outermost, what scales the data.
bijector = tfb.Chain(
    [
        tfb.Shift(train_points.mean(axis=0)),
        tfb.Scale(train_points.std(axis=0)),
        *couplings,
    ]
)
base = tfd.Sample(tfd.Normal(0.0, 1.0), [2])
flow = tfd.TransformedDistribution(base, bijector)

# TFP's objects do not see variables of Keras: ask the networks.
variables = [v for c in couplings for v in c.network.trainable_variables]
optimizer = keras.optimizers.Adam(
    keras.optimizers.schedules.CosineDecay(3e-3, MOONS_STEPS)
)
optimizer.build(variables)


@tf.function
def train_step(batch):
    """Goes one step towards the maximum likelihood."""
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(flow.log_prob(batch))
    optimizer.apply(tape.gradient(loss, variables), variables)


def test_log_density():
    """Returns the mean over the points that are held out, in nats."""
    return float(tf.reduce_mean(flow.log_prob(test_points)))


print(f"moons before training: {test_log_density():.3f} nats a point")
batches = tf.data.Dataset.from_tensor_slices(train_points)
batches = batches.shuffle(3000, seed=SEED).repeat().batch(256)
for batch in batches.take(MOONS_STEPS):
    train_step(batch)
print(f"moons after training: {test_log_density():.3f} nats a point")

# %% [markdown]
# The density is normalised: added up over the plane it gives one. The thin
# bridge between the moons has to be: a flow cannot tear the plane apart.

# %%
x, y = np.meshgrid(np.linspace(-2, 3, 250), np.linspace(-1.5, 2, 175))
grid = np.stack([x, y], axis=-1).astype(np.float32)
density = flow.prob(grid).numpy()
area = (x[0, 1] - x[0, 0]) * (y[1, 0] - y[0, 0])
print(f"the density of moons adds up to {density.sum() * area:.3f}")

drawn = flow.sample(1000, seed=SEED).numpy()
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
figure.savefig("moons.png")
print("wrote moons.png")
