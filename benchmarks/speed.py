"""How fast encoders are tuned and answer, beside the libraries that people use.

    python -m benchmarks.speed [CASE ...] [--rounds 5] [--compiled] [--at-most avx2]

Finds its texts through TUNEWRIGHT_BENCHMARK_DATA. Every side is a process of its own, on the
threads and with the allocator that suit it (one peer without, as it is installed), and tunes a
model of the same size from the same weights on the same rows with updates of as many rows, in turn
(ours, peers, peers reversed, ours); the first round warms up, and a peer that compiles does so
then; its seconds are noted, since a user pays them. What counts are real tokens a second: padding
is no work. The memory told is the most of the GPU, or of the process on a CPU. The machine's own
peak is measured first. With `--at-most` all sides run as on a lesser processor. Results go to
`benchmarks/speed.json`, a table to docs/performance.md (`python -m benchmarks.speed_page`).
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    Trainer,
    TrainingArguments,
)

from benchmarks.masks import add_mask, begin_masked, check_mask
from benchmarks.sides import (
    LEARNING_RATE,
    WARM_UPDATES,
    Measured,
    Own,
    Side,
    Watch,
    in_turn,
    measured,
)
from tunewright.devices import (
    Device,
    find_device,
    measure_roof,
    settle_allocator,
    settle_kernels,
)
from tunewright.devices.memory import peak_bytes
from tunewright.models.files.folder import find_model
from tunewright.models.flop import FlopCount
from tunewright.models.layers.graphs import MET_BEFORE, record_passes
from tunewright.models.layers.native_products import ready_product
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.tasks.text_classification import TextClassification
from tunewright.training.schedule import Schedule
from tunewright.types import Row

RESULTS = Path(__file__).with_suffix(".json")

Sizes = dict[str, int]
MINILM: Sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
                 "intermediate_size": 1536}  # fmt: skip
BASE: Sizes = {}
LARGE: Sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
                "intermediate_size": 4096}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model's sizes, the texts that it is tuned on, and how long and how many they are."""

    name: str
    sizes: Sizes
    data: str
    max_length: int
    batch_rows: int
    num_updates: int
    kinds: tuple[str, ...] = ("cpu", "cuda")


CASES = {
    case.name: case
    for case in (
        Case("sentences", MINILM, "sst2", 128, 32, 30),
        Case("news", MINILM, "ag_news", 128, 32, 20),
        Case("reviews, 256", MINILM, "imdb_2k", 256, 32, 10),
        Case("reviews, 512", MINILM, "imdb_2k", 512, 32, 8),
        Case("news, base", BASE, "ag_news", 128, 32, 6),
        Case("reviews, base", BASE, "imdb_2k", 512, 32, 20, ("cuda",)),
        Case("reviews, large", LARGE, "imdb_2k", 512, 32, 12, ("cuda",)),
        Case("reviews, base, 64 rows", BASE, "imdb_2k", 512, 64, 15, ("cuda",)),
        Case("reviews, large, 64 rows", LARGE, "imdb_2k", 512, 64, 9, ("cuda",)),
    )
}


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("cases", nargs="*", choices=[*CASES, []])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--compiled", action="store_true", help="let peers compile, too")
    options.add_argument("--tokenizer", default="starter")
    options.add_argument("--output", type=Path, default=RESULTS)
    options.add_argument("--updates", type=int, help="fewer or more than a case has")
    options.add_argument("--only", nargs="*", help="sides")
    options.add_argument("--side", help="run one side, once for each line of the input")
    add_mask(options)
    chosen = options.parse_args()
    begin_masked(chosen.at_most)
    if "TUNEWRIGHT_BENCHMARK_DATA" not in os.environ:
        sys.exit("Set TUNEWRIGHT_BENCHMARK_DATA to the folder of the benchmark data.")
    if chosen.side != AS_INSTALLED:
        settle_allocator()
    device = find_device()
    if chosen.side:
        answer(CASES[chosen.cases[0]], device, chosen.side, chosen.tokenizer, chosen.updates)
        return
    check_mask(chosen.at_most, device.description)
    roof = measure_roof(device, 2.0, ready_product)
    print(f"{device.description}, {torch.get_num_threads()} threads, {device.precision}: "
          f"{roof / 1e12:.2f} TFLOP/s", flush=True)  # fmt: skip
    known = json.loads(chosen.output.read_text()) if chosen.output.exists() else {}
    for case in CASES.values():
        if case.name not in (chosen.cases or CASES) or device.kind not in case.kinds:
            continue
        names = ["ours", *peers_of(device, chosen.compiled)]
        sides = {
            name: Apart(case.name, name, chosen.tokenizer, chosen.updates)
            for name in names
            if not chosen.only or name in chosen.only
        }
        found = in_turn(dict(sides), chosen.rounds)
        memory = {name: side.end() for name, side in sides.items()}
        entry = {
            "device": device.description,
            "kind": device.kind,
            "roof": roof,
            "threads": torch.get_num_threads(),
            "rounds": chosen.rounds,
            "sides": {name: _summary(runs, roof) for name, runs in found.items()},
            "memory": memory,
            "first_round_seconds": {name: round(side.first, 1) for name, side in sides.items()},
        }
        known[f"{case.name} ({device.description})"] = entry
        chosen.output.write_text(json.dumps(known, indent=2) + "\n")
        for name, side in entry["sides"].items():
            print(f"{case.name}: {name:28} {side['tokens_per_second']:9,.0f} tokens/s "
                  f"[{side['range'][0]:,.0f}, {side['range'][1]:,.0f}], MFU {side['mfu']:.1%}, "
                  f"{memory[name] / 1e6:,.0f} MB, first round {sides[name].first:.1f} s",
                  flush=True)  # fmt: skip


