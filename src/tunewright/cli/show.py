"""Tables and colours. Data go to standard output, everything said on the way to standard error."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from tunewright.answers import finite
from tunewright.cli import leads
from tunewright.types import Estimate

LEADS = leads()  # of several processes one speaks
out = Console(highlight=False, quiet=not LEADS)
err = Console(stderr=True, highlight=False, quiet=not LEADS)

STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}
HEADLINES = ("accuracy", "f1_macro", "mcc", "roc_auc", "log_loss", "brier",
             "expected_calibration_error")  # fmt: skip
MAX_METRICS = 12  # of more than these the headlines are shown; metrics.json has all


def print_json(value: Any) -> None:
    """Prints one JSON object on one line; what is not finite becomes null."""
    if LEADS:
        print(json.dumps(finite(value), ensure_ascii=False))


def findings(found: Iterable[tuple[str, str]]) -> None:
    """Prints what an audit found, the worst first."""
    for severity, sentence in found:
        err.print(f"  [{STYLES[severity]}]{severity:>7}[/]  ", end="")
        err.print(f"{sentence}.", markup=False)


def metrics_table(title: str, metrics: Mapping[str, Estimate], names: Iterable[str] = ()) -> Table:
    """Returns a table of metrics with their intervals; of many, those of `names` if any."""
    chosen = [name for name in names if name in metrics] if len(metrics) > MAX_METRICS else []
    table = Table(title=title, title_justify="left", title_style="bold")
    for column, justify in (("metric", "left"), ("value", "right"), ("95 % interval", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name in chosen or metrics:
        value = metrics[name]
        table.add_row(name, *estimate(value))
    return table


def estimate(found: Estimate) -> tuple[str, str]:
    """Returns a value and its interval, a dash for what there is not."""
    value = "-" if math.isnan(found.value) else f"{found.value:.4f}"
    return value, "-" if math.isnan(found.low) else f"{found.low:.4f} to {found.high:.4f}"


def say(sentence: str) -> None:
    """Prints a sentence on standard error, as it is."""
    err.print(sentence, markup=False, soft_wrap=True)
