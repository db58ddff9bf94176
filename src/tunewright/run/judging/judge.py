"""Judging a model on labelled rows: metrics with intervals, slices, mistakes, predictions."""

from __future__ import annotations

import heapq
import json
import math
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np
from safetensors.numpy import load_file, save_file

from tunewright.answers import finite
from tunewright.data.auditing.ledger import Cuts
from tunewright.devices.processes import ALONE, Processes
from tunewright.errors import DataError, SettingsError
from tunewright.figures import Mistake
from tunewright.metrics import Slice, Slicer, bootstrap
from tunewright.metrics.bootstrap import interval
from tunewright.prediction.predictor import Predictor
from tunewright.run.judging.gallery import Gallery, Pictured, read_pictured
from tunewright.run.judging.gathering import gather_statistics, in_order
from tunewright.run.preparing.prepare import column_of
from tunewright.tasks import PART
from tunewright.tasks.base import Task
from tunewright.training.shares import shares
from tunewright.types import Estimate, Features, Row

# A metric of the user's own is called anew for each draw, so it gets fewer than the built-in ones.
OWN_METRIC_RESAMPLES = 200

OwnMetric = Callable[[Sequence[Any], Sequence[Any]], float]


@dataclass(frozen=True)
class EvaluationResult:
    """What a model scores on a data set.

    `metrics` are estimates by name, each with `.value`, `.low` and `.high`. `slices` are lists of
    slices by column; `statistics` the stacked per-row figures, for comparisons. Where rows have
    pictures, `best` and `worst` are some of them with their answers.
    """

    split: str
    num_rows: int
    metrics: Mapping[str, Estimate]
    slices: Mapping[str, Sequence[Slice]] = field(default_factory=dict)
    mistakes: Sequence[Mistake] = ()
    num_mistakes: int = 0
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    folder: Path = Path()
    notices: Sequence[str] = ()
    best: Sequence[Pictured] = ()
    worst: Sequence[Pictured] = ()

    def save(self, folder: Path) -> Self:
        """Writes `metrics.json`, and the per-row figures that `compare` pairs.

        Returns the result with its `folder`.
        """
        self.write(folder)
        return replace(self, folder=folder)

    def write(self, folder: Path) -> None:
        """Writes what `read` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        mistakes = {"num_mistakes": self.num_mistakes, "shown": [asdict(m) for m in self.mistakes]}
        files = {"metrics.json": self.to_json(), "mistakes.json": mistakes}
        if self.best or self.worst:
            pictures = {"best": self.best, "worst": self.worst}
            files["pictures.json"] = {k: [asdict(p) for p in v] for k, v in pictures.items()}
        for name, value in files.items():
            text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
            (folder / name).write_text(text, encoding="utf-8")
        figures = {name: np.ascontiguousarray(values) for name, values in self.statistics.items()}
        save_file(figures, folder / "statistics.safetensors")

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Returns the result that `save` wrote, or None where there is none."""
        if not (folder / "metrics.json").is_file():
            return None
        try:
            return cls._read(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                str(folder),
                f"its files cannot be read ({error!r:.80})",
                "An evaluation is metrics.json, mistakes.json and statistics.safetensors.",
                "Evaluate again.",
            ) from None

    @classmethod
    def _read(cls, folder: Path) -> Self:
        stored = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        mistakes = json.loads((folder / "mistakes.json").read_text(encoding="utf-8"))
        file = folder / "pictures.json"
        pictures = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return cls(
            stored["split"],
            stored["num_rows"],
            _estimates(stored["metrics"]),
            {
                column: [
                    Slice(**{**part, "metrics": _estimates(part["metrics"])}) for part in parts
                ]
                for column, parts in stored["slices"].items()
            },
            [Mistake(**mistake) for mistake in mistakes["shown"]],
            mistakes["num_mistakes"],
            load_file(folder / "statistics.safetensors"),
            folder,
            stored["notices"],
            read_pictured(pictures.get("best", ())),
            read_pictured(pictures.get("worst", ())),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "num_rows": self.num_rows,
            "notices": list(self.notices),
            "metrics": {name: finite(value.to_json()) for name, value in self.metrics.items()},
            "slices": {
                column: [finite(part.to_json()) for part in parts]
                for column, parts in self.slices.items()
            },
        }


