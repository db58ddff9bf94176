"""What tasks that read texts share: the texts of a row, and how long they may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from tunewright.data.cells.lists import texts_in
from tunewright.data.checks import is_blank
from tunewright.data.wording import counted
from tunewright.errors import DataError, SettingsError
from tunewright.types import Row

T = TypeVar("T")

# Beyond this, time grows faster than accuracy on most texts; longer ones are the user's choice.
DEFAULT_MAX_LENGTH = 256


def text_of(row: Row, role: str) -> str:
    """Returns a text of a row; a missing one is blank. Raises DataError for what is no text."""
    text = row.values.get(role)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise DataError(
            row.where,
            f"its {role} is {text!r:.60}, which is no text",
            "A text is needed.",
            f"Name another column with data.columns.{role}, or turn this one into text.",
        )
    return text


def optional_text_of(row: Row, role: str) -> str | None:
    """Returns a text of a row, None where there is none: a blank one is all that CSV can say."""
    text = text_of(row, role)
    return None if is_blank(text) else text


def texts_of(row: Row, role: str) -> Iterator[str]:
    """Yields the text or texts of a role; blank ones are none. Raises DataError for no text."""
    for each in texts_in(row.values.get(role), row.source):
        if not is_blank(each):
            yield text_of(replace(row, values={role: each}), role)


def each_read(rows: Iterable[Row], read: Callable[[Row], T]) -> list[T]:
    """Returns what `read` makes of each row.

    Raises the first DataError once all rows are read, which says how many more have one.
    """
    found, errors, num_more = list[T](), list[DataError](), -1
    for row in rows:
        try:
            found.append(read(row))
        except DataError as error:
            num_more += 1
            if len(errors) < 2:  # each holds what was there when it was raised
                errors.append(error)
    if not errors:
        return found
    first, second = errors[0], errors[-1]
    if not num_more:
        raise first
    more = f"{counted(num_more, 'more row')} cannot be read, the next at {second.where}"
    raise DataError(first.where, f"{first.found}; {more}", first.needed, first.remedy) from None


def fitting_length(max_length: int | None, limit: int, default: int = DEFAULT_MAX_LENGTH) -> int:
    """Returns the length to cut at, in tokens, for a model that reads `limit` of them.

    Raises SettingsError when more was asked for.
    """
    if max_length is None:
        return min(default, limit)
    if max_length > limit:
        raise SettingsError(
            "[task]",
            f"task.max_length is {max_length}",
            f"The model reads at most {limit} tokens.",
            f"Use task.max_length={limit} or a model that reads more.",
        )
    return max_length
