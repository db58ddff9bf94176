"""Runs the quality table: `make bench-quality`, or `python -m benchmarks.quality SST-2 ...`.

Each seed of ours runs beside the same seed of the peer, alternating. Results go to
`benchmarks/quality/results.json`, with the verdict on every test row (packed bits in
hexadecimal), and `docs/quality.md`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import ours, trainer
from benchmarks.quality.cases import CASES, Case
from tunewright.devices import find_device, measure_roof

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parents[1] / "docs" / "quality.md"
NUM_RESAMPLES = 10_000


def main() -> None:
    root = os.environ.get("TUNEWRIGHT_BENCHMARK_DATA")
    if not root or not Path(root).is_dir():
        sys.exit("Set TUNEWRIGHT_BENCHMARK_DATA to the folder of the data sets.")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    chosen = [case for case in CASES if not sys.argv[1:] or case.name in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as output:
        for case in chosen:
            results[case.name] = measure(case, Path(root) / case.folder, Path(output))
            RESULTS.write_text(json.dumps(results, indent=2) + "\n")
            PAGE.write_text(page(results), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def measure(case: Case, data: Path, output: Path) -> dict[str, Any]:
    """Trains every seed on both sides and returns the figures of one line of the table."""
    verdicts: dict[str, list[np.ndarray]] = {"ours": [], "peer": []}
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for seed in case.seeds:
        for side, run in (("ours", ours.run), ("peer", trainer.run)):
            if side == "peer" and not case.with_peer:
                continue
            correct, taken = run(case, data, seed, output)
            verdicts[side].append(correct)
            seconds[side].append(round(taken, 1))
            print(
                f"{case.name}, seed {seed}: {side} {correct.mean():.4f} in {taken:.0f} s",
                flush=True,
            )
    mine, theirs = (np.array(verdicts[side]) for side in ("ours", "peer"))
    device = find_device()
    return {
        "rows": len(mine[0]),
        "target": case.target,
        "settings": {
            "max_length": case.max_length,
            "num_train_epochs": case.num_train_epochs,
            "learning_rate": case.learning_rate,
            "batch_size": case.batch_size,
        },
        "seeds": list(case.seeds),
        "ours": [float(row.mean()) for row in mine],
        "peer": [float(row.mean()) for row in theirs],
        "interval": paired_interval(mine, theirs) if len(theirs) else None,
        "verdicts": {
            side: [np.packbits(row).tobytes().hex() for row in rows]
            for side, rows in verdicts.items()
        },
        "seconds": seconds,
        "device": device.description,
        "precision": device.precision,
        "roof_tflops": round(measure_roof(device) / 1e12, 2),
    }


def paired_interval(mine_SR: np.ndarray, theirs_SR: np.ndarray) -> list[float]:
    """Returns the 95 % interval of ours minus theirs in points of accuracy.

    Seeds and test rows are both drawn anew, each draw the same on both sides.
    """
    gap_SR = mine_SR.astype(float) - theirs_SR
    num_seeds, num_rows = gap_SR.shape
    generator = np.random.Generator(np.random.PCG64(0))
    values = []
    for _ in range(NUM_RESAMPLES):
        seeds = generator.integers(0, num_seeds, num_seeds)
        rows = generator.integers(0, num_rows, num_rows)
        values.append(100 * gap_SR[seeds].mean(0)[rows].mean())
    return [float(bound) for bound in np.percentile(values, [2.5, 97.5])]


HEAD = """# Quality

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


def page(results: dict[str, Any]) -> str:
    """Returns `docs/quality.md`."""
    lines = "".join(_line(name, found) + "\n" for name, found in results.items())
    settings = "\n".join(_settings(name, found) for name, found in results.items())
    return HEAD + lines + TAIL.format(settings=settings)


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
    main()
