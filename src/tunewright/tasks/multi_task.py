"""Several tasks over one backbone, each with its own head, data and metrics.

{"task": "similarity", "text": "A man eats.", "text_pair": "A man dines.", "score": 4.5}
{"task": "intent", "text": "Where is my card?", "label": "card_arrival"}
->  what the task of the row answers

Caruana 1997, "Multitask Learning". The parts take turns: an update holds rows of one part only, so
that losses of unlike units are never added up. Whatever a task does, its part does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from tunewright.answers import LabelValue
from tunewright.errors import DataError, SettingsError, listed
from tunewright.figures import Figure, Mistake
from tunewright.metrics import MetricSpec
from tunewright.models.adapting.sharing import Models, share_backbone
from tunewright.models.batch import Batch
from tunewright.models.files.architecture import Kind
from tunewright.models.generating.generation import Generation
from tunewright.tasks import MULTI_TASK_ROLES
from tunewright.tasks.base import Loss, Outputs, Reducer, Scope, Statistics, Task
from tunewright.tasks.shared import part_usage
from tunewright.tasks.shared.parts import (
    AuditedRows,
    PlainRows,
    bare,
    build_part,
    check_labelled,
    folder_of,
    has_own,
    joined,
    name_in,
    named,
    own_folder,
    own_row,
    own_statistics,
    part_settings,
    plain,
    plain_batch,
    prefixed,
    split_key,
)
from tunewright.tasks.shared.turns import Sampling, turns, update_size
from tunewright.types import Features, ReadsLong, Role, Row, Rows

MEAN = MetricSpec("mean", help="mean of the first metric of every part that has rows")
SCOPES: tuple[Scope, ...] = ("row", "document", "batch")  # from the narrowest to the widest


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MultiTask(Task):
    """Tasks that share a backbone.

    An epoch has as many updates as there are rows divided by the batch size, and one for each part
    at least. `sampling` says whose they are: by `size` every row is read once an epoch; by
    `temperature` a part's share is its number of rows to the power of 1 / `temperature`;
    `round-robin` gives all the same. The first metric, which picks the weights, is the mean of the
    parts' first ones. To the Hub and to stock libraries the folder is the first part's.
    """

    name: ClassVar[str] = "multi-task"
    roles: ClassVar[tuple[Role, ...]] = MULTI_TASK_ROLES

    parts: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata={"help": "the tasks, by names of yours: each has the name of a task and settings"},
    )
    sampling: Sampling = field(default="size", metadata={"help": "how the parts share the updates"})
    temperature: float = field(
        default=2.0, metadata={"help": "of sampling by temperature; 1 is by size"}
    )

    def __post_init__(self) -> None:
        if not 0 < self.temperature < 1e6:
            raise SettingsError(
                "[task]", f"task.temperature is {self.temperature}", "It must be more than 0."
            )
        settled = {name: part_settings(task) for name, task in self.tasks.items()}
        object.__setattr__(self, "parts", settled)

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The parts as tasks, by name."""
        if len(self.parts) < 2:
            raise SettingsError(
                "[task]",
                f"task.parts names {len(self.parts)} tasks",
                "At least two are needed, by names of yours, each with the name of its task.",
                'Write parts.similarity = { name = "regression" }.',
            )
        return {name: build_part(name, settings) for name, settings in self.parts.items()}

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:  # type: ignore[override]
        return (
            MEAN,
            *(
                replace(spec, name=joined(name, spec.name))
                for name, task in self.tasks.items()
                for spec in task.metrics
            ),
        )

    @property
    def _first(self) -> Task:
        return next(iter(self.tasks.values()))

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        return self._first.kind

    @property
    def library(self) -> str:  # type: ignore[override]
        return self._first.library

    @property
    def pipeline_tag(self) -> str:  # type: ignore[override]
        return self._first.pipeline_tag

    @property
    def streams(self) -> tuple[str, ...]:  # type: ignore[override]
        return self._all(lambda name, task: [joined(name, key) for key in task.streams])

    @property
    def training_streams(self) -> tuple[str, ...]:  # type: ignore[override]
        return self._all(lambda name, task: [joined(name, key) for key in task.training_streams])

    @property
    def text_roles(self) -> tuple[str, ...]:  # type: ignore[override]
        return self._all(lambda _, task: task.text_roles)

    @property
    def optional_texts(self) -> tuple[str, ...]:  # type: ignore[override]
        return self._all(lambda _, task: task.optional_texts)

    @property
    def generates(self) -> bool:  # type: ignore[override]
        return any(task.generates for task in self.tasks.values())

    @property
    def own_usage(self) -> str:  # type: ignore[override]
        return part_usage.own_lines(self.tasks)

    @property
    def max_length(self) -> int | None:
        """The longest text that any part reads, in tokens."""
        return max(getattr(t, "max_length", None) or 0 for t in self.tasks.values()) or None

    @property
    def scope(self) -> Scope:
        """The widest of all parts; an update is of one part, and has its scope."""
        return max((task.scope for task in self.tasks.values()), key=SCOPES.index)

    @property
    def reads_long(self) -> ReadsLong:
        found = {task.reads_long for task in self.tasks.values()}
        return found.pop() if len(found) == 1 else "mixed"

    def scope_of(self, features: Sequence[Features]) -> Scope:
        return self.tasks[name_in(features[0])].scope if features else self.scope

    def learn(self, rows: Iterable[Row]) -> Self:
        kept: dict[str, list[Row]] = {name: [] for name in self.tasks}
        for row in rows:
            name, own = self._own(row)
            check_labelled(self.tasks[name], own)
            kept[name].append(own)
        for name, own_rows in kept.items():
            if not own_rows:
                raise DataError("the training data", f'it has no row of the part "{name}"')
        return self._with(lambda name, task: task.learn(kept[name]))

    def started_from(self, source: Path) -> Self:
        return self._with(lambda name, task: task.started_from(own_folder(source, name)))

    def within(self, limit: int) -> Self:
        return self._with(lambda _, task: task.within(limit))

    def continued(self, previous: Task) -> Self:
        if not isinstance(previous, MultiTask):
            return self._with(lambda _, task: task.continued(previous))
        known = previous.tasks
        return self._with(lambda name, task: task.continued(known.get(name, task)))

    def calibrate(self, answers: Sequence[Any], rows: Sequence[Row]) -> Self:
        def fitted(name: str, task: Task) -> Task:
            own = [(a, row) for a, (of, row) in zip(answers, own_rows, strict=True) if of == name]
            return task.calibrate(*map(list, zip(*own, strict=True))) if own else task

        own_rows = [self._own(row) for row in rows]
        return self._with(fitted)

    def part_of(self, row: Row) -> str:
        return self._own(row)[0]

    def unseen_label(self, row: Row) -> LabelValue | None:
        name, own = self._own(row)
        return self.tasks[name].unseen_label(own)

    def texts(self, row: Row) -> list[str]:
        name, own = self._own(row)
        return self.tasks[name].texts(own)

    def encode(self, row: Row, processor: Any) -> list[Features]:
        name, own = self._own(row)
        return [named(name, item) for item in self.tasks[name].encode(own, processor)]

    def remarks(self, split: str, rows: Iterable[Sequence[Features]]) -> Sequence[str]:
        if not self._any_has_own("remarks"):
            return ()
        rows = list(rows)

        def of(name: str) -> Iterator[Sequence[Features]]:
            return ([plain(i) for i in items] for items in rows if name_in(items[0]) == name)

        return self._said(lambda name, task: task.remarks(split, of(name)))

    def audited(self, rows: Rows) -> Rows:
        def own(row: Row) -> tuple[Task, Row]:
            name, found = self._own(row)
            return self.tasks[name], found

        return AuditedRows(rows, own)

    def vary(self, features: Features, rng: np.random.Generator) -> Features:
        name = name_in(features)
        if not has_own(self.tasks[name], "vary"):
            return features
        return named(name, self.tasks[name].vary(plain(features), rng))

    def units(self, rows: Sequence[Sequence[Features]]) -> Sequence[Sequence[Features]]:
        """Returns what each part counts as its rows: windows, or whole rows."""
        if not self._any_has_own("units"):
            return rows
        found: list[Sequence[Features]] = []
        for items in rows:
            name = name_in(items[0])
            units = self.tasks[name].units([[plain(item) for item in items]])
            found += [[named(name, item) for item in unit] for unit in units]
        return found

    def update_size(self, num_rows: int, batch_size: int) -> int:
        """Returns as many rows as leave every part an update in an epoch."""
        return update_size(num_rows, len(self.tasks), batch_size)

    def updates(
        self, order: np.ndarray, rows: Sequence[Sequence[Features]], batch_size: int
    ) -> Iterator[np.ndarray]:
        """Yields updates of one part each, in a random order that follows from `order`.

        A part that has a way of its own to choose the rows of an update chooses them here.
        """
        owner_R = np.array([name_in(items[0]) for items in rows])
        own = {name: order[owner_R[order] == name] for name in self.tasks}
        plain_rows = PlainRows(rows)
        cuts = {
            name: partial(_cut, task, plain_rows)
            for name, task in self.tasks.items()
            if has_own(task, "updates")
        }
        yield from turns(
            {name: places for name, places in own.items() if len(places)},
            cuts,
            batch_size,
            self.sampling,
            self.temperature,
            np.random.Generator(np.random.Philox(int(order[0]))),
        )

    def build(
        self, source: Path, processor: Any, *, dropout: float | None, seed: int
    ) -> tuple[Any, tuple[str, ...]]:
        models, notices = {}, []
        for name, task in self.tasks.items():
            folder = own_folder(source, name)
            models[name], told = task.build(folder, processor, dropout=dropout, seed=seed)
            notices += [notice for notice in told if notice not in notices]
        first, *others = models.values()
        for model in others:
            share_backbone(model, first)
        return Models(models), tuple(notices)

    def route(self, model: Models) -> str:
        routes = {name: task.route(model.heads[name]) for name, task in self.tasks.items()}
        padded = [f"{name}: {route}" for name, route in routes.items() if route != "packed"]
        return "; ".join(padded) or "packed"

    def forward(self, model: Models, batch: Batch) -> Outputs:
        name, own = plain_batch(batch)
        return prefixed(name, self.tasks[name].forward(model.heads[name], own))

    def generate(
        self, model: Models, batch: Batch, processor: Any, settings: Generation
    ) -> Outputs:
        name, own = plain_batch(batch)
        return prefixed(
            name, self.tasks[name].generate(model.heads[name], own, processor, settings)
        )

    def examine(self, model: Models, batch: Batch, processor: Any, settings: Generation) -> Outputs:
        name, own = plain_batch(batch)
        return prefixed(name, self.tasks[name].examine(model.heads[name], own, processor, settings))

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        name, own = plain_batch(batch)
        return self.tasks[name].loss(bare(outputs), own)

    def decode(self, outputs: Outputs, features: Sequence[Features], processor: Any) -> list[Any]:
        task = self.tasks[name_in(features[0])]
        return task.decode(bare(outputs), [plain(item) for item in features], processor)

    def join(self, parts: Sequence[Any], row: Row) -> Any:
        name, own = self._own(row)
        return self.tasks[name].join(parts, own)

    def stock_lines(self) -> str:
        return part_usage.stock_lines(self.tasks)

    def limits(self) -> Sequence[str]:
        return part_usage.limits(self.tasks, self.max_length)

    def settle(self, model: Models) -> Self:
        return self._with(lambda name, task: task.settle(model.heads[name]))

    def models(self, model: Models) -> Mapping[str, tuple[Task, Any]]:
        return {
            "" if number == 0 else folder_of(name): (task, model.heads[name])
            for number, (name, task) in enumerate(self.tasks.items())
        }

    def statistics(self, answer: Any, row: Row) -> Mapping[str, Any]:
        name, own = self._own(row)
        check_labelled(self.tasks[name], own)
        return prefixed(name, self.tasks[name].statistics(answer, own))

    def stack(self, statistics: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Returns the parts' figures side by side, with a mark of whose each row is."""
        rows = list(statistics)
        names = [split_key(next(iter(row)))[0] for row in rows]
        stacked = {}
        for name, task in self.tasks.items():
            here = np.array([own == name for own in names])
            stacked[joined(name, "")] = here
            if not here.any():
                continue
            figures = task.stack([bare(r) for r, own in zip(rows, here, strict=True) if own])
            for key, values in figures.items():
                wide = np.zeros((len(rows), *values.shape[1:]), values.dtype)
                wide[here] = values
                stacked[joined(name, key)] = wide
        return stacked

    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        return dict(self.prepare(statistics)(counts))

    def prepare(self, statistics: Statistics) -> Reducer:
        here = self._here(statistics)
        parts = self.by_part(statistics).items()
        reducers = {name: task.prepare(own) for name, (task, own) in parts}

        def reduced(counts: np.ndarray | None) -> dict[str, float]:
            found: dict[str, float] = {}
            firsts = []
            for name, reducer in reducers.items():
                metrics = reducer(None if counts is None else counts[here[name]])
                first = self.tasks[name].metrics[0]
                firsts.append(metrics[first.name] * (1 if first.higher_is_better else -1))
                found |= prefixed(name, metrics)
            return {MEAN.name: float(np.mean(firsts)), **found}

        return reduced

    def compared(self, answer: Any, row: Row) -> tuple[Any, Any]:
        name, own = self._own(row)
        return self.tasks[name].compared(answer, own)

    def fitted_as(self) -> Sequence[str]:
        return [f"{name}: {said}" for name, task in self.tasks.items() for said in task.fitted_as()]

    def measured_as(self, statistics: Statistics) -> Sequence[str]:
        parts = self.by_part(statistics).items()
        return [f"{name}: {said}" for name, (task, own) in parts for said in task.measured_as(own)]

    def shown(self, row: Row) -> str:
        name, own = self._own(row)
        return self.tasks[name].shown(own)

    def severity(self, answer: Any, row: Row) -> float | None:
        name, own = self._own(row)
        return self.tasks[name].severity(answer, own)

    def mistakes(
        self, statistics: Statistics, rows: Rows, limit: int
    ) -> tuple[int, Sequence[Mistake]] | None:
        """Returns those of all parts, by turns, where every part finds its own among its rows.

        Else None: what one part finds so, and another row by row, makes no list together.
        """
        found = []
        for name, here_R in self._here(statistics).items():
            if not has_own(self.tasks[name], "mistakes"):
                return None
            own = [self._own(rows[int(place)])[1] for place in np.flatnonzero(here_R)]
            told = self.tasks[name].mistakes(own_statistics(name, statistics), own, limit)
            if told is None:
                return None
            found.append(told)
        by_turns = (each for together in zip_longest(*(m for _, m in found)) for each in together)
        worst = [each for each in by_turns if each is not None]
        return sum(number for number, _ in found), worst[:limit]

    def figures(self, statistics: Statistics) -> Sequence[Figure]:
        return [
            replace(figure, title=f"{name}: {figure.title}")
            for name, (task, own) in self.by_part(statistics).items()
            for figure in task.figures(own)
        ]

    def by_part(self, statistics: Statistics) -> Mapping[str, tuple[Task, Statistics]]:
        return {
            name: (self.tasks[name], own_statistics(name, statistics))
            for name in self._here(statistics)
        }

    def stock(self, folder: Path) -> Any:
        return Models(
            {
                name: task.stock(folder / folder_of(name) if number else folder)
                for number, (name, task) in enumerate(self.tasks.items())
            }
        )

    def stock_outputs(self, stock: Models, batch: Batch) -> Outputs:
        name, own = plain_batch(batch)
        return prefixed(name, self.tasks[name].stock_outputs(stock.heads[name], own))

    def _own(self, row: Row) -> tuple[str, Row]:
        """Returns the part that a row belongs to, and the row as that part reads it."""
        name = row.values.get("task")
        if isinstance(name, str) and name in self.tasks:
            return name, own_row(self.tasks[name], row)
        example = part_usage.example_row(*next(iter(self.tasks.items())))
        raise DataError(
            row.where,
            "it names no task" if name is None else f"its task is {name!r:.60}",
            f"The parts are {listed(self.tasks)}.",
            f"A row is an object such as {example}." if name is None else "",
        )

    def _here(self, statistics: Statistics) -> dict[str, np.ndarray]:
        """Returns which rows are those of each part that has any."""
        marks = {name: statistics[joined(name, "")].astype(bool) for name in self.tasks}
        return {name: here for name, here in marks.items() if here.any()}

    def _any_has_own(self, method: str) -> bool:
        return any(has_own(task, method) for task in self.tasks.values())

    def _all(self, of: Callable[[str, Task], Iterable[str]]) -> tuple[str, ...]:
        """Returns what all parts name, once each."""
        found = (each for name, task in self.tasks.items() for each in of(name, task))
        return tuple(dict.fromkeys(found))

    def _said(self, of: Callable[[str, Task], Iterable[str]]) -> list[str]:
        """Returns the sentences of all parts, each with the name of its part."""
        return [
            f"{name}: {sentence}"
            for name, task in self.tasks.items()
            for sentence in of(name, task)
        ]

    def _with(self, change: Callable[[str, Task], Task]) -> Self:
        """Returns the task with each part changed."""
        return replace(
            self, parts={name: part_settings(change(name, t)) for name, t in self.tasks.items()}
        )


def _cut(
    task: Task, rows: Sequence[Sequence[Features]], places: np.ndarray, size: int
) -> Iterator[np.ndarray]:
    return task.updates(places, rows, size)
