"""The training loop: epochs of steps, and an evaluation after each of them."""

import dataclasses
import time
from collections.abc import Callable, Iterator

from tf_realnvp.data import ImageDataset
from tf_realnvp.training.metrics import Metrics, bits_from_nats
from tf_realnvp.training.progress import Progress, Silent
from tf_realnvp.training.trainer import Trainer

_SECONDS_PER_CALL = 0.5


class Observer:
    """What is told how a training goes on. This one does nothing."""

    def progress(self, title: str, num_steps: int) -> Progress:
        """Returns the display of one pass over batches.

        Args:
          title: What is going on, `epoch 3/50`.
          num_steps: Number of batches of the pass.
        """
        return Silent(title, num_steps)

    def after_steps(self) -> None:
        """Is called whenever some steps are done, of training or evaluation.

        That is every half a second, or after every step that takes longer.
        """

    def after_epoch(self, metrics: Metrics) -> None:
        """Is called after every epoch, and once before the first.

        Args:
          metrics: What is known by now.
        """


def fit(
    trainer: Trainer,
    dataset: ImageDataset,
    epochs: int,
    batch_size: int = 64,
    max_steps: int | None = None,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains for some epochs, or goes on with a training of so many.

    The images are evaluated before the first epoch and after each: those for
    validation, and at last the result on the test images; without validation
    images the test images each time. The metrics are in `trainer.history`. A
    trainer whose `step` and `history` tell of an unfinished training goes on
    with it.

    Args:
      trainer: The trainer.
      dataset: The data set.
      epochs: Number of epochs.
      batch_size: Images in a batch, of all replicas together; at most
        `dataset.num_train`.
      max_steps: Number of steps after which to stop, if not before. Default: no
        limit.
      observer: Is told how it goes on. Default: nobody is.
      should_stop: Is asked whenever some steps are done.

    Returns:
      Whether the training is done: `False` if `should_stop` ended it.

    Raises:
      DivergedError: If too many steps were not finite.
      ValueError: If `batch_size` is more than `dataset.num_train`.
    """
    if batch_size > dataset.num_train:
        raise ValueError(
            f"`batch_size` is {batch_size}, more than the "
            f"{dataset.num_train} training images of {dataset.name}."
        )
    observer = observer or Observer()
    split = "validation" if dataset.num_validation else "test"
    steps_per_epoch = dataset.num_train // batch_size
    last_step = epochs * steps_per_epoch
    if max_steps is not None:
        last_step = min(last_step, max_steps)
    _forget_part_of_epoch(trainer, steps_per_epoch, last_step)

    while True:
        step = trainer.num_steps
        epoch, position = divmod(step, steps_per_epoch)
        is_new = not trainer.history or step > trainer.history[-1].step
        if is_new and (position == 0 or step >= last_step):
            loss = evaluate(
                trainer, dataset, split, batch_size, observer, should_stop
            )
            if loss is None:
                return False
            # What a longer training leaves out of its history is not kept.
            if position == 0:
                trainer.keep_if_best(loss)
            metrics = trainer.end_epoch(epoch + (position > 0), split, loss)
            observer.after_epoch(metrics)
        elif step < last_step:
            if position == 0:
                trainer.begin_epoch()
            batches = iter(
                dataset.train_batches(
                    batch_size, trainer.seed, epoch + 1, skip=position
                )
            )
            bits = bits_from_nats(trainer.history[-1].held_out_loss)
            title = f"epoch {epoch + 1}/{epochs} ({split} {bits:.3f})"
            num_steps = min(steps_per_epoch - position, last_step - step)
            with observer.progress(title, num_steps) as display:
                for part in _calls(num_steps, trainer.max_steps_per_call):
                    trainer.train(batches, part)
                    bits = bits_from_nats(trainer.mean_loss)
                    display.update(part, part * batch_size, bits)
                    observer.after_steps()
                    if should_stop():
                        return False
        else:
            break

    result = trainer.result_metrics()
    if result.test_loss is None:
        loss = evaluate(
            trainer, dataset, "test", batch_size, observer, should_stop
        )
        if loss is None:
            return False
        index = trainer.history.index(result)
        trainer.history[index] = dataclasses.replace(result, test_loss=loss)
    return True


def evaluate(
    trainer: Trainer,
    dataset: ImageDataset,
    split: str = "test",
    batch_size: int = 64,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> float | None:
    """Returns the mean loss over held-out images, in nats per dimension.

    Args:
      trainer: The trainer.
      dataset: The data set.
      split: "test": all test images, by the `result_model()`; or "validation":
        all validation images, by the `evaluated_model()`.
      batch_size: Images in a batch.
      observer: As for `fit`.
      should_stop: As for `fit`.

    Returns:
      The loss; `None` if `should_stop` ended it.
    """
    observer = observer or Observer()
    # Either brings the model up to date that is evaluated.
    if split == "validation":
        batches = dataset.validation_batches(batch_size)
        trainer.evaluated_model()
    else:
        batches = dataset.test_batches(batch_size)
        trainer.result_model()
    num_steps = len(batches)
    iterator = iter(batches.enumerate())
    total, num_images = 0.0, 0
    with observer.progress(split, num_steps) as display:
        for part in _calls(num_steps, trainer.max_steps_per_call):
            total, size = trainer.test(iterator, part, total)
            num_images += size
            display.update(part, size, bits_from_nats(total / num_images))
            observer.after_steps()
            if should_stop():
                return None
    return total / num_images


def _forget_part_of_epoch(trainer, steps_per_epoch, last_step):
    """Makes of what was cut short by fewer steps an epoch like others.

    Nor is what was the result then evaluated on the test images.
    """
    if trainer.history and trainer.history[-1].step < last_step:
        trainer.history = [
            m
            if m.validation_loss is None
            else dataclasses.replace(m, test_loss=None)
            for m in trainer.history
            if m.step % steps_per_epoch == 0
        ]


def _calls(num_steps: int, maximum: int | None) -> Iterator[int]:
    """Splits steps over calls, few enough for a fast device to be busy.

    Args:
      num_steps: Number of steps in all.
      maximum: The most that a call may have.

    Yields:
      The number of steps of the next call: one at first, then as many as take
      `_SECONDS_PER_CALL`.
    """
    size = 1
    while num_steps > 0:
        size = min(size, num_steps, maximum or num_steps)
        start = time.perf_counter()
        yield size
        num_steps -= size
        seconds = (time.perf_counter() - start) / size
        # At most twice as many as before: the first call also traces.
        size = max(1, min(2 * size, int(_SECONDS_PER_CALL / seconds)))
