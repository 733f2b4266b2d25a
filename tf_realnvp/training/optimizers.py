"""Keras's Adam, for models of many variables and many devices; its schedule."""

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule


class FusedAdam(keras.optimizers.Adam):
    """Keras's Adam with one operation for each variable in place of forty.

    The update is the same (https://arxiv.org/abs/1412.6980, algorithm 1, with
    `epsilon` where Keras has it), by TensorFlow's own kernel: a graph of half
    the size, which is traced and started in half the time.

    The moving average of the weights is warmed up: after `t` updates it keeps
    `min(ema, t / (t + 9))` of itself, as that of
    `tf.train.ExponentialMovingAverage` with `t - 1` as `num_updates`, which
    counts the updates before. Keras's own starts
    at the first step's weights and remembers them for thousands of steps.

    With several replicas it is applied to gradients that are summed already,
    outside of `tf.distribute.Strategy.run`. Keras's own would have to be called
    inside, where an update cannot be left out.
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule,
        ema: float | None = None,
    ):
        """Makes an optimizer.

        Args:
          learning_rate: As Keras's.
          ema: What the moving average of the weights keeps of itself at each
            update; there is none if `None`.
        """
        super().__init__(
            learning_rate, use_ema=ema is not None, ema_momentum=ema or 0.0
        )

    # Keras calls these two; it has no public way to replace an update.
    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        step = tf.cast(self.iterations.value + 1, tf.float32)
        # Tensors, or each variable would get constants of its own.
        beta_1, beta_2 = tf.constant(self.beta_1), tf.constant(self.beta_2)
        settings = {
            "beta1_power": tf.pow(beta_1, step),
            "beta2_power": tf.pow(beta_2, step),
            "lr": tf.cast(learning_rate, tf.float32),
            "beta1": beta_1,
            "beta2": beta_2,
            "epsilon": tf.constant(self.epsilon),
        }

        def update(variable, momentum, velocity, gradient):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=momentum.handle,
                v=velocity.handle,
                grad=gradient,
                **settings,
            )

        extended = tf.distribute.get_strategy().extended
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            index = self._get_variable_index(variable)
            slots = self._momentums[index], self._velocities[index]
            extended.update(
                variable.value,
                update,
                args=(*(slot.value for slot in slots), gradient),
                group=False,
            )

    def _update_model_variables_moving_average(self, trainable_variables):
        if not self.use_ema:
            return
        num_updates = tf.cast(self.iterations.value, tf.float32)
        momentum = tf.minimum(
            self.ema_momentum, num_updates / (num_updates + 9.0)
        )
        for variable, average in zip(
            trainable_variables,
            self._model_variables_moving_average,
            strict=True,
        ):
            average.assign(variable + momentum * (average - variable))


def learning_rate(
    peak: float,
    num_steps: int,
    warmup_steps: int = 0,
    schedule: str = "constant",
) -> LearningRateSchedule:
    """Returns the learning rate of every step.

    Args:
      peak: The largest rate.
      num_steps: Number of steps of the training.
      warmup_steps: Number of steps in which the rate rises to `peak`.
      schedule: What follows, "constant" or "cosine", which falls to zero by the
        last step.
    """
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=peak / (warmup_steps + 1),
        decay_steps=max(1, num_steps - warmup_steps),
        alpha=0.0 if schedule == "cosine" else 1.0,  # The part that is left.
        warmup_target=peak,
        warmup_steps=warmup_steps,
    )
