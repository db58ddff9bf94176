"""`mine`: pairs in, pairs with hard negatives out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tunewright.cli import show
from tunewright.cli.words import columns_of, own_settings, reading_of, source_of
from tunewright.data import check_output, write_rows
from tunewright.data.readers import DEFAULTS


def mine_and_write(
    words: Sequence[str], model: str, output: str, as_json: bool, **asked: Any
) -> None:
    """Finds hard negatives for the pairs of a source."""
    check_output(output)
    words, given = own_settings(words, ("precision",))
    source, pairs = source_of(words, "mine pairs.csv --out mined.jsonl")
    reading = replace(DEFAULTS, **reading_of(pairs))
    from tunewright.mining import mine_negatives
    from tunewright.run.loaded import load

    with show.err.status("Comparing ..."):
        loaded = load(model, **given)
        rows = mine_negatives(
            loaded, source, columns_of(pairs), settings=reading, say=show.say, **asked
        )
    write_rows(rows, output)
    if as_json and output != "-":
        show.print_json({"rows": len(rows), "output": output})
