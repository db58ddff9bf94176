"""Questions with `transformers.Trainer`, prepared and answered as its published recipe does.

The library has the model and the loss; how a context is cut, which tokens are the answer and how
logits become a text is left to a script of the user's. This is that script: windows with stride,
the 20 likeliest first and last tokens of each, the best pair that is possible over all windows, and
no answer where the first token's sum is larger than that pair's.

Shape letters: N tokens of a window.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    set_seed,
)

from benchmarks.quality.harness import Rows, Settings
from benchmarks.quality.trainer_settings import trainer_arguments
from tunewright.answers import FoundAnswer
from tunewright.tasks.base import Statistics, stack
from tunewright.tasks.question_answering import QuestionAnswering
from tunewright.types import Row as OurRow

STRIDE, NUM_BEST = 128, 20


def run(
    splits: Mapping[str, Rows], settings: Settings, model: str, seed: int, longest: int
) -> Statistics:
    """Trains, and returns the statistics that our task makes of the Trainer's answers."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    windows = {name: windows_of(rows, tokenizer, settings) for name, rows in splits.items()}
    windows["test"].sort(key=lambda window: len(window["input_ids"]))  # answered with less padding
    start, end = trained(windows, tokenizer, settings, model, seed)
    may_lack = any(not row["answers"] for row in splits["train"])
    texts = answered(splits["test"], windows["test"], start, end, longest, may_lack)
    task = QuestionAnswering()
    return stack(
        task.statistics(FoundAnswer(text, 0, len(text), 1.0), OurRow(number, row))
        for number, (text, row) in enumerate(zip(texts, splits["test"], strict=True))
    )


def windows_of(rows: Rows, tokenizer: Any, settings: Settings) -> list[dict[str, Any]]:
    """Returns the windows of all rows: token ids, targets, offsets in the context, the row."""
    encoded = tokenizer(
        [row["question"] for row in rows],
        [row["context"] for row in rows],
        truncation="only_second",
        max_length=settings.max_length,
        stride=STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    found = []
    for place, owner in enumerate(encoded["overflow_to_sample_mapping"]):
        of_context = [part == 1 for part in encoded.sequence_ids(place)]
        offsets = [
            pair if inside else None
            for pair, inside in zip(encoded["offset_mapping"][place], of_context, strict=True)
        ]
        start, end = targets(rows[owner]["answers"], offsets)
        item = {name: encoded[name][place] for name in ("input_ids", "attention_mask")}
        if "token_type_ids" in encoded:
            item["token_type_ids"] = encoded["token_type_ids"][place]
        found.append({**item, "start_positions": start, "end_positions": end,
                      "offsets": offsets, "row": owner})  # fmt: skip
    return found


def targets(answers: Any, offsets: Sequence[Any]) -> tuple[int, int]:
    """Returns the first and the last token of the first answer; 0 and 0 where it is not inside."""
    inside = [number for number, pair in enumerate(offsets) if pair is not None]
    if not answers or not inside:
        return 0, 0
    begins = answers[0]["start"]
    ends = begins + len(answers[0]["text"])
    if offsets[inside[0]][0] > begins or offsets[inside[-1]][1] < ends:
        return 0, 0
    tokens = [n for n in inside if offsets[n][1] > begins and offsets[n][0] < ends]
    return (tokens[0], tokens[-1]) if tokens else (0, 0)


def trained(
    windows: Mapping[str, Sequence[Mapping[str, Any]]],
    tokenizer: Any,
    settings: Settings,
    model: str,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logits of the test windows' tokens as first and last, after one run."""
    set_seed(seed)
    network = AutoModelForQuestionAnswering.from_pretrained(model)
    read = {
        name: [{k: v for k, v in w.items() if k not in ("offsets", "row")} for w in each]
        for name, each in windows.items()
    }
    with tempfile.TemporaryDirectory() as output:
        trainer = Trainer(
            network,
            trainer_arguments(settings, output, seed),
            train_dataset=read["train"],
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.train()
        trainer.args.train_sampling_strategy = "random"  # else predict() orders windows anew
        start, end = trainer.predict(read["test"]).predictions[:2]
    return start, end


def answered(
    rows: Rows,
    windows: Sequence[Mapping[str, Any]],
    start: np.ndarray,
    end: np.ndarray,
    longest: int,
    may_lack: bool,
) -> list[str]:
    """Returns the answer of each row; empty where there is none."""
    best: dict[int, tuple[float, str]] = {}
    nothing: dict[int, float] = {}
    for window, start_N, end_N in zip(windows, start, end, strict=True):
        owner, offsets = window["row"], window["offsets"]
        null = float(start_N[0] + end_N[0])
        nothing[owner] = min(nothing.get(owner, null), null)
        for first in likeliest(start_N, len(offsets)):
            for last in likeliest(end_N, len(offsets)):
                if offsets[first] is None or offsets[last] is None:
                    continue
                if not first <= last < first + longest:
                    continue
                score = float(start_N[first] + end_N[last])
                if score > best.get(owner, (float("-inf"), ""))[0]:
                    context = rows[owner]["context"]
                    best[owner] = score, context[offsets[first][0] : offsets[last][1]]
    texts = []
    for owner in range(len(rows)):
        score, text = best.get(owner, (float("-inf"), ""))
        texts.append("" if may_lack and nothing[owner] > score else text)
    return texts


def likeliest(logits_N: np.ndarray, num_tokens: int) -> list[int]:
    return np.argsort(-logits_N[:num_tokens])[:NUM_BEST].tolist()
