"""The training loop: a generator of events.

    for event in Loop(model, task, rows, ...).run():
        ...

An update is `batch_size` rows. Its rows are cut into forward passes of at most `max_tokens`
tokens; the loss of each is a sum, and the gradient is divided once by the count of all, so that
any cut gives the gradient of one large batch. Order, dropout and augmentation come from the
counters (seed, epoch, row) and (seed, step), never from global state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewright.devices import Device
from tunewright.errors import NonFiniteLoss, listed
from tunewright.models.batch import fill, pack
from tunewright.models.dropout import DropoutSource
from tunewright.models.flop import FlopCount
from tunewright.models.heads import is_packed
from tunewright.tasks.base import Task
from tunewright.training.events import Step
from tunewright.training.optimizer import MovingAverage, set_factor
from tunewright.training.schedule import Schedule
from tunewright.types import Features

EncodedRow = Sequence[Features]

# Streams of random numbers that must not meet: one key for each use of (seed, counter).
_ORDER, _VARY, _STEP = 1, 2, 3


def order_of_epoch(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of the rows in an epoch, (num_rows,), from (seed, epoch) alone."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((_ORDER, seed, epoch))))
    return generator.permutation(num_rows)


@dataclass
class Loop:
    """One model, one task, and everything that one update needs."""

    model: Any
    task: Task
    rows: Sequence[EncodedRow]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    device: Device
    batch_size: int
    max_tokens: int
    seed: int
    max_grad_norm: float | None = None
    l1: float = 0.0
    dropout: DropoutSource | None = None
    average: MovingAverage | None = None
    flop: FlopCount = field(init=False)

    def __post_init__(self) -> None:
        if self.task.scope != "row":
            raise NotImplementedError(f"a loss over a whole {self.task.scope} is not summed here")
        self.flop = FlopCount.of(self.model)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def run(self) -> Iterator[Step]:
        """Yields each update after it was applied, up to the schedule's `total_steps`."""
        step = 0
        while step < self.schedule.total_steps:
            epoch = step // self.steps_per_epoch
            for row_indices in self._updates(epoch):
                if step == self.schedule.total_steps:
                    return
                yield self._update(step, epoch, row_indices)
                step += 1

    def _updates(self, epoch: int) -> Iterator[np.ndarray]:
        order = order_of_epoch(len(self.rows), self.seed, epoch)
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def _update(self, step: int, epoch: int, row_indices: np.ndarray) -> Step:
        started = time.perf_counter()
        self._reseed(step)
        self.model.train()
        factor = self.schedule.factor(step)
        set_factor(self.optimizer, factor)
        features = [item for index in row_indices for item in self._varied(int(index), epoch)]
        total, count, lengths = self._accumulate(features)
        norm = self._scale_gradients(count, features)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()
        return Step(
            step=step + 1,
            total_steps=self.schedule.total_steps,
            epoch=(step + 1) / self.steps_per_epoch,
            loss=total / count if count else 0.0,
            learning_rate=max(group["lr"] for group in self.optimizer.param_groups),
            gradient_norm=norm,
            num_rows=len(row_indices),
            num_tokens=sum(lengths),
            flop=self.flop.training(lengths),
            seconds=time.perf_counter() - started,
        )

    def _reseed(self, step: int) -> None:
        torch.manual_seed(
            int(np.random.SeedSequence((_STEP, self.seed, step)).generate_state(1)[0])
        )
        if self.dropout is not None:
            self.dropout.reseed(_STEP, self.seed, step)

    def _varied(self, index: int, epoch: int) -> list[Features]:
        rng = np.random.Generator(
            np.random.Philox(np.random.SeedSequence((_VARY, self.seed, epoch, index)))
        )
        return [self.task.vary(item, rng) for item in self.rows[index]]

    def _accumulate(self, features: Sequence[Features]) -> tuple[float, float, list[int]]:
        """Adds up the gradient of the summed loss; returns sum, count and sequence lengths."""
        total, count, lengths = 0.0, 0.0, []
        padded = not is_packed(self.model)
        if padded:
            features = sorted(features, key=lambda item: item.num_tokens)
        for piece in fill(features, max_tokens=self.max_tokens, padded=padded):
            batch = pack(piece, self.device.name)
            with self.device.autocast():
                outputs = self.task.forward(self.model, batch)
            loss = self.task.loss(outputs, batch)
            loss.sum.backward()
            total, count = total + loss.sum.item(), count + loss.count
            lengths += [item.num_tokens for item in piece]
        return total, count, lengths

    def _scale_gradients(self, count: float, features: Sequence[Features]) -> float:
        """Divides by `count`, clips, adds L1; returns the norm before clipping.

        Raises NonFiniteLoss, before anything is changed, when the norm is not finite.
        """
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        gradients: list[Tensor] = [p.grad for p in parameters]
        count = count or 1.0  # an update without anything to learn leaves only decay and L1
        norm = float(torch.nn.utils.get_total_norm(gradients)) / count
        if not math.isfinite(norm):
            rows = listed(sorted({item.row_id for item in features}))
            raise NonFiniteLoss(
                "training",
                "the loss or its gradient is not finite",
                f"It happened in an update of the rows {rows}; nothing was changed.",
                "Try a smaller training.learning_rate, or training.precision=fp32.",
            )
        limit = self.max_grad_norm
        clip = 1.0 if limit is None else min(1.0, limit / (norm + 1e-6))
        torch._foreach_mul_(gradients, clip / count)
        if self.l1:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if parameter.ndim > 1:  # biases and norms are spared, as by weight decay
                    gradient.add_(parameter.detach().sign(), alpha=self.l1)
        return norm
