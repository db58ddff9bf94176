"""Checks the rows a model is to learn from: empty labels, blank texts, odd labels, bad numbers."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.answers import LabelValue
from tunewright.data.table import TableRows
from tunewright.data.wording import counted
from tunewright.errors import DataError, listed
from tunewright.types import Role, Row

# A column with more classes than this, more of them than half the rows, is no label.
MIN_ID_CLASSES = 100
MAX_CLASSES_PER_ROW = 0.5
SHOWN_LINES = 5
DROP = " or pass data.drop_unlabelled=true."

_WHOLE_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.0+)?")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many rows were left out, and the first lines of each kind (0 = no line known)."""

    unlabelled: int = 0
    blank: int = 0
    unlabelled_lines: tuple[int, ...] = ()
    blank_lines: tuple[int, ...] = ()

    @property
    def num_rows(self) -> int:
        return self.unlabelled + self.blank

    def to_json(self) -> dict[str, Any]:
        """Returns the record as the run folder keeps it."""
        return {
            "unlabelled": self.unlabelled,
            "unlabelled_lines": list(self.unlabelled_lines),
            "blank": self.blank,
            "blank_lines": list(self.blank_lines),
        }


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """The rows that are left, what was dropped, and how many rows with a blank text were kept."""

    rows: TableRows
    dropped: Dropped
    num_blank_kept: int
    could_drop: bool = True

    def notices(self, source: str) -> tuple[str, ...]:
        """Returns whole sentences on what was dropped or is odd, to be shown to the user."""
        dropped, kept = self.dropped, " kept (data.drop_blank=true drops them)"
        counts = (
            (dropped.unlabelled, "without a label dropped (data.drop_unlabelled)"),
            (dropped.blank, "with a blank text dropped (data.drop_blank)"),
            (self.num_blank_kept, f"with a blank text{kept if self.could_drop else ''}"),
        )
        return tuple(f"{source}: {counted(n, 'row')} {words}." for n, words in counts if n)


