"""`mine`: pairs in, pairs with hard negatives out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewright.cli import show
from tunewright.cli.words import reading_of
from tunewright.data import write_rows
from tunewright.data.readers import DEFAULTS
from tunewright.data.wording import counted
from tunewright.errors import SettingsError
from tunewright.run.config import overrides


def mine_and_write(
    words: Sequence[str], model: str, output: str, precision: str, as_json: bool, **asked: Any
) -> None:
    """Finds hard negatives for the pairs of a source, and says how many queries lack some."""
    plain = [word for word in words if "=" not in word or Path(word).exists()]
    if len(plain) != 1:
        raise SettingsError(
            "command line", f"{len(plain)} sources are named", "One is needed.",
            "Write, for example: tunewright mine pairs.csv --out mined.jsonl",
        )  # fmt: skip
    from tunewright.mining import mine_negatives
    from tunewright.run.loaded import load

    pairs = [word for word in words if word not in plain]
    columns = overrides(pairs).get("data", {}).get("columns", {})
    reading = replace(DEFAULTS, **reading_of(pairs))
    with show.err.status("Comparing ..."):
        loaded = load(model, precision)  # type: ignore[arg-type]
        rows = mine_negatives(loaded, plain[0], columns, settings=reading, **asked)
    write_rows(rows, output)
    wanted = asked["num_negatives"]
    about: dict[str, Any] = {
        "rows": len(rows),
        "negatives": sum(len(row["negative"]) for row in rows),
        "with_fewer": sum(len(row["negative"]) < wanted for row in rows),
        "with_none": sum(not row["negative"] for row in rows),
        "output": output,
    }
    if as_json and output != "-":
        show.print_json(about)
        return
    show.say(
        f"Found {counted(about['negatives'], 'negative')} for {counted(len(rows), 'row')}; "
        f"{about['with_fewer']:,} have fewer than {wanted}, {about['with_none']:,} have none."
    )
