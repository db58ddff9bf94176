"""`predict`: rows in, answers out, with memory that does not grow."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

from tunewright.cli import show
from tunewright.cli.words import Asked, as_asked, chosen, divided
from tunewright.data import escape_formula, write_rows
from tunewright.data.wording import counted
from tunewright.errors import SettingsError, listed
from tunewright.run.record import finite

KINDS = ("lines", "jsonl", "csv", "tsv")
PRECISIONS = ("auto", "bf16", "fp32")


def predict_and_write(
    folder: str,
    files: Sequence[str],
    output: str,
    kind: str,
    columns: Mapping[str, str | None],
    precision: str,
    exact: bool,
) -> None:
    """Answers every row of every file, in order, writing each answer as soon as it is there.

    A row keeps its own columns; a field of the answer whose name is taken is called predicted_NAME.
    """
    for name, value, known in (("--format", kind, KINDS), ("--precision", precision, PRECISIONS)):
        if value not in known:
            raise SettingsError(name, f'it is "{value}"', f"It is one of {', '.join(known)}.")
    from tunewright.prediction.oddities import Oddities
    from tunewright.run.loaded import load

    plain, pairs = divided(files)
    asked = Asked.of(pairs, ("generation",))
    model = load(folder, precision, exact=exact)  # type: ignore[arg-type]
    model = replace(model, predictor=as_asked(model.predictor, pairs, ("data",)))
    given, odd = asked.columns | chosen(columns), Oddities.of_rows(model.predictor.task.roles)
    settings = replace(model.reading, **asked.reading)

    free = FreeNames()
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

    The fields of an answer keep together: where one is taken, all begin with `predicted_`, or with
    `predicted_2_` where that is taken, too.
    """

    def __init__(self) -> None:
        self._number = 0

    def beside(
        self, cells: Mapping[str, Any], answer: Mapping[str, Any], place: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns a row's place, its columns and its answer."""
        while any(self._prefix + name in cells for name in answer):
            self._number += 1
        where = {f"file_{name}" if name in cells else name: value for name, value in place.items()}
        return where | {**cells} | {self._prefix + name: value for name, value in answer.items()}

    @property
    def _prefix(self) -> str:
        return (
            ("", "predicted_")[self._number] if self._number < 2 else f"predicted_{self._number}_"
        )
