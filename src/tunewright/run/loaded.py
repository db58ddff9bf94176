"""A model folder, loaded and ready to answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from tunewright.data import (
    ReadSettings,
    Table,
    check_rows,
    read_table,
    resolve_columns,
    stream_tables,
)
from tunewright.devices import Precision, find_device, settle_allocator
from tunewright.errors import DataError, ModelError
from tunewright.models.folder import check_model_folder, find_model
from tunewright.models.heads import choose_route
from tunewright.models.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.run.judge import EvaluationResult, Judge, OwnMetric
from tunewright.tasks import find_task
from tunewright.tasks.base import load_task
from tunewright.types import Row


@dataclass(frozen=True)
class TrainedModel:
    """A trained model: ask it with `predict`, `stream` or `evaluate`."""

    predictor: Predictor
    folder: Path
    columns: Mapping[str, str]

    def predict(self, source: Any, columns: Mapping[str, str] | None = None) -> list[Any]:
        """Returns one answer for each text or row of `source`, in order.

        `source` is a list of texts (or of pairs of texts), a path, a frame, a `datasets.Dataset`
        or a list of dicts; `columns` maps roles to its columns where names do not tell.
        """
        return list(self.predictor.answers(self._rows(source, columns or {})))

    def stream(self, rows: Iterable[Row]) -> Iterator[Any]:
        """Yields answers as rows come in; memory does not grow with their number."""
        return self.predictor.answers(rows)

    def rows_of(
        self, source: Any, settings: ReadSettings, columns: Mapping[str, str], kind: str = "lines"
    ) -> Iterator[tuple[Row, dict[str, Any]]]:
        """Yields the rows of a file or binary stream as they are read, each with its own columns.

        `kind` is the format of a stream (lines, jsonl, csv, tsv).
        """
        for table in stream_tables(source, settings, kind):
            rows = self._choose(table, columns)
            for row in rows:
                named = {name: row.values[role] for role, name in rows.columns.items()}
                cells = named | row.extras
                yield row, {name: cells[name] for name in table.column_names}

    def evaluate(
        self,
        source: Any,
        columns: Mapping[str, str] | None = None,
        judge: Judge | None = None,
        metrics: tuple[OwnMetric, ...] = (),
        settings: ReadSettings | None = None,
        predictions: Path | None = None,
    ) -> EvaluationResult:
        """Measures the model on labelled rows; every metric has a 95 % interval."""
        table = read_table(source, settings or ReadSettings())
        rows = self._choose(table, columns or {}, training=True)
        rows = check_rows(rows, self.predictor.task.roles).rows
        judge = judge or Judge(own_metrics=metrics)
        return judge.judge(self.predictor, rows, table.name, predictions)

    def _rows(self, source: Any, columns: Mapping[str, str]) -> Any:
        if isinstance(source, str):
            return self._choose(read_table(source), columns)
        if isinstance(source, list | tuple) and source and isinstance(source[0], str | tuple):
            return _rows_of_texts(source, self.predictor.task.text_roles)
        if isinstance(source, list) and not source:
            return []
        return self._choose(read_table(source), columns)

    def _choose(self, table: Table, columns: Mapping[str, str], training: bool = False) -> Any:
        """Finds the task's columns: those given, those of training, or the usual names."""
        remembered = {
            role: name for role, name in self.columns.items() if name in table.column_names
        }
        choice = resolve_columns(
            self.predictor.task.roles,
            table.column_names,
            {**remembered, **columns},
            training=training,
            source=table.name,
        )
        return table.rows(choice.mapping)


def _rows_of_texts(texts: Any, roles: tuple[str, ...]) -> list[Row]:
    rows = []
    for number, item in enumerate(texts):
        values = (item,) if isinstance(item, str) else tuple(item)
        if len(values) > len(roles) or not all(isinstance(value, str) for value in values):
            raise DataError(
                f"text {number}",
                f"it is {item!r:.60}",
                f"A text or a tuple of at most {len(roles)} texts is needed.",
            )
        rows.append(Row(number, dict(zip(roles, values, strict=False)), "texts"))
    return rows


def load(folder: str | PathLike[str], precision: Precision = "auto") -> TrainedModel:
    """Loads a model folder that Tunewright trained; a run folder means its `model/`.

    `precision` is that of matrix products: bf16 where the machine has it, or fp32. Raises
    ModelError when the folder is damaged or holds no task.
    """
    settle_allocator()
    path = find_model(Path(folder))
    check_model_folder(path)
    task = load_task(path, find_task)
    if task is None:
        raise ModelError(
            str(path),
            "there is no task.json",
            "Only a folder that Tunewright trained says what its answers mean.",
            "Train with model=this folder first.",
        )
    device = find_device(precision)
    tokenizer = load_tokenizer(path)
    model, _ = task.build(path, tokenizer, dropout=None, seed=0)
    choose_route(model)
    model.to(device.name).eval()
    predictor = Predictor(task, model, tokenizer, device)
    return TrainedModel(predictor, path, _remembered_columns(path))


def _remembered_columns(model_folder: Path) -> dict[str, str]:
    """Returns the columns that the training data had, where the run folder is still around."""
    from tunewright.run.config import read_config

    file = model_folder.parent / "run.toml"
    if not file.is_file():
        return {}
    columns = read_config(file).get("data", {}).get("columns", {})
    return {str(role): str(name) for role, name in columns.items()}
