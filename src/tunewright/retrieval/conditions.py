"""Conditions on the columns of documents, such as `year>=2020` or `source=NIDDK`.

Condition.read("year>=2020").holds("2023")  ->  True
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Self

from tunewright.errors import SettingsError

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"\s*(?P<column>[^=!<>]+?)\s*(?P<sign>!=|>=|<=|=|>|<)\s*(?P<value>.*?)\s*", re.S)
_LEADING_ZERO = re.compile(r"[+-]?0\d")


@dataclass(frozen=True, slots=True)
class Condition:
    """A column, one of = != < <= > >=, and a value.

    Both sides are compared as numbers where both are numbers, and as texts otherwise, so that
    dates written as 2024-05-31 compare as dates, also with a year alone; who asks for 00123 means
    this text. What does not begin with a digit, such as "n/a", is neither above a number nor below.
    Of a list one entry has to fulfil the condition, and each of them `!=`. A missing value only
    fulfils `!=`. Truth values are true and false in any case of letters.
    """

    column: str
    sign: str
    value: str

    @classmethod
    def read(cls, text: str) -> Self:
        """Reads a condition as users write it; raises SettingsError for what is none."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise SettingsError(
                "--where",
                f'"{text}" is no condition',
                f"It is a column, one of {' '.join(OPERATORS)}, and a value.",
                'Write, for example, --where "year>=2020".',
            )
        return cls(found["column"], found["sign"], found["value"])

    def holds(self, found: Any) -> bool:
        """Says whether a document's value fulfils the condition."""
        if found is None:
            return self.sign == "!="
        if isinstance(found, list):
            return (all if self.sign == "!=" else any)(map(self.holds, found))
        compare = OPERATORS[self.sign]
        right = None if _LEADING_ZERO.match(self.value) else _number(self.value)
        left, text = _number(found), _text(found)
        if left is not None and right is not None:
            return compare(left, right)
        if right is not None and self.sign not in ("=", "!=") and not text[:1].isdigit():
            return False
        return compare(text, self.value.lower() if isinstance(found, bool) else self.value)


def _number(value: Any) -> Decimal | None:
    """Returns a finite number exactly, however many digits it has; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
