"""`predict`: rows in, answers out, with memory that does not grow."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

from tunewright.cli import show
from tunewright.cli.words import Asked, chosen, divided, writing_of
from tunewright.data import write_rows
from tunewright.data.ledger import Cuts
from tunewright.errors import SettingsError
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
    from tunewright.prediction.predictor import replace_generation
    from tunewright.run.loaded import load

    plain, pairs = divided(files)
    asked = Asked.of(pairs, ("generation",))
    model = load(folder, precision, exact=exact)  # type: ignore[arg-type]
    written = writing_of(pairs, ("data",))
    if written:
        model = replace(model, predictor=replace_generation(model.predictor, **written))
    given, cuts = asked.columns | chosen(columns), Cuts()
    settings = replace(model.reading, **asked.reading)

    def answers() -> Iterator[dict[str, Any]]:
        for file in plain or ["-"]:
            source: str | BinaryIO = sys.stdin.buffer if file == "-" else file
            waiting: deque[tuple[Any, dict[str, Any]]] = deque()
            rows = _kept(model.rows_of(source, given, settings, kind, show.say), waiting)
            for answer in model.stream(rows, cuts.add):
                row, cells = waiting.popleft()
                place = {"source": row.source, "line": row.line} if len(plain) > 1 else {}
                yield finite(place | cells | _beside(answer.to_json(), cells))

    write_rows(answers(), output)
    for sentence in cuts.notices():
        show.say(sentence)


def _kept(
    rows: Iterator[tuple[Any, dict[str, Any]]], waiting: deque[tuple[Any, dict[str, Any]]]
) -> Iterator[Any]:
    """Hands rows to the model and keeps their columns until the answers come."""
    for row, cells in rows:
        waiting.append((row, cells))
        yield row


def _beside(answer: dict[str, Any], cells: dict[str, Any]) -> dict[str, Any]:
    """Returns an answer's fields under names that the row's own columns do not have."""
    return {f"predicted_{name}" if name in cells else name: value for name, value in answer.items()}
