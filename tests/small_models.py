"""Small models, images to train them on, and a SavedModel of one."""

import fcntl
import functools
import itertools
import json
import math
import os
import pathlib
import shutil
import tempfile

import keras
import numpy as np
import tensorflow as tf

from tf_realnvp import RealNVP
from tf_realnvp.config import TrainingConfig
from tf_realnvp.data import arrays
from tf_realnvp.flow.architecture import Architecture
from tf_realnvp.flow.values import Values
from tf_realnvp.serving import export, metadata, weights
from tf_realnvp.training.trainer import Trainer

IMAGE_SHAPE = (4, 4, 1)
LATENT_SHAPE = (2, 2, 4)
NUM_COLORS = 17
ALPHA = 0.2  # Not the default.
# What serves and trains a flow does not depend on its length, but takes time
# for each of its couplings.
NUM_COUPLINGS = (1, 1, 2)
METADATA = {"dataset": "digits", "lr": 3e-4}

# Goes with the process.
_FOLDER = tempfile.TemporaryDirectory()

set_seed = keras.utils.set_random_seed


@functools.cache
def model() -> RealNVP:
    """Returns the model."""
    return displaced(0.2, filters=2, alpha=ALPHA)


def displaced(
    scale: float,
    image_shape=IMAGE_SHAPE,
    num_colors=NUM_COLORS,
    seed=0,
    **config,
) -> RealNVP:
    """Returns a model whose weights are off their initial values, by `scale`.

    With those every coupling is the identity. A U-Net has random ones already.
    """
    set_seed(0)
    config = {"num_blocks": 1, "num_couplings": NUM_COUPLINGS} | config
    result = RealNVP(image_shape, num_colors, **config)
    rng = np.random.default_rng(seed)
    estimator = result.condition.estimator
    num_kept = 0 if estimator is None else len(estimator.weights)
    for variable in result.variables[: len(result.variables) - num_kept]:
        variable.assign_add(rng.normal(scale=scale, size=variable.shape))
    return result


@functools.cache
def shared(**config) -> RealNVP:
    """Returns a model, for all tests that do not change it."""
    return displaced(0.3, filters=4, **config)


@functools.cache
def conditional() -> RealNVP:
    """Returns a model with classes, of which a part is frozen."""
    probs = (0.5, 0.2, 0.3)
    result = displaced(0.3, filters=4, num_classes=3, class_probs=probs)
    result.networks[1].trainable = False  # It is saved as all others are.
    return result


@functools.cache
def distinct() -> RealNVP:
    """Returns a model whose classes have clearly different images."""
    return _set_apart(conditional().clone(), 32.0)


@functools.cache
def deep() -> RealNVP:
    """Returns a model with all features, of images that are not square."""
    result = displaced(
        *(0.2, (8, 12, 3), 256),
        filters=4,
        num_scales=3,
        num_classes=3,
        dequantization="variational",
    )
    result.metadata = {
        "class_names": ["Hose", "M\u00fctze", "<b>"],
        "source": "/home/me/images",
        "training_hashes": "00ff",
    }
    return _set_apart(result, 8.0)


def _set_apart(model, factor):
    """Makes the classes of a model differ more."""
    for network in model.networks:
        network.embedding.assign(factor * network.embedding)
    return model


CLASS_NAMES = ("cat", "dog", "old cow")


@functools.cache
def opened(make=model) -> RealNVP:
    """Returns what the commands open of its SavedModel."""
    return weights.load_model(saved(make))


