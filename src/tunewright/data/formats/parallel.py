"""Two text files that belong together line by line: `train.src` and its translation `train.tgt`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tunewright.data.table import Table
from tunewright.errors import DataError

SOURCE, TARGET = ".src", ".tgt"


def partner_of(path: Path) -> Path | None:
    """Returns the `.tgt` file beside a `.src` file (each also .gz), None where there is none."""
    suffixes = path.suffixes[-2:]
    if SOURCE not in suffixes:
        return None
    name = path.name
    place = name.rindex(SOURCE)
    partner = path.with_name(f"{name[:place]}{TARGET}{name[place + len(SOURCE) :]}")
    return partner if partner.is_file() else None


def paired(source: Table, target: Table) -> Table:
    """Returns the lines of two tables of texts side by side, in the columns source and target.

    Raises DataError when one has more lines than the other.
    """
    if source.num_rows != target.num_rows:
        raise DataError(
            target.name,
            f"it has {target.num_rows:,} lines, and {source.name} has {source.num_rows:,}",
            "Line by line, each is the translation of the other.",
            "Find the line from which on they do not belong together.",
        )
    texts = source.columns.rename_columns(["source"])
    return replace(
        source,
        columns=texts.append_column("target", target.columns.column("text")),
        notes=(
            *source.notes,
            *target.notes,
            f"{source.name}: its translations are those of {target.name}, line by line.",
        ),
        files=(*source.files, *target.files),
        has_bare_texts=False,
    )
