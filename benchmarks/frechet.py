"""Measures the Fréchet distance of samples in the features of a classifier.

`python -m benchmarks.frechet realnvp_fashion_mnist` trains a convolutional
network to classify the images of the data set, and takes its last hidden layer
as features. It prints the Fréchet distance between the normal distributions
fitted to the features of the test images and of as many samples; and that of as
many training images, which a perfect model would have (docs/results.md).

It is *not* the FID, whose network is another one, trained on photos: compare
figures of this program only, for the same data set, seed and number of images.
"""

import numpy as np

from benchmarks import measuring

_NUM_FEATURES = 64


def main() -> None:
    """Trains the classifier and prints the distances."""
    flags = measuring.parse_flags(
        __doc__,
        "models...",
        **measuring.OF_IMAGES,
        temperature=[1.0],
        seed=0,
        epochs=3,
    )

    from tf_realnvp import batched

    models = {path: measuring.load(path) for path in flags.models}
    dataset = measuring.load_dataset(
        models[flags.models[0]], flags, labels=True
    )
    train, train_labels = measuring.take(dataset, "train")
    test, test_labels = measuring.take(dataset, "test")
    classifier, features = train_classifier(train, train_labels, flags.epochs)
    _, accuracy = classifier.evaluate(test, test_labels, verbose=0)
    print(f"the classifier is right on {accuracy:.1%} of the test images")

    def distance(images):
        return frechet(expected, features.predict(images, 256, verbose=0))

    expected = features.predict(test, 256, verbose=0)
    # The first training images are random: TFDS has shuffled them.
    print(f"training images: {distance(train[: len(test)]):.2f}")
    for path, model in models.items():
        for temperature in flags.temperature:
            samples = batched.sample(model, len(test), temperature, flags.seed)
            value = distance(np.concatenate(list(samples)))
            print(f"{path}, temperature {temperature:g}: {value:.2f}")


def train_classifier(images: np.ndarray, labels: np.ndarray, epochs: int):
    """Trains a classifier of ten classes.

    Args:
      images: uint8 `[n, H, W, C]` in 0 to 255.
      labels: `[n]`.
      epochs: Passes over the images.

    Returns:
      The Keras model of the logits, and that of the features.
    """
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    inputs = keras.Input(images.shape[1:])
    hidden = layers.Rescaling(1 / 255)(inputs)
    for filters in (32, 64):
        hidden = layers.Conv2D(filters, 3, activation="relu")(hidden)
        hidden = layers.MaxPooling2D()(hidden)
    hidden = layers.Flatten()(hidden)
    hidden = layers.Dense(_NUM_FEATURES, activation="relu")(hidden)
    logits = layers.Dense(10)(layers.Dropout(0.5)(hidden))
    classifier = keras.Model(inputs, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile("adam", loss, metrics=["accuracy"])
    classifier.fit(images, labels, 128, epochs, verbose=0)
    return classifier, keras.Model(inputs, hidden)


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the Fréchet distance of normals fitted to two sets of points.

    That is `|m1 - m2|^2 + tr(C1 + C2 - 2 sqrt(C1 C2))` (Dowson and Landau,
    1982), with means `m` and covariances `C`.

    Args:
      first: `[n, d]`.
      second: `[m, d]`.
    """
    means = first.mean(axis=0) - second.mean(axis=0)
    a, b = (np.cov(x, rowvar=False) for x in (first, second))
    # The eigenvalues of A B are those of sqrt(A) B sqrt(A), and not negative.
    eigenvalues = np.linalg.eigvals(a @ b).real
    root = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    return float(means @ means + np.trace(a) + np.trace(b) - 2.0 * root)


if __name__ == "__main__":
    main()
