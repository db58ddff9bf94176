"""A model folder, loaded and ready to answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, get_args

from tunewright.data import (
    ReadSettings,
    Table,
    TableRows,
    as_rows,
    check_rows,
    is_source,
    read_table,
    stream_tables,
)
from tunewright.data.cells.pictures import is_picture
from tunewright.data.readers import DEFAULTS, STANDARD_INPUT
from tunewright.data.wording import once
from tunewright.devices import Precision, find_device, settle_allocator
from tunewright.errors import DataError, ModelError, SettingsError, listed, warned
from tunewright.models.adapting.bases import is_adapter_folder, read_base
from tunewright.models.adapting.sharing import share_frozen
from tunewright.models.files.architecture import is_decoder, load_config
from tunewright.models.files.folder import check_model_folder, find_model
from tunewright.models.files.sentence_folder import MODULES
from tunewright.models.generating.generation import Generation, read_generation
from tunewright.models.layers.own_layers import use_own_layers
from tunewright.models.text.tokenizers import load_tokenizer, max_length_of
from tunewright.prediction.oddities import Oddities, odd_rows
from tunewright.prediction.predictor import Predictor
from tunewright.run.judging.judge import EvaluationResult, Judge
from tunewright.run.preparing.prepare import check_column
from tunewright.tasks import find_task
from tunewright.tasks.base import Task, load_task
from tunewright.types import Row

READING = "reading.json"


@dataclass(frozen=True)
class TrainedModel:
    """A trained model: ask it with `predict`, `stream` or `evaluate`.

    `columns` and `reading` are those of its training data, and what new data is first read by.
    """

    predictor: Predictor
    folder: Path
    columns: Mapping[str, str]
    reading: ReadSettings = DEFAULTS

    def predict(
        self,
        source: Any,
        columns: Mapping[str, str] | None = None,
        say: Callable[[str], None] = warned,
    ) -> list[Any]:
        """Returns one answer for each text or row of `source`, in order.

        `source` is a list of texts (or of pairs of texts), a path, a frame, a `datasets.Dataset`
        or a list of dicts; `columns` maps roles to its columns where names do not tell. Where the
        model reads pictures, a list may hold their paths, their bytes, or pictures of Pillow.
        `say` hears which columns were guessed, and how many rows have no text or were cut.
        """
        odd = odd_rows(self.predictor.task.roles)
        answers = list(self.stream(self._rows(source, columns or {}, say), odd))
        for sentence in odd.notices():
            say(sentence)
        return answers

    def stream(self, rows: Iterable[Row], odd: Oddities[Row] | None = None) -> Iterator[Any]:
        """Yields answers as rows come in; memory does not grow with their number.

        `odd` counts the rows that have no text or are cut.
        """
        if odd is None:
            return self.predictor.answers(rows)
        return self.predictor.answers(odd.watch(rows), odd.cuts.add)

    def rows_of(
        self,
        source: Any,
        columns: Mapping[str, str] | None = None,
        settings: ReadSettings | None = None,
        kind: str | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> Iterator[tuple[Row, dict[str, Any]]]:
        """Yields the rows of a file or binary stream as they are read, each with its own columns.

        `kind` is the format of a stream (lines, jsonl, csv, tsv): lines, where none is named and
        the first one does not show another. `say` hears, once, how the file is read and which
        columns were found by their names.
        """
        say = once(say)
        for table in stream_tables(source, settings or self.reading, kind or "lines"):
            if kind is None and table.place(0) == (STANDARD_INPUT, 1):
                self._check_is_text(table.column("text")[0])
            rows = self._as_rows(table, columns or {}, say)
            for row in rows:
                named = {name: row.values[role] for role, name in rows.columns.items()}
                cells = {name: _printable(value) for name, value in {**named, **row.extras}.items()}
                yield row, {name: cells[name] for name in table.column_names}

    def evaluate(
        self,
        source: Any,
        columns: Mapping[str, str] | None = None,
        judge: Judge | None = None,
        settings: ReadSettings | None = None,
        predictions: Path | None = None,
    ) -> EvaluationResult:
        """Measures the model on labelled rows; every metric has a 95 % interval.

        What was chosen or is odd stands in the result's `notices`.
        """
        table = read_table(source, settings or self.reading)
        notices: list[str] = []
        rows = self._as_rows(table, columns or {}, notices.append, training=True)
        checked = check_rows(rows, self.predictor.task.roles, drop_unlabelled=None)
        judge = judge or Judge()
        judge.check_own(self.predictor.task)
        for column in judge.slices:
            check_column(checked.rows, column)
        result = judge.judge(self.predictor, checked.rows, table.name, predictions)
        notices += checked.notices(table.name)
        return replace(result, notices=(*notices, *result.notices))

    def _rows(self, source: Any, columns: Mapping[str, str], say: Callable[[str], None]) -> Any:
        task = self.predictor.task
        bare = is_picture if task.picture_roles else _is_text
        if isinstance(source, list | tuple) and all(
            bare(item) or _is_text(item) for item in source
        ):
            return _rows_of_texts(source, self.bare_roles)
        if isinstance(source, str) and not is_source(source):
            raise DataError(
                f"{source!r:.60}", "there is no such file", "Rows come from a file, or as a list.",
                'One text is a list of one: predict(["..."]).',
            )  # fmt: skip
        return self._as_rows(read_table(source, self.reading), columns, say)

    def _check_is_text(self, line: str) -> None:
        """Raises DataError for the first line of standard input where rows come as CSV or JSON."""
        inputs = {role.name for role in self.predictor.task.roles if not role.only_training}
        columns = {name.casefold() for role, name in self.columns.items() if role in inputs}
        cells = {cell.strip(' "').casefold() for cell in re.split(r"[,;\t|]", line)}
        is_header = len(cells) > 1 and bool(columns) and columns <= cells
        if is_header or _is_object(line):
            raise DataError(
                f"{STANDARD_INPUT}, line 1",
                f"it looks like {'the header of a CSV file' if is_header else 'a row in JSON'}",
                "Without a format every line is a text.",
                f"Pass --format {'csv' if is_header else 'jsonl'}, or lines if it is a text.",
            )

    @property
    def bare_roles(self) -> list[str]:
        """The roles that texts without names fill: those of the task, or those training knew."""
        task, known = self.predictor.task, self.columns
        if task.bare_roles:
            optional = task.optional_texts if known else ()
            return [role for role in task.bare_roles if role in known or role not in optional]
        return [r for r in task.text_roles if r in known] or list(task.text_roles)

    def _as_rows(
        self,
        table: Table,
        columns: Mapping[str, str],
        say: Callable[[str], None],
        training: bool = False,
    ) -> TableRows:
        """Returns rows by the columns given, those of training, or the usual names."""
        task, before = self.predictor.task, self.columns
        if task.picture_roles and table.has_bare_texts:  # each of which is a path
            before = {task.picture_roles[0]: "text"}
        return as_rows(table, task.roles, columns, training=training, before=before, say=say)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _printable(value: Any) -> Any:
    """Returns a cell as it stands beside its answer: of bytes only how many there are."""
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in value.items()}
    return f"{len(value):,} bytes" if isinstance(value, bytes) else value


def _is_text(item: Any) -> bool:
    """Says whether an item of a list is a text, a missing one, or a pair of them."""
    parts = item if isinstance(item, list | tuple) else (item,)
    return all(part is None or isinstance(part, str) for part in parts)


def _rows_of_texts(texts: Sequence[Any], roles: Sequence[str]) -> list[Row]:
    rows = []
    for number, item in enumerate(texts):
        alone = item is None or isinstance(item, str) or is_picture(item)
        values = (item,) if alone else tuple(item)
        if not 1 <= len(values) <= len(roles):
            raise DataError(
                f"text {number}",
                f"it is {item!r:.60}",
                f"The model was trained on rows with {' and '.join(roles)}.",
                "Give one text." if len(roles) == 1 else "Give a text or a pair of texts.",
            )
        rows.append(Row(number, dict(zip(roles, values, strict=False)), "texts"))
    return rows


def reading_text(columns: Mapping[str, str], settings: ReadSettings) -> str:
    """Returns what stands in a model folder's `reading.json`: how its training data was read."""
    kept = {name: getattr(settings, name) for name in ("encoding", "delimiter", "quote", "header")}
    return json.dumps({"columns": dict(columns), **kept}, ensure_ascii=False, indent=2) + "\n"


