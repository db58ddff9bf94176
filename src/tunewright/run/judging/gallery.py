"""Which pictures of an evaluation the report shows, with their answers: the best and the worst."""

from __future__ import annotations

import base64
import heapq
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tunewright.devices.processes import Processes
from tunewright.tasks.base import Task
from tunewright.types import Row

# Of each; a small JPEG takes about 3 kB, so that the page stays under half a megabyte.
NUM_SHOWN = 24


@dataclass(frozen=True, slots=True)
class Pictured:
    """A picture (a small JPEG, in base64), its true and its given answer, and `severity`: 0 for a
    right answer, 1 for one that has nothing of it.
    """

    where: str
    picture: str
    true: str
    predicted: str
    severity: float


class Gallery:
    """Keeps the best and the worst answers of a stream, of the first where several are alike."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._best: list[tuple[float, int, Pictured]] = []
        self._worst: list[tuple[float, int, Pictured]] = []

    def add(self, row: Row, true: Any, predicted: Any, severity: float | None) -> None:
        """Takes in an answer; its picture is read only if it is kept."""
        how_bad, made = severity or 0.0, None
        for kept, value in ((self._best, -how_bad), (self._worst, how_bad)):
            if len(kept) == NUM_SHOWN and (value, -row.id) < kept[0][:2]:
                continue
            made = made or self._pictured(row, true, predicted, how_bad)
            if made is None:
                return
            _keep(kept, (value, -row.id, made))

    def _pictured(self, row: Row, true: Any, predicted: Any, severity: float) -> Pictured | None:
        small = self._task.thumbnail(row)
        if small is None:
            return None
        data = base64.b64encode(small).decode("ascii")
        return Pictured(row.where, data, str(true), str(predicted), severity)

    @property
    def best(self) -> list[Pictured]:
        return [entry for _, _, entry in sorted(self._best, reverse=True, key=lambda e: e[:2])]

    @property
    def worst(self) -> list[Pictured]:
        """The worst first; none of those that are among the best."""
        taken = {place for _, place, _ in self._best}
        ordered = sorted(self._worst, reverse=True, key=lambda e: e[:2])
        return [entry for _, place, entry in ordered if place not in taken]

    def gather(self, processes: Processes) -> None:
        """Becomes the gallery of all processes."""
        own = [
            [[value, place, asdict(entry)] for value, place, entry in kept]
            for kept in (self._best, self._worst)
        ]
        self._best, self._worst = [], []
        for best, worst in processes.gather_json(own):
            for kept, others in ((self._best, best), (self._worst, worst)):
                for value, place, entry in others:
                    _keep(kept, (value, place, Pictured(**entry)))


def _keep(kept: list[tuple[float, int, Pictured]], entry: tuple[float, int, Pictured]) -> None:
    heapq.heappush(kept, entry)
    if len(kept) > NUM_SHOWN:
        heapq.heappop(kept)


def read_pictured(stored: Iterable[dict[str, Any]]) -> tuple[Pictured, ...]:
    """Returns what was written as JSON."""
    return tuple(Pictured(**entry) for entry in stored)
