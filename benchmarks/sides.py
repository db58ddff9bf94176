"""What the speed benchmarks share: our side as a run trains it, a peer's watch, and their turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from transformers import TrainerCallback

from tunewright.devices import Device
from tunewright.models.layers.dropout import replace_dropout
from tunewright.models.layers.embedding import keep_row_gradients
from tunewright.models.layers.own_layers import use_own_layers
from tunewright.run.assembly import PASS_TOKENS
from tunewright.training.events import Step
from tunewright.training.loop import Loop
from tunewright.training.optimizer import build_optimizer
from tunewright.training.order import EncodedRow
from tunewright.training.schedule import Schedule

LEARNING_RATE = 2e-5
WARM_UPDATES = 3  # of each round, which do not count
SEED = 0


@dataclass
class Measured:
    """What one side did after its first updates."""

    num_tokens: int
    seconds: float
    flop: float

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds


Side = Callable[[], Measured]


def in_turn(sides: dict[str, Side], rounds: int) -> dict[str, list[Measured]]:
    """Runs the sides forth and back; the first round warms up and does not count."""
    found: dict[str, list[Measured]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name in list(sides) if turn % 2 else list(sides)[::-1]:
            measured = sides[name]()
            if turn:
                found[name].append(measured)
    return found


@dataclass(frozen=True)
class Own:
    """A packed model on its device with all that a run gives it, and the optimizer over it."""

    model: Any
    task: Any
    device: Device
    optimizer: Any
    dropout: Any

    @classmethod
    def of(
        cls,
        task: Any,
        folder: Path,
        tokenizer: Any,
        device: Device,
        *,
        dropout: float | None = None,
        learning_rate: float = LEARNING_RATE,
    ) -> Self:
        model, _ = task.build(folder, tokenizer, dropout=dropout, seed=SEED)
        route = task.route(model)
        assert route == "packed", route
        model.to(device.name)
        keep_row_gradients(model)
        use_own_layers(model)
        optimizer = build_optimizer(model, learning_rate=learning_rate, weight_decay=0.01)
        return cls(model, task, device, optimizer, replace_dropout(model))

    def loop(
        self,
        rows: Sequence[EncodedRow],
        batch_rows: int,
        schedule: Schedule,
        *,
        graphs: Sequence[Any] = (),
    ) -> Loop:
        return Loop(
            self.model, self.task, rows, self.optimizer, schedule, self.device, batch_rows,
            PASS_TOKENS[self.device.kind], SEED, 1.0, dropout=self.dropout, graphs=graphs,
        )  # fmt: skip


def measured(loop: Loop) -> Measured:
    """Runs a loop to its end; returns what it did after the first updates."""
    events = list(_timed(loop))
    counted, seconds = events[WARM_UPDATES:], events[-1][0] - events[WARM_UPDATES - 1][0]
    return Measured(
        sum(event.num_tokens for _, event in counted), seconds, sum(e.flop for _, e in counted)
    )


def _timed(loop: Loop) -> Iterator[tuple[float, Step]]:
    for event in loop.run():
        if isinstance(event, Step):
            yield time.perf_counter(), event


class Watch(TrainerCallback):
    """Notes when each update of a Trainer was done."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available() and state.global_step in (WARM_UPDATES, state.max_steps):
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Returns how long the updates took that count."""
        return self.ends[-1] - self.ends[WARM_UPDATES - 1]
