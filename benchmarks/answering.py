"""How fast a model answers many texts, beside the libraries that people use.

    python -m benchmarks.answering [--texts 10000] [--rounds 3] [--at-most avx2]

Finds its texts through TUNEWRIGHT_BENCHMARK_DATA: sentences, news and reviews, mixed. Every side
is given the texts themselves and gives vectors (the starter model, mean of tokens, 256 tokens at
most) or labels (a classifier of its size), in turn and end to end: reading tokens counts, loading
does not. A peer is shown at the fastest of its batch sizes and precisions, found on a tenth of the
texts. ONNX Runtime and OpenVINO take part where they are installed, but not with `--at-most`, which
does not reach them. `cosine` is the mean to vectors in fp32. Results go to
`benchmarks/answering.json`.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from benchmarks.masks import add_mask, begin_masked, check_mask
from tunewright.devices import Device, find_device, measure_roof, settle_allocator
from tunewright.models.files.folder import find_model
from tunewright.models.layers.native_products import ready_product
from tunewright.models.layers.own_layers import use_own_layers
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.retrieval.encoder import load_encoder
from tunewright.tasks.text_classification import TextClassification
from tunewright.types import Row

RESULTS = Path(__file__).with_suffix(".json")
MAX_LENGTH, SIZES = 256, (16, 32, 64, 128)
MIXED = ("sst2", "ag_news", "imdb_2k")
OPENVINO, ONNX = "OpenVINO", "ONNX Runtime, int8"
UNMASKED = (OPENVINO, ONNX)

Side = Callable[[Sequence[str]], Any]


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--texts", type=int, default=10_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--only", choices=["vectors", "labels"])
    options.add_argument("--output", type=Path, default=RESULTS)
    add_mask(options)
    chosen = options.parse_args()
    begin_masked(chosen.at_most)
    if "TUNEWRIGHT_BENCHMARK_DATA" not in os.environ:
        sys.exit("Set TUNEWRIGHT_BENCHMARK_DATA to the folder of the benchmark data.")
    settle_allocator()
    device = find_device()
    check_mask(chosen.at_most, device.description)
    texts = mixed_texts(chosen.texts)
    known = json.loads(chosen.output.read_text()) if chosen.output.exists() else {}
    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        for job, sides_of in {"vectors": _vector_sides, "labels": _label_sides}.items():
            if chosen.only and job != chosen.only:
                continue
            ways = sides_of(Path(place))
            if chosen.at_most:
                ways = {name: each for name, each in ways.items() if name not in UNMASKED}
            sides = fastest(ways, texts[::10])
            seconds, answers = in_turn(sides, texts, chosen.rounds)
            entry = {
                "device": device.description,
                "roof": measure_roof(device, 2.0, ready_product),
                "threads": torch.get_num_threads(),
                "texts": len(texts),
                "seconds": {
                    name: [round(each, 2) for each in sorted(found)]
                    for name, found in seconds.items()
                },
            }
            if job == "vectors":
                entry["cosine"] = _cosines(answers, texts)
            known[f"{job} ({device.description})"] = entry
            chosen.output.write_text(json.dumps(known, indent=2) + "\n")
            print(json.dumps(entry, indent=2), flush=True)


def mixed_texts(count: int) -> list[str]:
    """Returns texts of all lengths, in random order."""
    root = Path(os.environ["TUNEWRIGHT_BENCHMARK_DATA"]) / "classification"
    found: list[str] = []
    for name in MIXED:
        with gzip.open(root / name / "train.jsonl.gz", "rt") as file:
            own = [json.loads(line)["text"] for line in itertools.islice(file, count // 3 + 1)]
        found += (own * (count // 3 // len(own) + 1))[: count // 3 + 1]
    random.Random(0).shuffle(found)
    return found[:count]


def fastest(sides: Mapping[str, Mapping[str, Side]], texts: Sequence[str]) -> dict[str, Side]:
    """Returns each side at the fastest of its settings, whose name it gets."""
    chosen: dict[str, Side] = {}
    for name, ways in sides.items():
        timed = {}
        for how, run in ways.items():
            run(texts[:64])
            started = time.perf_counter()
            run(texts)
            timed[how] = time.perf_counter() - started
        best = min(timed, key=lambda how: timed[how])
        print(name, {how: round(len(texts) / s, 1) for how, s in timed.items()}, flush=True)
        chosen[f"{name}, {best}" if len(ways) > 1 else name] = ways[best]
    return chosen


def in_turn(
    sides: Mapping[str, Side], texts: Sequence[str], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Runs the sides forth and back; returns seconds, and the answers of the last round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    answers = {}
    for turn in range(rounds):
        for name in list(sides) if turn % 2 else list(sides)[::-1]:
            started = time.perf_counter()
            answers[name] = sides[name](texts)
            seconds[name].append(time.perf_counter() - started)
    return seconds, answers


def _cosines(answers: Mapping[str, Any], texts: Sequence[str]) -> dict[str, float]:
    part = range(0, len(texts), 10)
    exact = load_encoder("starter", precision="fp32", max_length=MAX_LENGTH)
    right = _unit(exact.encode([texts[place] for place in part]))
    return {
        name: round(float((right * _unit(np.asarray(found)[part])).sum(1).mean()), 6)
        for name, found in answers.items()
    }


def _unit(vectors_RD: np.ndarray) -> np.ndarray:
    return vectors_RD / np.linalg.norm(vectors_RD.astype(np.float64), axis=1, keepdims=True)


def _vector_sides(place: Path) -> dict[str, dict[str, Side]]:
    from sentence_transformers import SentenceTransformer

    encoder = load_encoder("starter", max_length=MAX_LENGTH)
    sides: dict[str, dict[str, Side]] = {"ours": {"": encoder.encode}}
    ways: dict[str, Side] = {}
    for kind in _dtypes(find_device()):
        model = SentenceTransformer(str(find_model("starter")), model_kwargs={"dtype": kind})
        model.max_seq_length = MAX_LENGTH
        for size in SIZES:
            ways[f"{str(kind)[6:]}, {size} at once"] = _sentence_transformers(model, size)
    sides["sentence-transformers"] = ways
    return sides | _exported(place)


def _sentence_transformers(model: Any, size: int) -> Side:
    def run(texts: Sequence[str]) -> np.ndarray:
        found = model.encode(list(texts), batch_size=size, normalize_embeddings=True,
                             convert_to_tensor=True, show_progress_bar=False)  # fmt: skip
        vectors: np.ndarray = found.float().cpu().numpy()
        return vectors

    return run


def _dtypes(device: Device) -> list[torch.dtype]:
    """Returns the precisions of peers; without units for bf16 it takes a hundred times as long."""
    return [torch.float32, *([torch.bfloat16] if device.precision == "bf16" else [])]


class _Pooled(torch.nn.Module):
    """The starter model with its pooling, to be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.model = AutoModel.from_pretrained(find_model("starter"), attn_implementation="eager")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        mask = attention_mask[:, :, None].to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1)


