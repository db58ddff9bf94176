"""`audit`: the data before a model sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from tunewright.cli import show
from tunewright.cli.words import config_of, sources_of
from tunewright.data import write_rows
from tunewright.data.auditing.audit import Audit, AuditConfig
from tunewright.data.auditing.findings import SplitAudit
from tunewright.errors import AuditRefused

SUSPECTS_SHOWN, TEXT_SHOWN = 20, 60
HISTOGRAM_LINES, BAR_WIDTH = 12, 40
FIGURES = ("rows", "classes", "repeated texts", "blank texts", "tokens, median", "tokens, 95 %",
           "texts cut", "tokens cut")  # fmt: skip


def audit_and_show(
    words: Sequence[str],
    columns: Mapping[str, str | None],
    named: Mapping[str, str | None],
    label_errors: bool,
    output: str,
    as_json: bool,
) -> None:
    """Audits, shows what was found and writes it to `output`; a failing gate exits with 3."""
    config = config_of(words, {}, columns, named)
    sources = sources_of(config)
    from tunewright.run.preparing.groundwork import audit_only

    audited = audit_only(sources, config)
    found, suspects = audited.audit, []
    if label_errors:
        from tunewright.label_errors import find_label_errors

        suspects = find_label_errors(audited.rows, model=config.model.name)
    report = found.to_json() | {"notices": list(audited.notices)}
    if label_errors:
        report["label_errors"] = [suspect.to_json() for suspect in suspects]
    refusal = _refusal(found, config.audit)
    if refusal is not None:
        report |= {"error": str(refusal), "error_type": type(refusal).__name__}
    if output != "-":
        write_rows([report], output, "jsonl")
    if as_json:
        show.print_json(report)
        raise typer.Exit(0 if refusal is None else refusal.exit_status)
    for sentence in audited.notices:
        show.say(f"  {sentence}")
    show.out.print(_table(found))
    show.out.print(_histogram(found.splits[0]))
    show.findings(found.findings())
    if label_errors:
        _show_suspects(suspects)
    if output != "-":
        show.say(f"Everything, with the rows that are cut, is in {output}.")
    if refusal is not None:
        raise refusal


def _refusal(found: Audit, config: AuditConfig) -> AuditRefused | None:
    try:
        found.check_gates(config)
    except AuditRefused as error:
        return error
    return None


def _table(found: Audit) -> Table:
    """Returns the figures of every split, one column each."""
    table = Table(title="Audit", title_justify="left", title_style="bold")
    table.add_column("")
    for split in found.splits:
        table.add_column(split.name, justify="right")
    for name, cells in zip(FIGURES, zip(*map(_cells, found.splits), strict=True), strict=True):
        table.add_row(name, *cells)
    return table


def _cells(split: SplitAudit) -> list[str]:
    """Returns the figures of a split in the order of `FIGURES`."""
    lengths = split.lengths
    assert lengths is not None  # every split was tokenised
    return [
        f"{split.num_rows:,}",
        f"{len(split.classes):,}",
        f"{split.num_duplicates:,}",
        f"{split.num_blank:,}",
        f"{lengths.length_at(0.5):,}",
        f"{lengths.length_at(0.95):,}",
        f"{lengths.cut_texts:,} ({lengths.cut_fraction:.1%})",
        f"{lengths.cut_tokens:,} ({lengths.cut_token_fraction:.1%})",
    ]


def _histogram(split: SplitAudit) -> Table:
    """Returns the token lengths of a split as bars."""
    table = Table(title=f"Tokens of a text, {split.name}", title_justify="left", box=None)
    assert split.lengths is not None  # every split was tokenised
    bins = split.lengths.histogram(HISTOGRAM_LINES)
    most = max(bar.count for bar in bins)
    limit = split.lengths.max_length
    for bar in bins:
        cut = "  cut" if limit is not None and bar.low > limit else ""
        width = "█" * round(BAR_WIDTH * bar.count / most)
        table.add_row(f"{bar.low:,} to {bar.high - 1:,}", width, f"{bar.count:,}{cut}")
    return table


def _show_suspects(suspects: Sequence[Any]) -> None:
    """Prints the labels that are least believable first."""
    table = Table(title=f"Labels to look at: {len(suspects):,}", title_justify="left")
    for head in ("where", "label", "likelier", "believed", "text"):
        table.add_column(head, overflow="fold")
    for suspect in suspects[:SUSPECTS_SHOWN]:
        table.add_row(
            escape(suspect.where),
            escape(str(suspect.label)),
            escape(str(suspect.suggested)),
            f"{suspect.score:.1%}",
            escape(suspect.text[:TEXT_SHOWN]),
        )
    show.out.print(table)
    if len(suspects) > SUSPECTS_SHOWN:
        show.say(f"  {len(suspects) - SUSPECTS_SHOWN:,} more; --json lists all.")
