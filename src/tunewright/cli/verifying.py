"""`verify`: is what is on the disk what was saved?"""

from __future__ import annotations

from pathlib import Path

import typer

from tunewright.cli import show

DAMAGED = 1


def verify_and_show(folder: str, as_json: bool) -> None:
    """Prints what was compared and what is damaged; exits with 1 when something is."""
    from tunewright.run.verify import verify

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
        raise typer.Exit(DAMAGED)