@functools.cache
def saved(make=model) -> pathlib.Path:
    """Returns the folder of its SavedModel; change no more than a copy."""
    folder = os.environ.get("SHARED_BY_TESTS", _FOLDER.name)
    path = pathlib.Path(folder, make.__name__)
    # It takes seconds: the first process that needs it makes it for all.
    with open(f"{folder}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            names = {"class_names": CLASS_NAMES} if make is conditional else {}
            export.save(make(), path, METADATA | names)
    return path


def copied(path: pathlib.Path, folder: pathlib.Path, **changes) -> pathlib.Path:
    """Returns a copy of a SavedModel in a folder, with other metadata."""
    copy = shutil.copytree(path, folder / "copy", dirs_exist_ok=True)
    content = json.loads((path / metadata.FILE).read_text()) | changes
    (copy / metadata.FILE).write_text(json.dumps(content))
    return copy


def loaded(make=model) -> tf.Module:
    """Returns what TensorFlow loads from it."""
    return loaded_from(saved(make))


@functools.cache
def loaded_from(path: pathlib.Path) -> tf.Module:
    """Returns what TensorFlow loads from a folder."""
    return tf.saved_model.load(str(path))


@functools.cache
def measurer(make):
    """Returns what measures images by a model, which takes seconds to trace.

    Args:
      make: Makes the model.
    """
    from tf_realnvp import detection  # Few need it, and it takes a while.

    return detection.Measurer(make(), batch_size=8)


def images(n: int, seed: int = 0) -> np.ndarray:
    """Returns images such as it takes, of which the first has all extremes.

    Args:
      n: Number of images.
      seed: Seed of their pixels.
    """
    rng = np.random.default_rng(seed)
    result = rng.integers(NUM_COLORS, size=(n, *IMAGE_SHAPE)).astype(np.uint8)
    result[:1, 0, :2, 0] = 0, NUM_COLORS - 1
    return result


def points(n: int, model: RealNVP) -> np.ndarray:
    """Returns dequantized images of a model."""
    rng = np.random.default_rng(0)
    high = model.num_colors or 2.0
    result = rng.uniform(0.0, high, size=(n, *model.image_shape))
    return result.astype(np.float32)


_GLOBAL_SEEDS = itertools.count(1)


def random_images(count, seed, levels=(0, 17)):
    """Returns uint8 images `[count, 4, 4, 1]` of some levels."""
    rng = np.random.default_rng(seed)
    return rng.integers(*levels, size=(count, 4, 4, 1)).astype(np.uint8)


def make_dataset(train, test):
    """Returns a data set of such images."""
    return arrays.make("random", [train, test], NUM_COLORS)


def make_model(moved=False):
    """The same model in each call; `moved` off its initial weights if asked."""
    model = displaced(0.3 if moved else 0.0, filters=4)
    # Another one each time: nothing may depend on the global seed.
    tf.random.set_seed(next(_GLOBAL_SEEDS))
    return model


def trainer_of(model, lr=3e-4, num_train=64, **settings):
    """Returns a trainer with some settings, by default with Adam in float32."""
    config = TrainingConfig(dataset="random", lr=lr, **settings)
    return Trainer(model, config, num_train)


def values(variables):
    """Returns what is in variables now."""
    return [variable.numpy().copy() for variable in variables]


def same(first, second):
    """Returns which arrays of two lists are the same, bit for bit."""
    return [np.array_equal(a, b) for a, b in zip(first, second, strict=True)]


def same_weights(model, other):
    """Tells whether two models have the same weights, bit for bit."""
    return all(same(values(model.variables), values(other.variables)))


class SmallModel:
    """Independent normals: what a trainer needs of a `RealNVP`, and fast."""

    nan_below = -math.inf  # Loss is NaN where a noise of the batch is less.

    def __init__(self, image_shape=(4, 4, 1), num_colors=17, **config):
        defaults = Architecture(filters=2, num_blocks=1).architecture
        others = dict.fromkeys(("num_classes", "class_probs", "context_shape"))
        images = {"image_shape": image_shape, "num_colors": num_colors}
        self._config = defaults | others | images | config
        self.values = Values(num_colors)
        vars(self).update(self._config)
        self.metadata = {}
        self.couplings, self.observation = range(10), None
        self.num_dims = self.num_parameters = math.prod(image_shape)
        self.means = keras.Variable("random_normal", image_shape)
        # A second variable, whose gradient is another one.
        self.offset = keras.Variable("zeros", image_shape[-1:])
        self.variables = (self.means, self.offset)
        if self.num_classes is not None:
            shape = [self.num_classes, *image_shape]
            self.shifts = keras.Variable("zeros", shape)
            self.variables += (self.shifts,)
        self.freeze([])

    def freeze(self, indices):
        self.frozen, kept = indices, enumerate(self.variables)
        self.trainable_variables = tuple(v for i, v in kept if i not in indices)

    def clone(self):
        clone = SmallModel(**self._config)
        clone.assign(self)
        return clone

    def assign(self, other):
        for new, old in zip(self.variables, other.variables, strict=True):
            new.assign(old)

    def is_identity(self):
        """As new: tells whether it starts from what the images are."""
        return not np.any(self.offset.numpy())

    def for_training(self, compute_dtype=None, recompute=None):
        model = SmallModel.__new__(type(self))
        model.__dict__ = dict(self.__dict__)
        # Evaluation leaves it to the defaults.
        model.is_training = compute_dtype is not None
        return model

    def add_noise(self, images, seed):
        noise = tf.random.stateless_uniform(tf.shape(images), seed)
        return tf.cast(images, tf.float32) + noise

    def _means(self, label):
        means = self.means.value + self.offset.value
        if label is None:
            return means
        shifts = tf.tensordot(
            tf.one_hot(label, self.num_classes), self.shifts.value, 1
        )
        return means + shifts

    def log_density(self, points, label=None):
        errors = (points - self._means(label)) / 4.0
        log_prob = -0.5 * tf.reduce_sum(tf.square(errors), [1, 2, 3])
        log_prob -= self.num_dims * math.log(4.0 * math.sqrt(2.0 * math.pi))
        if getattr(self, "is_training", False):
            first = tf.math.floormod(points[0, 0, 0, 0], 1.0)
            log_prob = tf.where(first < self.nan_below, math.nan, log_prob)
        return log_prob

    def log_prob(self, images, seed):
        pair = tf.broadcast_to(seed, [2])
        return self.log_density(self.add_noise(images, pair))

    def sample_latents(self, n, seed):
        return tf.random.stateless_normal([n, *self.image_shape], [seed, 0])

    def decode(self, latents, label=None):
        if (label is None) != (self.num_classes is None):
            raise ValueError("There must be a label, or no classes.")
        pixels = self._means(label) + 4.0 * latents
        return tf.cast(tf.clip_by_value(pixels, 0, 16), tf.uint8)

    def sample(self, n, seed, label=None):
        return self.decode(self.sample_latents(n, seed), label)
