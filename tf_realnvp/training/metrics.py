"""Metrics of the epochs of a training."""

import dataclasses
import os
from collections.abc import Sequence

from tf_realnvp.flow.values import Values
from tf_realnvp.utils import files


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Metrics of an epoch, with all losses in nats per dimension.

    Attributes:
      epoch: Number of epochs so far, 0 before the first. An epoch that
        `max_steps` cuts short is counted.
      step: Number of training steps so far.
      train_loss: Mean loss over the training steps of the epoch, each before
        its update; `None` before the first epoch.
      test_loss: Mean loss over all test images; before the last step, over at
        most 10,000 of them. With validation images it is `None`, except for
        the best epoch after the training.
      validation_loss: Mean loss over all validation images, if there are any.
      effective_share: Effective share of draws, if a log-density is matched.
      effective_share_error: Its standard error.
    """

    epoch: int
    step: int
    train_loss: float | None
    test_loss: float | None = None
    validation_loss: float | None = None
    effective_share: float | None = None
    effective_share_error: float | None = None

    @property
    def held_out_split(self) -> str:
        """The split that is evaluated: "validation" if any, else "test"."""
        return "test" if self.validation_loss is None else "validation"

    @property
    def held_out_loss(self) -> float:
        """Mean loss over the images of `held_out_split`."""
        return getattr(self, f"{self.held_out_split}_loss")

    def describe(self, values: Values) -> str:
        """Returns what is held out and how good it is, as text."""
        loss = values.from_nats(self.held_out_loss)
        text = f"{self.held_out_split} {loss:.3f}"
        if self.effective_share is not None:
            text += f", effective share {self.effective_share:.3f} "
            text += f"± {self.effective_share_error:.3f}"
        return text

    def bits_per_dim(self) -> dict[str, float]:
        """Returns the available losses in bits/dim, by split."""
        return self.per_dim(Values(256))

    def nats_per_dim(self) -> dict[str, float]:
        """Returns the available losses in nats/dim, by split."""
        return self.per_dim(Values(None))

    def per_dim(self, values: Values) -> dict[str, float]:
        """Returns the available losses in the unit of some values, by split."""
        return {
            split: values.from_nats(loss)
            for split in ("train", "validation", "test")
            if (loss := getattr(self, f"{split}_loss")) is not None
        }


def write_csv(
    path: str | os.PathLike, history: Sequence[Metrics], values: Values
) -> None:
    """Writes all losses, in nats per dimension and, of levels, in bits/dim.

    Args:
      path: The file to write.
      history: The metrics of all epochs.
      values: What the values of the images are.
    """
    units = {"loss_nats_per_dim": Metrics.nats_per_dim}
    if not values.are_real:
        units["bits_per_dim"] = Metrics.bits_per_dim
    splits = ["train", "validation", "test"]
    if all(m.validation_loss is None for m in history):
        splits.remove("validation")
    header = [f"{split}_{unit}" for split in splits for unit in units]
    shares = ["effective_share", "effective_share_error"]
    if all(m.effective_share is None for m in history):
        shares = []
    rows: list[list] = [["epoch", "step", *header, *shares]]
    for m in history:
        losses = (of(m).get(split) for split in splits for of in units.values())
        others = (getattr(m, name) for name in shares)
        rows.append([m.epoch, m.step, *losses, *others])
    files.write_csv(path, rows)
