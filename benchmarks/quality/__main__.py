"""Runs the quality table: `make bench-quality`, or `python -m benchmarks.quality SST-2 ...`.

Each seed of ours runs beside the same seed of the peer, alternating. Results go to
`benchmarks/quality/results.json`, with the verdict on every test row (packed bits in
hexadecimal), and `docs/quality.md`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import ours, trainer
from benchmarks.quality.cases import CASES, Case
from benchmarks.quality.harness import data_root
from benchmarks.quality.page import PAGE, write_page
from tunewright.devices import find_device, measure_roof

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
NUM_RESAMPLES = 10_000


def main() -> None:
    root = data_root()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for case in CASES:
        if case.name in (sys.argv[1:] or [case.name]):
            results[case.name] = measure(case, root / case.folder)
            RESULTS.write_text(json.dumps(results, indent=2) + "\n")
            write_page()
    print(PAGE.read_text(encoding="utf-8"))


def measure(case: Case, data: Path) -> dict[str, Any]:
    """Trains every seed on both sides and returns the figures of one line of the table."""
    verdicts: dict[str, list[np.ndarray]] = {"ours": [], "peer": []}
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for seed in case.seeds:
        for side, run in (("ours", ours.run), ("peer", trainer.run)):
            if side == "peer" and not case.with_peer:
                continue
            correct, taken = run(case, data, seed)
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
            name: getattr(case.settings, name)
            for name in ("max_length", "num_train_epochs", "learning_rate", "batch_size")
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


if __name__ == "__main__":
    main()
