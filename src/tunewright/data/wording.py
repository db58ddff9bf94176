"""Words of messages: numbers with their nouns, and nothing said twice."""

from __future__ import annotations

from collections.abc import Callable


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun: `1 row`, `2,225 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def once(say: Callable[[str], None]) -> Callable[[str], None]:
    """Returns a `say` that is silent on what it has said already."""
    said: set[str] = set()

    def tell(sentence: str) -> None:
        if sentence not in said:
            said.add(sentence)
            say(sentence)

    return tell
