"""Reads JSON and JSON Lines with Python's `json` module, and refuses what has two meanings.

A key that appears twice, NaN and infinities are errors, as RFC 8259 has neither. Values keep
their JSON types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from tunewright.data.arrays import record_batch
from tunewright.data.formats.delimited import FLUSH_CHARACTERS, FLUSH_ROWS, empty_file
from tunewright.data.formats.encoding import Lines
from tunewright.data.formats.label_studio import Flattener, is_task
from tunewright.data.formats.squad import is_nested_squad, squad_rows
from tunewright.data.table import Batch
from tunewright.errors import DataError

_BLANKS = re.compile(r"[ \t\r\n]*")
_LINE_END = re.compile(r"\r\n|\r|\n")
ONE_OBJECT = 'Each line has to be one JSON object, such as {"text": "...", "label": "..."}.'
LIST_OF_OBJECTS = (
    'The file has to be a list of objects, an object with such a list under "data", or an '
    "object of columns."
)

Object = tuple[int, dict[str, Any]]


class _RefusedError(ValueError):
    """JSON that could be parsed, but has no one meaning."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _RefusedError(f'the key "{twice}" appears twice in one object')
    return made


def _no_constant(word: str) -> NoReturn:
    raise _RefusedError(f"{word} is not a JSON value")


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)


def read_json_lines(lines: Lines, notes: list[str]) -> Iterator[Batch]:
    """Yields the rows of a JSON Lines file; blank lines hold none.

    Raises: DataError with the line of what cannot be read.
    """
    yield from _batches(_line_objects(lines), lines, notes)
    if not lines.num_characters:
        raise empty_file(lines.name)


def _line_objects(lines: Lines) -> Iterator[Object]:
    for line in lines:
        text = line.strip(" \t\r\n")
        if not text:
            continue
        where = f"{lines.name}, line {lines.num_read}"
        value, end = _value_at(text, 0, where, 0)
        if end != len(text):
            raise _invalid(where, f"there is more after the first value, at character {end + 1}")
        yield lines.num_read, _as_object(value, where, ONE_OBJECT)


def read_json(lines: Lines, notes: list[str]) -> Iterator[Batch]:
    """Yields the rows of a JSON file: a list of objects, `{"data": [...]}`, columns, or JSON Lines
    under another suffix; also SQuAD's nested file and Label Studio's export.

    The text is held in memory while it is parsed, one row's values at a time.
    """
    text = "".join(lines)
    start = _skip(text, 0)
    if start == len(text):
        raise empty_file(lines.name)
    objects = _document_objects(text, start, lines.name, notes)
    yield from _batches(_without_tasks(objects, lines.name, notes), lines, notes)


def _without_tasks(objects: Iterator[Object], name: str, notes: list[str]) -> Iterator[Object]:
    """Makes rows of Label Studio's tasks; other objects stay as they are."""
    flattener, has_tasks = Flattener(), False
    for line, value in objects:
        has_tasks = has_tasks or is_task(value)
        yield line, flattener.row(value) if is_task(value) else value
    if has_tasks:
        notes += flattener.notes(name)


def _document_objects(text: str, start: int, name: str, notes: list[str]) -> Iterator[Object]:
    if text[start] == "[":
        yield from _list_objects(text, start, name)
        return
    where = f"{name}, line {_line_at(text, start)}"
    value, end = _value_at(text, start, name, 1)
    document = _as_object(value, where, LIST_OF_OBJECTS)
    if (end := _skip(text, end)) < len(text):
        notes.append(f"{name}: the file is read as JSON Lines, one object after the other.")
        yield from _object_sequence(text, start, name)
    elif is_nested_squad(document):
        notes.append(f"{name}: the file is read as nested SQuAD, one row per question.")
        yield from ((0, row) for row in squad_rows(document, name))
    elif isinstance(document.get("data"), list):
        for row in document["data"]:
            yield 0, _as_object(row, f'{name}, "data"', LIST_OF_OBJECTS)
    else:
        yield from _column_objects(document, name)


