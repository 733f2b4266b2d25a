"""Measures the Fréchet distance of samples, by a small classifier's features.

`python -m benchmarks.frechet realnvp_fashion_mnist` trains a convolutional
network to classify the images of the data set, for two minutes, and takes its
last hidden layer as features. It prints the Fréchet distance between the normal
distributions that fit the features of the test images and those of as many
samples; and that of as many training images, which a perfect model would have.

It is *not* the FID, whose network is another one, trained on photographs:
compare figures with those of this program only, for the same data set, seed and
number of images.
"""

import argparse

import numpy as np

NUM_FEATURES = 64


def main() -> None:
    """Trains the classifier and prints the distances."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data_dir", default="datasets")
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3)
    flags = parser.parse_args()

    from tf_realnvp.serving.saved_model import SavedModel

    models = {path: SavedModel(path) for path in flags.models}
    (name,) = {model.source for model in models.values()}
    if any(model.num_colors != 256 for model in models.values()):
        parser.error("the features are of images with 256 levels")
    import keras

    from tf_realnvp import data

    dataset = data.load(name, flags.data_dir, labels=True)
    (train, train_labels), (test, test_labels) = (
        (dataset.take(split, range(its.num_images)), its.labels)
        for split, its in dataset.splits.items()
    )
    keras.utils.set_random_seed(0)
    classifier, features = make_classifier(train.shape[1:])
    classifier.fit(train, train_labels, 128, flags.epochs, verbose=0)
    _, accuracy = classifier.evaluate(test, test_labels, verbose=0)
    print(f"the classifier is right on {accuracy:.1%} of the test images")

    def distance(images):
        return frechet(expected, features.predict(images, 256, verbose=0))

    expected = features.predict(test, 256, verbose=0)
    # Those that TFDS wrote first: it has shuffled them.
    print(f"training images: {distance(train[: len(test)]):.2f}")
    for path, model in models.items():
        for temperature in flags.temperature:
            samples = model.sample(len(test), temperature, flags.seed)
            value = distance(np.concatenate(list(samples)))
            print(f"{path}, temperature {temperature:g}: {value:.2f}")


def make_classifier(image_shape: tuple[int, int, int]):
    """Returns a classifier of ten classes, and the network of its features."""
    import keras
    from keras import layers

    images = keras.Input(image_shape)
    hidden = layers.Rescaling(1 / 255)(images)
    for filters in (32, 64):
        hidden = layers.Conv2D(filters, 3, activation="relu")(hidden)
        hidden = layers.MaxPooling2D()(hidden)
    hidden = layers.Flatten()(hidden)
    hidden = layers.Dense(NUM_FEATURES, activation="relu")(hidden)
    logits = layers.Dense(10)(layers.Dropout(0.5)(hidden))
    classifier = keras.Model(images, logits)
    classifier.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return classifier, keras.Model(images, hidden)


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the Fréchet distance of the normals that fit two sets of points.

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
