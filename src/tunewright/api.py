"""The Python face: `train`, `pretrain`, `resume`, `audit` and `compare` with plain arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from os import PathLike, fspath
from types import MappingProxyType
from typing import Any

from tunewright.data.auditing.audit import Audit
from tunewright.models.text.new_tokenizer import TokenizerKind
from tunewright.run.config import RunConfig, compose, set_key, task_keys
from tunewright.run.finished import FinishedRun
from tunewright.run.judging.compare import Comparison, compare_runs
from tunewright.run.judging.judge import OwnMetric
from tunewright.run.preparing.groundwork import audit_only
from tunewright.run.pretrain import ADAPTING, NewTokenizer, base_for
from tunewright.run.pretrain import pretrain as pretrain_run
from tunewright.run.resuming.resume import resume as resume_run
from tunewright.run.train import train as train_run
from tunewright.run.training import Told
from tunewright.tasks import find_task


def train(
    data: Any,
    *,
    task: str | None = None,
    model: str | PathLike[str] | None = None,
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
    validation or test rows, some are set aside; the task is text classification and the model the
    starter unless they are named. `named` are the task's columns (`text="review"`,
    `label="stars"`) and any setting by its short name (`learning_rate=1e-4`, `name="first"`);
    `settings` holds settings by section, as in a TOML file. `metrics` are functions of your own,
    `metric(true, predicted) -> float`. `tell` hears of every step.

    Raises UserError for input that cannot be used; its message says what to do.
    """
    given = {"train": data, "validation": validation, "test": test}
    config = _config(given, task, model, settings, named)
    return train_run(_sources(given, config), config, metrics, tell)


def pretrain(
    data: Any,
    *,
    model: str | PathLike[str] | None = None,
    tokenizer: TokenizerKind | None = None,
    vocab_size: int | None = None,
    lowercase: bool | None = None,
    validation: Any = None,
    test: Any = None,
    settings: Mapping[str, Any] | None = None,
    tell: Callable[[Told], None] = lambda _: None,
    **named: Any,
) -> FinishedRun:
    """Lets a model learn from plain text, and returns the finished run.

    `data` is a source as for `train`, of texts alone. The model is one to adapt, the starter
    unless it is named, or `new:SIZE` (tiny, mini, small, medium, base, or LAYERSxWIDTH), which
    begins from nothing; a new one gets a tokenizer of its own: wordpiece, bpe or unigram, with
    `vocab_size` tokens (8000). The other arguments are those of `train`; name the run's folder as
    `model` there to go on to a task.

    Raises UserError for input that cannot be used; its message says what to do.
    """
    given = {"train": data, "validation": validation, "test": test}
    new = {"kind": tokenizer, "vocab_size": vocab_size, "lowercase": lowercase}
    chosen = {key: value for key, value in new.items() if value is not None}
    first = _config(given, None, model, settings, named, ADAPTING)
    config = _config(given, None, model, settings, named, base_for(first.model.name))
    made = NewTokenizer(**chosen) if chosen else None  # type: ignore[arg-type]
    return pretrain_run(_sources(given, config), config, made, tell)


def resume(
    run: str | PathLike[str] | FinishedRun,
    data: Any = None,
    *,
    validation: Any = None,
    test: Any = None,
    metrics: Sequence[OwnMetric] = (),
    tell: Callable[[Told], None] = lambda _: None,
    **settings: Any,
) -> FinishedRun:
    """Goes on with a run that was killed or stopped, to the same bits; returns the finished run.

    `data` (and `validation`, `test`) are needed only where rows came from memory, and `metrics`
    where the run had some of the user's own. A finished run is made longer with
    `num_train_epochs` or `max_steps`. The data, the labels and all settings that decide the
    weights have to be those that it was begun with.

    Raises SettingsError, showing what differs, when they are not.
    """
    path = run.path if isinstance(run, FinishedRun) else run
    layer: dict[str, Any] = {}
    for name, value in settings.items():
        set_key(layer, name, value)
    given = {"train": data, "validation": validation, "test": test}
    return resume_run(path, given, layer, metrics, tell)


def audit(
    data: Any,
    *,
    task: str | None = None,
    model: str | PathLike[str] | None = None,
    validation: Any = None,
    test: Any = None,
    settings: Mapping[str, Any] | None = None,
    **named: Any,
) -> Audit:
    """Looks at data without training: classes, lengths and cuts, duplicates, leaks, conflicts.

    The arguments are those of `train`. Raises AuditRefused when a limit of `[audit]` is crossed.
    """
    given = {"train": data, "validation": validation, "test": test}
    config = _config(given, task, model, settings, named)
    found = audit_only(_sources(given, config), config).audit
    found.check_gates(config.audit)
    return found


def compare(
    a: str | PathLike[str] | FinishedRun,
    b: str | PathLike[str] | FinishedRun,
    data: Any = None,
    **columns: str,
) -> Comparison:
    """Compares two runs on the same rows: differences with intervals, McNemar's test, the rows.

    Without `data` the rows are those that both runs were judged on at their end.
    """
    return compare_runs(a, b, data, columns)


def _sources(given: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """Returns what was given, and where nothing was what the settings name."""
    named = config.data.model_dump(include={"train", "validation", "test"})
    return {split: named[split] if source is None else source for split, source in given.items()}


def _config(
    given: Mapping[str, Any],
    task: str | None,
    model: str | PathLike[str] | None,
    settings: Mapping[str, Any] | None,
    named: Mapping[str, Any],
    base: Mapping[str, Any] = MappingProxyType({}),
) -> RunConfig:
    """Puts the arguments of a call into a configuration, columns and settings told apart."""
    chosen: dict[str, Any] = {}
    if task is not None:
        chosen["task"] = {"name": task}
    if model is not None:
        chosen["model"] = {"name": fspath(model)}
    where = "tunewright.train"
    task_name = compose(base, settings or {}, chosen, where=where).task.name
    roles = {role.name for role in find_task(task_name).roles}
    paths = {k: fspath(v) for k, v in given.items() if isinstance(v, str | PathLike)}
    # A frame may number its columns; a list under a role's name is the setting that shares it.
    named = {name: value for name, value in named.items() if value is not None or name not in roles}
    columns = {name: str(named[name]) for name in named if name in roles and _is_name(named[name])}
    data: dict[str, Any] = {"data": {**paths, "columns": columns}}
    keys = task_keys(task_name)
    for name, value in named.items():
        if name not in columns:
            set_key(data, name, value, keys)
    return compose(base, settings or {}, chosen, data, where=where)


def _is_name(value: Any) -> bool:
    return isinstance(value, str | Integral) and not isinstance(value, bool)
