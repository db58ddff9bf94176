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

from tunewright.data.arrays import without_lone_surrogates
from tunewright.data.checks import is_blank
from tunewright.errors import DataError

SEPARATORS = ("|", ";", ",")
# A longer list in one cell is no list of names.
MAX_CHARACTERS = 1_000_000
# Nor are these lists in one another: spans of a text with a list of labels each are three deep.
MAX_DEPTH = 8
# A tuple or a set of texts, as Python prints it.
_OF_PYTHON = re.compile(r"""[({]\s*['"].*['"]\s*,?\s*[)}]""", re.DOTALL)
_NUMBERS = re.compile(r"\[[-+\d.eE,\s]*\]")
# Whole numbers as NumPy prints them, integers or floats.
_SPACED = re.compile(r"\[\s*-?\d{1,18}\.?(\s+-?\d{1,18}\.?)*\s*\]")
_BRACKETS = ("[]", "{}", "()")
# Texts that may stand beside one another without a comma; to look closer takes ten times as long.
_BESIDE = re.compile(r"""['"][\s\\]*[rbuRBU]{0,2}['"]""")
# What text that is no literal makes Python's parser raise: unhashable keys, lists without an end.
_UNREADABLE = (
    ValueError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError
)  # fmt: skip

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
    found = value
    if isinstance(value, str) and (is_written(value) or _OF_PYTHON.fullmatch(value.strip())):
        found = _loaded(value.strip())
        if found is None and not is_written(value):
            found = value  # a text in brackets and quotes
        found = sorted(found, key=repr) if isinstance(found, set) else found
    if isinstance(found, str):
        parts = found.split(separator) if separator else [found]
        return [part.strip() for part in parts if not is_blank(part)]
    if isinstance(found, Item) and not is_blank(found):
        return [found]
    if not isinstance(found, list | tuple) or not all(map(_is_item, found)):
        raise _no_list(value, where)
    return list(found)


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


def _spaced(plain: str) -> list[int | float]:
    return [float(each) if each.endswith(".") else int(each) for each in plain[1:-1].split()]


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
    if not isinstance(found, list) or not all(
        each is None or isinstance(each, str) for each in found
    ):
        return [value]
    return [each for each in found if not is_blank(each)]


def numbers_in(value: Any, source: str) -> list[Any]:
    """Returns the same of a cell that holds a number, or a list of them."""
    if isinstance(value, list | tuple):
        return list(value)
    if _is_delimited(source) and isinstance(value, str) and _NUMBERS.fullmatch(value.strip()):
        return value.strip()[1:-1].replace(",", " ").split()
    return [value]


def read_written(
    value: Any, max_characters: int = MAX_CHARACTERS, max_depth: int = MAX_DEPTH
) -> Any:
    """Returns the list or the object that a text holds, as JSON, Python or NumPy writes it.

    It is for roles that are never a text themselves, such as the tokens of one. What is no text,
    and a text that holds neither, stays as it is; so do JSON of more than `max_characters`, and
    what stands in one another more than `max_depth` times. Half a character is U+FFFD, as in JSON
    files.
    """
    plain = value.strip() if isinstance(value, str) else ""
    if plain[:1] + plain[-1:] not in _BRACKETS:
        return value
    found = _loaded(plain, max_characters, max_depth)
    found = _of_arrays(plain, max_depth) if found is None else found
    return found if isinstance(found, list | tuple | dict) else value


def _is_deeper(value: Any, depth: int) -> bool:
    """Says whether lists and objects stand in one another more than `depth` times."""
    if not isinstance(value, list | tuple | dict):
        return False
    within = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_is_deeper(each, depth - 1) for each in within)


def _is_delimited(source: str) -> bool:
    return any(suffix in (".csv", ".tsv") for suffix in PurePath(source.lower()).suffixes)


def _loaded(plain: str, max_characters: int = MAX_CHARACTERS, max_depth: int = MAX_DEPTH) -> Any:
    """Returns what is written as JSON, Python or NumPy writes it.

    None for what is no list, tuple, set or object, or too deep a one. Only JSON is read beyond
    `MAX_CHARACTERS`.
    """
    if _SPACED.fullmatch(plain):
        return _spaced(plain)
    try:
        found = json.loads(plain) if len(plain) <= max_characters else None
    except (ValueError, RecursionError):
        if len(plain) > MAX_CHARACTERS:
            return None
        try:
            found = (_BESIDE.search(plain) and _array(plain)) or ast.literal_eval(plain)
        except _UNREADABLE:
            return None
    return found if isinstance(found, set) else _plain(found, max_depth)


def _plain(found: Any, max_depth: int) -> Any:
    if not isinstance(found, list | tuple | dict) or _is_deeper(found, max_depth):
        return None
    return without_lone_surrogates(found)


def _of_arrays(plain: str, max_depth: int) -> Any:
    """Returns what pandas writes of lists and objects that stand in one another, None otherwise.

    `{'text': array(['a'], dtype=object)}` is `{'text': ['a']}`, and `[{'a': 1} {'a': 2}]` has two.
    """
    if len(plain) > MAX_CHARACTERS:
        return None
    try:
        reader = tokenize.generate_tokens(io.StringIO(plain).readline)
        plain = _without_arrays([t.string for t in reader if t.string.strip()])
        return _plain(ast.literal_eval(plain), max_depth)
    except _UNREADABLE:
        return None


def _without_arrays(parts: list[str]) -> str:
    """Returns the parts of a literal with arrays as lists, and commas between their items.

    Raises ValueError for texts without a comma between them, which Python would join to one.
    """
    if any(a[-1] in "'\"" and b[-1] in "'\"" for a, b in pairwise(parts)):
        raise ValueError
    kept: list[str] = []
    is_call: list[bool] = []
    place = 0
    while place < len(parts):
        part = parts[place]
        if parts[place : place + 2] == ["array", "("]:
            is_call.append(True)
            place += 2
            continue
        if parts[place : place + 3] == [",", "dtype", "="]:
            place += 4
            continue
        if part == "(":
            is_call.append(False)
        place += 1
        if part == ")" and is_call and is_call.pop():
            continue
        if kept and kept[-1] in "]})" and part in "[{(":
            kept.append(",")
        kept.append(part)
    return " ".join(kept)


def _no_list(value: Any, where: str) -> DataError:
    return DataError(
        where,
        "it is empty" if value is None else f"it is {value!r:.60}",
        'A list such as ["a", "b"] is needed, or one text.',
    )
