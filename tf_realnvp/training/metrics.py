"""What is known after each epoch of a training."""

import dataclasses
import itertools
import os
from collections.abc import Sequence

from tf_realnvp.utils import files
from tf_realnvp.utils.units import bits_from_nats


@dataclasses.dataclass(frozen=True)
class Metrics:
    """What is known after an epoch; all losses in nats per dimension.

    Attributes:
      epoch: Number of epochs done, 0 before the first. One that `max_steps` cut
        short counts.
      step: Number of training steps done.
      train_loss: Mean over the epoch's training steps, each before its update;
        `None` before the first epoch.
      test_loss: Mean over all test images; with validation images it is `None`
        in all epochs but the best, after the training.
      validation_loss: Mean over all validation images, if there are any.
    """

    epoch: int
    step: int
    train_loss: float | None
    test_loss: float | None = None
    validation_loss: float | None = None

    @property
    def held_out_split(self) -> str:
        """The images that are evaluated: "validation" if any, else "test"."""
        return "test" if self.validation_loss is None else "validation"

    @property
    def held_out_loss(self) -> float:
        """Mean over images that are not trained on: the loss of the epoch."""
        return getattr(self, f"{self.held_out_split}_loss")

    def bits_per_dim(self) -> dict[str, float]:
        """Returns the losses that are known, in bits/dim, by their splits."""
        return {
            split: bits_from_nats(loss)
            for split in ("train", "validation", "test")
            if (loss := getattr(self, f"{split}_loss")) is not None
        }


def write_csv(path: str | os.PathLike, history: Sequence[Metrics]) -> None:
    """Writes all losses, in nats per dimension and in bits/dim.

    Args:
      path: The file to write.
      history: The metrics of all epochs.
    """
    splits = ["train", "validation", "test"]
    if all(m.validation_loss is None for m in history):
        splits.remove("validation")
    units = ("loss_nats_per_dim", "bits_per_dim")
    header = [f"{split}_{unit}" for split in splits for unit in units]
    rows: list[list] = [["epoch", "step", *header]]
    for m in history:
        bits = m.bits_per_dim()
        losses = ((getattr(m, f"{s}_loss"), bits.get(s)) for s in splits)
        rows.append([m.epoch, m.step, *itertools.chain(*losses)])
    files.write_csv(path, rows)
