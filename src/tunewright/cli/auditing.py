"""`audit`: the data before a model sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunewright.cli import show
from tunewright.cli.words import config_of, sources_of


def audit_and_show(
    words: Sequence[str],
    task: str,
    columns: Mapping[str, str | None],
    named: Mapping[str, str | None],
    label_errors: bool,
    as_json: bool,
) -> None:
    """Audits and prints what was found; a gate that fails ends in exit status 3."""
    config = config_of(words, {"task": {"name": task}}, columns, named)
    sources = sources_of(config)
    from tunewright.run.train import audit_only

    found, notices = audit_only(sources, config)
    suspects = []
    if label_errors:
        from tunewright.label_errors import find_label_errors

        suspects = find_label_errors(
            sources["train"], model=config.model.name, columns=config.data.columns
        )
    if as_json:
        errors = {"label_errors": [suspect.to_json() for suspect in suspects]}
        show.print_json(found.to_json() | (errors if label_errors else {}))
    else:
        for sentence in notices:
            show.say(f"  {sentence}")
        show.findings(found.findings())
        for suspect in suspects:
            show.say(f"  {suspect}")
    found.check_gates(config.audit)
