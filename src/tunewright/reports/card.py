"""The model card: `README.md` in the Hugging Face Hub's form.

The head is YAML for machines, the rest is for readers. Everything that comes from data is
escaped, so that a label cannot end a table, a code block or the head.

Source: https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence

from huggingface_hub import EvalResult, ModelCardData

from tunewright.reports.content import CardContent, TruncationLedger
from tunewright.reports.wording import (
    flat,
    interval,
    number,
    one_line,
    percent,
    printable,
    readable,
)

OURS = "tunewright"  # the library of a folder that no other one reads
MAX_LABELS = 100
MAX_FILES = 50
MAX_SETTINGS = 300
MAX_LIMIT = 800  # characters of a sentence on what other libraries do not know
MAX_EXAMPLE = 120  # characters of the text in the snippets

# The Hub's identifiers where they are not our own words; see https://hf.co/metrics.
_HUB_METRICS = {"brier": "brier_score", "ece": "calibration_error", "mcc": "matthews_correlation"}
_FAMILIES = ("f1", "precision", "recall", "roc_auc")

_MARKDOWN = re.compile(r"([\\`*_\[\]|~#$])")


def model_card(content: CardContent) -> str:
    """Returns the whole card; the same content gives the same text."""
    parts = [
        f"---\n{_head(content)}\n---",
        f"# {_plain(content.name)}",
        _introduction(content),
        _usage(content),
        _measured(content),
        _data(content),
        _limits(content),
        _settings(content),
        _versions(content),
    ]
    return printable("\n\n".join(part for part in parts if part) + "\n")


def _head(content: CardContent) -> str:
    data = ModelCardData(
        library_name=content.library,
        pipeline_tag=content.pipeline_tag,
        base_model=content.base_model,
        datasets=list(content.datasets) or None,
        language=list(content.language) or None,
        license=content.license,
        tags=["tunewright", *content.tags],
        metrics=list(dict.fromkeys(_hub_metric(name) for name in content.metrics)) or None,
        model_name=one_line(content.name),
        eval_results=_results(content) or None,
    )
    return data.to_yaml().strip()


def _results(content: CardContent) -> list[EvalResult]:
    name = one_line(content.dataset or "held-out rows")
    return [
        EvalResult(
            task_type=content.pipeline_tag,
            dataset_type=content.datasets[0] if content.datasets else "custom",
            dataset_name=name,
            dataset_split=content.split,
            metric_type=_hub_metric(metric),
            metric_name=readable(metric),
            metric_value=round(estimate.value, 6),
        )
        for metric, estimate in content.metrics.items()
        if math.isfinite(estimate.value)
    ]


def _hub_metric(name: str) -> str:
    """Returns the Hub's identifier of a metric: `f1_macro` and `f1_micro` are both its `f1`.

    What stands before a stroke is the part of a multi-task that it measures.
    """
    name = name.rpartition("/")[2]
    family = next((each for each in _FAMILIES if name.startswith(each)), name)
    return _HUB_METRICS.get(name, family)


def _introduction(content: CardContent) -> str:
    start = content.started_from or content.base_model
    origin = f", fine-tuned from {_code(start)}" if start else ""
    sentence = f"A model for {_plain(content.task)}{origin} with Tunewright."
    if not content.labels:
        return sentence
    shown = ", ".join(_code(label) for label in content.labels[:MAX_LABELS])
    hidden = len(content.labels) - MAX_LABELS
    more = f" and {hidden:,} more, named in `config.json`" if hidden > 0 else ""
    return f"{sentence} It tells {len(content.labels):,} classes apart: {shown}{more}."


def _usage(content: CardContent) -> str:
    example = json.dumps(one_line(content.example, MAX_EXAMPLE), ensure_ascii=False)
    ours = content.own_usage or (
        f'import tunewright as tw\n\ntw.load("path/to/this/folder").predict([{example}])'
    )
    stock = content.stock_usage or (
        "from transformers import pipeline\n\n"
        f'model = pipeline("{content.pipeline_tag}", model="path/to/this/folder")\n'
        f"model({example}, truncation=True)"
    )
    used = f"## Use\n\n{_block('python', ours)}"
    if content.library == OURS:
        return used
    known = "once Tunewright has made its architecture known there"
    how = known if "import tunewright" in stock else "without Tunewright"
    return (
        f"{used}\n\n"
        f"The folder also loads in stock `{content.library}`, {how}:\n\n"
        f"{_block('python', stock)}"
    )


def _measured(content: CardContent) -> str:
    if not content.metrics:
        return ""
    rows = (
        (readable(name), number(each.value, 4), interval(each, 4))
        for name, each in content.metrics.items()
    )
    on = f" of {_plain(content.dataset)}" if content.dataset else ""
    counted = f"{content.num_evaluated:,} rows" if content.num_evaluated else "rows"
    return (
        f"## Results\n\nMeasured on {counted}{on} ({_plain(content.split)}) that the model was not "
        "trained on. Intervals are from a bootstrap over these rows.\n\n"
        + _table(("Metric", "Value", "95 % interval"), rows)
    )


def _data(content: CardContent) -> str:
    files = content.data_files
    parts = []
    if files:
        rows = (
            (
                _plain(each.split),
                _code_cell(each.path),
                f"{each.num_rows:,}",
                _code_cell(each.sha256),
            )
            for each in files[:MAX_FILES]
        )
        parts.append(_table(("Split", "File", "Rows", "SHA-256"), rows))
    if len(files) > MAX_FILES:
        parts.append(f"{MAX_FILES} of {len(files):,} files are shown.")
    if content.truncation is not None:
        parts.append(_lengths(content.truncation))
    return "\n\n".join(["## Data", *parts]) if parts else ""


def _lengths(ledger: TruncationLedger) -> str:
    """Returns how much of a text the model reads, and what that leaves out of the training rows."""
    limit = f"{ledger.max_length:,} tokens"
    how = {
        "truncate": f"The model reads the first {limit} of a text.",
        "window": f"The model reads {limit} at once, and longer texts in windows.",
        "error": f"The model reads at most {limit} of a text, and longer ones are refused.",
        "mixed": f"The model reads at most {limit} at once. Of what is longer, some is cut, and "
        "some is read in windows.",
    }[ledger.reads_long]
    is_told = ledger.cut_texts or ledger.reads_long == "truncate"
    if not is_told or not ledger.num_texts or not ledger.num_tokens:
        return how
    are = {
        "truncate": "are longer",
        "window": "are cut, since what stands in each of their windows is long",
    }.get(ledger.reads_long, "are cut")
    return (
        f"{how} Of the {ledger.num_texts:,} texts {ledger.cut_texts:,} "
        f"({percent(ledger.cut_texts / ledger.num_texts)}) {are}; "
        f"{percent(ledger.cut_tokens / ledger.num_tokens)} of all tokens are not read."
    )


def _limits(content: CardContent) -> str:
    return _bullets("Limits", [_plain(limit, MAX_LIMIT) for limit in content.limits])


def _settings(content: CardContent) -> str:
    entries = list(flat(content.settings))
    if not entries:
        return ""
    rows = ((_code_cell(name), _plain(value)) for name, value in entries[:MAX_SETTINGS])
    hidden = len(entries) - MAX_SETTINGS
    more = f"\n\n{hidden:,} more settings are in `run.toml`." if hidden > 0 else ""
    return f"## Settings\n\n{_table(('Setting', 'Value'), rows)}{more}"


def _versions(content: CardContent) -> str:
    words = [f"{_plain(name)} {_plain(version)}" for name, version in content.versions.items()]
    return _bullets("Framework versions", words)


def _bullets(title: str, sentences: Sequence[str]) -> str:
    listed = "\n".join(f"- {sentence}" for sentence in sentences)
    return f"## {title}\n\n{listed}" if sentences else ""


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _plain(words: object, limit: int = 200) -> str:
    """Returns text on one line, with everything that Markdown or HTML would read escaped."""
    entities = one_line(words, limit).replace("&", "&amp;").replace("<", "&lt;")
    return _MARKDOWN.sub(r"\\\1", entities.replace(">", "&gt;"))


def _code(words: object) -> str:
    """Returns text as inline code, in a fence longer than any run of backticks inside."""
    inside = one_line(words)
    fence = "`" * (_longest_run(inside) + 1)
    pad = " " if "`" in inside else ""
    return f"{fence}{pad}{inside}{pad}{fence}" if inside else "(empty)"


def _code_cell(words: object) -> str:
    return _code(words).replace("|", r"\|")


def _block(language: str, source: str) -> str:
    fence = "`" * max(3, _longest_run(source) + 1)
    return f"{fence}{language}\n{source}\n{fence}"


def _longest_run(words: str) -> int:
    return max(map(len, re.findall("`+", words)), default=0)
