"""Several tasks over one backbone, each with its own head, data and metrics.

{"task": "similarity", "text": "A man eats.", "text_pair": "A man dines.", "score": 4.5}
{"task": "intent", "text": "Where is my card?", "label": "card_arrival"}
->  what the task of the row answers

Caruana 1997, "Multitask Learning". The parts take turns: an update holds rows of one part only, so
that losses of unlike units are never added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from tunewright.answers import LabelValue
from tunewright.errors import DataError, SettingsError, listed
from tunewright.figures import Figure
from tunewright.metrics import MetricSpec
from tunewright.models.batch import Batch
from tunewright.models.generation import Generation
from tunewright.models.sharing import Models, share_backbone
from tunewright.tasks import MULTI_TASK_ROLES, find_task
from tunewright.tasks.base import Loss, Outputs, Reducer, Scope, Statistics, Task, build_task
from tunewright.types import Features, Role, Row

MEAN = MetricSpec("mean", help="mean of the first metric of every part")
# Stands between a part's name and what belongs to it: a stream, an output, a figure, a metric.
BETWEEN = "/"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MultiTask(Task):
    """Tasks that share a backbone.

    An epoch has as many updates as there are rows divided by the batch size. `sampling` says whose
    they are: by `size` every row is read once an epoch; by `temperature` a part's share is its
    number of rows to the power of 1 / `temperature`; `round-robin` gives all the same. The first
    metric, which picks the weights, is the mean of the parts' first ones.
    """

    name: ClassVar[str] = "multi-task"
    roles: ClassVar[tuple[Role, ...]] = MULTI_TASK_ROLES

    parts: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata={"help": "the tasks, by names of yours: each has the name of a task and settings"},
    )
    sampling: Literal["size", "temperature", "round-robin"] = field(
        default="size", metadata={"help": "how the parts share the updates"}
    )
    temperature: float = field(
        default=2.0, metadata={"help": "of sampling by temperature; 1 is by size"}
    )

    def __post_init__(self) -> None:
        if not 0 < self.temperature < 1e6:
            raise SettingsError(
                "[task]", f"task.temperature is {self.temperature}", "It must be more than 0."
            )
        settled = {name: _settings(task) for name, task in self.tasks.items()}
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
        return {name: _part(name, settings) for name, settings in self.parts.items()}

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:  # type: ignore[override]
        return (
            MEAN,
            *(
                replace(spec, name=_joined(name, spec.name))
                for name, task in self.tasks.items()
                for spec in task.metrics
            ),
        )

    @property
    def text_roles(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(dict.fromkeys(role for t in self.tasks.values() for role in t.text_roles))

    @property
    def max_length(self) -> int | None:
        """The longest text that any part reads, in tokens."""
        return max(getattr(t, "max_length", None) or 0 for t in self.tasks.values()) or None

    @property
    def scope(self) -> Scope:
        scopes = {task.scope for task in self.tasks.values()}
        return "document" if "document" in scopes else "row"

    def learn(self, rows: Iterable[Row]) -> Self:
        kept: dict[str, list[Row]] = {name: [] for name in self.tasks}
        for row in rows:
            kept[self._name_of(row)].append(row)
        for name, own in kept.items():
            if not own:
                raise DataError("the training data", f'it has no row of the part "{name}"')
        return self._with(lambda name, task: task.learn(kept[name]))

    def within(self, limit: int) -> Self:
        return self._with(lambda _, task: task.within(limit))

    def continued(self, previous: Task) -> Self:
        if not isinstance(previous, MultiTask):
            return self._with(lambda _, task: task.continued(previous))
        known = previous.tasks
        return self._with(lambda name, task: task.continued(known.get(name, task)))

    def calibrate(self, answers: Sequence[Any], rows: Sequence[Row]) -> Self:
        def fitted(name: str, task: Task) -> Task:
            own = [(a, row) for a, row in zip(answers, rows, strict=True) if self._is(row, name)]
            return task.calibrate(*map(list, zip(*own, strict=True))) if own else task

        return self._with(fitted)

    def unseen_label(self, row: Row) -> LabelValue | None:
        return self.tasks[self._name_of(row)].unseen_label(row)

    def encode(self, row: Row, processor: Any) -> list[Features]:
        name = self._name_of(row)
        return [_named(name, item) for item in self.tasks[name].encode(row, processor)]

    def vary(self, features: Features, rng: np.random.Generator) -> Features:
        name, plain = _plain(features)
        return _named(name, self.tasks[name].vary(plain, rng))

    def updates(
        self, order: np.ndarray, rows: Sequence[Sequence[Features]], batch_size: int
    ) -> Iterator[np.ndarray]:
        """Yields updates of one part each, in a random order that follows from `order`."""
        owner_R = np.array([_name_in(items[0]) for items in rows])
        own = {name: order[owner_R[order] == name] for name in self.tasks}
        total = -(-len(order) // batch_size)
        shares = _shares([len(places) for places in own.values()], self.sampling, self.temperature)
        quotas = dict(zip(own, _divided(shares, total), strict=True))
        waiting = {
            name: _cut(own[name], quotas[name], batch_size, whole=self.sampling == "size")
            for name in own
        }
        turns = np.repeat(np.array(list(own)), [quotas[name] for name in own])
        for name in np.random.Generator(np.random.Philox(int(order[0]))).permutation(turns):
            yield next(waiting[name])

    def build(
        self, source: Path, processor: Any, *, dropout: float | None, seed: int
    ) -> tuple[Any, tuple[str, ...]]:
        models, notices = {}, []
        for name, task in self.tasks.items():
            own = source / _folder(name)
            folder = own if own.is_dir() else source
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
        name, plain = _plain_batch(batch)
        return _prefixed(name, self.tasks[name].forward(model.heads[name], plain))

    def generate(
        self, model: Models, batch: Batch, processor: Any, settings: Generation
    ) -> Outputs:
        name, plain = _plain_batch(batch)
        found = self.tasks[name].generate(model.heads[name], plain, processor, settings)
        return _prefixed(name, found)

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        name, plain = _plain_batch(batch)
        return self.tasks[name].loss(_bare(outputs), plain)

    def decode(self, outputs: Outputs, features: Sequence[Features], processor: Any) -> list[Any]:
        name = _name_in(features[0])
        plain = [_plain(item)[1] for item in features]
        return self.tasks[name].decode(_bare(outputs), plain, processor)

    def join(self, parts: Sequence[Any], row: Row) -> Any:
        return self.tasks[self._name_of(row)].join(parts, row)

    def limits(self) -> Sequence[str]:
        return [
            f"{name}: {sentence}" for name, task in self.tasks.items() for sentence in task.limits()
        ]

    def settle(self, model: Models) -> Self:
        return self._with(lambda name, task: task.settle(model.heads[name]))

    def models(self, model: Models) -> Mapping[str, tuple[Task, Any]]:
        return {
            "" if number == 0 else _folder(name): (task, model.heads[name])
            for number, (name, task) in enumerate(self.tasks.items())
        }

    def statistics(self, answer: Any, row: Row) -> Mapping[str, Any]:
        name = self._name_of(row)
        return _prefixed(name, self.tasks[name].statistics(answer, row))

    def stack(self, statistics: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Returns the parts' figures side by side, with a mark of whose each row is."""
        rows = list(statistics)
        names = [_split(next(iter(row)))[0] for row in rows]
        stacked = {}
        for name, task in self.tasks.items():
            here = np.array([own == name for own in names])
            stacked[_joined(name, "")] = here
            figures = task.stack([_bare(r) for r, own in zip(rows, here, strict=True) if own])
            for key, values in figures.items():
                wide = np.zeros((len(rows), *values.shape[1:]), values.dtype)
                wide[here] = values
                stacked[_joined(name, key)] = wide
        return stacked

    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        return dict(self.prepare(statistics)(counts))

    def prepare(self, statistics: Statistics) -> Reducer:
        own = {name: _own(name, statistics) for name in self.tasks}
        here = {name: statistics[_joined(name, "")].astype(bool) for name in own}
        reducers = {n: self.tasks[n].prepare(kept) for n, kept in own.items() if here[n].any()}

        def reduced(counts: np.ndarray | None) -> dict[str, float]:
            found: dict[str, float] = {}
            firsts = []
            for name, reducer in reducers.items():
                metrics = reducer(None if counts is None else counts[here[name]])
                first = self.tasks[name].metrics[0]
                firsts.append(metrics[first.name] * (1 if first.higher_is_better else -1))
                found |= _prefixed(name, metrics)
            return {MEAN.name: float(np.mean(firsts)), **found}

        return reduced

    def compared(self, answer: Any, row: Row) -> tuple[Any, Any]:
        return self.tasks[self._name_of(row)].compared(answer, row)

    def severity(self, answer: Any, row: Row) -> float | None:
        return self.tasks[self._name_of(row)].severity(answer, row)

    def figures(self, statistics: Statistics) -> Sequence[Figure]:
        return [
            replace(figure, title=f"{name}: {figure.title}")
            for name, task in self.tasks.items()
            for figure in task.figures(_own(name, statistics))
        ]

    def stock(self, folder: Path) -> Any:
        return Models(
            {
                name: task.stock(folder / _folder(name) if number else folder)
                for number, (name, task) in enumerate(self.tasks.items())
            }
        )

    def stock_outputs(self, stock: Models, batch: Batch) -> Outputs:
        name, plain = _plain_batch(batch)
        return _prefixed(name, self.tasks[name].stock_outputs(stock.heads[name], plain))

    def _name_of(self, row: Row) -> str:
        name = row.values.get("task")
        if name in self.tasks:
            return str(name)
        raise DataError(
            row.where,
            f"its task is {name!r:.60}",
            f"The parts are {listed(self.tasks)}.",
        )

    def _is(self, row: Row, name: str) -> bool:
        return bool(row.values["task"] == name)

    def _with(self, change: Callable[[str, Task], Task]) -> Self:
        """Returns the task with each part changed."""
        return replace(
            self, parts={name: _settings(change(name, t)) for name, t in self.tasks.items()}
        )


