"""The training loop: epochs of steps, and an evaluation after each of them."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable

import numpy as np

from tf_realnvp.data import ImageDataset
from tf_realnvp.training.metrics import Metrics
from tf_realnvp.training.trainer import Trainer
from tf_realnvp.utils.console import Progress, Silent

MAX_TEST_IMAGES = 10_000  # Evaluated on the way.


def fit(
    trainer: Trainer,
    dataset: ImageDataset,
    on_epoch: Callable[[Metrics], None] = lambda metrics: None,
    after_steps: Callable[[], None] = lambda: None,
    display: Callable[[str, int], Progress] = Silent,
) -> None:
    """Trains to the end, or resumes an unfinished training.

    The model is evaluated before the first epoch and after every epoch, on the
    validation images if there are any, else on the test images, of which at
    most 10,000 are used, drawn with the seed. At the end, the result (with
    validation images, the best epoch) is evaluated on all test images. The
    metrics are in `trainer.history`. If the `step` and `history` of the trainer
    were restored from an unfinished training, it is resumed.

    Args:
      trainer: The trainer.
      dataset: The data set.
      on_epoch: Called with the metrics after every epoch, and once before the
        first.
      after_steps: Called after every group of training or evaluation steps. An
        exception that it raises ends the training. A group takes about half a
        second, or is a single, longer step. It may change `last_step`.
      display: Creates the progress display of one pass over batches, from its
        title, such as `epoch 3/50`, and its number of batches.

    Raises:
      DivergedError: If too many consecutive steps were not finite.
    """
    config, values = trainer.config, trainer.model.values
    steps_per_epoch, clock = trainer.steps_per_epoch, trainer.clock
    trainer.resume()
    split, held_out = "validation", dataset
    sizes = dataset.num_validation, dataset.num_test
    if not dataset.num_validation:
        split = "test"
        held_out = dataset.sample_test(MAX_TEST_IMAGES, config.seed)
        sizes = held_out.num_test, dataset.num_test - held_out.num_test
    clock.num_held_out, clock.num_last = np.divide(sizes, config.batch_size)

    def end_epoch():
        start, traced = time.monotonic(), clock.traced
        step = trainer.num_steps
        images = dataset if step >= trainer.last_step else held_out
        each = evaluate(trainer, images, split, after_steps, display)
        loss = float(each.mean())
        # Not for a partial epoch, which a longer training would drop.
        if step % steps_per_epoch == 0:
            trainer.keep_if_best(loss)
        losses = {
            "train_loss": trainer.mean_loss if step else None,
            f"{split}_loss": loss,
            **trainer.objective.metrics(each * trainer.model.num_dims),
        }
        metrics = Metrics(math.ceil(step / steps_per_epoch), step, **losses)
        trainer.history.append(metrics)
        on_epoch(metrics)
        clock.end_of_epoch = time.monotonic() - start - (clock.traced - traced)

    def end_epoch_if_due():
        step = trainer.num_steps
        is_evaluated = trainer.history and trainer.history[-1].step == step
        is_end = step % steps_per_epoch == 0 or step >= trainer.last_step
        if is_end and not is_evaluated:
            end_epoch()

    end_epoch_if_due()  # Before the first step, say.
    while (step := trainer.num_steps) < trainer.last_step:
        epoch, position = divmod(step, steps_per_epoch)
        if position == 0:
            trainer.begin_epoch()
        batches = dataset.train_batches(
            config.batch_size, config.seed, epoch + 1, position
        )
        iterator = iter(batches)
        last = trainer.history[-1].describe(values)
        title = f"epoch {epoch + 1}/{trainer.config.epochs or '?'} ({last})"
        num_steps = min(steps_per_epoch - position, trainer.last_step - step)
        with display(title, num_steps) as progress:
            for count in clock.calls(
                "train", num_steps, trainer.max_steps_per_call
            ):
                with clock.timing("train", count):
                    trainer.train(iterator, count)
                shown = values.describe(trainer.mean_loss)
                if trainer.config.epochs:
                    num_left = trainer.last_step - trainer.num_steps
                    clock.expect(num_left, steps_per_epoch)
                size = count * config.batch_size
                progress.update(count, size, shown, clock.left)
                after_steps()
                if trainer.num_steps >= trainer.last_step:
                    break
        end_epoch_if_due()

    result = trainer.result_metrics()
    if result.test_loss is None:
        each = evaluate(trainer, dataset, "test", after_steps, display)
        index = trainer.history.index(result)
        trainer.history[index] = dataclasses.replace(
            result, test_loss=float(each.mean())
        )


def evaluate(
    trainer: Trainer,
    dataset: ImageDataset,
    split: str = "test",
    after_steps: Callable[[], None] = lambda: None,
    display: Callable[[str, int], Progress] = Silent,
) -> np.ndarray:
    """Returns the losses of held-out images, in nats per dimension.

    Args:
      trainer: The trainer.
      dataset: The data set.
      split: "test", to evaluate `trainer.result_model()` on all test images; or
        "validation", to evaluate `trainer.evaluated_model()` on all validation
        images.
      after_steps: Called after every group of steps.
      display: As for `fit`.
    """
    # These methods set the weights that `trainer.test` uses.
    if split == "validation":
        trainer.evaluated_model()
    else:
        trainer.result_model()
    batches = dataset.batches(split, trainer.config.batch_size)
    iterator = iter(batches.enumerate())
    losses, values, clock = np.zeros(0), trainer.model.values, trainer.clock
    with display(split, len(batches)) as progress:
        # A collective has one shape in a call, and the last batch may be small.
        counts = clock.calls(
            "test", len(batches) - 1, trainer.max_steps_per_call
        )
        for count in itertools.chain(counts, [1]):
            with clock.timing("test", count):
                part = trainer.test(iterator, count)
            losses = np.append(losses, part)
            shown = values.describe(losses.mean())
            progress.update(count, len(part), shown, clock.left)
            after_steps()
    return losses
