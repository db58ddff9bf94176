"""Cells that hold several things: lists, lists written as text, texts joined by a separator.

["sport", "news"]        a list, as JSON lines and Parquet have it
'["sport", "news"]'      the same as text, as CSV files have it
"['sport' 'news']"       the same as NumPy and pandas write it
sport;news               joined by a separator, which is found
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import PurePath
from typing import Any

from tunewright.data.checks import is_blank
from tunewright.errors import DataError

SEPARATORS = ("|", ";", ",")
# A longer list in one cell is no list of names.
MAX_CHARACTERS = 1_000_000
# A tuple or a set of texts, as Python prints it.
_OF_PYTHON = re.compile(r"""[({]\s*['"].*['"]\s*,?\s*[)}]""", re.DOTALL)
_NUMBERS = re.compile(r"\[[-+\d.eE,\s]*\]")

Item = str | int | float | bool


def find_separator(values: Iterable[Any]) -> str | None:
    """Returns which of `|`, `;` and `,` stands in most of the texts; None when none does.

    Lists, and lists written as text, have none.
    """
    texts = [value for value in values if isinstance(value, str) and not is_written(value)]
    counts = Counter(mark for text in texts for mark in SEPARATORS if mark in text)
    return max(SEPARATORS, key=lambda mark: counts[mark]) if counts else None


def read_list(value: Any, separator: str | None, where: str) -> list[Item]:
    """Returns the texts, numbers or booleans that a cell holds, in order.

    A text is cut at `separator` (None: it is one item), blanks around the parts and blank parts
    are left out; a blank text holds nothing. `where` names row and column.

    Raises: DataError for a missing value, and for one that holds anything else.
    """
    if isinstance(value, str) and (is_written(value) or _OF_PYTHON.fullmatch(value.strip())):
        value = _written(value, where)
    if isinstance(value, str):
        parts = value.split(separator) if separator else [value]
        return [part.strip() for part in parts if not is_blank(part)]
    if isinstance(value, Item) and not is_blank(value):
        return [value]
    if not isinstance(value, list | tuple) or not all(map(_is_item, value)):
        raise _no_list(value, where)
    return list(value)


def read_flag(value: Any, where: str) -> bool:
    """Returns whether a cell of a column of zeros and ones (or of false and true) is set.

    Raises: DataError for any other value.
    """
    flags = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
    flag = flags.get(str(value).strip().lower())
    if flag is None:
        raise DataError(
            where,
            "it is empty" if is_blank(value) else f"it is {value!r:.60}",
            "A label's own column holds 1 where the label applies and 0 where it does not.",
        )
    return flag


def _is_item(value: Any) -> bool:
    return isinstance(value, Item) and not is_blank(value)


def is_written(text: str) -> bool:
    """Says whether a text is likely a list that is written as text."""
    text = text.strip()
    return text.startswith("[") and text.endswith("]")


def _written(text: str, where: str) -> Any:
    """Reads a flat list of literals, written as JSON, Python or NumPy writes it."""
    plain = text.strip()
    try:
        if len(plain) <= MAX_CHARACTERS and plain.count("[") == 1:
            return _array(plain) or ast.literal_eval(plain)
        if len(plain) <= MAX_CHARACTERS and "[" not in plain:
            found = ast.literal_eval(plain)
            return sorted(found) if isinstance(found, set) else found
    except (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
        pass
    raise _no_list(text, where)


def _array(plain: str) -> list[str] | None:
    """Returns the texts of an array, which stand without commas: Python would join them to one.

    None for what is no such array. Raises ValueError for one that is cut in the middle.
    """
    reader = tokenize.generate_tokens(io.StringIO(plain).readline)
    tokens = [token for token in reader if token.string.strip()]
    if not any(a.type == b.type == tokenize.STRING for a, b in pairwise(tokens)):
        return None
    if any(token.type != tokenize.STRING for token in tokens[1:-1]):
        raise ValueError
    return [ast.literal_eval(token.string) for token in tokens[1:-1]]


def texts_in(value: Any, source: str) -> list[Any]:
    """Returns what stands in a cell that holds a text, or a list of them.

    In files of delimited columns a list is written as text; one that only looks like a list is a
    text. Blank entries of a list are left out.
    """
    if isinstance(value, list | tuple):
        return list(value)
    if not _is_delimited(source) or not isinstance(value, str) or not is_written(value):
        return [value]
    found = _loaded(value.strip())
    if found is None or not all(each is None or isinstance(each, str) for each in found):
        return [value]
    return [each for each in found if not is_blank(each)]


def numbers_in(value: Any, source: str) -> list[Any]:
    """Returns the same of a cell that holds a number, or a list of them."""
    if isinstance(value, list | tuple):
        return list(value)
    if _is_delimited(source) and isinstance(value, str) and _NUMBERS.fullmatch(value.strip()):
        return value.strip()[1:-1].replace(",", " ").split()
    return [value]


def _is_delimited(source: str) -> bool:
    return any(suffix in (".csv", ".tsv") for suffix in PurePath(source.lower()).suffixes)


def _loaded(plain: str) -> list[Any] | None:
    """Returns a list that is written as JSON, Python or NumPy writes it, None for anything else."""
    if len(plain) > MAX_CHARACTERS:
        return None
    try:
        found = json.loads(plain)
    except (ValueError, RecursionError):
        try:
            found = _array(plain) or ast.literal_eval(plain)
        except (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
            return None
    return found if isinstance(found, list) else None


def _no_list(value: Any, where: str) -> DataError:
    return DataError(
        where,
        "it is empty" if value is None else f"it is {value!r:.60}",
        'A list such as ["a", "b"] is needed, or one text.',
    )