def _part(name: str, settings: Mapping[str, Any]) -> Task:
    where = f"[task.parts.{name}]"
    options = {key: value for key, value in settings.items() if key != "name"}
    if BETWEEN in name or not name:
        raise SettingsError(where, f'a part is called "{name}"', f'It must not hold "{BETWEEN}".')
    if "name" not in settings:
        raise SettingsError(where, "it has no name", 'Name its task: name = "text-classification".')
    task_class = find_task(settings["name"])
    if issubclass(task_class, MultiTask):
        raise SettingsError(where, "a part cannot be a multi-task itself")
    return build_task(task_class, options, where)


def _settings(task: Task) -> dict[str, Any]:
    known = {item.name: getattr(task, item.name) for item in fields(task)}  # type: ignore[arg-type]
    return {"name": task.name, **known}


def _folder(name: str) -> str:
    return f"parts/{name}"


def _joined(name: str, key: str) -> str:
    return f"{name}{BETWEEN}{key}"


def _split(key: str) -> tuple[str, str]:
    name, _, rest = key.partition(BETWEEN)
    return name, rest


def _prefixed(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {_joined(name, key): value for key, value in values.items()}


def _bare(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_split(key)[1]: value for key, value in values.items()}


def _name_in(features: Features) -> str:
    return _split(next(iter(features.streams)))[0]


def _named(name: str, features: Features) -> Features:
    return replace(features, streams=_prefixed(name, features.streams))


def _plain(features: Features) -> tuple[str, Features]:
    return _name_in(features), replace(features, streams=_bare(features.streams))


def _plain_batch(batch: Batch) -> tuple[str, Batch]:
    name, _ = _split(next(iter(batch.streams)))
    return name, replace(batch, streams=_bare(batch.streams))


def _own(name: str, statistics: Statistics) -> dict[str, np.ndarray]:
    """Returns the figures of a part, its own rows alone."""
    here = statistics[_joined(name, "")].astype(bool)
    prefixed = {key: values for key, values in statistics.items() if _split(key)[0] == name}
    return {_split(key)[1]: values[here] for key, values in prefixed.items() if _split(key)[1]}


def _shares(sizes: Sequence[int], sampling: str, temperature: float) -> np.ndarray:
    """Returns what share of an epoch each part has."""
    power = {"size": 1.0, "temperature": 1 / temperature, "round-robin": 0.0}[sampling]
    weights = np.array(sizes, float) ** power
    return weights / weights.sum()


def _divided(shares: np.ndarray, total: int) -> list[int]:
    """Divides updates by largest remainder; every part has one where there are enough."""
    exact = shares * total
    quotas = np.floor(exact).astype(int)
    for index in np.argsort(quotas - exact, kind="stable")[: total - quotas.sum()]:
        quotas[index] += 1
    while total >= len(quotas) and quotas.min() == 0:
        quotas[quotas.argmax()] -= 1
        quotas[quotas.argmin()] += 1
    return [int(quota) for quota in quotas]


def _cut(places: np.ndarray, quota: int, batch_size: int, whole: bool) -> Iterator[np.ndarray]:
    """Yields a part's updates: all its rows once, or full ones that begin again at the end."""
    if whole:
        yield from np.array_split(places, quota)
        return
    for start in range(0, quota * batch_size, batch_size):
        yield places[np.arange(start, start + min(batch_size, len(places))) % len(places)]