def _list_objects(text: str, start: int, name: str) -> Iterator[Object]:
    """Yields the objects of the list that begins at `start`."""
    place, line, counted = _skip(text, start + 1), 1, 0
    if text[place : place + 1] == "]":
        return
    while True:
        line, counted = line + _num_line_ends(text, counted, place), place
        value, end = _value_at(text, place, name, line)
        yield line, _as_object(value, f"{name}, line {line}", LIST_OF_OBJECTS)
        end = _skip(text, end)
        if text[end : end + 1] == "]":
            break
        if text[end : end + 1] != ",":
            raise _invalid(f"{name}, line {_line_at(text, end)}", "the list is not closed")
        place = _skip(text, end + 1)
    if (rest := _skip(text, end + 1)) < len(text):
        raise _invalid(f"{name}, line {_line_at(text, rest)}", "there is more after the list")


def _object_sequence(text: str, start: int, name: str) -> Iterator[Object]:
    place, line, counted = start, 1, 0
    while place < len(text):
        line, counted = line + _num_line_ends(text, counted, place), place
        value, end = _value_at(text, place, name, line)
        yield line, _as_object(value, f"{name}, line {line}", ONE_OBJECT)
        place = _skip(text, end)


def _column_objects(document: dict[str, Any], name: str) -> Iterator[Object]:
    lengths = {len(column) for column in document.values() if isinstance(column, list)}
    if len(lengths) != 1 or not all(isinstance(column, list) for column in document.values()):
        is_of_pandas = document and all(isinstance(each, dict) for each in document.values())
        remedy = 'From pandas: frame.to_json(path, orient="records").' if is_of_pandas else ""
        raise DataError(name, "this object is no set of columns", LIST_OF_OBJECTS, remedy)
    for values in zip(*document.values(), strict=True):
        yield 0, dict(zip(document, values, strict=True))


def _value_at(text: str, place: int, where: str, line: int) -> tuple[Any, int]:
    """Returns the value that begins at `place` and the place after it; `line` 0 when `where`
    names the line already.
    """
    here = f"{where}, line {line}" if line else where
    try:
        return DECODER.raw_decode(text, place)
    except json.JSONDecodeError as error:
        if line:
            here = f"{where}, line {_line_at(text, error.pos)}"
        column = error.pos - max(text.rfind("\n", 0, error.pos), text.rfind("\r", 0, error.pos))
        raise _invalid(here, f"{error.msg} at character {column}") from None
    except _RefusedError as error:
        raise DataError(here, str(error), "", "Write the value in another way.") from None
    except RecursionError:
        raise DataError(
            here, "the value is nested too deep", "A row needs no such depth.", "Leave it out."
        ) from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise _invalid(here, str(error)) from None


def _invalid(where: str, found: str) -> DataError:
    return DataError(where, f"this is not valid JSON: {found}", "", "Correct it.")


def _as_object(value: Any, where: str, needed: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    names = {list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
    found = names.get(type(value), "a number")
    raise DataError(where, f"there is {found} where an object is needed", needed)


def _skip(text: str, place: int) -> int:
    match = _BLANKS.match(text, place)
    return match.end() if match else place


def _num_line_ends(text: str, start: int, stop: int) -> int:
    return sum(1 for _ in _LINE_END.finditer(text, start, stop))


def _line_at(text: str, place: int) -> int:
    return 1 + _num_line_ends(text, 0, place)


def _batches(objects: Iterator[Object], lines: Lines, notes: list[str]) -> Iterator[Batch]:
    found: list[Object] = []
    mark = lines.num_characters
    for item in objects:
        found.append(item)
        if len(found) >= FLUSH_ROWS or lines.num_characters - mark >= FLUSH_CHARACTERS:
            yield _batch(found, lines.name, notes)
            found, mark = [], lines.num_characters
    yield _batch(found, lines.name, notes)


def _batch(objects: list[Object], name: str, notes: list[str]) -> Batch:
    keys = dict.fromkeys(key for _, row in objects for key in row)
    columns = {key: [row.get(key) for _, row in objects] for key in keys}
    starts = np.array([line for line, _ in objects], np.int64)
    if objects and not keys:
        raise DataError(f"{name}, line {starts[0]}", "the object is empty", ONE_OBJECT)
    try:
        return Batch(record_batch(columns, name, notes), starts)
    except ValueError as error:
        first = int(starts[0])
        raise DataError(f"{name}, line {first} or later", str(error)) from None
