"""The turns of a conversation, in the forms that data has.

[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]     messages
[{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]              sharegpt
[{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]                  parts
'[{"role": "user", "content": "Hello"}]'              as text, in a CSV file, or as Python writes it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunewright.data.cells.lists import read_written
from tunewright.errors import DataError, listed, nearest
from tunewright.types import Message, Speaker

# What data calls those who speak; the left names are those of chat templates.
SPEAKERS: dict[Speaker, tuple[str, ...]] = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "bot", "chatgpt", "model"),
    "tool": ("tool", "function", "observation"),
}
_SPEAKERS: dict[str, Speaker] = {name: who for who, names in SPEAKERS.items() for name in names}

ROLE_KEYS, CONTENT_KEYS = ("role", "from"), ("content", "value")
NEEDED = 'A conversation is a list of turns such as {"role": "user", "content": "Hello"}.'

MAX_TURNS = 10_000
MAX_WRITTEN_CHARACTERS = 50_000_000
MAX_WRITTEN_DEPTH = 100  # of what tools were called with, which is not read


def read_messages(value: Any, where: str) -> tuple[Message, ...]:
    """Returns the turns of a conversation, in order. `where` names row and column.

    Raises: DataError for anything else than a list of turns, for a role that is not known, with
    the nearest one, for content that is no text, and for a conversation without a turn.
    """
    if isinstance(value, str) and len(value) > MAX_WRITTEN_CHARACTERS:
        raise DataError(where, f"it has {len(value):,} characters", NEEDED)
    value = read_written(value, MAX_WRITTEN_CHARACTERS, MAX_WRITTEN_DEPTH)
    if not isinstance(value, list | tuple) or not value:
        found = "it is empty" if value is None or value == [] else f"it is {value!r:.60}"
        raise DataError(where, found, NEEDED)
    if len(value) > MAX_TURNS:
        raise DataError(where, f"it has {len(value):,} turns", f"At most {MAX_TURNS:,} are read.")
    return tuple(_message(turn, f"{where}, turn {number}") for number, turn in enumerate(value, 1))


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise DataError(where, f"it is {turn!r:.60}", NEEDED)
    return Message(_speaker(turn, where), _content(turn, where))


def _speaker(turn: Mapping[str, Any], where: str) -> Speaker:
    name = _first(turn, ROLE_KEYS)
    if name is None:
        raise DataError(where, "it does not say who speaks", NEEDED)
    if isinstance(name, str) and name.strip().lower() in _SPEAKERS:
        return _SPEAKERS[name.strip().lower()]
    near = nearest(name, _SPEAKERS) if isinstance(name, str) else None
    raise DataError(
        where,
        f"its role is {name!r:.60}",
        f"A role is one of {listed(_SPEAKERS, 20)}.",
        f'Did you mean "{near}"?' if near else "Rename it.",
    )


def _content(turn: Mapping[str, Any], where: str) -> str:
    content = _first(turn, CONTENT_KEYS)
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content and all(map(_is_text_part, content)):
        return "".join(part["text"] for part in content)
    found = "it has no content" if content is None else f"its content is {content!r:.60}"
    raise DataError(where, found, "Only text is read.", "Leave out what is not text.")


def _is_text_part(part: Any) -> bool:
    return (
        isinstance(part, Mapping)
        and part.get("type", "text") == "text"
        and isinstance(part.get("text"), str)
    )


def _first(turn: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    """Returns the value of the first of the keys that has one."""
    return next((turn[key] for key in keys if turn.get(key) is not None), None)