class Apart:
    """A side in a process of its own, which runs once for each line that it is given."""

    def __init__(self, case: str, side: str, tokenizer: str, updates: int | None) -> None:
        command = [sys.executable, "-m", "benchmarks.speed", case, "--side", side]
        command += ["--tokenizer", tokenizer]
        command += [] if updates is None else ["--updates", str(updates)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.memory, self.first = 0, 0.0  # the seconds of the first round

    def __call__(self) -> Measured:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                found = json.loads(line.removeprefix(ANSWER))
                self.memory = max(self.memory, found.pop("memory"))
                taken = found.pop("taken")
                self.first = self.first or taken
                return Measured(**found)
        raise SystemExit("a side ended before it was done; what it said stands above")

    def end(self) -> int:
        """Lets the process end; returns the most memory that it had, in bytes."""
        self._process.communicate()
        return self.memory


ANSWER = "measured "
COMPILED, AS_INSTALLED = ", compiled", "Trainer, as installed"


def answer(case: Case, device: Device, name: str, tokenizer: str, updates: int | None) -> None:
    """Runs a side for each line of the input, and prints what was measured."""
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(case, device, Path(place), tokenizer, updates)
        side = bench.side(name)
        for _ in sys.stdin:
            started = time.perf_counter()
            found = asdict(side())
            found["taken"] = time.perf_counter() - started
            found["memory"] = bench.memory.get(name) or peak_bytes(device.kind)
            print(ANSWER + json.dumps(found), flush=True)


def peers_of(device: Device, compiled: bool) -> dict[str, dict[str, Any]]:
    """Returns what each peer is told, by its name; of those that compile the same as of others."""
    narrow = device.precision == "bf16"
    plain, grouped = "Trainer, fp32", "Trainer, grouped" + (", bf16" if narrow else "")
    peers: dict[str, dict[str, Any]] = {plain: {}}
    if device.kind == "cpu":
        peers[AS_INSTALLED] = {}
    if narrow:
        plain = "Trainer, bf16"
        peers[plain] = {"bf16": True}
    peers[grouped] = {"bf16": narrow, "train_sampling_strategy": "group_by_length"}
    if compiled:
        peers |= {f"{name}{COMPILED}": peers[name] for name in (plain, grouped)}
    return peers


def _summary(runs: Sequence[Measured], roof: float) -> dict[str, Any]:
    speeds = [run.tokens_per_second for run in runs]
    return {
        "tokens_per_second": round(statistics.median(speeds), 1),
        "range": [round(min(speeds), 1), round(max(speeds), 1)],
        "mfu": round(statistics.median(run.flop / run.seconds for run in runs) / roof, 4),
    }


class Bench:
    """The sides of one case, which share rows, token ids and starting weights."""

    def __init__(
        self, case: Case, device: Device, place: Path, tokenizer: str, updates: int | None
    ) -> None:
        self.case, self.device, self.place = case, device, place
        self.updates = updates or case.num_updates
        self.memory: dict[str, int] = {}
        rows = _rows(case, self.updates * case.batch_rows)
        source = find_model(tokenizer)
        self.tokenizer = load_tokenizer(source)
        labels = sorted({row.values["label"] for row in rows})
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(self.tokenizer), num_labels=len(labels),
            max_position_embeddings=512, **case.sizes,
        )  # fmt: skip
        AutoModelForSequenceClassification.from_config(config).save_pretrained(place)
        self.tokenizer.save_pretrained(place)
        task = TextClassification().started_from(place).within(case.max_length)
        self.task: Any = task.learn(rows)
        self.encoded = [self.task.encode(row, self.tokenizer) for row in rows]
        self.flop = FlopCount.of(AutoModelForSequenceClassification.from_config(config))

    def side(self, name: str) -> Side:
        """Returns a side by its name."""
        if name == "ours":
            return self._ours()
        return self._trainer(name, **peers_of(self.device, compiled=True)[name])

    def _ours(self, name: str = "ours") -> Side:
        own = Own.of(self.task, self.place, self.tokenizer, self.device)
        warmed: list[int] = []
        graphs = (
            [record_passes(own.model.base_model, self._autocast)]
            if self.device.kind == "cuda"
            else []
        )

        def run() -> Measured:
            while graphs and not warmed:  # until every size of these rows has been recorded
                warmed.append(1)
                for _ in range(MET_BEFORE):
                    run()
            schedule = Schedule("constant", self.updates, 0)
            loop = own.loop(self.encoded, self.case.batch_rows, schedule, graphs=graphs)
            with self._watched(name):
                found = measured(loop)
            for graph in graphs:
                if graph.failure:
                    print("no graphs:", graph.failure, file=sys.stderr)
            return found

        return run

    def _autocast(self) -> Any:
        return self.device.autocast(keep_casts=False)

    @contextmanager
    def _watched(self, name: str) -> Any:
        """Notes the most memory of a GPU that a side takes; ours alone has our kernels."""
        if self.device.kind != "cuda":
            yield
            return
        if name.startswith("ours"):
            settle_kernels("cuda")
        torch.cuda.reset_peak_memory_stats()
        try:
            yield
        finally:
            torch.cuda.synchronize()
            self.memory[name] = torch.cuda.max_memory_allocated()
            torch.use_deterministic_algorithms(False)

    def _trainer(self, name: str, **settings: Any) -> Side:
        model = AutoModelForSequenceClassification.from_pretrained(self.place)
        compiles = name.endswith(COMPILED)
        if compiles:
            # Not by the Trainer: the next one would find a model that is prepared, and run it as it
            # is. Any number of tokens fits.
            model.compile(dynamic=True)
        rows = [
            {
                "input_ids": item.streams["text"].token_ids.tolist(),
                "labels": int(item.targets["label"]),
                "length": item.num_tokens,
            }
            for (item,) in self.encoded
        ]
        graphs: list[int] = []  # that were compiled by the end of each round

        def run() -> Measured:
            seen: list[list[int]] = []
            watch = Watch()

            def collated(features: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
                seen.append([len(f["input_ids"]) for f in features])
                return _padded(features)

            arguments = TrainingArguments(
                output_dir=str(self.place / "trainer"),
                num_train_epochs=1,
                per_device_train_batch_size=self.case.batch_rows,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="constant",
                weight_decay=0.01,
                use_cpu=self.device.kind == "cpu",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                length_column_name="length",
                remove_unused_columns=False,
                **settings,
            )
            trainer = Trainer(model, arguments, collated, rows, callbacks=[watch])
            with self._watched(name):
                trainer.train()
            graphs.append(_num_compiled() if compiles else 0)
            if len(graphs) > 1 and graphs[-1] > graphs[-2]:
                print(
                    f"{name} compiled again in round {len(graphs) - 1}, which counts",
                    file=sys.stderr,
                )
            lengths = seen[: len(watch.ends)][WARM_UPDATES:]
            return Measured(
                sum(map(sum, lengths)),
                watch.seconds,
                sum(map(self.flop.training, lengths)),
            )

        return run


def _num_compiled() -> int:
    """Returns how many graphs torch has compiled in this process."""
    from torch._dynamo.utils import counters  # only here: it takes memory

    return counters["stats"]["unique_graphs"]


def _padded(features: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(f["input_ids"]) for f in features], batch_first=True
    )
    labels = torch.tensor([f["labels"] for f in features])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def _rows(case: Case, count: int) -> list[Row]:
    root = Path(os.environ["TUNEWRIGHT_BENCHMARK_DATA"])
    with gzip.open(root / f"classification/{case.data}/train.jsonl.gz", "rt") as file:
        values = [json.loads(line) for line in itertools.islice(file, count)]
    while len(values) < count:
        values += values[: count - len(values)]
    return [
        Row(number, {"text": value["text"], "label": str(value["label"])})
        for number, value in enumerate(values)
    ]


if __name__ == "__main__":
    main()
