"""The choices of a multiple choice question, and which one is right, in the forms that data has.

{"choices": ["a cat", "a dog"], "label": 1}                              its place, from 0
{"choices": ["a cat", "a dog"], "label": "B"}                            its letter
{"choices": ["a cat", "a dog"], "label": "a dog"}                        its text
{"choices": {"text": ["a cat", "a dog"], "label": ["x", "y"]}, "label": "y"}  its key
{"ending0": "a cat", "ending1": "a dog", "label": 1}                     a column for each
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal, Self

from tunewright.answers import LabelValue
from tunewright.data.cells.lists import read_list
from tunewright.data.checks import is_blank, plain_label
from tunewright.data.wording import counted
from tunewright.errors import DataError

Form = Literal["key", "text", "letter", "place", "number"]
# From the form that is least likely to fit by chance to the one that is likeliest.
FORMS: dict[Form, str] = {
    "key": "a key of one of the choices",
    "text": "the text of one of the choices",
    "letter": "the letter of one of the choices, from A",
    "place": "the place of one of the choices, from 0",
    "number": "the place of one of the choices, from 1",
}

_COLUMN = re.compile(r"(?P<stem>(choice|option|ending|answer|solution|op)?[ _]?)(?P<end>[a-z]|\d+)")


@dataclass(frozen=True)
class Choices:
    """The texts to choose from, and the keys that some data gives them."""

    texts: tuple[str, ...]
    keys: tuple[str, ...] = ()

    @classmethod
    def of(cls, value: Any, where: str) -> Self:
        """Reads a list of texts, or lists of texts and of their keys.

        Raises: DataError for anything else, for other than one key a text, and for fewer than two
        choices.
        """
        given = value if isinstance(value, Mapping) else {"text": value}
        texts = tuple(map(str, read_list(given.get("text"), None, where)))
        keys = tuple(map(plain_label, given.get("label", ())))
        if len(texts) < 2:
            raise DataError(where, f"it holds {counted(len(texts), 'choice')}", "Two are needed.")
        if keys and len(keys) != len(texts):
            found = f"it holds {counted(len(texts), 'text')} and {counted(len(keys), 'key')}"
            raise DataError(where, found, "Each choice has one text, and one key or none.")
        return cls(texts, keys)

    def names(self, form: Form) -> Sequence[str]:
        """Returns what the choices are called in a form; empty where it has no names for them."""
        count = len(self.texts)
        match form:
            case "key":
                return self.keys
            case "text":
                return [text.strip() for text in self.texts]
            case "letter":
                return list(ascii_uppercase[:count]) if count <= len(ascii_uppercase) else ()
            case "place":
                return [str(place) for place in range(count)]
            case "number":
                return [str(place) for place in range(1, count + 1)]

    def place_of(self, label: Any, form: Form) -> int | None:
        """Returns the place, from 0, of the choice that a label of some form means, or None."""
        plain, names = plain_label(label), self.names(form)
        plain = plain.upper() if form == "letter" else plain
        if form in ("key", "text") and str(label).strip() in names:  # 2.0 may be a choice itself
            plain = str(label).strip()
        return names.index(plain) if plain and plain in names else None

    def label(self, place: int, form: Form) -> LabelValue:
        """Returns what a choice is called in the data; places and numbers are integers."""
        name = self.names(form)[place]
        return int(name) if form in ("place", "number") else name


def find_choice_columns(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the columns that hold a choice each, such as choice_a and choice_b, or ending0 on.

    They share what they begin with and go on from a, 0 or 1 without a gap; none where there are
    fewer than two.
    """
    stems: dict[str, dict[str, str]] = {}
    for name in names:
        match = _COLUMN.fullmatch(name.casefold())
        if match:
            stems.setdefault(match["stem"], {})[match["end"]] = name
    runs = [_run(ends, first) for ends in stems.values() for first in ("a", "0", "1")]
    longest = max(runs, key=len, default=())
    return longest if len(longest) > 1 else ()


def _run(ends: Mapping[str, str], first: str) -> tuple[str, ...]:
    columns, end = [], first
    while end in ends:
        columns.append(ends[end])
        end = str(int(end) + 1) if end.isdecimal() else chr(ord(end) + 1)
    return tuple(columns)


def filled(texts: Sequence[Any]) -> list[Any]:
    """Returns the texts of choice columns without the blank ones at the end."""
    kept = list(texts)
    while kept and is_blank(kept[-1]):
        kept.pop()
    return kept
