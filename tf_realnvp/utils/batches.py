"""Batches of the commands: their size, their seeds, and how they overlap."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TypeVar

_Input = TypeVar("_Input")
_Output = TypeVar("_Output")
_AT_ONCE = 2
BATCH_SIZE = 64  # Limits the memory for many images.


def stream(seed: int, index: int) -> int:
    """Returns the seed of an independent random stream.

    Noise depends on both halves of a 64-bit seed, so different pairs of `seed`
    and `index` have different noise.

    Args:
      seed: Seed from 0 to 2**32 - 1. Stream 0 has the same seed.
      index: Index of the stream, from 0 to 2**31 - 1.
    """
    return seed + (index << 32)


def parts(n: int, size: int = BATCH_SIZE) -> Iterator[slice]:
    """Yields slices of at most `size` of `n` values."""
    for start in range(0, n, size):
        yield slice(start, start + size)


def overlapped(
    function: Callable[[_Input], _Output], inputs: Iterable[_Input]
) -> Iterator[_Output]:
    """Applies a function to inputs, two at a time.

    While one call to TensorFlow waits for Python or for an operation that runs
    on a single core, the other continues. This is a fifth faster on two cores
    (benchmarks/results/evaluating.md).

    Args:
      function: The function, which is called in worker threads.
      inputs: Its arguments. They are consumed as results are requested, and few
        are held at a time.

    Yields:
      The results, in the order of the inputs.
    """
    pool = futures.ThreadPoolExecutor(_AT_ONCE)
    pending: collections.deque[futures.Future[_Output]] = collections.deque()
    try:
        for value in inputs:
            pending.append(pool.submit(function, value))
            if len(pending) > _AT_ONCE:  # One more, so that no thread waits.
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Garbage collection may close the generator in any thread, even in one
        # that is starting, where joining others is a deadlock.
        pool.shutdown(wait=False, cancel_futures=True)
