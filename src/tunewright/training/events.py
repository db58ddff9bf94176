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
class Spike:
    """The loss of update `step` was far above those before it; `rows` were in it, by their ids.

    `usual` is the largest loss of the updates that it was compared with.
    """

    step: int
    loss: float
    usual: float
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shrunk:
    """Update `step` did not fit into memory: forward passes now have at most `max_tokens` tokens.

    The update was repeated so; it is still of the same rows.
    """

    step: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Phase:
    """What is begun after update `step` and may take a while, such as `saving`."""

    name: str
    step: int


@dataclass(frozen=True, slots=True)
class Saved:
    """The state after update `step` is on the disk and has been read back."""

    step: int
    num_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class NotSaved:
    """The state after update `step` could not be saved; it will be tried again."""

    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of the loop: why it stopped, and which weights the model now holds."""

    step: int
    reason: str
    kept_step: int
    seconds: float


Event = Step | Evaluation | Spike | Shrunk | Phase | Saved | NotSaved | Finished
