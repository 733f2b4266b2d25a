"""Measures what labels are worth to a model, and what they cost.

`python -m benchmarks.conditional --plain realnvp_digits … --conditional
conditional/realnvp_digits …` compares pairs of models that were trained alike:
bits/dim of the test images without classes, given the label, and of the mixture
of all classes, all with the same noise; and how often the likeliest class is
right. A classifier that was trained on the real training images measures how
many samples are of the requested class; its own accuracy on the test images is
printed, too. It also classifies test images that were translated to another
class: encoded with their own label, and decoded with one that is drawn from the
other classes. How far they keep the brightness of the image is the correlation
of both mean levels, each less the mean of its class. The classifier is
scikit-learn's SVC, or with `--classifier cnn` a small convolutional network.

`--steps 20` measures the time of a training step of both models instead, in
turn, on random images, and prints the ratio.
"""

import argparse
import statistics

import numpy as np

from benchmarks.measuring import once, training_steps

_BATCH_SIZE = 64


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", nargs="+", default=[])
    parser.add_argument("--conditional", nargs="+", default=[])
    parser.add_argument("--data_dir", default="datasets")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--samples", type=int, default=100, help="of a class")
    parser.add_argument("--classifier", choices=("svc", "cnn"), default="svc")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="time so many instead")
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--filters", type=int, default=128)
    parser.add_argument("--num_blocks", type=int, default=8)
    parser.add_argument("--precision", default="float32")
    flags = parser.parse_args()
    if flags.steps is not None:
        compare_speed(flags)
        return
    if not flags.plain or len(flags.plain) != len(flags.conditional):
        parser.error("give as many models with --plain as with --conditional")
    compare_models(flags)


def compare_models(flags: argparse.Namespace) -> None:
    """Prints a row for each pair of models, and the means.

    Args:
      flags: The command's flags.
    """
    from tf_realnvp import data
    from tf_realnvp.serving.saved_model import SavedModel

    pairs = [
        (SavedModel(plain), SavedModel(conditional))
        for plain, conditional in zip(
            flags.plain, flags.conditional, strict=True
        )
    ]
    (name,) = {model.source for pair in pairs for model in pair}
    dataset = data.load(name, flags.data_dir, labels=True)
    batches = list(dataset.batches("test", _BATCH_SIZE).as_numpy_iterator())
    classify = train_classifier(dataset, flags.classifier)
    accuracy = np.mean(
        np.concatenate(
            [classify(images) == labels for images, labels in batches]
        )
    )
    print(
        f"the classifier is right on {accuracy:.4f} of {dataset.num_test:,} "
        f"test images\n\n"
        "| model | without classes | given the label | mixture | mixture less "
        "without | accuracy | samples as asked | of the classifier's | "
        "translated as asked | of the classifier's | brightness |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    rows = []
    for (plain, conditional), path in zip(
        pairs, flags.conditional, strict=True
    ):
        rows.append(compare_pair(plain, conditional, batches, classify, flags))
        _print_row(path, rows[-1], accuracy)
    _print_row("mean", np.mean(rows, axis=0), accuracy)


def _print_row(title, row, accuracy):
    plain, given, mixture, right, agreement, translated, brightness = row
    print(
        f"| {title} | {plain:.4f} | {given:.4f} | {mixture:.4f} | "
        f"{mixture - plain:+.4f} | {right:.4f} | {agreement:.4f} | "
        f"{agreement / accuracy:.3f} | {translated:.4f} | "
        f"{translated / accuracy:.3f} | {brightness:.3f} |",
        flush=True,
    )


def compare_pair(plain, conditional, batches, classify, flags) -> np.ndarray:
    """Returns a row of the table.

    Args:
      plain: The `SavedModel` without classes.
      conditional: That with classes.
      batches: Test images and their labels.
      classify: What `train_classifier` returned.
      flags: The command's flags.

    Returns:
      Bits/dim without classes, given the label and of the mixture, accuracy,
      agreement of the classifier with the labels of samples, and what
      `judge_translations` returns.
    """
    of_images = []
    for number, (images, labels) in enumerate(batches):
        seed = flags.seed + (number << 32)
        given = conditional.log_prob_of_classes(images, seed)
        joint = given + conditional.log_prior
        of_images.append(
            [
                plain.log_prob_of_classes(images, seed)[:, 0],
                given[range(len(labels)), labels],
                np.logaddexp.reduce(joint, axis=1),
                joint.argmax(axis=1) == labels,
            ]
        )
    *nats, right = np.mean(np.concatenate(of_images, axis=1), axis=1)
    bits = plain.values.per_dim(np.array(nats), plain.num_dims)
    labels = np.repeat(np.arange(len(conditional.class_names)), flags.samples)
    samples = conditional.sample(
        len(labels), flags.temperature, flags.seed, labels
    )
    agreement = np.mean(classify(np.concatenate(list(samples))) == labels)
    translations = judge_translations(conditional, batches, classify, flags)
    return np.array([*bits, right, agreement, *translations])


def judge_translations(conditional, batches, classify, flags):
    """Translates as many test images as there are samples, each to a class.

    Args:
      conditional: As for `compare_pair`, as are the other arguments.

    Returns:
      The share that the classifier assigns to that class, and how far
      translations keep the brightness.
    """
    num_classes = len(conditional.class_names)
    number = flags.samples * num_classes
    images, labels = (
        np.concatenate(parts)[:number] for parts in zip(*batches, strict=True)
    )
    rng = np.random.default_rng(flags.seed)
    shift = rng.integers(1, num_classes, len(labels))
    others = (labels + shift) % num_classes
    decoded = conditional.decode(conditional.encode(images, labels), others)
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
    images, labels = next(
        dataset.train_batches(dataset.num_train, 0, 0).as_numpy_iterator()
    )
    if kind == "cnn":
        import keras

        from benchmarks.frechet import make_classifier

        keras.utils.set_random_seed(0)
        network, _ = make_classifier(images.shape[1:])
        network.fit(images, labels, 128, 3, verbose=0)
        return lambda images: network.predict(images, 256, verbose=0).argmax(
            axis=1
        )
    from sklearn.svm import SVC

    classifier = SVC(C=10.0).fit(images.reshape(len(images), -1), labels)
    return lambda images: classifier.predict(images.reshape(len(images), -1))


def compare_speed(flags: argparse.Namespace) -> None:
    """Prints the time of a training step without classes and with ten.

    Args:
      flags: The command's flags.
    """
    from tf_realnvp.utils import runtime

    runtime.configure()
    from tf_realnvp import RealNVP
    from tf_realnvp.training.trainer import Trainer

    steps = []
    for num_classes in (None, 10):
        model = RealNVP(
            (flags.image_size, flags.image_size, 3),
            filters=flags.filters,
            num_blocks=flags.num_blocks,
            num_classes=num_classes,
        )
        trainer = Trainer(model, precision=flags.precision)
        steps.append(training_steps(trainer, _BATCH_SIZE))
        steps[-1](1)
    # In turn, so that both have the same machine if its speed drifts.
    seconds = [
        [once(lambda step=step: step(1)) for step in steps]
        for _ in range(flags.steps)
    ]
    plain, conditional = map(statistics.median, zip(*seconds, strict=True))
    ratio = statistics.median(a / b for a, b in seconds)
    print(
        f"{flags.precision}, batch {_BATCH_SIZE}: a step takes {plain:.3f} s "
        f"without classes and {conditional:.3f} s with ten; {ratio:.3f} of the "
        "speed (medians)"
    )


if __name__ == "__main__":
    main()
