"""What each adapter costs and gives: parameters, peak memory, tokens a second, accuracy.

    TUNEWRIGHT_BENCHMARK_DATA=DATA python -m benchmarks.adapters [method ...]

BANKING77 with the starter model. The step size of each method is the better of two on 1,000
validation rows after 60 updates (that of all weights is the one of the quality table); then each
trains for the same two epochs on the 9,003 other rows and is measured on test. Every run is a
process of its own, so that peak memory (ru_maxrss) is its own; speed is the median of its updates.
Results go to `benchmarks/adapters.json`, one run at a time; what stands there is not run again.

    python -m benchmarks.adapters memory

needs no data and trains nothing: the numbers that learn, and what one forward pass over 32 texts of
64 tokens keeps for the backward pass, weights aside, in fp32 and without dropout.

    TUNEWRIGHT_BENCHMARK_DATA=DATA python -m benchmarks.adapters rates

is a short look at step sizes: the training loss of the last ten of 30 updates of 32 rows.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_suffix(".json")
DATA = "classification/banking77"
RATES: dict[str, tuple[float, ...]] = {
    "full": (3e-4,),
    "lora": (1e-3, 3e-3),
    "dora": (1e-3, 3e-3),
    "adalora": (3e-3, 1e-2),
    "ia3": (1e-2, 3e-2),
    "bottleneck": (1e-3, 3e-3),
    "prefix": (1e-2, 3e-2),
    "prompt": (1e-2, 3e-2),
    "p-tuning": (3e-3, 1e-2),
}
SETTINGS = {"batch_size": 64, "max_length": 128, "seed": 1, "track": (), "save_total_limit": 0}
EPOCHS, CHOOSING_STEPS = 2, 60


def main() -> None:
    if sys.argv[1:] == ["memory"]:
        print(memory_table())
        return
    root = os.environ.get("TUNEWRIGHT_BENCHMARK_DATA")
    if not root or not Path(root).is_dir():
        sys.exit("Set TUNEWRIGHT_BENCHMARK_DATA to the folder of the data sets.")
    if sys.argv[1:] == ["rates"]:
        print(rates_table(Path(root) / DATA))
        return
    if sys.argv[1:2] == ["--alone"]:
        print(json.dumps(measure(Path(root) / DATA, *json.loads(sys.argv[2]))))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for method in sys.argv[1:] or RATES:
        found = {}
        for rate in RATES[method] if len(RATES[method]) > 1 else ():
            key = f"{method} {rate:g}"
            _take(results, key, method, rate, False)
            found[rate] = results[key]["validation"]
        best = max(found, key=lambda rate: found[rate]) if found else RATES[method][0]
        _take(results, method, method, best, True)
    print(table(results))


def _take(results: dict[str, Any], key: str, method: str, rate: float, is_final: bool) -> None:
    if key in results:
        return
    given = json.dumps([method, rate, is_final])
    command = [sys.executable, "-m", __spec__.name, "--alone", given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    results[key] = json.loads(done.stdout.splitlines()[-1])
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(key, results[key], flush=True)


def measure(data: Path, method: str, rate: float, is_final: bool) -> dict[str, Any]:
    """Trains once, in this process; returns the figures of the run."""
    import tunewright as tw  # it must not be loaded in the process that only waits

    rows = _rows(data / "train.jsonl.gz")
    random.Random(0).shuffle(rows)
    held, train = rows[:1000], rows[1000:]
    test = _rows(data / "test.jsonl.gz")
    events: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        run = tw.train(
            train,
            validation=held,
            test=test if is_final else held,
            adapter=None if method == "full" else method,
            learning_rate=rate,
            num_train_epochs=EPOCHS,
            max_steps=None if is_final else CHOOSING_STEPS,
            num_resamples=1000 if is_final else 0,
            load_best_model_at_end=False,
            folder=folder,
            tell=events.append,
            **SETTINGS,
        )
        steps = [e for e in events if type(e).__name__ == "Step"]
        accuracy = run.metrics["accuracy"]
        files = list(run.folder.model.glob("*model.safetensors"))
        return {
            "learning_rate": rate,
            "accuracy": accuracy.value,
            "low": accuracy.low,
            "high": accuracy.high,
            "validation": [e.metrics["accuracy"] for e in events
                           if type(e).__name__ == "Evaluation"][-1],
            "learning": _num_learning(run),
            "file_bytes": sum(file.stat().st_size for file in files),
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "tokens_per_second": statistics.median(s.num_tokens / s.seconds for s in steps),
            "device": json.loads((run.path / "run.json").read_text())["device"]["description"],
            "route": json.loads((run.path / "run.json").read_text())["route"].split(":")[0],
        }  # fmt: skip


def _num_learning(run: Any) -> int:
    from safetensors import safe_open

    total = 0
    for file in run.folder.model.glob("*model.safetensors"):
        with safe_open(file, framework="np") as tensors:
            total += sum(
                math.prod(tensors.get_slice(name).get_shape())
                for name in tensors.keys()  # noqa: SIM118
            )
    return total


def _rows(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def memory_table() -> str:
    """Returns what each method learns and keeps, as Markdown."""
    lines = ["| method | numbers that learn | kept for the backward pass, MB |", "|---|---:|---:|"]
    for method in RATES:
        learning, kept = kept_for_backward(method)
        shown = "all weights" if method == "full" else f"`{method}`"
        lines.append(f"| {shown} | {learning:,} | {kept / 1e6:.0f} |")
    learning, kept = kept_for_backward("lora", freeze_layers=3)
    lines.append(f"| `lora`, `freeze_layers=3` | {learning:,} | {kept / 1e6:.0f} |")
    return "\n".join(lines)


def kept_for_backward(method: str, freeze_layers: int = 0) -> tuple[int, int]:
    """Returns the numbers that learn, and the bytes that a forward pass keeps for them."""
    import torch

    from tunewright.models.adapter_config import AdapterConfig
    from tunewright.models.adapters import attach
    from tunewright.models.architecture import SEQUENCE_CLASSIFIER
    from tunewright.models.batch import PackedStream
    from tunewright.models.folder import find_model
    from tunewright.models.heads import choose_route, classify
    from tunewright.models.loading import load_classifier
    from tunewright.training.optimizer import freeze

    labels = tuple(map(str, range(77)))
    model = load_classifier(find_model("starter"), labels, dropout=0.0, pad_token_id=0).model
    freeze(model, freeze_layers)
    if method != "full":
        attach(model, AdapterConfig(name=method), SEQUENCE_CLASSIFIER)  # type: ignore[arg-type]
    choose_route(model)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def take(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids_N = torch.arange(32 * 64) % 20_000 + 2_000
    stream = PackedStream(ids_N, torch.arange(64).repeat(32), tuple(range(0, 32 * 64 + 1, 64)))
    with torch.autograd.graph.saved_tensors_hooks(take, lambda tensor: tensor):
        outputs = classify(model.train(), stream)
    assert outputs.requires_grad  # or nothing would be kept
    return sum(p.numel() for p in model.parameters() if p.requires_grad), sum(kept.values())


def rates_table(data: Path) -> str:
    """Returns what each method has learned in 30 updates at each of its step sizes, as Markdown."""
    from tunewright.devices import find_device
    from tunewright.models.adapter_config import AdapterConfig
    from tunewright.models.adapters import attach
    from tunewright.models.dropout import replace_dropout
    from tunewright.models.folder import find_model
    from tunewright.models.tokenizers import load_tokenizer
    from tunewright.tasks import find_task
    from tunewright.training.budget import keep_budget
    from tunewright.training.loop import Loop
    from tunewright.training.optimizer import build_optimizer
    from tunewright.training.schedule import Schedule
    from tunewright.types import Row

    steps, source, device = 30, find_model("starter"), find_device("auto")
    rows = _rows(data / "train.jsonl.gz")
    random.Random(0).shuffle(rows)
    read = [Row(number, row, "train", number) for number, row in enumerate(rows[:2560])]
    task = find_task("text-classification")().within(128).learn(read)
    tokenizer = load_tokenizer(source)
    encoded = [task.encode(row, tokenizer) for row in read]
    lines = ["| method | learning rate | loss |", "|---|---:|---:|"]
    for method, rate in ((method, rate) for method, found in RATES.items() for rate in found):
        model, _ = task.build(source, tokenizer, dropout=None, seed=1)
        if method != "full":
            attach(model, AdapterConfig(name=method), task.kind, 1)  # type: ignore[arg-type]
        task.route(model)
        optimizer = build_optimizer(model, learning_rate=rate, weight_decay=0.01)
        keep_budget(model, optimizer, steps)
        loop = Loop(model, task, encoded, optimizer, Schedule("linear", steps, 6), device,
                    32, 8192, 1, 1.0, dropout=replace_dropout(model))  # fmt: skip
        losses = [e.loss for e in loop.run() if type(e).__name__ == "Step"]
        shown = "all weights" if method == "full" else f"`{method}`"
        lines.append(f"| {shown} | {rate:g} | {statistics.fmean(losses[-10:]):.2f} |")
    return "\n".join(lines)


def table(results: dict[str, Any]) -> str:
    """Returns the table of the finished runs, as Markdown."""
    head = ["method", "learning rate", "numbers saved", "MB on disk", "peak memory, MB", "tokens/s",
            "route", "test accuracy", "95 % interval"]  # fmt: skip
    lines = [head, ["---", *["---:"] * 5, "---", "---:", "---:"]]
    for method in RATES:
        if method not in results:
            continue
        found = results[method]
        lines.append([
            f"`{method}`" if method != "full" else "all weights",
            f"{found['learning_rate']:g}",
            f"{found['learning']:,}",
            f"{found['file_bytes'] / 1e6:.2f}",
            f"{found['peak_bytes'] / 1e6:,.0f}",
            f"{found['tokens_per_second']:,.0f}",
            found["route"],
            f"{100 * found['accuracy']:.2f}",
            f"{100 * found['low']:.2f} to {100 * found['high']:.2f}",
        ])  # fmt: skip
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
