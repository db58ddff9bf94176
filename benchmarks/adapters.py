"""What each adapter costs and gives: parameters, peak memory, tokens a second, quality.

    TUNEWRIGHT_BENCHMARK_DATA=DATA python -m benchmarks.adapters [--case BANKING77] [method ...]

BANKING77 with the starter model, judged by accuracy; DialogSum with SmolLM2-135M-Instruct, judged
by perplexity and by ROUGE-L of what it writes. On BANKING77 the step size of each method is the
better of two on validation rows after a few updates; then each trains for the same epochs and is
measured on test. Every run is a process of its own, so that peak memory is its own: the most that
the device held until the last update. Speed is the median of its updates. Results go to
`benchmarks/adapters.json`, one run at a time; what stands there is not run again.

    python -m benchmarks.adapters memory

needs no data and trains nothing: the numbers that learn, and what one forward pass over 32 texts of
64 tokens keeps for the backward pass, weights aside, in fp32 and without dropout.

    TUNEWRIGHT_BENCHMARK_DATA=DATA python -m benchmarks.adapters rates

is a short look at step sizes: the training loss of the last ten of 30 updates of 32 rows.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
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
# A decoder of 135 million weights bears smaller steps than the starter, and has no new head. One
# each: a look at two would take as long again.
WRITING_RATES: dict[str, tuple[float, ...]] = {
    "full": (1e-4,),
    "lora": (1e-3,),
    "dora": (1e-3,),
    "adalora": (3e-3,),
    "ia3": (1e-2,),
    "bottleneck": (1e-3,),
    "prefix": (1e-2,),
    "prompt": (1e-2,),
    "p-tuning": (3e-3,),
}


@dataclass(frozen=True)
class Case:
    """A data set, what every method is told, and the figures that are kept of test and validation.

    `num_held` training rows validate, `num_train` of the others train, and the first `num_test`
    test rows count (None: all). `chosen_by` is the figure of the validation rows that picks the
    step size.
    """

    folder: str
    num_held: int
    num_train: int | None
    num_test: int | None
    rates: Mapping[str, tuple[float, ...]]
    settings: Mapping[str, Any]
    choosing_steps: int
    chosen_by: str
    lower_is_better: bool
    kept: tuple[str, ...]


CASES = {
    "BANKING77": Case(
        DATA,
        1000,
        None,
        None,
        RATES,
        {"batch_size": 64, "max_length": 128, "num_train_epochs": 2},
        60,
        "accuracy",
        False,
        ("accuracy",),
    ),
    "DialogSum": Case(
        "summarization/dialogsum",
        50,
        208,
        100,
        WRITING_RATES,
        {
            "task": "text-generation",
            "model": "smollm2",
            "prompt": "document",
            "completion": "summary",
            "prompt_template": "Summarize this dialogue:\n\n{prompt}",
            "max_length": 384,
            "answer_length": 64,
            "batch_size": 16,
            "max_tokens": 2048,
            "num_train_epochs": 1,
        },
        8,
        "perplexity",
        True,
        ("perplexity", "rougeL"),
    ),
}
COMMON = {"seed": 1, "track": (), "save_total_limit": 0, "load_best_model_at_end": False}


def main() -> None:
    if sys.argv[1:] == ["memory"]:
        print(memory_table())
        return
    from benchmarks.quality.harness import data_root

    if sys.argv[1:] == ["rates"]:
        print(rates_table(data_root() / DATA))
        return
    if sys.argv[1:2] == ["--alone"]:
        print(json.dumps(measure(data_root(), *json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="*", default=list(RATES))
    parser.add_argument("--case", choices=CASES, default="BANKING77")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    results = json.loads(given.results.read_text()) if given.results.exists() else {}
    found = results.setdefault(given.case, {})
    for method in given.methods:
        rate = _best_rate(given.case, method, found)
        found.setdefault(method, _alone(given.case, method, rate, True))
        given.results.write_text(json.dumps(results, indent=2) + "\n")
        print(method, found[method], flush=True)
    print(table(CASES[given.case], found))


def _best_rate(name: str, method: str, found: Mapping[str, Any]) -> float:
    """Returns the step size that is best on validation rows after a few updates."""
    case = CASES[name]
    rates = case.rates[method]
    if method in found or len(rates) == 1:
        return rates[0]
    tried = {rate: _alone(name, method, rate, False)["validation"] for rate in rates}
    return (min if case.lower_is_better else max)(tried, key=lambda rate: tried[rate])


def _alone(name: str, method: str, rate: float, is_final: bool) -> dict[str, Any]:
    given = json.dumps([name, method, rate, is_final])
    command = [sys.executable, "-m", __spec__.name, "--alone", given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(data: Path, name: str, method: str, rate: float, is_final: bool) -> dict[str, Any]:
    """Trains once, in this process; returns the figures of the run."""
    import tunewright as tw  # it must not be loaded in the process that only waits
    from tunewright.devices import find_device
    from tunewright.devices.memory import peak_bytes

    case = CASES[name]
    rows = _rows(data / case.folder / "train.jsonl.gz")
    random.Random(0).shuffle(rows)
    held, train = rows[: case.num_held], rows[case.num_held :][: case.num_train]
    test = _rows(data / case.folder / "test.jsonl.gz")[: case.num_test]
    device = find_device()
    events: list[Any] = []
    peaks: list[int] = [0]

    def hear(event: Any) -> None:
        events.append(event)
        if type(event).__name__ == "Step":
            peaks.append(peak_bytes(device.kind))

    with tempfile.TemporaryDirectory() as folder:
        run = tw.train(
            train,
            validation=held,
            test=test if is_final else held,
            adapter=None if method == "full" else method,
            learning_rate=rate,
            max_steps=None if is_final else case.choosing_steps,
            num_resamples=1000 if is_final else 0,
            folder=folder,
            tell=hear,
            **COMMON,
            **case.settings,
        )
        steps = [e for e in events if type(e).__name__ == "Step"]
        evaluations = [e for e in events if type(e).__name__ == "Evaluation"]
        files = list(run.folder.model.glob("*model.safetensors"))
        found = {
            "learning_rate": rate,
            "validation": evaluations[-1].metrics[case.chosen_by],
            "learning": _num_learning(run),
            "file_bytes": sum(file.stat().st_size for file in files),
            "peak_bytes": max(peaks),
            "tokens_per_second": statistics.median(s.num_tokens / s.seconds for s in steps),
            "device": device.description,
            "precision": device.precision,
            "route": json.loads((run.path / "run.json").read_text())["route"].split(":")[0],
        }
        if is_final:
            metrics = dict(run.metrics)
            if "rougeL" in case.kept:
                metrics |= _written(run.path, test)
            found["metrics"] = {kept: metrics[kept].to_json() for kept in case.kept}
        return found


def _written(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the figures of what a decoder writes for the rows."""
    from dataclasses import replace

    import tunewright as tw
    from tunewright.data import read_table
    from tunewright.models.generating.generation import Generation
    from tunewright.run.judging.judge import Judge

    predictor = tw.load(folder).predictor
    predictor = replace(
        predictor,
        task=replace(predictor.task, write_answers=True),  # type: ignore[type-var]
        generation=Generation(max_new_tokens=64),
    )
    table = read_table(rows).rows({"prompt": "document", "completion": "summary"})
    return dict(Judge(1000, num_mistakes=0).judge(predictor, table, "test").metrics)


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

    from tunewright.models.adapting.adapter_config import AdapterConfig
    from tunewright.models.adapting.adapters import attach
    from tunewright.models.batch import PackedStream
    from tunewright.models.files.architecture import SEQUENCE_CLASSIFIER
    from tunewright.models.files.folder import find_model
    from tunewright.models.files.loading import load_classifier
    from tunewright.models.heads import choose_route, classify
    from tunewright.training.fitting import kept_bytes
    from tunewright.training.optimizer import freeze

    labels = tuple(map(str, range(77)))
    model = load_classifier(find_model("starter"), labels, dropout=0.0, pad_token_id=0).model
    freeze(model, freeze_layers)
    if method != "full":
        attach(model, AdapterConfig(name=method), SEQUENCE_CLASSIFIER)  # type: ignore[arg-type]
    choose_route(model)
    ids_N = torch.arange(32 * 64) % 20_000 + 2_000
    stream = PackedStream(ids_N, torch.arange(64).repeat(32), tuple(range(0, 32 * 64 + 1, 64)))
    kept = kept_bytes(model, lambda: classify(model.train(), stream))
    assert kept  # or nothing would learn
    return sum(p.numel() for p in model.parameters() if p.requires_grad), kept


def rates_table(data: Path) -> str:
    """Returns what each method has learned in 30 updates at each of its step sizes, as Markdown."""
    from tunewright.devices import find_device
    from tunewright.models.adapting.adapter_config import AdapterConfig
    from tunewright.models.adapting.adapters import attach
    from tunewright.models.files.folder import find_model
    from tunewright.models.layers.dropout import replace_dropout
    from tunewright.models.text.tokenizers import load_tokenizer
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


def table(case: Case, results: Mapping[str, Any]) -> str:
    """Returns the table of the finished runs, as Markdown."""
    head = ["method", "learning rate", "numbers saved", "MB on disk", "peak memory, MB", "tokens/s",
            "route", *(f"test {name}" for name in case.kept)]  # fmt: skip
    lines = [head, ["---", *["---:"] * 5, "---", *["---:"] * len(case.kept)]]
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
            *(_interval(found["metrics"][name], name) for name in case.kept),
        ])  # fmt: skip
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _interval(metric: Mapping[str, float], name: str) -> str:
    scale = 100 if name == "accuracy" else 1
    value, low, high = (scale * metric[key] for key in ("value", "low", "high"))
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
