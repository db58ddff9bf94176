"""`plan`: what a run will take, before it is begun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from tunewright.cli import show
from tunewright.cli.words import config_of, sources_of

DOES_NOT_FIT = 1
GB, MB = 1e9, 1e6


def plan_and_show(
    words: Sequence[str],
    columns: Mapping[str, str | None],
    named: Mapping[str, str | None],
    as_json: bool,
) -> None:
    """Probes, and prints time, memory and disk; exits with 1 when the run will not fit."""
    config = config_of(words, {}, columns, named)
    sources = sources_of(config)
    show.say("Reading the data and training a moment ...")
    from tunewright.run.preparing.plan import plan

    found = plan(sources, config, tell=lambda notice: show.say(f"  {notice.sentence}"))
    if as_json:
        show.print_json(found.to_json())
    else:
        for line in _told(found):
            show.out.print(line, markup=False, soft_wrap=True)
    if not found.fits:
        raise typer.Exit(DOES_NOT_FIT)


def _told(plan: Any) -> list[str]:
    free = "unknown" if plan.free_bytes is None else f"{plan.free_bytes / GB:.1f} GB"
    rows = ", ".join(f"{number:,} {name}" for name, number in plan.num_rows.items())
    return [
        f"  rows  {rows}",
        f" model  {plan.num_parameters / 1e6:.1f} million parameters, {plan.route} batches, "
        f"{plan.precision} on {plan.device}",
        f"  time  about {_duration(plan.seconds)}: {plan.total_steps:,} updates of "
        f"{plan.seconds_per_update:.3g} s, {plan.num_evaluations:,} evaluations of "
        f"{plan.seconds_per_evaluation:.3g} s",
        f"memory  {plan.memory_bytes / GB:.1f} GB at most, in forward passes of at most "
        f"{plan.max_tokens:,} tokens; there are {free}",
        f"  disk  {plan.disk_bytes / MB:,.0f} MB for checkpoints and model; there are "
        f"{plan.free_disk_bytes / GB:.1f} GB",
        "It fits." if plan.fits else "It does not fit.",
    ]


def _duration(seconds: float) -> str:
    hours, minutes = seconds / 3600, seconds / 60
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{minutes:.1f} minutes" if minutes >= 1 else f"{seconds:.0f} seconds"