def load(
    folder: str | PathLike[str], precision: Precision = "auto", *, exact: bool = False
) -> TrainedModel:
    """Loads a model folder that Tunewright trained; a run folder means its `model/`.

    A folder of sentence-transformers, such as `starter`, is one of sentence embedding, and one with
    a chat template, such as `smollm2`, one of text generation. `precision` is that of matrix
    products: bf16 where the machine has it, or fp32. When `exact`, an answer has the same bits
    whatever is asked beside it, which takes several times as long. Raises ModelError when the
    folder is damaged or holds no task, SettingsError for another precision.
    """
    if precision not in get_args(Precision):
        needed = f"It is one of {listed(get_args(Precision))}."
        raise SettingsError("precision", f"it is {precision!r}", needed)
    settle_allocator()
    path = find_model(Path(folder))
    check_model_folder(path)
    tokenizer = load_tokenizer(path)
    task = load_task(path, find_task) or _embedding(path, tokenizer) or _chat(path, tokenizer)
    if task is None:
        raise ModelError(
            str(path),
            "there is no task.json",
            "Only a folder that Tunewright trained says what its answers mean.",
            "Train with model=this folder first.",
        )
    device = find_device(precision)
    model, _ = task.build(path, tokenizer, dropout=None, seed=0)
    task.route(model)
    model.to(device.name).eval()
    use_own_layers(model)
    generation = read_generation(path) if task.generates else Generation()
    predictor = Predictor(task, model, tokenizer, device, generation=generation, exact=exact)
    return TrainedModel(predictor, path, *_remembered(path))