def is_blank(value: object) -> bool:
    """Says whether a value shows nothing: missing, or text of blanks and invisible characters.

    A list is blank when all that it holds is.
    """
    if isinstance(value, str):
        return all(map(_is_invisible, value))
    if isinstance(value, list | tuple):
        return all(map(is_blank, value))
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_invisible(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in ("Cf", "Cc")


def check_rows(
    rows: TableRows,
    roles: Sequence[Role],
    *,
    drop_unlabelled: bool | None = False,
    drop_blank: bool = False,
) -> CheckedRows:
    """Checks rows for training: every needed label is there; blank texts are counted.

    Where one of several roles is to say what is right, a row lacks it when all of those are
    missing; of a role that `may_hold_none` an empty list is not. Where no text is needed because
    one of several will do, such as tokens or a text, a row is blank when all of those that are
    there are.

    Raises: DataError when labels are empty and `drop_unlabelled` is off, or None, where nothing
    can be dropped, or no row is left.
    """
    needed = [role for role in roles if role.required and role.name in rows.columns]
    labels = [role.name for role in needed if role.only_training]
    unlabelled = _blank_places(rows, labels)
    if any(role.labels for role in roles):
        labels += [role.name for role in roles if role.labels and role.name in rows.columns]
        unlabelled |= _without_labels(rows, roles)
    if unlabelled and not drop_unlabelled:
        raise _empty_labels(rows, labels, sorted(unlabelled), drop_unlabelled is not None)
    blank = _blank_texts(rows, roles) - unlabelled
    gone = unlabelled | blank if drop_blank else unlabelled
    kept = rows.select(place for place in range(len(rows)) if place not in gone)
    if not kept:
        raise DataError(
            rows.table.name,
            "no row is left once those without a label or text are dropped",
            "At least one row is needed.",
        )
    dropped = Dropped(
        len(unlabelled),
        len(blank) if drop_blank else 0,
        _first_lines(rows, unlabelled),
        _first_lines(rows, blank) if drop_blank else (),
    )
    num_blank = 0 if drop_blank else len(blank)
    return CheckedRows(kept, dropped, num_blank, drop_unlabelled is not None)


def is_dropped(
    row: Row,
    columns: Mapping[str, str],
    roles: Sequence[Role],
    *,
    drop_unlabelled: bool = False,
    drop_blank: bool = False,
) -> bool:
    """Says of a row by itself whether `check_rows` would drop it.

    `columns` are the columns of its roles. Raises: DataError when its label is empty and
    `drop_unlabelled` is off.
    """
    known = [role for role in roles if role.name in row.values]
    blank = {role.name for role in known if is_blank(row.values[role.name])}
    labels = [role.name for role in known if role.required and role.only_training]
    either = [role for role in known if role.labels]
    lacks = bool(either) and all(is_missing(row.values[role.name], role) for role in either)
    is_unlabelled = lacks or not blank.isdisjoint(labels)
    labels += [role.name for role in either]
    if is_unlabelled:
        if drop_unlabelled:
            return True
        column = listed(columns[name] for name in labels)
        raise _empty_label(row.where, column, True)
    return drop_blank and has_no_text(row, roles)


def has_no_text(row: Row, roles: Sequence[Role]) -> bool:
    """Says whether a row lacks a needed text, or every one that would do."""
    texts = [role for role in roles if not role.only_training and role.name in row.values]
    needed = [role for role in texts if role.required]
    if needed:
        return any(is_blank(row.values[role.name]) for role in needed)
    return bool(texts) and all(is_blank(row.values[role.name]) for role in texts)


def _empty_label(where: str, column: str, may_drop: bool) -> DataError:
    return DataError(
        where,
        f"column {column} is empty",
        f"Every row needs a label to {'train' if may_drop else 'be judged'}.",
        f"Remove the row{DROP if may_drop else '.'}",
    )


def is_missing(value: object, role: Role) -> bool:
    """Says whether a cell of labels has no value; an empty list may be one."""
    if role.may_hold_none and isinstance(value, list | tuple | Mapping):
        return False
    return is_blank(value)


def _without_labels(rows: TableRows, roles: Sequence[Role]) -> set[int]:
    """Returns the places of the rows in which all of the roles that are labels are missing."""
    either = [role for role in roles if role.labels]
    known = [role for role in either if role.name in rows.columns]
    if not known:
        raise DataError(
            rows.table.name,
            f"it has no column {' or '.join(role.name for role in either)}",
            f"Rows need one to be learnt or judged. It has {listed(rows.table.column_names)}.",
            f"Name it with data.columns.{either[0].name}.",
        )
    missing = (
        {place for place, value in enumerate(rows.values(role.name)) if is_missing(value, role)}
        for role in known
    )
    return set.intersection(*missing)


def _blank_places(rows: TableRows, roles: Iterable[str]) -> set[int]:
    """Returns the places of the rows in which one of `roles` is blank."""
    return {
        place for role in roles for place, value in enumerate(rows.values(role)) if is_blank(value)
    }


def _blank_texts(rows: TableRows, roles: Sequence[Role]) -> set[int]:
    """Returns the places of the rows that lack a needed text, or every one that would do."""
    texts = [role for role in roles if not role.only_training and role.name in rows.columns]
    needed = [role.name for role in texts if role.required]
    if needed or not texts:
        return _blank_places(rows, needed)
    return set.intersection(*(_blank_places(rows, [role.name]) for role in texts))


def _first_lines(rows: TableRows, places: Iterable[int]) -> tuple[int, ...]:
    lines = rows.lines
    return tuple(int(lines[place]) for place in sorted(places)[:SHOWN_LINES])


def _empty_labels(
    rows: TableRows, labels: Sequence[str], places: Sequence[int], may_drop: bool
) -> DataError:
    columns = listed(rows.columns[role] for role in labels)
    if len(places) == 1:
        return _empty_label(rows[places[0]].where, columns, may_drop)
    lines = _first_lines(rows, places)
    first = [str(line or place) for line, place in zip(lines, places, strict=False)]
    more = " and more" if len(places) > SHOWN_LINES else ""
    found = (
        f"column {columns} is empty in {len(places):,} of {len(rows):,} rows "
        f"({'lines' if lines[0] else 'rows'} {', '.join(first)}{more})"
    )
    needed = f"Every row needs a label to {'train' if may_drop else 'be judged'}."
    return DataError(rows.table.name, found, needed, f"Remove the rows{DROP if may_drop else '.'}")


def check_labels(
    labels: Iterable[LabelValue | float] | Mapping[LabelValue, int],
    source: str,
    column: str = "label",
) -> None:
    """Checks the labels of a classifier's training rows: one value per row, or a count of each.

    A mapping cannot tell 1 from 1.0 and true, which Python takes for one key.

    Raises: DataError when one label is written in several ways (1, 1.0, "1", " 1"), when nearly
    every row has a label of its own, and when all rows have the same one.
    """
    counts = _label_counts(labels)
    num_rows = counts.total()
    spellings: dict[str, list[tuple[object, int]]] = {}
    for (_, value), count in counts.items():
        spellings.setdefault(plain_label(value), []).append((value, count))
    for label, written in spellings.items():
        if len(written) > 1:
            raise _several_spellings(label, written, source, column)
    if len(counts) > max(MIN_ID_CLASSES, MAX_CLASSES_PER_ROW * num_rows):
        raise DataError(
            source,
            f'column "{column}" has {len(counts):,} different labels in {num_rows:,} rows',
            "It looks like an id or like free text; a class needs several rows.",
            "Name the column of the classes with data.columns.label.",
        )
    if len(counts) == 1:
        ((_, only),) = counts
        raise DataError(
            source,
            f'column "{column}" has the one label {_shown(only)} in all {num_rows:,} rows',
            "A classifier needs at least two classes.",
            "Add rows of another class, or name another column with data.columns.label.",
        )


def _label_counts(
    labels: Iterable[LabelValue | float] | Mapping[LabelValue, int],
) -> Counter[tuple[type, LabelValue | float]]:
    if isinstance(labels, Mapping):
        return Counter({(type(value), value): count for value, count in labels.items()})
    return Counter((type(value), value) for value in labels)


def plain_label(value: object) -> str:
    """Returns the form that two spellings of one label share: `1.0` and `" 1"` are `1`."""
    text = str(value).strip()
    if isinstance(value, bool):
        return text.lower()
    match = _WHOLE_NUMBER.fullmatch(text)
    return text.split(".")[0] if match else text


def _several_spellings(
    label: str, written: Sequence[tuple[object, int]], source: str, column: str
) -> DataError:
    forms = ", ".join(f"{_shown(value)} in {counted(count, 'row')}" for value, count in written)
    return DataError(
        source,
        f'column "{column}" writes the label {label} in {len(written)} ways: {forms}',
        "Each label has to be written in one way.",
        "Write all of them alike.",
    )


def _shown(value: object) -> str:
    """Returns a label so that text, number and boolean can be told apart."""
    return f'"{value}"' if isinstance(value, str) else str(value)


def read_number(value: object, where: str) -> float:
    """Returns a finite number from a number or from text such as "3", "-0.5" or "1e-3".

    `where` names row and column in the message. Raises: DataError for anything else: an empty
    value, "N/A", a boolean, "1,5", NaN, infinities, and numbers too large for 64 bits (1e400).
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _not_a_number(value, where, "")
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        hint = ""
        if "," in value:
            hint = 'Write decimals with a point ("1.5"), and thousands without a sign ("1000").'
        raise _not_a_number(value, where, hint)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _not_a_number(value, where, "")
    return number


def _not_a_number(value: object, where: str, hint: str) -> DataError:
    found = "the value is empty" if is_blank(value) else f"{_shown(value)} is not a finite number"
    remedy = hint or "Correct the value, or remove the row."
    return DataError(where, found, "A number is needed here.", remedy)
