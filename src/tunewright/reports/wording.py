"""How names and numbers are written in the report and on the card."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tunewright.types import Estimate

UNDEFINED = "–"

_WORDS = {
    "auc": "AUC",
    "bleu": "BLEU",
    "chrf": "chrF",
    "ece": "Expected calibration error",
    "f1": "F1",
    "mcc": "Matthews correlation",
    "mfu": "MFU",
    "pr": "PR",
    "roc": "ROC",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
}

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")


def readable(name: str) -> str:
    """Returns a metric's or setting's name as a reader says it: `f1_macro` is `F1 macro`."""
    first, *rest = [word for word in name.split("_") if word] or [""]
    begun = _WORDS.get(first, first[:1].upper() + first[1:])
    return " ".join([begun, *(_WORDS.get(word, word) for word in rest)])


def number(value: float | None, decimals: int = 3) -> str:
    """Returns a value with fixed decimals, or a dash where there is none."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    return f"{value:,.{decimals}f}"


def percent(fraction: float | None, decimals: int = 1) -> str:
    """Returns a fraction in [0, 1] as a percentage."""
    if fraction is None or not math.isfinite(fraction):
        return UNDEFINED
    return f"{100 * fraction:.{decimals}f}\N{NO-BREAK SPACE}%"


def interval(estimate: Estimate, decimals: int = 3) -> str:
    """Returns the 95 % interval as `0.962 to 0.989`, or a dash where there is none."""
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return UNDEFINED
    return f"{number(estimate.low, decimals)} to {number(estimate.high, decimals)}"


def nan_first(value: float) -> float:
    """Returns a key by which values sort upwards, the undefined ones first."""
    return -math.inf if math.isnan(value) else value


def clipped(words: object, limit: int = 200) -> str:
    """Returns text of at most `limit` characters, saying how many are not shown."""
    whole = str(words)
    if len(whole) <= limit:
        return whole
    return f"{whole[:limit]}… ({len(whole) - limit:,} more characters)"


def one_line(words: object, limit: int = 200) -> str:
    """Returns text without line ends, of at most `limit` characters."""
    return clipped(" ".join(str(words).split()), limit)


def printable(text: str) -> str:
    """Returns text that any encoding and browser accepts.

    Lone surrogates, control characters and non-characters become U+FFFD, the replacement sign.
    """
    paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _UNPRINTABLE.sub("\ufffd", paired)


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields every setting with its dotted name, in the order given."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _written(value)


def _written(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_written(item) for item in value) or "none"
    return str(value)
