"""Units of information."""

import math
from typing import Any


def bits_from_nats(nats: Any) -> Any:
    """Returns an amount of information in bits.

    Args:
      nats: The amount in nats: a number, an array or a tensor.
    """
    return nats / math.log(2.0)


def bits_per_dim(log_prob: Any, num_dims: int) -> Any:
    """Returns the information in images, in bits per dimension.

    Args:
      log_prob: Their log-probabilities in nats: a number, an array or a tensor.
      num_dims: Number of dimensions of an image, `H * W * C`.
    """
    return -log_prob / (num_dims * math.log(2.0))