def load_adapters(
    folders: Mapping[str, str | PathLike[str]], precision: Precision = "auto"
) -> dict[str, TrainedModel]:
    """Loads several adapters of one model, which is in memory once; returns them by their names.

    `folders` are runs or model folders by names of yours. The adapters may be of any method, task
    and labels: each has its own head, and asking one changes nothing for the others. Raises
    ModelError as `load` does, SettingsError where a folder holds no adapter or one of another
    model.
    """
    loaded = {name: load(folder, precision) for name, folder in folders.items()}
    bases = {name: _weights_of_base(name, model.folder) for name, model in loaded.items()}
    first = next(iter(bases), "")
    for name, weights in bases.items():
        if weights != bases[first]:
            raise SettingsError(
                f'adapter "{name}"',
                f'it stands on another model than "{first}"',
                "Adapters that share a model have to be trained on the same weights.",
                "Load it by itself.",
            )
    share_frozen([model.predictor.model for model in loaded.values()])
    return loaded


def _weights_of_base(name: str, folder: Path) -> Mapping[str, str]:
    if not is_adapter_folder(folder):
        raise SettingsError(
            f'adapter "{name}"', f"{folder} holds no adapter", "It is a model of its own.",
            "Load it by itself.",
        )  # fmt: skip
    return read_base(folder).sha256


def _embedding(folder: Path, tokenizer: Any) -> Task | None:
    """Returns the task of a sentence-transformers folder, None for another one."""
    if not (folder / MODULES).is_file():
        return None
    task = find_task("sentence-embedding")().started_from(folder)
    return task.within(max_length_of(load_config(folder), tokenizer))


def _chat(folder: Path, tokenizer: Any) -> Task | None:
    """Returns the task of a folder with a chat template, such as `smollm2`; None for another."""
    config = load_config(folder)
    if tokenizer.chat_template is None or not is_decoder(config.model_type):
        return None
    return find_task("text-generation")().within(max_length_of(config, tokenizer))


def _remembered(folder: Path) -> tuple[dict[str, str], ReadSettings]:
    file = folder / READING
    if not file.is_file():
        return {}, DEFAULTS
    kept = json.loads(file.read_text(encoding="utf-8"))
    return kept.pop("columns"), ReadSettings(**kept).of_others()
