# %% [markdown]
# # Tutorial
#
# You train a model on scikit-learn's 8×8 digits, draw new digits, score images,
# explore the latent space, and save the model. It takes two or three minutes
# on a laptop, and downloads nothing.
#
# This page is the program `docs/tutorial.py` with its output. VS Code and
# Jupyter (by Jupytext) run its cells one by one, and `PYTHONPATH=. python
# docs/tutorial.py` in a checkout runs them all.

# %%
from tf_realnvp import runtime

# Faster kernels and no log messages. This comes before TensorFlow is imported.
# Small models train faster with one thread.
runtime.configure(num_threads=1)

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import tf_realnvp
from tf_realnvp import data, latents
from tf_realnvp.analysis import plots

# %% [markdown]
# ## Data
#
# The digits come with scikit-learn, and have 17 levels of grey instead of 256.
# [Your data](data.md) can be an array of bytes, a `tf.data.Dataset`, a folder
# of images, or an image data set of TensorFlow Datasets.

# %%
digits = data.load("digits")
train_images = digits.take("train", range(digits.num_train))
test_images = digits.take("test", range(digits.num_test))
print(train_images.shape, train_images.dtype, "up to", train_images.max())
print(test_images.shape)


def show(name, images, columns=None):
    """Draws images in a grid, on the page and into a file."""
    plots.save_image_grid(f"{name}.png", images, digits.num_colors, columns)
    figure, axes = plt.subplots(figsize=(6, 6))
    axes.imshow(plots.image_grid(images, digits.num_colors, columns))
    axes.axis("off")


show("tutorial_data", test_images[:36])

# %% [markdown]
# ## Training
#
# `train` first fits the couplings to some of the images by [linear
# prediction](theory.md#initial-values). Then it follows the gradient of the
# likelihood. Every setting is also a flag of the command `run.py`.
#
# Losses are in bits per dimension, which is what a pixel would cost in a file
# that the model compresses. If all 17 levels were equally likely, that would be
# $\log_2 17 \approx 4.09$ bits.

# %%
keras.utils.set_random_seed(0)  # For the first weights.
model = tf_realnvp.RealNVP((8, 8, 1), num_colors=17, filters=32, num_blocks=1)
history = tf_realnvp.train(model, digits, epochs=10, seed=0, progress=False)

test_bits = [metrics.bits_per_dim()["test"] for metrics in history]
print(f"test: {test_bits[0]:.2f} bits/dim before, {test_bits[-1]:.2f} after")
figure, axes = plt.subplots()
axes.plot([metrics.epoch for metrics in history], test_bits)
axes.set(xlabel="epoch", ylabel="test loss, bits/dim")
figure.savefig("tutorial_loss.png")

# %% [markdown]
# ## Samples
#
# A sample is a draw from a normal distribution that goes through the flow. A
# lower temperature narrows that distribution, so that images vary less and look
# more like digits.

# %%
show("tutorial_samples", model.sample(36, temperature=0.8, seed=0).numpy())

# %% [markdown]
# ## Scores
#
# How likely are images that the model has never seen? Digits should cost the
# fewest bits. Noise is added to the levels first, since the density is one of
# continuous values; the same seed makes scores comparable.

# %%
kinds = {
    "digits": test_images,
    "mirrored": test_images[:, :, ::-1],
    "inverted": 16 - test_images,
    "noise": np.random.default_rng(0)
    .integers(17, size=test_images.shape)
    .astype(np.uint8),
}
scores = {
    kind: model.bits_per_dim(images, seed=0).numpy()
    for kind, images in kinds.items()
}
figure, axes = plt.subplots()
for kind, bits in scores.items():
    print(f"{kind}: {bits.mean():.2f} bits/dim on average")
    axes.hist(bits, np.geomspace(1, 100, 80), alpha=0.6, label=kind)
axes.set(xscale="log", xlabel="bits/dim", ylabel="images")
axes.legend()
figure.savefig("tutorial_scores.png")

# %% [markdown]
# The likeliest test digits (first row) are plain, many of them ones; the least
# likely (second row) are oddly written.

# %%
order = np.argsort(scores["digits"])
extremes = np.concatenate([order[:10], order[-10:]])
show("tutorial_extremes", test_images[extremes], columns=10)

# %% [markdown]
# Likely is not the same as typical: no digit is blank, and yet some digits cost
# more bits than a blank image.

# %%
blank = np.zeros([1, 8, 8, 1], np.uint8)
blank_bits = model.bits_per_dim(blank, seed=0).numpy().item()
share = np.mean(scores["digits"] > blank_bits)
print(f"blank: {blank_bits:.2f} bits/dim; {share:.0%} of the digits cost more")

# %% [markdown]
# ## Latents
#
# The flow is invertible: an image has latents, and each point of the latent
# space has an image. So an image can be recovered exactly.

# %%
codes = model.encode(test_images)
np.testing.assert_array_equal(model.decode(codes), test_images)
print(f"latents: mean {np.mean(codes):.2f}, std {np.std(codes):.2f}")

# %% [markdown]
# Between two points of the latent space there are images: `slerp` follows an
# arc, which stays as far from the origin as the latents of images are.

# %%
rows = [
    model.decode(latents.slerp(codes[2 * i], codes[2 * i + 1], steps=10))
    for i in range(5)
]
show("tutorial_interpolation", np.concatenate(rows), columns=10)

# %% [markdown]
# ## Saving, and using the model elsewhere
#
# `save` writes a SavedModel, which needs TensorFlow alone.

# %%
model.save("realnvp_tutorial")

saved = tf.saved_model.load("realnvp_tutorial")
images = saved.sample(36, seed=0)
np.testing.assert_array_equal(images, model.sample(36, seed=0))
print(saved.bits_per_dim(images[:3], seed=0).numpy())

# %% [markdown]
# The [commands](using_a_model.md#commands) take the same folder:
#
# ```sh
# python -m tf_realnvp sample realnvp_tutorial --n 36 --out grid.png
# python -m tf_realnvp score realnvp_tutorial my_images --out scores.csv
# ```
#
# ## Further training
#
# You can train a loaded model further, also on other images. Here these are
# mirrored digits, of which about a tenth is kept for testing.

# %%
model = tf_realnvp.load("realnvp_tutorial")
history = tf_realnvp.train(
    model, train_images[:, :, ::-1], epochs=2, seed=0, progress=False
)
first, *_, last = (metrics.bits_per_dim()["test"] for metrics in history)
print(f"mirrored digits: {first:.2f} bits/dim before, {last:.2f} after")
show("tutorial_mirrored", model.sample(36, temperature=0.8, seed=0).numpy())

# %% [markdown]
# ## Next steps
#
# * [Train](training.md) a model on [your images](data.md).
# * [Use it](using_a_model.md), with all functions and commands.
# * Take it apart [in Python](python.py), down to a flow of your own.
