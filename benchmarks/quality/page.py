"""Writes `docs/quality.md` from the results: `python -m benchmarks.quality.page`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.harness import table

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "quality.md"

CLASSIFICATION = """## Text classification

Test accuracy of the starter model (all-MiniLM-L6-v2) after fine-tuning, in per cent, the mean over
seeds. The peer is `transformers.Trainer` with the same model, rows, settings and seeds, in bf16
with batches grouped by length. The interval is a paired 95 % bootstrap of the difference over test
rows and seeds. No test row was used to choose a setting.

| data set | test rows | asked for | ours | peer | difference | 95 % interval | seconds |
|---|---:|---:|---:|---:|---:|---:|---:|
"""

TAIL = """
Seconds are those of a whole run of one seed, ours and the peer's (the median). They are not a speed
benchmark: nothing keeps the machine quiet meanwhile, and ours include the audit, the parity check
and the report.

{settings}

Reproduce with `make bench-quality`; the data sets are found through `TUNEWRIGHT_BENCHMARK_DATA`.
"""


SEARCH = """## Vectors and search

The starter model before and after fine-tuning, in points (hundredths of each metric), beside
sentence-transformers with the same model, rows, settings and seeds. Every difference has a paired
95 % interval over test rows and seeds.

On MedQuAD the 1,370 distinct questions of the test rows look for their answers among the 1,537 of
those rows. `words` is BM25 alone; `hybrid` searches an index of passages by words and meaning;
`reranked` has a cross-encoder order the 20 documents that are nearest by vectors.

{table}

{settings}

Reproduce with `python -m benchmarks.quality.embedding`.
"""


def write_page() -> None:
    """Writes `docs/quality.md` from the files of results that are there."""
    found = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    parts = ["# Quality\n", classification(found)]
    if (HERE / "embedding.json").exists():
        parts.append(search(json.loads((HERE / "embedding.json").read_text(encoding="utf-8"))))
    PAGE.write_text("\n".join(parts), encoding="utf-8")


def classification(results: dict[str, Any]) -> str:
    lines = "".join(_line(name, found) + "\n" for name, found in results.items())
    settings = "\n".join(_settings(name, found) for name, found in results.items())
    return CLASSIFICATION + lines + TAIL.format(settings=settings)


def search(results: dict[str, Any]) -> str:
    settings = "\n".join(
        f"- {name}: " + ", ".join(f"{key} {value:g}" for key, value in found["settings"].items())
        + f"; on one {found['device']}, in {found['precision']}."
        for name, found in results.items()
    )  # fmt: skip
    return SEARCH.format(table=table(results), settings=settings)


def _settings(name: str, found: dict[str, Any]) -> str:
    told = ", ".join(f"{key} {value:g}" for key, value in found["settings"].items())
    seeds = ", ".join(map(str, found["seeds"]))
    return f"- {name}: {told}, seeds {seeds}; on one {found['device']}, in {found['precision']}."


def _line(name: str, found: dict[str, Any]) -> str:
    mine = 100 * float(np.mean(found["ours"]))
    cells = [name, f"{found['rows']:,}", f"{100 * found['target']:.1f}", f"{mine:.2f}"]
    times = f"{np.median(found['seconds']['ours']):.0f}"
    if found["peer"]:
        theirs = 100 * float(np.mean(found["peer"]))
        low, high = found["interval"]
        times += f" / {np.median(found['seconds']['peer']):.0f}"
        cells += [f"{theirs:.2f}", f"{mine - theirs:+.2f}", f"{low:+.2f} to {high:+.2f}", times]
    else:
        cells += ["", "", "", times]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    write_page()
