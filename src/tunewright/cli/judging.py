"""`evaluate`, `compare` and `report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.table import Table

from tunewright.cli import show
from tunewright.cli.words import rows_asked
from tunewright.errors import SettingsError

ROWS_SHOWN = 10


def evaluate_and_show(
    run: str,
    words: Sequence[str],
    columns: Mapping[str, str | None],
    slices: Sequence[str],
    as_json: bool,
) -> None:
    """Measures a run on labelled rows, or shows what was measured at its end."""
    from tunewright.run.finished import FinishedRun

    finished = FinishedRun(run)
    data, asked = rows_asked(words, columns)
    if data is None:
        result = finished.result
        if slices or asked.columns or asked.reading:
            raise SettingsError(
                run, "slices, columns or settings of reading are given, and no rows",
                "Without rows the stored figures are shown as they are.", "Name a file of rows.",
            )  # fmt: skip
    else:
        settings = replace(finished.config.data.reading().of_others(), **asked.reading)
        result = finished.evaluate(data, asked.columns, slices=slices, settings=settings)
    if result is None:
        raise SettingsError(
            run, "it was judged on no rows", "Labelled rows are needed.", "Name a file of them."
        )
    if as_json:
        show.print_json(result.to_json())
        return
    for sentence in result.notices:
        show.say(f"  {sentence}")
    title = f"{result.split}: {result.num_rows:,} rows"
    show.out.print(show.metrics_table(title, result.metrics))
    for column, parts in result.slices.items():
        table = Table(title=f"by {column}", title_justify="left", title_style="bold")
        headline = next(iter(result.metrics))
        for head in (column, "rows", headline, "95 % interval"):
            table.add_column(head, justify="left" if head == column else "right")
        for part in parts:
            value = part.metrics[headline]
            few = " (few)" if part.is_small else ""
            table.add_row(part.name, f"{part.num_rows:,}{few}", *show.estimate(value))
        show.out.print(table)


def compare_and_show(
    a: str, b: str, words: Sequence[str], columns: Mapping[str, str | None], as_json: bool
) -> None:
    """Prints the differences between two runs, and the rows where they differ."""
    from tunewright.run.judging.compare import compare_runs

    data, asked = rows_asked(words, columns)
    comparison = compare_runs(a, b, data, asked.columns, asked.reading)
    for notice in comparison.notices:
        show.say(f"  {notice}")
    if as_json:
        show.print_json(comparison.to_json())
        return
    title = f"A = {a}, B = {b}, on {comparison.num_rows:,} rows"
    table = Table(title=title, title_justify="left", title_style="bold")
    for head in ("metric", "A", "B", "B - A", "95 % interval", "p"):
        table.add_column(head, justify="left" if head == "metric" else "right")
    for name, found in comparison.differences.items():
        gap = found.difference
        table.add_row(name, f"{found.a:.4f}", f"{found.b:.4f}", f"{gap.value:+.4f}",
                      f"{gap.low:+.4f} to {gap.high:+.4f}", f"{found.p_value:.3f}")  # fmt: skip
    show.out.print(table)
    if comparison.mcnemar is not None:
        test = comparison.mcnemar
        show.out.print(
            f"McNemar: only A is right on {test.only_a:,} rows, only B on {test.only_b:,}; "
            f"p = {test.p_value:.3g}.",
            markup=False,
        )
    show.out.print(f"The answers differ on {comparison.num_different:,} rows.", markup=False)
    for row in comparison.rows[:ROWS_SHOWN]:
        where = f"{row['source']}, line {row['line']}" if row["line"] else f"row {row['row']}"
        show.out.print(f"  {where}: true {row['true']}, A {row['a']}, B {row['b']}",
                       markup=False, soft_wrap=True)  # fmt: skip
        show.out.print(f"    {row.get('text') or '':.100}", markup=False, style="dim")


def report_and_show(run: str, as_json: bool) -> None:
    """Writes the report anew from what stands in the run folder."""
    from tunewright.run.finished import FinishedRun
    from tunewright.run.pages import write_report

    finished = FinishedRun(run)
    write_report(finished.folder)
    if as_json:
        show.print_json({"report": str(finished.report)})
    else:
        show.out.print(str(finished.report), markup=False, soft_wrap=True)
