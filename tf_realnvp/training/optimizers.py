"""Keras's Adam with a fused update, Muon, and learning rate schedules."""

import collections
import math
from typing import Any

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule, PolynomialDecay

from tf_realnvp.config import TrainingConfig

_MOMENTUM = PolynomialDecay(0.85, decay_steps=300, end_learning_rate=0.95)


class FusedAdam(keras.optimizers.Adam):
    """Keras's Adam with one operation per variable rather than forty.

    The update is the same (https://arxiv.org/abs/1412.6980, algorithm 1, with
    `epsilon` placed as in Keras), computed by TensorFlow's kernel. The graph is
    half the size, and tracing and startup take half the time.

    The moving average of the weights is warmed up: its decay after `t` updates
    is `min(ema_momentum, t / (t + 9))`. The average of Keras starts at the
    weights of the first step and retains them for thousands of steps.

    With several replicas, the optimizer is applied to summed gradients outside
    of `tf.distribute.Strategy.run`. Keras's Adam would have to be applied
    inside, where an update cannot be skipped.
    """

    # Private hooks of Keras, which has no public way to replace the update.
    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        step = tf.cast(self.iterations.value + 1, tf.float32)
        # As tensors, since Python numbers become constants for each variable.
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
        averages = self._model_variables_moving_average
        pairs = zip(trainable_variables, averages, strict=True)
        for variable, average in pairs:
            average.assign(variable + momentum * (average - variable))


class Muon(FusedAdam):
    """Muon for the kernels of convolutions, Adam for all other variables.

    Muon (https://kellerjordan.github.io/posts/muon) replaces an update of a
    matrix by the nearest semi-orthogonal one, so all directions are learned at
    the same rate. A kernel is a matrix from inputs to output channels. Updates
    have root mean square 0.2 (https://arxiv.org/abs/2502.16982, section 2.2),
    about that of Adam, so both can have the same learning rate. The momentum
    rises over the first 300 steps, since early gradients are soon out of date.

    Keras's Muon takes variables of two axes alone, and no kernel has two.
    """

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        others: tuple[list, list] = [], []
        kernels = collections.defaultdict(list)
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            shape = variable.shape
            if len(shape) < 4:
                others[0].append(gradient)
                others[1].append(variable)
                continue
            momentum = self._momentums[self._get_variable_index(variable)]
            # A kernel, or a stack of some.
            matrices = -1, math.prod(shape[-4:-1]), shape[-1]
            kernels[matrices].append((variable.value, momentum.value, gradient))
        super()._backend_update_step(*others, learning_rate)
        rate = tf.cast(learning_rate, tf.float32)
        decay = _MOMENTUM(self.iterations)

        def update(unused_variable, variables, momentums, gradients, matrices):
            directions = []
            for momentum, gradient in zip(momentums, gradients, strict=True):
                sum_ = momentum.assign(decay * momentum + gradient)
                direction = gradient + decay * sum_
                directions.append(tf.reshape(direction, matrices))
            sizes = [direction.shape[0] for direction in directions]
            scale = 0.2 * math.sqrt(max(matrices))
            updates = scale * orthogonalize(tf.concat(directions, axis=0))
            parts = tf.split(updates, sizes)
            for variable, part in zip(variables, parts, strict=True):
                variable.assign_sub(rate * tf.reshape(part, variable.shape))

        extended = tf.distribute.get_strategy().extended
        for matrices, group in kernels.items():
            args = (*map(list, zip(*group, strict=True)), matrices)
            extended.update(group[0][0], update, args=args, group=False)


def orthogonalize(matrices: tf.Tensor) -> tf.Tensor:
    """Returns nearly semi-orthogonal matrices near some matrices.

    The polynomial is that of Muon: after five steps singular values are between
    0.6 and 1.2, but for those of about a thousandth of the norm or less.

    Args:
      matrices: `[n, rows, columns]`.
    """
    norms = tf.norm(matrices, axis=[-2, -1], keepdims=True)
    # Without gradients momenta decay until their squares underflow.
    x = matrices / tf.maximum(norms, 1e-7)
    rows, columns = matrices.shape[-2:]
    is_tall = rows > columns
    for _ in range(5):
        gram = tf.matmul(x, x, transpose_a=is_tall, transpose_b=not is_tall)
        step = -4.7750 * gram + 2.0315 * tf.matmul(gram, gram)
        x = 3.4445 * x + (x @ step if is_tall else step @ x)
    return x


def learning_rate(
    config: TrainingConfig, decay_steps: Any
) -> LearningRateSchedule:
    """Returns the learning rate schedule of a training.

    Args:
      config: The settings.
      decay_steps: Number of steps in which a cosine decays to zero, after the
        warm-up. It may be a variable.
    """
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=config.lr / (config.warmup_steps + 1),
        decay_steps=decay_steps,
        # Final fraction.
        alpha=0.0 if config.lr_schedule == "cosine" else 1.0,
        warmup_target=config.lr,
        warmup_steps=config.warmup_steps,
    )
