"""`verify`: is what is on the disk what was saved? `verify-resume`: does a killed run end alike?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from tunewright.cli import show
from tunewright.cli.words import config_of, sources_of

DIFFERENT = 1


def verify_and_show(folder: str, as_json: bool) -> None:
    """Prints what was compared and what is damaged; exits with 1 when something is."""
    from tunewright.run.resuming.verify import verify

    found = verify(Path(folder))
    damaged = [item for item in found if item.damage]
    if as_json:
        show.print_json({"checked": [item.to_json() for item in found]})
    else:
        for item in found:
            verdict = "damaged" if item.damage else "whole"
            line = f"{verdict:>7}  {item.kind:<10}  {item.damage or item.folder}"
            show.out.print(line, markup=False, soft_wrap=True)
        if not found:
            show.out.print("There is no model and no checkpoint in it yet.")
    if damaged:
        raise typer.Exit(DIFFERENT)


def verify_resume_and_show(
    words: Sequence[str], num_kills: int, num_processes: int, as_json: bool
) -> None:
    """Trains undisturbed and under kills; exits with 1 when they end differently."""
    config = config_of(words, {}, {}, {})
    sources_of(config)
    from tunewright.run.resuming.verify_resume import verify_resume

    verdict = verify_resume(
        config,
        num_kills,
        tell=lambda sentence: show.say(f"  {sentence}"),
        num_processes=num_processes,
    )
    if as_json:
        show.print_json(verdict.to_json())
    else:
        for line in _told(verdict):
            show.out.print(line, markup=False, soft_wrap=True)
    if not verdict.is_equal:
        raise typer.Exit(DIFFERENT)


def _told(verdict: Any) -> Iterator[str]:
    hit = Counter(kill.doing for kill in verdict.kills)
    phases = ", ".join(f"{count} while {doing}" for doing, count in hit.most_common())
    yield f"{len(verdict.kills)} kills in {verdict.num_runs} runs: {phases}."
    within = sum(kill.within_save for kill in verdict.kills)
    yield f"{within} of them left a half-written checkpoint."
    yield (
        f"At most {max(verdict.repeated, default=0)} updates were done again; a save came every "
        f"{verdict.save_steps}."
    )
    yield from (f"different: {name}" for name in verdict.different)
    yield "Every run ended the same." if verdict.is_equal else "They did not end the same."
