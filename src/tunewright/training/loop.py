"""The training loop: a generator of events.

    for event in Loop(model, task, rows, ...).run():
        ...

It goes on from `step`, the number of updates that the model has had.

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

from tunewright.devices import Device, release_memory
from tunewright.errors import NonFiniteLoss, OutOfMemory, listed
from tunewright.models.batch import Batch, fill, pack
from tunewright.models.dropout import DropoutSource
from tunewright.models.flop import FlopCount
from tunewright.models.heads import is_packed
from tunewright.tasks.base import Outputs, Task
from tunewright.training.events import Shrunk, Spike, Step
from tunewright.training.guards import LossWatch, is_out_of_memory
from tunewright.training.optimizer import MovingAverage, set_factor
from tunewright.training.order import (
    STEP,
    VARY,
    EncodedRow,
    OnDemandRows,
    Picked,
    blocks_of,
    generator_of,
    one_ahead,
)
from tunewright.training.schedule import Schedule
from tunewright.types import Features


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
    step: int = 0
    watch: LossWatch = field(default_factory=LossWatch)
    flop: FlopCount = field(init=False)
    _shrunk: Shrunk | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.flop = FlopCount.of(self.model)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def run(self) -> Iterator[Step | Spike | Shrunk]:
        """Yields each update after it was applied, up to the schedule's `total_steps`.

        What is odd about an update comes before it. Raises NonFiniteLoss or OutOfMemory before
        anything is changed.
        """
        while self.step < self.schedule.total_steps:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            for row_indices in self._updates(epoch, done):
                if self.step == self.schedule.total_steps:
                    return
                event = self._update(self.step, epoch, row_indices)
                self.step = event.step
                yield from self._odd(event, row_indices)
                yield event

    def _odd(self, event: Step, row_indices: np.ndarray) -> Iterator[Spike | Shrunk]:
        if self._shrunk is not None:
            yield self._shrunk
            self._shrunk = None
        usual = self.watch.observe(event.loss)
        if usual is not None:
            rows = sorted({item.row_id for index in row_indices for item in self.rows[index]})
            yield Spike(event.step, event.loss, usual, tuple(rows))

    def _updates(self, epoch: int, done: int = 0) -> Iterator[np.ndarray]:
        """Yields the rows of each update of an epoch but the `done` first ones."""
        blocks, rows = blocks_of(self.rows), self.rows
        first, done = divmod(done, blocks.chunk_size(self.batch_size) // self.batch_size)
        chunks = blocks.chunks(self.seed, epoch, self.batch_size, first)
        if isinstance(rows, OnDemandRows):
            chunks = one_ahead(chunks, rows.expect)
        for chunk in chunks:
            yield from self._updates_of(chunk)[done:]
            done = 0

    def _updates_of(self, chunk: np.ndarray) -> list[np.ndarray]:
        """Cuts a chunk into updates, as the task wishes, by the chunk's rows alone."""
        own = np.sort(chunk)
        rows = self.rows if len(own) == len(self.rows) else Picked(self.rows, own)
        order = np.searchsorted(own, chunk)
        updates = [own[update] for update in self.task.updates(order, rows, self.batch_size)]
        # Or an epoch would not end where it should.
        assert len(updates) == math.ceil(len(chunk) / self.batch_size)
        return updates

    def _update(self, step: int, epoch: int, row_indices: np.ndarray) -> Step:
        started = time.perf_counter()
        self._reseed(step)
        self.model.train()
        factor = self.schedule.factor(step)
        set_factor(self.optimizer, factor)
        features = [item for index in row_indices for item in self._varied(int(index), epoch)]
        total, count = self._fitted(step, features)
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
            num_tokens=sum(item.num_tokens for item in features),
            flop=self.flop.training(_lengths(features)),
            seconds=time.perf_counter() - started,
        )

    def _reseed(self, step: int, piece: int = 0) -> None:
        """Starts dropout anew for a forward pass; `piece` counts those of a cached gradient."""
        key = (STEP, self.seed, step, piece) if piece else (STEP, self.seed, step)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        if self.dropout is not None:
            self.dropout.reseed(*key)

    def _varied(self, index: int, epoch: int) -> list[Features]:
        rng = generator_of(VARY, self.seed, epoch, index)
        return [self.task.vary(item, rng) for item in self.rows[index]]

    def _fitted(self, step: int, features: Sequence[Features]) -> tuple[float, float]:
        """Accumulates, in ever smaller forward passes until they fit into memory."""
        while True:
            try:
                return self._accumulate(step, features)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            self._shrink(step, features)  # out here nothing holds what the failed pass had made

    def _shrink(self, step: int, features: Sequence[Features]) -> None:
        """Halves the largest forward pass; raises OutOfMemory when none can be cut any more."""
        self.optimizer.zero_grad(set_to_none=True)
        release_memory(self.device.kind)
        pieces = self._pieces(features)
        largest = max(sum(item.num_tokens for item in piece) for piece in pieces)
        if len(pieces) == len(self._pieces(features, max_tokens=1)):
            raise OutOfMemory(
                "training",
                f"a single sequence of {largest:,} tokens does not fit into memory",
                "Its activations and the state of the optimizer need more than there is.",
                "Set a smaller task.max_length, gradient_checkpointing=true, or a smaller model.",
            )
        self.max_tokens = min(self.max_tokens, largest) // 2
        self._shrunk = Shrunk(step + 1, self.max_tokens)
        self._reseed(step)

    def _accumulate(self, step: int, features: Sequence[Features]) -> tuple[float, float]:
        """Adds up the gradient of the summed loss; returns its sum and count."""
        pieces = self._pieces(features)
        if self.task.scope == "batch" and len(pieces) > 1:
            return self._accumulate_cached(step, pieces)
        total, count = 0.0, 0.0
        for piece in pieces:
            batch = pack(piece, self.device.name)
            loss = self.task.loss(self._forward(batch), batch)
            loss.sum.backward()
            total, count = total + loss.sum.item(), count + loss.count
        return total, count

    def _pieces(
        self, features: Sequence[Features], max_tokens: int | None = None
    ) -> list[list[Features]]:
        """Cuts an update into forward passes of `max_tokens`, the loop's own when absent."""
        size = max_tokens or self.max_tokens
        padded, together = not is_packed(self.model), self.task.scope == "document"
        if padded and not together:
            features = sorted(features, key=lambda item: item.num_tokens)
        return list(fill(features, max_tokens=size, padded=padded, together=together))

    def _forward(self, batch: Batch) -> Outputs:
        with self.device.autocast():
            return self.task.forward(self.model, batch)

    def _accumulate_cached(
        self, step: int, pieces: Sequence[Sequence[Features]]
    ) -> tuple[float, float]:
        """The same for a loss over a whole update, in the memory of one piece.

        Gradient caching (Gao et al. 2021): all outputs are made without gradients, the loss gives
        the gradient of each, and each piece runs again, with the same dropout, to hand it on.
        """
        whole = pack([item for piece in pieces for item in piece], self.device.name)
        found: list[Outputs] = []
        with torch.no_grad():
            for index, piece in enumerate(pieces):
                self._reseed(step, index + 1)
                found.append(self._forward(pack(piece, self.device.name)))
        joined = {
            name: torch.cat([outputs[name] for outputs in found]).requires_grad_()
            for name in found[0]
        }
        loss = self.task.loss(joined, whole)
        gradients = torch.autograd.grad(loss.sum, list(joined.values()))
        start = dict.fromkeys(joined, 0)
        for index, piece in enumerate(pieces):
            self._reseed(step, index + 1)
            outputs = self._forward(pack(piece, self.device.name))
            own = []
            for name, gradient in zip(joined, gradients, strict=True):
                own.append(gradient[start[name] : start[name] + len(outputs[name])])
                start[name] += len(outputs[name])
            torch.autograd.backward([outputs[name] for name in joined], own)
        return loss.sum.item(), loss.count

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


def _lengths(features: Sequence[Features]) -> list[int]:
    return [len(stream) for item in features for stream in item.streams.values()]
