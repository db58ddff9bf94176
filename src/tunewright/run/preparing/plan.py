"""What a run will take, from a short probe: time, memory, room on the disk. Nothing is written."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tunewright.devices.memory import free_bytes, held_bytes, peak_bytes
from tunewright.prediction.predictor import Predictor
from tunewright.run.assembly import build_loop, load_model
from tunewright.run.config import RunConfig
from tunewright.run.preparing.groundwork import Groundwork, Notice
from tunewright.run.preparing.room import make_room
from tunewright.training.events import Step
from tunewright.training.footprint import Footprint, footprint
from tunewright.training.loop import Loop
from tunewright.training.order import EncodedRow, OnDemandRows
from tunewright.training.schedule import Schedule

# The probe: so many seconds of updates, after one that warms up, and so many validation rows.
PROBE_SECONDS, PROBE_ROWS = 10.0, 64
# Of rows that stay on the disk the longest of so many are taken for the longest of all.
BLOCK_ROWS = 1024


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    `seconds` are those of all updates and evaluations. `memory_bytes` is the peak of the process
    on its device, `free_bytes` what it could have there (None where nobody says). `max_tokens` is
    the budget that fits. `disk_bytes` are those of all checkpoints that are kept and the model.
    """

    num_rows: Mapping[str, int]
    num_parameters: int
    device: str
    precision: str
    route: str
    total_steps: int
    seconds_per_update: float
    num_evaluations: int
    seconds_per_evaluation: float
    tokens_per_second: float
    max_tokens: int
    memory_bytes: int
    free_bytes: int | None
    disk_bytes: int
    free_disk_bytes: int

    @property
    def seconds(self) -> float:
        updates = self.total_steps * self.seconds_per_update
        return updates + self.num_evaluations * self.seconds_per_evaluation

    @property
    def fits(self) -> bool:
        """Whether there is enough memory and enough room on the disk."""
        in_memory = self.free_bytes is None or self.memory_bytes <= self.free_bytes
        return in_memory and self.disk_bytes <= self.free_disk_bytes

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": self.seconds, "fits": self.fits}


def plan(
    sources: Mapping[str, Any],
    config: RunConfig,
    tell: Callable[[Notice], None] = lambda _: None,
) -> Plan:
    """Reads and audits the data as `train` does, trains a moment, and says what all will take.

    The arguments are those of `train`. Raises what `train` raises before its first step, and
    OutOfMemory when a single sequence does not fit.
    """
    ground = Groundwork(sources, config, (), tell)
    encoded, found = ground.look()
    found.check_gates(config.audit)
    model, route = load_model(ground)
    loop = build_loop(ground, model, encoded["train"])
    keeps_best = "validation" in encoded and config.training.load_best_model_at_end
    size = footprint(loop, keeps_best)
    if config.training.parallel == "fsdp":
        ground.note(
            f"The plan is of one process. Of its memory {_in_gigabytes(size)} GB are weights, "
            "gradients and the optimizer's state: several processes hold as many parts of that, "
            "and the weights of a layer, with training.parallel=fsdp."
        )
    make_room(ground, loop)
    loop.max_tokens = _budget_of_the_longest(loop)
    steps = _timed(loop)
    kind = ground.device.kind
    free, best = free_bytes(kind), size.weight_bytes if keeps_best else 0
    seconds = sum(step.seconds for step in steps)
    interval = config.training.eval_steps or loop.steps_per_epoch
    evaluations = math.ceil(loop.schedule.total_steps / interval) if "validation" in encoded else 0
    return Plan(
        num_rows={name: len(rows) for name, rows in ground.prepared.splits.items()},
        num_parameters=size.num_parameters,
        device=ground.device.description,
        precision=ground.device.precision,
        route=route,
        total_steps=loop.schedule.total_steps,
        seconds_per_update=seconds / len(steps),
        num_evaluations=evaluations,
        seconds_per_evaluation=_evaluated(ground, model, encoded) if evaluations else 0.0,
        tokens_per_second=sum(step.num_tokens for step in steps) / seconds,
        max_tokens=loop.max_tokens,
        memory_bytes=peak_bytes(kind) + (best if kind == "cpu" else 0),
        free_bytes=None if free is None else free + held_bytes(kind),
        disk_bytes=config.training.save_total_limit * size.checkpoint_bytes + size.weight_bytes,
        free_disk_bytes=shutil.disk_usage(_existing(Path(config.output.folder))).free,
    )


def _in_gigabytes(size: Footprint) -> str:
    return f"{(size.weight_bytes + size.added_bytes) / 1e9:,.2f}"


def _budget_of_the_longest(loop: Loop) -> int:
    """Trains on the longest rows at once, the hardest update there can be; returns what fitted."""
    known = loop.rows[:BLOCK_ROWS] if isinstance(loop.rows, OnDemandRows) else loop.rows
    longest = sorted(known, key=_num_tokens, reverse=True)[: loop.batch_size]
    hardest = replace(loop, rows=longest, schedule=Schedule("constant", 1, 0))
    list(hardest.run())
    return hardest.max_tokens


def _num_tokens(row: EncodedRow) -> int:
    return sum(item.num_tokens for item in row)


def _timed(loop: Loop) -> Sequence[Step]:
    """Returns updates as they come in training, without the first, until the time is up."""
    steps: list[Step] = []
    started = time.monotonic()
    for event in loop.run():
        if isinstance(event, Step):
            steps.append(event)
        if len(steps) > 1 and time.monotonic() - started > PROBE_SECONDS:
            break
    return steps[1:] or steps


def _evaluated(
    ground: Groundwork, model: Any, encoded: Mapping[str, Sequence[EncodedRow]]
) -> float:
    """Returns how long it takes to judge the validation rows, from some of them."""
    rows = list(ground.prepared.splits["validation"])
    some = rows[:PROBE_ROWS]
    predictor = Predictor(ground.task, model.eval(), ground.tokenizer, ground.device)
    started = time.monotonic()
    ground.judge.point(predictor, some, encoded["validation"][:PROBE_ROWS])
    return (time.monotonic() - started) * len(rows) / len(some)


def _existing(folder: Path) -> Path:
    """Returns the folder, or the nearest one above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
