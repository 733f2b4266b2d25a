"""Measures what labels gain (benchmarks/results/conditional.md).

`python -m benchmarks.conditional digits0/realnvp_digits ...` prints, for models
with classes: bits/dim of the test images given the label, and of the mixture of
all classes, with the same noise; and how often the likeliest class is right. A
classifier, trained on real training images, measures how many samples are of
the requested class; its own accuracy on the test images is printed, too. It
also classifies test images that were translated to another class: encoded with
their own label, and decoded with one drawn from the others. "Brightness" is the
correlation of the mean levels of both images, each less the mean of its class.
The classifier is scikit-learn's SVC, or with `--classifier cnn` a small
convolutional network.
"""

import numpy as np

from benchmarks import measuring

_BATCH_SIZE = 64


def main() -> None:
    """Prints a row for each model, and the means."""
    flags = measuring.parse_flags(
        __doc__,
        "models...",
        **measuring.OF_IMAGES,
        temperature=0.8,
        samples=100,  # Of each class.
        classifier="svc",
        seed=0,
    )

    models = [measuring.load(path) for path in flags.models]
    dataset = measuring.load_dataset(models[0], flags)
    batches = [
        (images, condition["label"])
        for images, condition in dataset.batches(
            "test", _BATCH_SIZE
        ).as_numpy_iterator()
    ]
    classify = train_classifier(dataset, flags.classifier)
    is_right = [classify(images) == labels for images, labels in batches]
    accuracy = np.mean(np.concatenate(is_right))
    print(
        f"the classifier is right on {accuracy:.4f} of {dataset.num_test:,} "
        "test images\n"
    )
    measuring.print_header(
        *("model", "given the label", "mixture", "accuracy"),
        *("samples as asked", "of the classifier's"),
        *("translated as asked", "of the classifier's", "brightness"),
    )
    rows = [measure(model, batches, classify, flags) for model in models]
    for title, row in zip(
        [*flags.models, "mean"], [*rows, np.mean(rows, axis=0)], strict=True
    ):
        given, mixture, right, samples, translated, brightness = row
        measuring.print_row(
            *(title, f"{given:.4f}", f"{mixture:.4f}", f"{right:.4f}"),
            *(f"{samples:.4f}", f"{samples / accuracy:.3f}"),
            f"{translated:.4f}",
            *(f"{translated / accuracy:.3f}", f"{brightness:.3f}"),
        )


def measure(model, batches, classify, flags) -> np.ndarray:
    """Measures a model.

    Args:
      model: The model, with classes.
      batches: Test images and their labels.
      classify: What `train_classifier` returned.
      flags: The flags of the program.

    Returns:
      Bits/dim given the label and of the mixture; accuracy; the share of
      samples that the classifier assigns to their class; and what
      `judge_translations` returns.
    """
    from tf_realnvp import batched

    parts = []
    for number, (images, labels) in enumerate(batches):
        seed = flags.seed + (number << 32)
        given = batched.log_prob_of_classes(model, images, seed)
        joint = given + batched.log_prior(model)
        parts.append(
            [
                given[range(len(labels)), labels],
                np.logaddexp.reduce(joint, axis=1),
                joint.argmax(axis=1) == labels,
            ]
        )
    *nats, right = np.mean(np.concatenate(parts, axis=1), axis=1)
    bits = model.values.per_dim(np.array(nats), model.num_dims)
    labels = np.repeat(np.arange(len(model.class_names)), flags.samples)
    samples = batched.sample(
        model, len(labels), flags.temperature, flags.seed, labels
    )
    agreement = np.mean(classify(np.concatenate(list(samples))) == labels)
    translations = judge_translations(model, batches, classify, flags)
    return np.array([*bits, right, agreement, *translations])


def judge_translations(model, batches, classify, flags):
    """Translates as many test images as there are samples, each to a class.

    Args:
      model: As for `measure`, as are the other arguments.

    Returns:
      The share that the classifier assigns to that class, and the correlation
      of brightness.
    """
    from tf_realnvp import batched

    num_classes = len(model.class_names)
    number = flags.samples * num_classes
    images, labels = (
        np.concatenate(parts)[:number] for parts in zip(*batches, strict=True)
    )
    rng = np.random.default_rng(flags.seed)
    shift = rng.integers(1, num_classes, len(labels))
    others = (labels + shift) % num_classes
    latents = batched.encode(model, images, labels)
    decoded = batched.decode(model, latents, others)
    brightness = np.corrcoef(
        _less_class_mean(images, labels), _less_class_mean(decoded, others)
    )
    return np.mean(classify(decoded) == others), brightness[0, 1]


def _less_class_mean(images, labels):
    levels = images.mean(axis=(1, 2, 3))
    means = np.bincount(labels, levels) / np.bincount(labels)
    return levels - means[labels]


def train_classifier(dataset, kind: str):
    """Returns a function that classifies images, trained on real ones.

    Args:
      dataset: The `ImageDataset`, with labels.
      kind: "svc" or "cnn".
    """
    images, condition = next(
        dataset.train_batches(dataset.num_train, 0, 0).as_numpy_iterator()
    )
    labels = condition["label"]
    if kind == "cnn":
        from benchmarks import frechet

        network, _ = frechet.train_classifier(images, labels, epochs=3)
        return lambda images: network.predict(images, 256, verbose=0).argmax(
            axis=1
        )
    from sklearn.svm import SVC

    classifier = SVC(C=10.0).fit(images.reshape(len(images), -1), labels)
    return lambda images: classifier.predict(images.reshape(len(images), -1))


if __name__ == "__main__":
    main()
