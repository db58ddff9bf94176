"""Writes `docs/quality.md` from the results: `python -m benchmarks.quality.page`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.harness import table

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "quality.md"

WRITTEN = ("rouge1", "rouge2", "rougeL", "perplexity")
TOLD = ("max_length", "max_new_tokens", "num_train_epochs", "learning_rate", "batch_size")

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

The starter model before and after fine-tuning, in points (hundredths of each metric). A `peer`,
where there is one, is sentence-transformers with the same model, rows, settings and seeds. Every
difference has a paired 95 % interval over test rows and seeds. No test row chose a setting.

On MedQuAD the 1,370 distinct questions of the test rows look for their answers among the 1,537 of
those rows, by the vectors of whole texts. `words` is BM25 alone; `hybrid` is a search by words and
by the same vectors; `reranked` has a cross-encoder order the 20 nearest documents. Vectors are of
the first 128 tokens on all sides: before training that is better than 256.

{table}

{settings}

Reproduce with `python -m benchmarks.quality.embedding`.
"""


WRITING = """## Headlines and summaries

SmolLM2-135M-Instruct (4 bits, `smollm2`) before and after tuning, and the lead: the first sentence
of each text. ROUGE is F1 from 0 to 100, without stemming, with 95 % bootstrap intervals over the
test rows. Before tuning, the model answers by its own chat template with the best of three prompts,
which ROUGE-L on validation chose; tuning and test have the same prompt, texts cut to the same
length, and the same limit of new tokens.

| data set | side | ROUGE-1 | ROUGE-2 | ROUGE-L | perplexity |
|---|---|---:|---:|---:|---:|
{lines}

{settings}

Reproduce with `python -m benchmarks.quality.summaries`.
"""


def write_page() -> None:
    """Writes `docs/quality.md` from the files of results that are there."""
    found = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    parts = ["# Quality\n", classification(found)]
    if (HERE / "embedding.json").exists():
        parts.append(search(json.loads((HERE / "embedding.json").read_text(encoding="utf-8"))))
    if (HERE / "summaries.json").exists():
        parts.append(writing(json.loads((HERE / "summaries.json").read_text(encoding="utf-8"))))
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


def writing(results: dict[str, Any]) -> str:
    lines = [
        f"| {name} | {side} | " + " | ".join(_interval(found[side], metric) for metric in WRITTEN)
        for name, found in results.items()
        for side in ("lead", "before", "after")
    ]
    settings = [
        f"- {name}: {found['rows']['train']:,} training and {found['rows']['test']:,} test rows, "
        + ", ".join(f"{key} {found['case'][key]:g}" for key in TOLD)
        + ", one seed."
        for name, found in results.items()
    ]
    return WRITING.format(lines="\n".join(lines), settings="\n".join(settings))


def _interval(side: dict[str, Any], metric: str) -> str:
    found = side["metrics"].get(metric)
    tail = " |" if metric == WRITTEN[-1] else ""
    if found is None:
        return tail
    return f"{found['value']:.1f} ({found['low']:.1f} to {found['high']:.1f}){tail}"


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
