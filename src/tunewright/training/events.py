"""What a training loop tells the world. Printing, saving and tracking are done by who listens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One update. `loss` is the mean over the update's rows (or their weights)."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    gradient_norm: float
    num_rows: int
    num_tokens: int
    flop: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The metrics of the validation rows after update `step`."""

    step: int
    epoch: float
    metrics: Mapping[str, float]
    is_best: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of the loop: why it stopped, and which weights the model now holds."""

    step: int
    reason: str
    kept_step: int
    seconds: float


Event = Step | Evaluation | Finished
