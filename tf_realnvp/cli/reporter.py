"""Output of the training command."""

from tf_realnvp.serving.metadata import describe_levels
from tf_realnvp.training import loop
from tf_realnvp.training.metrics import Metrics
from tf_realnvp.training.progress import Progress
from tf_realnvp.training.session import Session
from tf_realnvp.utils import runtime
from tf_realnvp.utils.messages import counted, say


def say_header(session: Session) -> None:
    """Prints the data set, the model and the settings of a training."""
    config, dataset = session.config, session.dataset
    model = session.trainer.model
    size = "x".join(map(str, dataset.image_shape))
    classes = validation = ""
    if dataset.class_names:
        classes = f", {counted(len(dataset.class_names), 'class')}"
    if dataset.num_validation:
        validation = f", {dataset.num_validation:,} validation"
    say(
        f"RealNVP on {dataset.name}: {dataset.num_train:,} training"
        f"{validation} and {dataset.num_test:,} test images of {size}, "
        f"{describe_levels(dataset.num_colors)}{classes}\n"
        f"{model.num_parameters:,} parameters ({config.filters} filters, "
        f"{counted(config.num_blocks, 'residual block')}, "
        f"{config.num_scales} scales, {len(model.couplings)} couplings), "
        f"{runtime.describe_devices(config.devices)}, {config.precision}, "
        f"seed {config.seed}"
    )


class Reporter(loop.Observer):
    """Prints the progress and the results of a training."""

    def __init__(self, session: Session):
        """Creates a reporter for a training that is about to begin."""
        self._trainer, self._config = session.trainer, session.config

    def progress(self, title, num_steps):
        return Progress(title, num_steps)

    def after_epoch(self, metrics):
        if self._config.verbose or metrics.epoch == 0:
            self._say_metrics(metrics)

    def say_summary(self) -> None:
        """Prints the results of the training."""
        result = self._trainer.result_metrics()
        if not self._config.verbose or result.validation_loss is not None:
            self._say_metrics(result)
        if skipped := self._trainer.num_skipped:
            say(
                f"{skipped:,} steps were skipped, since their loss or gradient "
                "was not finite"
            )

    def _say_metrics(self, metrics: Metrics):
        bits = metrics.bits_per_dim()
        losses = [f"{split} {value:.3f}" for split, value in bits.items()]
        if "train" not in bits:
            losses.insert(0, "before training")
        say(
            f"epoch {metrics.epoch}/{self._config.epochs}, step "
            f"{metrics.step:,}: {', '.join(losses)} bits/dim"
        )
