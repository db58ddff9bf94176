"""`export`: a folder that stands alone."""

from __future__ import annotations

from tunewright.cli import show


def export_and_show(run: str, folder: str, as_json: bool) -> None:
    """Merges the adapter of a run into its model, and prints how alike the two answer."""
    from tunewright.run.export import export

    parity = export(run, folder)
    if as_json:
        show.print_json({"folder": folder, "parity": parity.to_json()})
        return
    show.out.print(
        f"{folder} stands alone. Stock libraries answer from it as the model with its adapter "
        f"does, to {parity.largest_difference:.2g} (at most {parity.tolerance:.2g}).",
        markup=False,
        soft_wrap=True,
    )
