"""The training loop: a generator of events.

    for event in Loop(model, task, rows, ...).run():
        ...

It goes on from `step`, the number of updates that the model has had.

An update is `batch_size` rows. They are shared among the processes, where there are several, and
each cuts its share into forward passes of at most `max_tokens` tokens; the loss of each is a sum,
and the gradient is divided once by the count of all, so that any cut and any number of processes
gives the gradient of one large batch. Order, dropout and augmentation come from the counters (seed,
epoch, row) and (seed, step, row), never from global state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tunewright.devices import Device, release_memory, seed_kernels
from tunewright.devices.processes import ALONE, Processes, check_answers
from tunewright.errors import OutOfMemory
from tunewright.models.batch import Batch, fill, pack
from tunewright.models.flop import FlopCount
from tunewright.models.heads import is_packed
from tunewright.models.layers.dropout import DropoutSource
from tunewright.models.layers.graphs import Graphs
from tunewright.tasks.base import Outputs, Task
from tunewright.training.caching import Cache, Pass, hand_on, outputs_of
from tunewright.training.events import Shrunk, Spike, Step
from tunewright.training.gradients import add_up_gradients
from tunewright.training.guards import LossWatch, check_finite, is_out_of_memory
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
from tunewright.training.sharding import Sharding, in_step
from tunewright.training.shares import shares
from tunewright.training.stepping import Stepping
from tunewright.types import Features

# The parts of a summed loss, and what it is to be divided by.
Accumulated = tuple[list[Tensor], float]
T = TypeVar("T")


@dataclass(frozen=True)
class _Ready:
    """The rows of an update by processes, and its first pass where that was packed before."""

    row_indices: np.ndarray
    parts: list[list[Features]]
    packed: list[Batch] = field(default_factory=list)


@dataclass
class Loop:
    """One model, one task, and everything that one update needs.

    With a `sharding` the model is its learner, whose parameters are this process's rows.
    """

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
    graphs: Sequence[Graphs] = ()
    average: MovingAverage | None = None
    processes: Processes = ALONE
    sharding: Sharding | None = None
    step: int = 0
    watch: LossWatch = field(default_factory=LossWatch)
    flop: FlopCount = field(init=False)
    stepping: Stepping = field(init=False)
    _shrunk: Shrunk | None = field(init=False, default=None)
    _next: _Ready | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.flop = FlopCount.of(self.model)
        self.stepping = Stepping(
            self.model, self.optimizer, self.max_grad_norm, self.l1, self.processes, self.sharding
        )

    def whole(self) -> AbstractContextManager[None]:
        """Returns the context in which the model that others know holds all weights."""
        return nullcontext() if self.sharding is None else self.sharding.whole()

    def settle(self) -> None:
        """Leaves the model that others know with all weights, in evaluation mode."""
        self.model.eval()
        if self.sharding is not None:
            self.sharding.settle()

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def run(self) -> Iterator[Step | Spike | Shrunk]:
        """Yields each update after it was applied, up to the schedule's `total_steps`.

        What is odd about an update comes before it. Raises NonFiniteLoss or OutOfMemory before
        anything is changed.
        """
        try:
            while self.step < self.schedule.total_steps:
                epoch, done = divmod(self.step, self.steps_per_epoch)
                for row_indices, then in self._updates(epoch, done):
                    if self.step == self.schedule.total_steps:
                        return
                    event = self._update(self.step, epoch, row_indices, then)
                    self.step = event.step
                    yield from self._odd(event, row_indices)
                    yield event
        finally:
            self._next = None

    def rehearse(self, features: Sequence[Features], with_loss: bool) -> Any:
        """Returns what a forward pass over features, or its loss, hands to a backward pass.

        It is a pass of the first update, and changes nothing. A loss can be had where all that it
        looks at is among the features.
        """
        self._reseed(0)
        self.model.train()
        rng = generator_of(VARY, self.seed, 0, 0)
        batch = pack([self.task.vary(item, rng) for item in features], self.device.name)
        outputs = self._forward(0, batch)
        return self.task.loss(outputs, batch).sum if with_loss else outputs

    def _odd(self, event: Step, row_indices: np.ndarray) -> Iterator[Spike | Shrunk]:
        if self._shrunk is not None:
            yield self._shrunk
            self._shrunk = None
        usual = self.watch.observe(event.loss)
        if usual is not None:
            yield Spike(event.step, event.loss, usual, tuple(self._row_ids(row_indices)))

    def _updates(self, epoch: int, done: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yields the rows of each update of an epoch but the `done` first ones.

        With them come those of the next update, or None at the end of a chunk: what follows is not
        read before its turn.
        """
        blocks, rows = blocks_of(self.rows), self.rows
        first, done = divmod(done, blocks.chunk_size(self.batch_size) // self.batch_size)
        chunks = blocks.chunks(self.seed, epoch, self.batch_size, first)
        if isinstance(rows, OnDemandRows):
            chunks = one_ahead(chunks, rows.expect)
        for chunk in chunks:
            updates = self._updates_of(chunk)[done:]
            yield from zip_longest(updates, updates[1:])
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

    def _update(
        self, step: int, epoch: int, row_indices: np.ndarray, then: np.ndarray | None
    ) -> Step:
        """Makes an update; while a GPU is at it, the rows of the one `then` are made ready."""
        started = time.perf_counter()
        self._reseed(step)
        if not self.model.training:  # which walks through all of its parts
            self.model.train()
        factor = self.schedule.factor(step)
        set_factor(self.optimizer, factor)
        ready = self._taken(row_indices, epoch)
        own = ready.parts[self.processes.rank]
        sums, count = self._fitted(step, ready)
        num_tokens = float(sum(item.num_tokens for item in own))
        flop = self.flop.update(own, count)  # a language model scores what counts
        if not self.processes.is_alone:
            total, count, num_tokens, flop = self._added_up(_total(sums), count, num_tokens, flop)
            sums = [torch.tensor(total, dtype=torch.float64)]
        norm = self.stepping.step(count)
        self.optimizer.zero_grad(set_to_none=True)
        if then is not None and step + 1 < self.schedule.total_steps:
            self._next = self._ready(then, epoch)
        norm = check_finite(float(norm), lambda: self._row_ids(row_indices))
        if self.average is not None:
            self.average.update()
        return Step(
            step=step + 1,
            total_steps=self.schedule.total_steps,
            epoch=(step + 1) / self.steps_per_epoch,
            loss=_total(sums) / count if count else 0.0,
            learning_rate=max(group["lr"] for group in self.optimizer.param_groups),
            gradient_norm=norm,
            num_rows=len(row_indices),
            num_tokens=int(num_tokens),
            flop=flop,
            seconds=time.perf_counter() - started,
        )

    def _reseed(self, step: int, piece: int = 0) -> None:
        """Starts torch's own random state anew; `piece` counts the passes of a cached gradient."""
        key = (STEP, self.seed, step, piece, self.processes.rank)
        seed_kernels(self.device, int(np.random.SeedSequence(key).generate_state(1)[0]))

    def _shared(self, row_indices: np.ndarray, epoch: int) -> list[list[Features]]:
        """Returns the features of each process's rows, as training sees them.

        Those of others are left out where neither a row's loss looks at them nor passes in step.
        """
        sizes = [sum(item.num_tokens for item in self.rows[index]) for index in row_indices]
        parts = shares(sizes, self.processes.size)
        is_whole = self.task.scope_of(self.rows[int(row_indices[0])]) == "batch"
        is_shared = is_whole or self.sharding is not None
        wanted = range(len(parts)) if is_shared else [self.processes.rank]
        return [
            [item for p in part for item in self._varied(int(row_indices[p]), epoch)]
            if rank in wanted
            else []
            for rank, part in enumerate(parts)
        ]

    def _varied(self, index: int, epoch: int) -> list[Features]:
        if type(self.task).vary is Task.vary:
            return list(self.rows[index])
        rng = generator_of(VARY, self.seed, epoch, index)
        return [self.task.vary(item, rng) for item in self.rows[index]]

    def _ready(self, row_indices: np.ndarray, epoch: int) -> _Ready | None:
        """Returns the rows of an update, and its first pass, while a GPU is at the one before.

        None where nobody is to wait for, and where something is wrong with them, which shows again
        when it is their turn: by then the update before has been told.
        """
        if self.device.kind != "cuda":
            return None
        try:
            parts = self._shared(row_indices, epoch)
            first = next(iter(self._passes(parts)), None)
            is_plain = first is not None and not self._is_cached(first)
            packed = [pack(first[0][0], self.device.name)] if first and is_plain else []
            return _Ready(row_indices, parts, packed)
        except Exception:
            return None

    def _taken(self, row_indices: np.ndarray, epoch: int) -> _Ready:
        """Returns the rows of an update, which may have been made ready before."""
        ready, self._next = self._next, None
        if ready is None or ready.row_indices is not row_indices:
            ready = _Ready(row_indices, self._shared(row_indices, epoch))
        return ready

    def _fitted(self, step: int, ready: _Ready) -> Accumulated:
        """Accumulates, in ever smaller forward passes until they fit into memory."""
        parts = ready.parts
        while True:
            try:
                return self._accumulate(step, parts, ready.packed)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    check_answers(error)
                    raise
                was_here = not isinstance(error, _NoRoomElsewhere)
            # out here nothing holds what the failed pass had made
            ready.packed.clear()
            self.optimizer.zero_grad(set_to_none=True)
            if was_here:
                self._shrink(step, parts)
            self._reseed(step)

    def _agreed(self, do: Callable[[], T]) -> T:
        """Returns what `do` returns when it fits into every process's memory.

        Raises MemoryError when it does not, so that all processes repeat together what they do
        together. Passes in step cannot be repeated.
        """
        if self.sharding is not None:
            return do()
        found: list[T] = []
        try:
            found.append(do())
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        (failed,) = self.processes.any_of(not found)
        if failed:
            raise _NoRoomElsewhere if found else MemoryError
        return found[0]

    def _shrink(self, step: int, parts: Sequence[Sequence[Features]]) -> None:
        """Halves the largest forward pass; raises OutOfMemory when none can be cut any more."""
        release_memory(self.device.kind)
        pieces = [piece for passes in self._passes(parts) for piece, _ in passes]
        largest = max(sum(item.num_tokens for item in piece) for piece in pieces)
        if self.sharding is not None:
            raise OutOfMemory(
                "training",
                f"a forward pass of {largest:,} tokens does not fit into memory",
                "The processes pass in step with training.parallel=fsdp, and one alone cannot "
                "repeat its passes.",
                f"Set a smaller training.max_tokens than {self.max_tokens:,}.",
            )
        if all(len(piece) == 1 for piece in pieces):
            raise OutOfMemory(
                "training",
                f"a single sequence of {largest:,} tokens does not fit into memory",
                "Its activations and the state of the optimizer need more than there is.",
                "Set gradient_checkpointing=true or a smaller task.max_length.",
            )
        self.max_tokens = min(self.max_tokens, largest) // 2
        self._shrunk = Shrunk(step + 1, self.max_tokens)

    def _accumulate(
        self, step: int, parts: Sequence[Sequence[Features]], packed: list[Batch] | None = None
    ) -> Accumulated:
        """Adds up the gradient of the summed loss; returns its sum, in parts, and its count.

        Those of a loss over a whole update are returned by the process that leads, once. A GPU
        may not be done when this returns: nobody has asked for a number yet. The first pass is
        taken out of `packed` where it is there.
        """
        sums, count, number = list[Tensor](), 0.0, 0
        for passes in self._passes(parts):
            if self._is_cached(passes):
                added, of_them = self._accumulate_cached(step, number, passes, parts)
                sums, count, number = sums + added, count + of_them, number + len(passes)
                continue
            ((piece, counts),) = passes
            batch = packed.pop() if packed else pack(piece, self.device.name)
            loss = self.task.loss(self._forward(step, batch), batch)
            (loss.sum if counts else 0.0 * loss.sum).backward()
            if counts:
                sums.append(loss.sum.detach())
                count += loss.count
        return sums, count

    def _is_cached(self, passes: Sequence[Pass]) -> bool:
        """Says whether a loss needs the outputs of several passes, or of other processes."""
        is_whole = self.task.scope_of(passes[0][0]) == "batch"
        return len(passes) > 1 or (is_whole and not self.processes.is_alone)

    def _passes(self, parts: Sequence[Sequence[Features]]) -> list[list[Pass]]:
        """Returns the forward passes of this process, those that share a loss together."""
        rank = self.processes.rank
        if self.sharding is None:
            passes: list[list[Pass]]
            passes = [[(piece, True) for piece in pieces] for pieces in self._cut(parts[rank])]
            if not passes and any(parts):  # to know the shapes of the others' outputs
                passes = [[([item for part in parts for item in part][:1], False)]]
            return passes
        cuts = [self._cut(part) for part in parts]
        own = in_step([list(chain.from_iterable(cut)) for cut in cuts], rank)
        # A pass that is cached runs twice, with every process or with none.
        is_whole = bool(own) and self.task.scope_of(own[0][0]) == "batch"
        together = is_whole or any(len(pieces) > 1 for cut in cuts for pieces in cut)
        return [own] if together else [[each] for each in own]

    def _cut(self, features: Sequence[Features]) -> list[list[list[Features]]]:
        """Cuts features into forward passes of `max_tokens`.

        The passes that share a loss are together: those of the update, or of a row that does not
        fit into one.
        """
        scope, size = self.task.scope_of(features), self.max_tokens
        padded, ordered = not is_packed(self.model), self._lined_up(features)
        is_row = scope == "document"
        pieces = list(fill(ordered, max_tokens=size, padded=padded, together=is_row))
        if scope == "batch":
            return [pieces] if pieces else []
        if is_row:
            return [list(fill(piece, max_tokens=size, padded=padded)) for piece in pieces]
        return [[piece] for piece in pieces]

    def _lined_up(self, features: Sequence[Features]) -> Sequence[Features]:
        """Returns features in the order in which they go through the model."""
        if is_packed(self.model) or self.task.scope_of(features) == "document":
            return features
        return sorted(features, key=lambda item: item.num_tokens)

    @property
    def unrecorded(self) -> str | None:
        """Why passes could not be recorded; None where they can be, or nobody tried."""
        return next((graphs.failure for graphs in self.graphs if graphs.failure), None)

    def _forward(self, step: int, batch: Batch) -> Outputs:
        failure = self.unrecorded
        for graphs in self.graphs:
            graphs.begin(failure)
        if self.dropout is not None:
            self.dropout.begin((STEP, self.seed, step), batch)
        with self.device.autocast():
            if self.sharding is not None:
                return self.sharding.forward(batch)
            return self.task.forward(self.model, batch)

    def _accumulate_cached(
        self,
        step: int,
        number: int,
        passes: Sequence[Pass],
        parts: Sequence[Sequence[Features]],
    ) -> Accumulated:
        """The same for passes that share a loss, in the memory of one; `number` were cached before.

        Where the loss is over a whole update, every process makes the outputs of its own passes,
        and the loss of all.
        """
        is_whole = self.task.scope_of(passes[0][0]) == "batch"
        processes = self.processes if is_whole else ALONE
        agreed: Callable[[Callable[[], T]], T] = self._agreed if is_whole else _done
        counted = [piece for piece, counts in passes if counts]
        learnt = [self._lined_up(part) for part in parts] if is_whole else counted

        def forward(index: int, piece: Sequence[Features]) -> Outputs:
            self._reseed(step, number + index + 1)
            return self._forward(step, pack(piece, self.device.name))

        cache = Cache.of(agreed(lambda: outputs_of(passes, forward)), processes)

        def learn() -> Accumulated:
            gradients, found = dict[str, Tensor](), (list[Tensor](), 0.0)
            if items := [item for piece in learnt for item in piece]:
                loss = self.task.loss(cache.outputs, pack(items, self.device.name))
                gradients, found = cache.gradients(loss.sum), ([loss.sum.detach()], loss.count)
            for index, (piece, counts) in enumerate(passes):
                hand_on(forward(index, piece), gradients if counts else {})
            return found

        found = agreed(learn)
        return found if processes.leads else ([], 0.0)

    def _added_up(self, *own: float) -> list[float]:
        """Adds up gradients, and the numbers given, over all processes.

        A parameter that got no gradient here gets that of the others.
        """
        if self.sharding is not None:  # each pass has added up its gradients
            return [float(number) for number in self.processes.gather_numbers(own).sum(0)]
        learning = [p for p in self.model.parameters() if p.requires_grad]
        told = self.processes.gather_numbers(
            [*own, -self.max_tokens, *(p.grad is not None for p in learning)]
        )
        smallest = -int(told[:, len(own)].max())
        if smallest < self.max_tokens:
            self.max_tokens = smallest
            self._shrunk = Shrunk(self.step + 1, smallest)
        num_used = told[:, len(own) + 1 :].sum(0)
        used = [p for p, num in zip(learning, num_used, strict=True) if num]
        add_up_gradients(self.model, used, self.processes)
        return [float(number) for number in told[:, : len(own)].sum(0)]

    def _row_ids(self, row_indices: np.ndarray) -> list[int]:
        return sorted({item.row_id for index in row_indices for item in self.rows[index]})


def _total(sums: Iterable[Tensor]) -> float:
    return float(sum(part.item() for part in sums))


def _done(do: Callable[[], T]) -> T:
    return do()


class _NoRoomElsewhere(MemoryError):
    """Another process has run out of memory."""
