"""The Python face: `train`, `audit` and `compare` with plain arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from tunewright.data.audit import Audit
from tunewright.run import config as settings_of
from tunewright.run.compare import Comparison, compare_runs
from tunewright.run.finished import FinishedRun
from tunewright.run.judge import OwnMetric
from tunewright.run.train import Told, audit_only
from tunewright.run.train import train as train_run
from tunewright.tasks import find_task


def train(
    data: Any,
    *,
    task: str = "text-classification",
    model: str | PathLike[str] = "starter",
    validation: Any = None,
    test: Any = None,
    metrics: Sequence[OwnMetric] = (),
    settings: Mapping[str, Any] | None = None,
    tell: Callable[[Told], None] = lambda _: None,
    **named: Any,
) -> FinishedRun:
    """Trains a model on labelled data and returns the finished run.

    `data` (and `validation`, `test`) is a path, a Hub id, a pandas or polars frame, a
    `datasets.Dataset`, a `pyarrow.Table`, a list of dicts, or a pair (texts, labels). Without
    validation or test rows, some are set aside. `named` are the task's columns (`text="review"`,
    `label="stars"`) and any setting by its short name (`learning_rate=1e-4`, `name="first"`);
    `settings` holds settings by section, as in a TOML file. `metrics` are functions of your own,
    `metric(true, predicted) -> float`. `tell` hears of every step.

    Raises UserError for input that cannot be used; its message says what to do.
    """
    sources = {"train": data, "validation": validation, "test": test}
    config = _config(sources, task, model, settings, named)
    return train_run(sources, config, metrics, tell)


def audit(
    data: Any,
    *,
    task: str = "text-classification",
    model: str | PathLike[str] = "starter",
    validation: Any = None,
    test: Any = None,
    settings: Mapping[str, Any] | None = None,
    **named: Any,
) -> Audit:
    """Looks at data without training: classes, lengths and cuts, duplicates, leaks, conflicts.

    The arguments are those of `train`. Raises AuditRefused when a limit of `[audit]` is crossed.
    """
    sources = {"train": data, "validation": validation, "test": test}
    config = _config(sources, task, model, settings, named)
    found, _ = audit_only(sources, config)
    found.check_gates(config.audit)
    return found


def compare(
    a: str | PathLike[str], b: str | PathLike[str], data: Any = None, **columns: str
) -> Comparison:
    """Compares two runs on the same rows: differences with intervals, McNemar's test, the rows.

    Without `data` the rows are those that both runs were judged on at their end.
    """
    return compare_runs(a, b, data, columns)


def _config(
    sources: Mapping[str, Any],
    task: str,
    model: str | PathLike[str],
    settings: Mapping[str, Any] | None,
    named: Mapping[str, Any],
) -> settings_of.RunConfig:
    """Puts the arguments of a call into a configuration, columns and settings told apart."""
    roles = {role.name for role in find_task(task).roles}
    paths = {k: fspath(v) for k, v in sources.items() if isinstance(v, str | PathLike)}
    columns = {name: value for name, value in named.items() if name in roles}
    layer: dict[str, Any] = {}
    task_keys = settings_of.task_keys(task)
    for name, value in named.items():
        if name not in roles:
            settings_of.set_key(layer, name, value, task_keys)
    chosen = {
        "task": {"name": task},
        "model": {"name": fspath(model)},
        "data": {**paths, "columns": columns},
    }
    return settings_of.compose(settings or {}, chosen, layer, where="tunewright.train")
