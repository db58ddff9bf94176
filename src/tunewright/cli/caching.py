"""`cache`: encoded rows that are kept between runs."""

from __future__ import annotations

from rich.table import Table

from tunewright.cli import show


def cache_and_show(clear: bool, as_json: bool) -> None:
    """Prints what the cache holds, after all of it is removed where that is asked for."""
    from tunewright.run.preparing.cache import cache

    contents = cache(clear)
    if as_json:
        show.print_json(contents.to_json())
        return
    if clear:
        show.out.print(f"Entries removed: {contents.num_cleared:,}.")
    if contents.entries:
        table = Table()
        for column in ("entry", "task", "rows", "megabytes", "last used"):
            table.add_column(column, justify="right" if column in ("rows", "megabytes") else "left")
        for entry in contents.entries:
            size, used = f"{entry.num_bytes / 1e6:,.1f}", str(entry.to_json()["last_used"])
            table.add_row(entry.key[:12], entry.task, f"{entry.num_rows:,}", size, used)
        show.out.print(table)
    show.out.print(
        f"{contents.folder} holds {contents.num_bytes / 1e6:,.1f} MB of at most "
        f"{contents.max_bytes / 1e9:g} GB.",
        markup=False,
        soft_wrap=True,
    )