def _exported(place: Path) -> dict[str, dict[str, Side]]:
    """ONNX Runtime with int8 weights, and OpenVINO at its own choice of precision."""
    sides: dict[str, dict[str, Side]] = {}
    model = _Pooled().eval()
    example = (torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long))
    tokenizer = AutoTokenizer.from_pretrained(find_model("starter"))
    if find_spec("openvino"):
        import openvino

        compiled = openvino.compile_model(
            openvino.convert_model(model, example_input=example), "CPU"
        )

        def by_openvino(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            found: np.ndarray = compiled([ids, mask])[0]
            return found

        sides[OPENVINO] = _ways(tokenizer, by_openvino)
    if find_spec("onnxruntime"):
        import onnxruntime
        from onnxruntime.quantization import quantize_dynamic

        whole, narrow = place / "model.onnx", place / "int8.onnx"
        names = ["input_ids", "attention_mask"]
        axes = {name: {0: "rows", 1: "tokens"} for name in names}
        torch.onnx.export(model, example, str(whole), input_names=names, output_names=["vectors"],
                          dynamic_axes=axes, dynamo=False)  # fmt: skip
        quantize_dynamic(whole, narrow)
        session = onnxruntime.InferenceSession(str(narrow))

        def by_onnx(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            found: np.ndarray = session.run(None, dict(zip(names, (ids, mask), strict=True)))[0]
            return found

        sides[ONNX] = _ways(tokenizer, by_onnx)
    return sides


def _ways(tokenizer: Any, run: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> dict[str, Side]:
    return {f"{size} at once": _sorted_batches(tokenizer, run, size) for size in SIZES}


def _sorted_batches(
    tokenizer: Any, run: Callable[[np.ndarray, np.ndarray], np.ndarray], size: int
) -> Side:
    def vectors(texts: Sequence[str]) -> np.ndarray:
        ids = tokenizer(list(texts), truncation=True, max_length=MAX_LENGTH)["input_ids"]
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        found: list[np.ndarray | None] = [None] * len(ids)
        for start in range(0, len(order), size):
            part = order[start : start + size]
            longest = len(ids[part[-1]])
            padded = np.zeros((len(part), longest), np.int64)
            for row, place in enumerate(part):
                padded[row, : len(ids[place])] = ids[place]
            mask = np.arange(longest)[None] < np.array([len(ids[p]) for p in part])[:, None]
            for place, vector in zip(part, run(padded, mask.astype(np.int64)), strict=True):
                found[place] = vector
        return np.array(found)

    return vectors


def _label_sides(place: Path) -> dict[str, dict[str, Side]]:
    folder = place / "classifier"
    source = find_model("starter")
    labels = ["a", "b", "c", "d"]
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=len(labels))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    rows = [Row(number, {"text": name, "label": name}) for number, name in enumerate(labels)]
    task = TextClassification().started_from(folder).within(MAX_LENGTH).learn(rows)
    device, tokenizer = find_device(), load_tokenizer(folder)
    ours, _ = task.build(folder, tokenizer, dropout=None, seed=0)
    task.route(ours)
    use_own_layers(ours.to(device.name).eval())
    predictor = Predictor(task, ours, tokenizer, device)

    def by_us(texts: Sequence[str]) -> list[Any]:
        asked = (Row(place, {"text": text}, "texts") for place, text in enumerate(texts))
        return list(predictor.answers(asked))

    ways: dict[str, Side] = {}
    for kind in _dtypes(device):
        pipe = pipeline("text-classification", str(folder), dtype=kind, device=device.name)
        for size in (1, *SIZES):
            ways[f"{str(kind)[6:]}, {size} at once"] = _piped(pipe, size)
    return {"ours": {"": by_us}, "pipeline": ways}


def _piped(pipe: Any, size: int) -> Side:
    def run(texts: Sequence[str]) -> list[Any]:
        def each() -> Iterator[str]:
            yield from texts

        return list(pipe(each(), batch_size=size, top_k=None, truncation=True,
                         max_length=MAX_LENGTH))  # fmt: skip

    return run


if __name__ == "__main__":
    main()
