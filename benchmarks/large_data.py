"""Training on data larger than memory: seconds to the first update, peak memory, and a kill.

    python -m benchmarks.large_data --gigabytes 1 10

Makes a Parquet and a JSONL file of each size with texts of random words, trains the starter on each
for some updates in a process of its own, and writes benchmarks/large_data.json. On the largest
files a second run is killed with SIGKILL between two saves and resumed; its weights have to be
those of the first, to the bit. The files are deleted afterwards. Memory is the process's anonymous
memory (`RssAnon`): what the system caches of files is not counted, since it gives that back.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

HERE = Path(__file__).parent
ROWS_AT_ONCE = 50_000  # rows of a row group, which is about 20 MB
LARGEST = 10.0  # gigabytes of the files on which a run is killed, too
UPDATES, SAVE_STEPS, KILLED_AFTER = 100, 25, 60
# About 500 rows are set aside of every file: evaluations of more would take longer than the updates
# that are measured, and the memory of their passes would differ.
SET_ASIDE_BYTES = 200_000
SETTINGS: dict[str, Any] = {
    "max_steps": UPDATES,
    "batch_size": 16,
    "max_length": 64,
    "save_steps": SAVE_STEPS,
    "save_minutes": 0.0,
    "num_resamples": 50,
    "track": (),
    "max_tokens": 2048,
}


def one_stretch() -> tuple[list[str], list[str]]:
    """Returns texts of about 400 characters, and their labels."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, n)) for n in rng.integers(2, 10, 20_000)])
    sentences = [" ".join(row) for row in words[rng.integers(0, len(words), (20_000, 28))]]
    label_R = rng.integers(0, 4, ROWS_AT_ONCE)
    pair_R2 = rng.integers(0, len(sentences), (ROWS_AT_ONCE, 2))
    texts = [
        f"{words[label]} {sentences[a]} {sentences[b]}"
        for label, (a, b) in zip(label_R, pair_R2, strict=True)
    ]
    return texts, [f"class {label}" for label in label_R]


def make(path: Path, num_bytes: float) -> int:
    """Writes a file of about so many bytes; returns its number of rows.

    The texts of one stretch come again in the next, each with the number of the stretch.
    """
    texts, labels = one_stretch()
    num_rows = 0
    if path.suffix == ".jsonl":
        lines = "".join(
            f'{{"text": "{text} ########", "label": "{label}"}}\n'
            for text, label in zip(texts, labels, strict=True)
        ).encode()
        with path.open("wb") as file:
            while file.tell() < num_bytes:
                file.write(lines.replace(b"########", b"%08d" % (num_rows // ROWS_AT_ONCE)))
                num_rows += ROWS_AT_ONCE
        return num_rows
    schema = pa.schema([("text", pa.string()), ("label", pa.string())])
    options: dict[str, Any] = {"compression": "none", "use_dictionary": ["label"]}
    with path.open("wb") as sink, pa.parquet.ParquetWriter(sink, schema, **options) as writer:
        while sink.tell() < num_bytes:
            number = f"{num_rows // ROWS_AT_ONCE:08d}"
            numbered = pc.binary_join_element_wise(pa.array(texts), number, " ")
            writer.write_table(pa.table({"text": numbered, "label": labels}, schema))
            num_rows += ROWS_AT_ONCE
    return num_rows


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise OSError("the system does not say")


class Watch:
    """Notes the most anonymous memory that this process has, 20 times a second."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, anonymous_bytes())
            time.sleep(0.05)


def child(data: str, folder: str, goes_on: bool) -> None:
    """Trains, or goes on with training; prints each update, and at the end what was measured."""
    started, watch = time.perf_counter(), Watch()
    import tunewright as tw
    from tunewright.training.events import Step

    called = time.perf_counter()
    found: dict[str, Any] = {}
    seconds: list[float] = []

    def tell(event: Any) -> None:
        if isinstance(event, Step):
            now = time.perf_counter()
            found.setdefault("seconds_to_first_update", now - called)
            found.setdefault("with_imports", now - started)
            seconds.append(event.seconds)
            print(f"update {event.step}", flush=True)

    run = Path(folder) / "run"
    if goes_on:
        tw.resume(run, tell=tell)
    else:
        share = SET_ASIDE_BYTES / Path(data).stat().st_size
        split = {"validation": share, "test": share}
        layer = {"data": {"split": split, "streaming": "on"}}
        tw.train(data, folder=folder, name="run", settings=layer, tell=tell, **SETTINGS)
    found["peak_anonymous_megabytes"] = watch.peak_bytes / 1e6
    found["median_seconds_per_update"] = float(np.median(seconds))
    found["longest_seconds_per_update"] = max(seconds[1:])
    weights = (run / "model" / "model.safetensors").read_bytes()
    print(json.dumps(found | {"weights": hashlib.sha256(weights).hexdigest()}), flush=True)


def run_child(
    data: Path, folder: Path, goes_on: bool = False, wanted: Callable[[str], bool] | None = None
) -> dict[str, Any] | None:
    """Runs `child`; kills it at the line that is `wanted`, and returns None then."""
    command = [sys.executable, "-m", "benchmarks.large_data", "--child", str(data), str(folder)]
    command += ["--goes-on"] if goes_on else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            last = line
            if wanted is not None and wanted(line.strip()):
                os.kill(process.pid, signal.SIGKILL)
                return None
    if process.returncode:
        raise SystemExit(f"training failed with {process.returncode}")
    found: dict[str, Any] = json.loads(last)
    return found


def measured(suffix: str, gigabytes: float, place: Path, kills: bool) -> dict[str, Any]:
    data = place / f"data{suffix}"
    num_rows = make(data, gigabytes * 1e9)
    found = run_child(data, place / "whole")
    assert found is not None
    about = {"file": suffix[1:], "gigabytes": data.stat().st_size / 1e9, "rows": num_rows}
    weights = found.pop("weights")
    if kills:
        run_child(data, place / "cut", wanted=lambda line: line == f"update {KILLED_AFTER}")
        resumed = run_child(data, place / "cut", goes_on=True)
        assert resumed is not None
        about["killed_after_update"] = KILLED_AFTER
        about["resumed_to_the_same_bits"] = resumed.pop("weights") == weights
        about["seconds_to_resume"] = resumed["seconds_to_first_update"]
    data.unlink()
    return about | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, nargs="*", default=[1.0, LARGEST])
    parser.add_argument("--files", nargs="*", default=[".parquet", ".jsonl"])
    parser.add_argument("--folder", type=Path, default=None, help="a disk with room for the files")
    parser.add_argument("--child", nargs=2, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--goes-on", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(*given.child, given.goes_on)
        return
    for suffix in given.files:
        for gigabytes in given.gigabytes:
            with tempfile.TemporaryDirectory(dir=given.folder) as place:
                found = measured(suffix, gigabytes, Path(place), gigabytes == LARGEST)
            print(json.dumps(found), flush=True)
            note(found)


def note(found: dict[str, Any]) -> None:
    """Writes a run's figures down in the place of earlier ones of the same file and size."""
    from tunewright.devices import find_device  # not above: imports are measured in the child

    path = HERE / "large_data.json"
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.is_file() else []
    key = found["file"], round(found["gigabytes"])
    kept = [run for run in runs if (run["file"], round(run["gigabytes"])) != key]
    kept = sorted([*kept, found], key=lambda run: (run["file"], run["gigabytes"]))
    about = {"machine": find_device().description, "settings": SETTINGS}
    text = json.dumps({**about, "runs": kept}, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
