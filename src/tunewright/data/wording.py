"""Words for numbers in messages."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun: `1 row`, `2,225 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
