"""How fast encoder-decoders are trained and write, beside transformers at its best settings.

    python -m benchmarks.seq2seq_speed [--rows 1024] [--rounds 3]

Finds Multi30k through TUNEWRIGHT_BENCHMARK_DATA. Training: the same rows, tokens, sizes, updates,
label smoothing and bf16 for our Transformer in our loop, packed, and for a Marian of the library in
Seq2SeqTrainer, padded and grouped by length. Writing: the same weights and texts with four beams,
by our search, by `generate` in batches sorted by length, at three batch sizes, and by CTranslate2
in each of its ways of computing, in a process of its own. Rounds of all sides alternate; what is
shown are the medians of seconds, and how many times faster ours is than the fastest side of each
library. Results go to `benchmarks/seq2seq_speed.json`.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MarianConfig,
    MarianMTModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from benchmarks.ctranslate2_peer import Peer, compute_types, convert
from tunewright.devices import find_device
from tunewright.models.generating.beams import search
from tunewright.models.generating.generation import Generation
from tunewright.models.layers.dropout import replace_dropout
from tunewright.models.new_model import Sizes, save_new_transformer
from tunewright.models.text.new_tokenizer import train_tokenizer
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.tasks.translation import Translation
from tunewright.training.loop import Loop
from tunewright.training.optimizer import build_optimizer
from tunewright.training.schedule import Schedule
from tunewright.types import Row

RESULTS = Path(__file__).with_suffix(".json")
WIDTH, LAYERS, INNER, HEADS, VOCABULARY = 256, 3, 1024, 4, 8000
BATCH_ROWS, DROPOUT, BEAMS = 128, 0.1, 4
BEGIN, END = 2, 3  # tokens


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=1024)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    root = os.environ.get("TUNEWRIGHT_BENCHMARK_DATA")
    if not root:
        sys.exit("Set TUNEWRIGHT_BENCHMARK_DATA to the folder of the benchmark data.")
    with gzip.open(Path(root) / "translation/multi30k_en_de/train.jsonl.gz", "rt") as file:
        values = [json.loads(line) for line in itertools.islice(file, chosen.rows)]
    rows = [Row(number, value) for number, value in enumerate(values)]
    with tempfile.TemporaryDirectory() as place:
        results = measure(rows, Path(place), chosen.rounds)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def measure(rows: Sequence[Row], place: Path, rounds: int) -> dict[str, Any]:
    texts = [text for row in rows for text in row.values.values()]
    made = train_tokenizer(texts, "bpe", VOCABULARY, style="sequence-to-sequence")
    variant = {"num_attention_heads": HEADS, "intermediate_size": INNER}
    save_new_transformer(place / "model", Sizes(LAYERS, WIDTH), made, seed=0, **variant)
    tokenizer = load_tokenizer(place / "model")
    task = Translation().started_from(place / "model").within(256).learn(rows)
    model, _ = task.build(place / "model", tokenizer, dropout=DROPOUT, seed=0)
    route = task.route(model)
    encoded = [task.encode(row, tokenizer) for row in rows]
    sides = {
        "ours": _our_training(task, model, encoded),
        "Seq2SeqTrainer": _their_training(encoded, len(tokenizer), place),
    }
    training = compared(sides, rounds)
    writing = _writing(model.eval(), encoded, rounds, place)
    num_tokens = sum(item.num_tokens for items in encoded for item in items)
    return {
        "threads": torch.get_num_threads(),
        "route": route,
        "tokens": num_tokens,
        "training": training,
        "writing": writing,
    }


def compared(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Runs the sides in turn, the first round to warm up; returns medians and the ratios."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            if turn:
                found[name].append(time.perf_counter() - started)
                print(name, f"{found[name][-1]:.2f}", flush=True)
    medians = {name: round(statistics.median(times), 3) for name, times in found.items()}
    fastest: dict[str, float] = {}
    for name, seconds in medians.items():
        library = name.partition(",")[0]
        fastest[library] = min(seconds, fastest.get(library, seconds))
    ours = fastest.pop("ours")
    ratios = {library: round(seconds / ours, 2) for library, seconds in fastest.items()}
    return {"seconds": medians, "times_faster": ratios}


def _our_training(task: Any, model: Any, encoded: Sequence[Any]) -> Callable[[], None]:
    device, steps = find_device("bf16"), len(encoded) // BATCH_ROWS
    optimizer = build_optimizer(model, learning_rate=1e-4)
    dropout = replace_dropout(model)

    def run() -> None:
        loop = Loop(model, task, encoded, optimizer, Schedule("constant", steps, 0), device,
                    BATCH_ROWS, 8192, 0, 1.0, dropout=dropout)  # fmt: skip
        for _ in loop.run():
            pass

    return run


def _their_training(encoded: Sequence[Any], size: int, place: Path) -> Callable[[], None]:
    config = MarianConfig(
        vocab_size=size,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=INNER,
        decoder_ffn_dim=INNER,
        dropout=DROPOUT,
        attention_dropout=0.0,
        activation_function="relu",
        pad_token_id=0,
        eos_token_id=END,
        decoder_start_token_id=BEGIN,
    )
    model = MarianMTModel(config)
    rows = [
        {
            "input_ids": items[0].streams["source"].token_ids.tolist(),
            "labels": list(map(int, items[0].targets["label"])),
            "length": items[0].num_tokens,
        }
        for items in encoded
    ]

    def collated(features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pad = torch.nn.utils.rnn.pad_sequence
        ids, labels = (
            pad([torch.tensor(f[name]) for f in features], batch_first=True, padding_value=filler)
            for name, filler in (("input_ids", 0), ("labels", -100))
        )
        return {
            "input_ids": ids,
            "attention_mask": (ids != 0).long(),
            "labels": labels,
            "decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels=labels),
        }

    def run() -> None:
        arguments = Seq2SeqTrainingArguments(
            output_dir=str(place / "trainer"),
            num_train_epochs=1,
            per_device_train_batch_size=BATCH_ROWS,
            learning_rate=1e-4,
            label_smoothing_factor=0.1,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            train_sampling_strategy="group_by_length",
            length_column_name="length",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        Seq2SeqTrainer(model, arguments, collated, rows).train()

    return run


def _writing(model: Any, encoded: Sequence[Any], rounds: int, place: Path) -> dict[str, Any]:
    """Four beams over a quarter of the rows, sorted by length; no side ends a text early."""
    chosen = sorted(encoded[: len(encoded) // 4], key=lambda items: len(items[0].streams["source"]))
    sources = [torch.tensor(items[0].streams["source"].token_ids) for items in chosen]
    settings = Generation(num_beams=BEAMS, max_new_tokens=24)
    model.config._attn_implementation = "sdpa"
    model.generation_config.eos_token_id = None
    device = find_device("bf16")

    def batches(size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        pad = torch.nn.utils.rnn.pad_sequence
        return [
            (
                pad(part, batch_first=True).long(),
                pad([torch.ones_like(s) for s in part], batch_first=True).long(),
            )
            for start in range(0, len(sources), size)
            for part in [sources[start : start + size]]
        ]

    def ours() -> None:
        for ids, mask in batches(128):
            with torch.no_grad(), device.autocast():
                search(model, ids, mask, [BEGIN], settings, set())

    def theirs(size: int) -> Callable[[], None]:
        def run() -> None:
            for ids, mask in batches(size):
                with torch.no_grad(), device.autocast():
                    model.generate(
                        input_ids=ids,
                        attention_mask=mask,
                        num_beams=BEAMS,
                        max_new_tokens=settings.max_new_tokens,
                    )

        return run

    sides = {"ours": ours} | {f"generate, {size} at once": theirs(size) for size in (32, 64, 128)}
    convert(model, place / "converted", end=END)
    for kind in compute_types():
        peer = Peer(place / "converted", kind)
        sides[f"CTranslate2, {kind}"] = lambda peer=peer: peer.write(
            [source.tolist() for source in sources], BEAMS, settings.max_new_tokens
        )
    return compared(sides, rounds)


if __name__ == "__main__":
    main()
