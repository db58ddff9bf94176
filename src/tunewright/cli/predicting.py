"""`predict`: rows in, answers out, with memory that does not grow."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from typing import Any, BinaryIO

from tunewright.answers import finite
from tunewright.cli import show
from tunewright.cli.words import Asked, as_asked, chosen, divided
from tunewright.data import ReadSettings, escape_formula, stream_tables, write_rows
from tunewright.data.wording import counted
from tunewright.errors import SettingsError, listed

KINDS = ("lines", "jsonl", "csv", "tsv")
PRECISIONS = ("auto", "bf16", "fp32")


def predict_and_write(
    folder: str,
    files: Sequence[str],
    output: str,
    kind: str | None,
    columns: Mapping[str, str | None],
    precision: str,
    exact: bool,
) -> None:
    """Answers every row of every file, in order, writing each answer as soon as it is there.

    A row keeps its own columns; `FreeNames` says what the fields of its answer are called then.
    """
    for name, value, known in (("--format", kind, KINDS), ("--precision", precision, PRECISIONS)):
        if value not in (None, *known):
            raise SettingsError(name, f'it is "{value}"', f"It is one of {', '.join(known)}.")
    from tunewright.prediction.oddities import odd_rows
    from tunewright.run.loaded import load

    plain, pairs = divided(files)
    asked = Asked.of(pairs, ("generation",))
    model = load(folder, precision, exact=exact)  # type: ignore[arg-type]
    model = replace(model, predictor=as_asked(model.predictor, pairs, ("data",)))
    given, odd = asked.columns | chosen(columns), odd_rows(model.predictor.task.roles)
    settings = replace(model.reading, **asked.reading)

    named = _columns(plain, settings) if len(plain) > 1 else ()
    free = FreeNames(named)
    formulas = Counter[str]()

    def answers() -> Iterator[dict[str, Any]]:
        for file in plain or ["-"]:
            source: str | BinaryIO = sys.stdin.buffer if file == "-" else file
            waiting: deque[tuple[Any, dict[str, Any]]] = deque()
            rows = _kept(model.rows_of(source, given, settings, kind, show.say), waiting)
            for answer in model.stream(rows, odd):
                row, cells = waiting.popleft()
                place = {"source": row.source, "line": row.line} if len(plain) > 1 else {}
                yield finite(free.beside(cells, answer.to_json(), place))

    rows = answers()
    write_rows(_watched(rows, formulas) if output.endswith(".csv") else rows, output)
    for sentence in odd.notices():
        show.say(sentence)
    if formulas:
        show.say(
            f"{counted(formulas.total(), 'cell')} of {listed(formulas)} would be run by a "
            "spreadsheet; an apostrophe stands before each. A .jsonl file has them as they are."
        )


def _columns(files: Sequence[str], settings: ReadSettings) -> set[str]:
    """Returns the columns of all files, by their first rows."""
    tables = (next(stream_tables(file, settings), None) for file in files if file != "-")
    return {name for table in tables if table is not None for name in table.column_names}


def _kept(
    rows: Iterator[tuple[Any, dict[str, Any]]], waiting: deque[tuple[Any, dict[str, Any]]]
) -> Iterator[Any]:
    """Hands rows to the model and keeps their columns until the answers come."""
    for row, cells in rows:
        waiting.append((row, cells))
        yield row


def _watched(rows: Iterator[dict[str, Any]], formulas: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yields rows as they come, and counts by column what CSV will escape."""
    for row in rows:
        formulas.update(
            name
            for name, value in row.items()
            if isinstance(value, str) and escape_formula(value) != value
        )
        yield row


class FreeNames:
    """Puts answers beside the columns of their rows, under names that are not taken.

    The fields of an answer keep together: where a column of any file, or of what came on standard
    input so far, is called like one, all begin with `predicted_`, or with `predicted_2_` where that
    is taken, too. File and line begin with `file_`, should they have to.
    """

    def __init__(self, columns: Iterable[str] = ()) -> None:
        self._columns = set(columns)
        self._names: dict[str, set[str]] = {"file": set(), "predicted": set()}

    def beside(
        self, cells: Mapping[str, Any], answer: Mapping[str, Any], place: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns a row's place, its columns and its answer."""
        self._columns |= cells.keys()
        return {**self._free("file", place), **cells, **self._free("predicted", answer)}

    def _free(self, word: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns values under names that are free, and were for all fields that came before."""
        names = self._names[word]
        names |= values.keys()
        prefixes = chain(("", f"{word}_"), (f"{word}_{number}_" for number in count(2)))
        prefix = next(p for p in prefixes if self._columns.isdisjoint(p + name for name in names))
        return {prefix + name: value for name, value in values.items()}
