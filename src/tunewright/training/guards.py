"""Guards of a training run: losses that leap, and memory that runs out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import torch

from tunewright.errors import NonFiniteLoss, listed

# A leap is a loss of three times the largest of the fifty before it. By chance alone that comes
# once in 37,000 updates where losses are log-normal with a spread of 0.5, in 900 with one of 1.
WATCHED_UPDATES, LEAP = 50, 3.0

# What torch says when the system gives it no memory; it has no class of its own for the CPU.
_REFUSALS = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc",
             "could not create a primitive")  # the last is oneDNN's  # fmt: skip


class LossWatch:
    """Compares each loss with those just before it."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=WATCHED_UPDATES)

    def observe(self, loss: float) -> float | None:
        """Takes in a loss; returns the largest of those before it when this one leaps above it."""
        known = self.recent
        self._recent.append(loss)
        usual = max(known, default=0.0)
        leaps = len(known) == WATCHED_UPDATES and loss > LEAP * usual > 0
        return usual if leaps else None

    @property
    def recent(self) -> list[float]:
        """The losses that the next one is compared with, oldest first."""
        return list(self._recent)

    @recent.setter
    def recent(self, losses: Sequence[float]) -> None:
        self._recent = deque(losses, maxlen=WATCHED_UPDATES)


def check_finite(norm: float, row_ids: Callable[[], Sequence[int]]) -> float:
    """Returns a gradient's norm. Raises NonFiniteLoss, with the update's rows, where it is none."""
    if not math.isfinite(norm):
        raise NonFiniteLoss(
            "training",
            "the loss or its gradient is not finite",
            f"It happened in an update of the rows {listed(row_ids())}; nothing was changed.",
            "Try a smaller training.learning_rate, or training.precision=fp32.",
        )
    return norm


def is_out_of_memory(error: BaseException) -> bool:
    """Says whether an error is a refused allocation, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _REFUSALS)