def _estimates(stored: Mapping[str, Mapping[str, Any]]) -> dict[str, Estimate]:
    return {
        name: Estimate(
            _number(value["value"]),
            _number(value["low"]),
            _number(value["high"]),
            value["higher_is_better"],
        )
        for name, value in stored.items()
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else value


@dataclass
class Judge:
    """How evaluations are done: the draws, the columns to slice by, the user's own metrics.

    Several `processes` answer a share of the rows each, and every row counts once. Where there are
    metrics of the user's own, which see all answers, the one that leads answers them all.
    """

    num_resamples: int = 1000
    slices: Sequence[str] = ()
    num_mistakes: int = 50
    own_metrics: Sequence[OwnMetric] = ()
    processes: Processes = ALONE

    def check_own(self, task: Task) -> None:
        """Raises SettingsError for a metric of the user's own without a name, or with one taken."""
        taken = {spec.name for spec in task.metrics}
        for metric in self.own_metrics:
            if not callable(metric):
                raise SettingsError(
                    "metrics", f"it holds {metric!r:.60}", "A metric of your own is a function.",
                    "The task's metrics are always measured.",
                )  # fmt: skip
            name = getattr(metric, "__name__", "<lambda>")
            if not name.isidentifier() or name in taken:
                raise SettingsError(
                    "metrics",
                    f'"{name}" cannot name a metric, or names one already',
                    "Each metric is called by its function's name.",
                    "Define it with def and a name of its own.",
                )
            taken.add(name)

    def point(
        self, predictor: Predictor, rows: Sequence[Row], encoded: Sequence[Sequence[Features]]
    ) -> dict[str, float]:
        """Returns the metrics without intervals, for picking a checkpoint."""
        predictor = replace(predictor, examining=True)
        sizes = [sum(item.num_tokens for item in row) for row in encoded]
        places, task = self._shared(sizes), predictor.task
        own = places[self.processes.rank]
        answers = predictor.answer_encoded([rows[i] for i in own], [encoded[i] for i in own])
        pairs = [(answer, rows[i]) for answer, i in zip(answers, own, strict=True)]
        found = [task.statistics(answer, row) for answer, row in pairs]
        statistics = in_order(gather_statistics(found, self.processes), places)
        metrics = dict(task.reduce(task.stack(statistics)))
        if self.own_metrics:
            compared = [task.compared(answer, row) for answer, row in pairs]
            metrics |= self.processes.led(lambda: _points(self.own_metrics, compared))
        return metrics

    def _shared(self, sizes: Sequence[int]) -> list[list[int]]:
        """Returns the rows that each process answers, given how long each is."""
        size = self.processes.size
        if self.own_metrics:
            return [list(range(len(sizes))), *([] for _ in range(size - 1))]
        return shares(sizes, size)

    def judge(
        self, predictor: Predictor, rows: Sequence[Row], split: str, predictions: Path | None = None
    ) -> EvaluationResult:
        """Answers every row and measures the answers; writes them to `predictions` as JSON lines.

        Only per-row figures are kept, so memory is flat in what the model puts out.
        """
        return self.measure(self.tally(predictor, rows, split, predictions), rows, split)

    def tally(
        self, predictor: Predictor, rows: Sequence[Row], split: str, predictions: Path | None = None
    ) -> Tally:
        """Answers every row, each process a stretch of them; all return what came of all rows."""
        if not len(rows):
            raise DataError(split, "there are no rows", "At least one is needed to evaluate.")
        predictor = replace(predictor, examining=True)
        tally, rank = Tally(predictor.task, self.num_mistakes), self.processes.rank
        size = 1 if self.own_metrics else self.processes.size
        start, stop = (len(rows) * min(place, size) // size for place in (rank, rank + 1))
        own = rows[start:stop]
        with ExitStack() as closing:
            part = predictions and predictions.with_name(f".{predictions.name}.{rank}")
            file = closing.enter_context(_created(part)) if part else None
            for row, answer in zip(own, predictor.answers(own, tally.cuts.add), strict=True):
                tally.add(row, answer)
                if file is not None:
                    file.write(_prediction(row, answer, predictor))
        tally.gather(self.processes)
        if predictions and self.processes.leads:
            _join_parts(predictions, self.processes.size)
        return tally

    def measure(self, tally: Tally, rows: Sequence[Row], split: str) -> EvaluationResult:
        """Returns the metrics of all rows, with their intervals."""
        task = tally.task
        statistics = task.stack(tally.statistics)
        metrics = bootstrap(
            task.reduce, statistics, task.metrics, self.num_resamples, prepare=task.prepare
        )
        own = {m.__name__: _own(m, tally.compared, self.num_resamples) for m in self.own_metrics}
        together = task.mistakes(statistics, rows, self.num_mistakes)
        num_mistakes, mistakes = together or (tally.num_mistakes, tally.mistakes)
        return EvaluationResult(
            split,
            len(rows),
            {**metrics, **own},
            self._sliced(task, statistics, rows, tally.lengths),
            mistakes,
            num_mistakes,
            statistics,
            notices=(*task.measured_as(statistics), *_unseen(tally, split), *_cut(tally, split)),
            best=tally.gallery.best,
            worst=tally.gallery.worst,
        )

    def _sliced(
        self,
        task: Task,
        statistics: Mapping[str, np.ndarray],
        rows: Sequence[Row],
        lengths: Sequence[int],
    ) -> dict[str, list[Slice]]:
        draws = min(self.num_resamples, 300)
        slicer = Slicer(task.reduce, statistics, task.metrics, task.prepare, draws)
        parts = {}
        if task.text_roles:
            parts["text length"] = slicer.by_length(np.array(lengths), "characters")
        for column in self.slices:
            parts[column] = slicer.by_value(column_of(rows, column))
        return parts


def _unseen(tally: Tally, split: str) -> Iterator[str]:
    """Says how many rows have a label that the model does not know."""
    for name, number in tally.num_unseen.items():
        if number:
            yield (
                f"{split}: {number:,} of {tally.num_rows[name]:,} rows "
                f"{f'of {name} ' if name else ''}have a label that the model does not know; each "
                "counts as a wrong answer."
            )


def _cut(tally: Tally, split: str) -> Iterator[str]:
    """Says how many rows were answered without all of their tokens."""
    return (f"{split}: {sentence}" for sentence in tally.cuts.notices())


class Tally:
    """Collects the per-row figures and the most confident mistakes of a stream of answers."""

    def __init__(self, task: Task, num_mistakes: int) -> None:
        self.task, self._limit = task, num_mistakes
        self._heap: list[tuple[float, int, Mistake]] = []
        self.statistics: list[Mapping[str, Any]] = []
        self.compared: list[tuple[Any, Any]] = []
        self.lengths: list[int] = []
        self.num_mistakes = 0
        self.num_rows: Counter[str] = Counter()
        self.num_unseen: Counter[str] = Counter()
        self.cuts = Cuts()
        self.gallery = Gallery(task)

    def add(self, row: Row, answer: Any) -> None:
        self.statistics.append(self.task.statistics(answer, row))
        true, predicted = self.task.compared(answer, row)
        self.compared.append((true, predicted))
        self.lengths.append(len(self.task.shown(row)))
        part = self.task.part_of(row)
        self.num_rows[part] += 1
        self.num_unseen[part] += self.task.unseen_label(row) is not None
        severity = self.task.severity(answer, row)
        if self.task.picture_roles:
            self.gallery.add(row, true, predicted, severity)
        if severity is not None:
            self.num_mistakes += 1
            score = getattr(answer, "score", None)
            mistake = Mistake(
                row.where, self.task.shown(row), _shown(true), _shown(predicted), score
            )
            self._keep(severity, -row.id, mistake)

    def _keep(self, severity: float, place: int, mistake: Mistake) -> None:
        heapq.heappush(self._heap, (severity, place, mistake))
        if len(self._heap) > self._limit:
            heapq.heappop(self._heap)

    def gather(self, processes: Processes) -> None:
        """Becomes the tally of the rows of all processes, one stretch after another.

        What is compared stays each process's own.
        """
        if processes.is_alone:
            return
        found = gather_statistics(self.statistics, processes)
        self.statistics = [row for part in found for row in part]
        self.gallery.gather(processes)
        heap = [(severity, place, asdict(mistake)) for severity, place, mistake in self._heap]
        counts = [self.num_mistakes, asdict(self.cuts), self.num_rows, self.num_unseen]
        told = processes.gather_json([self.lengths, heap, counts])
        self.lengths = [length for lengths, _, _ in told for length in lengths]
        mistakes, cuts, num_rows, num_unseen = zip(*(counts for _, _, counts in told), strict=True)
        self.num_mistakes = sum(mistakes)
        self.num_rows, self.num_unseen = (_summed(each) for each in (num_rows, num_unseen))
        self.cuts, self._heap = Cuts(**_summed(cuts)), []
        for _, others, _ in told:
            for severity, place, mistake in others:
                self._keep(severity, place, Mistake(**mistake))

    @property
    def mistakes(self) -> list[Mistake]:
        return [entry[2] for entry in sorted(self._heap, key=lambda e: e[:2], reverse=True)]


def _summed(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total


def _shown(value: Any) -> Any:
    """Returns an answer as it stands in a list of mistakes."""
    return value if isinstance(value, str | int | float) else str(value)


def _own(metric: OwnMetric, compared: Sequence[tuple[Any, Any]], num_resamples: int) -> Estimate:
    """Measures a metric of the user's own, with an interval from fewer draws."""
    true, predicted = (list(side) for side in zip(*compared, strict=True))
    generator = np.random.Generator(np.random.PCG64(0))
    values = []
    with warnings.catch_warnings(action="ignore"):  # a draw may lack a class; it is only a draw
        for _ in range(min(num_resamples, OWN_METRIC_RESAMPLES)):
            drawn = generator.integers(0, len(true), len(true))
            values.append(_drawn(metric, [true[i] for i in drawn], [predicted[i] for i in drawn]))
    value = _value(metric, true, predicted)
    better = bool(getattr(metric, "higher_is_better", True))
    return Estimate(value, *interval(np.array(values, np.float64)), better)


def _value(metric: OwnMetric, true: Sequence[Any], predicted: Sequence[Any]) -> float:
    found = metric(true, predicted)
    try:
        return float(found)
    except (TypeError, ValueError):
        name = metric.__name__
        raise SettingsError(
            "metrics", f'"{name}" gave {found!r:.60}', "A metric gives one number."
        ) from None


def _drawn(metric: OwnMetric, true: Sequence[Any], predicted: Sequence[Any]) -> float:
    """Returns the metric of one draw, NaN where it cannot be taken."""
    try:
        return float(metric(true, predicted))
    except Exception:
        return math.nan


def _prediction(row: Row, answer: Any, predictor: Predictor) -> str:
    task = predictor.task
    true, answered = task.compared(answer, row)
    logits = {"logits": list(answer.logits)} if hasattr(answer, "logits") else {}
    told = (PART.name, *task.text_roles)
    texts = {role: row.values[role] for role in told if role in row.values}
    texts |= {role: task.shown(row) for role in task.picture_roles}
    place = {"row": row.id, "source": row.source, "line": row.line}
    place |= {} if row.index is None else {"index": row.index}
    line = {**place, **texts, "true": true, "answered": answered}
    return json.dumps(line | answer.to_json() | logits, ensure_ascii=False, default=str) + "\n"


def _points(metrics: Sequence[OwnMetric], compared: Sequence[tuple[Any, Any]]) -> dict[str, float]:
    true, answered = (list(side) for side in zip(*compared, strict=True))
    return {metric.__name__: _value(metric, true, answered) for metric in metrics}


def _join_parts(predictions: Path, num_parts: int) -> None:
    """Makes one file of what the processes have written, in their order."""
    parts = [predictions.with_name(f".{predictions.name}.{rank}") for rank in range(num_parts)]
    with parts[0].open("ab") as whole:
        for part in parts[1:]:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)
            part.unlink()
    parts[0].replace(predictions)


def _created(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w", encoding="utf-8")


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the objects of a JSON lines file."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
