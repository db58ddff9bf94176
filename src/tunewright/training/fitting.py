"""How much memory a forward pass takes on a CPU, measured before the first update.

A GPU says when its memory has run out, and the loop then cuts its passes; an operating system ends
the process without a word. What a short pass keeps for its backward pass tells what a long one
would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tunewright.devices import release_memory
from tunewright.models.flop import FlopCount
from tunewright.training.guards import is_out_of_memory
from tunewright.training.loop import Loop
from tunewright.training.order import OnDemandRows
from tunewright.types import Features

# The longest sequences of so many rows are measured, each as often as makes so many tokens: a
# packed row of few is filled up.
MEASURED_ROWS, MEASURED_TOKENS = 256, 512
# What a process grows by in a pass, as a share of what the pass keeps: numbers that go again, and
# the holes that they leave. Measured in fp32 with glibc 2.36: 1.5 for MiniLM-L6, 2.35 for SmolLM2.
AT_PEAK = 2.5
BYTES_OF_A_CAST = 2


@dataclass(frozen=True)
class PassMemory:
    """What a pass keeps for its backward pass, in bytes: some of it always, some for each token.

    `longest` are the tokens of the longest sequence that was measured: a pass has no fewer.
    """

    always: int
    per_token: float
    longest: int

    def at_peak(self, num_tokens: int) -> int:
        """Returns how many bytes the process grows by in a pass of so many tokens."""
        return int(AT_PEAK * (self.always + self.per_token * num_tokens))

    def budget(self, max_tokens: int, room: int) -> int:
        """Halves `max_tokens` until a pass fits into so many bytes, or only one sequence is left.

        Never more than `max_tokens`.
        """
        while max_tokens > self.longest and self.at_peak(max_tokens) > room:
            max_tokens = max(max_tokens // 2, self.longest)
        return max_tokens


def measure_pass(loop: Loop) -> PassMemory | None:
    """Measures the passes of a loop; None where there is nothing, or no memory even for that."""
    units = [unit for row in _some_of(loop) for unit in _units(loop, row)]
    if not units:
        return None
    always = 0  # autocast keeps a copy of each matrix
    if loop.device.precision == "bf16":
        always = BYTES_OF_A_CAST * FlopCount.of(loop.model).all_matrices
    was_training = loop.model.training
    try:
        per_token = max(_kept_per_token(loop, unit, always) for unit in _longest(units))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        release_memory(loop.device.kind)
        return None
    finally:
        loop.model.train(was_training)
    return PassMemory(always, per_token, max(i.num_tokens for unit in units for i in unit.features))


def _some_of(loop: Loop) -> Sequence[Sequence[Features]]:
    """Returns rows from all over; of those on the disk the one that is met first, and no other.

    What is wrong with a row is told when it is met.
    """
    if not isinstance(loop.rows, OnDemandRows):
        return loop.rows[:: max(len(loop.rows) // MEASURED_ROWS, 1)]
    chunk = next(loop.rows.blocks.chunks(loop.seed, 0, loop.batch_size), ())
    return [loop.rows[int(place)] for place in chunk[:1]]


@dataclass(frozen=True)
class _Unit:
    """What is measured at once, and whether that is all that its loss looks at."""

    features: Sequence[Features]
    is_whole: bool

    @property
    def num_tokens(self) -> int:
        return sum(item.num_tokens for item in self.features)


def _units(loop: Loop, row: Sequence[Features]) -> list[_Unit]:
    """Returns a row whole where its windows share a loss and fit into a pass, or each window."""
    scope = loop.task.scope_of(row)
    whole = _Unit(row, is_whole=True)
    if scope == "document" and 0 < whole.num_tokens <= loop.max_tokens:
        return [whole]
    return [_Unit([item], is_whole=scope == "row") for item in row]


def _longest(units: Sequence[_Unit]) -> list[_Unit]:
    """Returns the longest in all, and that of each stream: targets may cost more than sources."""
    found = {id(unit): unit for unit in [max(units, key=lambda unit: unit.num_tokens)]}
    for name in sorted({name for unit in units for item in unit.features for name in item.streams}):
        unit = max(units, key=lambda unit: sum(len(i.streams.get(name, ())) for i in unit.features))
        found[id(unit)] = unit
    return list(found.values())


def _kept_per_token(loop: Loop, unit: _Unit, always: int) -> float:
    times = max(min(MEASURED_TOKENS, loop.max_tokens) // max(unit.num_tokens, 1), 1)
    copies = [replace(item, row_id=number) for number in range(times) for item in unit.features]
    kept = kept_bytes(loop.model, lambda: loop.rehearse(copies, unit.is_whole))
    return max(kept - always, 0) / (times * max(unit.num_tokens, 1))


def kept_bytes(model: Any, run: Callable[[], object]) -> int:
    """Returns the bytes that `run` keeps for its backward pass, the model's weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def take(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # one that the pass made would hold the pass, and itself, for ever

    with torch.autograd.graph.saved_tensors_hooks(take, lambda tensor: tensor):
        _made = run()  # held until all is counted, or memory would be used twice
    return sum(kept.values())
