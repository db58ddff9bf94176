"""`mine`: pairs in, pairs with hard negatives out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tunewright.cli import show
from tunewright.cli.words import own_settings, source_of
from tunewright.data import check_output, write_rows
from tunewright.data.readers import DEFAULTS
from tunewright.data.wording import counted
from tunewright.errors import SettingsError


def mine_and_write(
    words: Sequence[str], model: str, output: str, as_json: bool, **asked: Any
) -> None:
    """Finds hard negatives for the pairs of a source."""
    check_output(output)
    words, given = own_settings(words, ("precision",))
    source, found = source_of(words, "mine pairs.csv --out mined.jsonl")
    if asked["text"] and asked["documents"] is None:
        raise SettingsError(
            "--text", "it is given, and --documents is not", "It names a column of --documents.",
            "Columns of the pairs are named by data.columns.anchor and data.columns.positive.",
        )  # fmt: skip
    reading = replace(DEFAULTS, **found.reading)
    from tunewright.mining import mine_negatives
    from tunewright.run.loaded import load

    with show.err.status("Comparing ..."):
        loaded = load(model, **given)
        rows = mine_negatives(
            loaded, source, found.columns, settings=reading, say=show.say, **asked
        )
    write_rows(rows, output)
    num_negatives = sum(len(row["negative"]) for row in rows)
    show.say(f"{counted(len(rows), 'row')} with {counted(num_negatives, 'negative')}.")
    if as_json and output != "-":
        show.print_json({"rows": len(rows), "output": output})
