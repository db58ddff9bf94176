"""`predict`: rows in, answers out, with memory that does not grow."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from tunewright.data import ReadSettings, write_rows
from tunewright.errors import SettingsError

KINDS = ("lines", "jsonl", "csv", "tsv")
PRECISIONS = ("auto", "bf16", "fp32")


def predict_and_write(
    folder: str,
    files: Sequence[str],
    output: str,
    kind: str,
    columns: Mapping[str, str | None],
    precision: str,
) -> None:
    """Answers every row of every file, in order, writing each answer as soon as it is there."""
    for name, value, known in (("--format", kind, KINDS), ("--precision", precision, PRECISIONS)):
        if value not in known:
            raise SettingsError(name, f'it is "{value}"', f"It is one of {', '.join(known)}.")
    from tunewright.run.loaded import load

    model = load(folder, precision)  # type: ignore[arg-type]
    given = {role: name for role, name in columns.items() if name is not None}

    def answers() -> Iterator[dict[str, Any]]:
        for file in files:
            source: str | BinaryIO = sys.stdin.buffer if file == "-" else file
            rows, asked = _twice(model.rows_of(source, ReadSettings(), given, kind))
            for answer in model.stream(rows):
                row = next(asked)
                place = {"source": row.source, "line": row.line} if len(files) > 1 else {}
                yield {**place, **row.values, **answer.to_json()}

    write_rows(answers(), output)


def _twice(rows: Iterator[Any]) -> tuple[Iterator[Any], Iterator[Any]]:
    """Gives rows to the model and keeps them until their answers come."""
    from collections import deque

    waiting: deque[Any] = deque()

    def first() -> Iterator[Any]:
        for row in rows:
            waiting.append(row)
            yield row

    def second() -> Iterator[Any]:
        while waiting:
            yield waiting.popleft()

    return first(), second()
