"""`audit`: the data before a model sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from tunewright.cli import show
from tunewright.cli.words import config_of, sources_of

SUSPECTS_SHOWN, TEXT_SHOWN = 20, 60


def audit_and_show(
    words: Sequence[str],
    columns: Mapping[str, str | None],
    named: Mapping[str, str | None],
    label_errors: bool,
    as_json: bool,
) -> None:
    """Audits and prints what was found; a gate that fails ends in exit status 3."""
    config = config_of(words, {}, columns, named)
    sources = sources_of(config)
    from tunewright.run.train import audit_only

    audited = audit_only(sources, config)
    found, suspects = audited.audit, []
    if label_errors:
        from tunewright.label_errors import find_label_errors

        suspects = find_label_errors(audited.rows, model=config.model.name)
    if as_json:
        errors = {"label_errors": [suspect.to_json() for suspect in suspects]}
        show.print_json(found.to_json() | (errors if label_errors else {}))
    else:
        for sentence in audited.notices:
            show.say(f"  {sentence}")
        show.findings(found.findings())
        if label_errors:
            _show_suspects(suspects)
    found.check_gates(config.audit)


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
