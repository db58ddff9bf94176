"""How fast every task is trained, beside the trainer that people would take for it.

    python -m benchmarks.task_speed [CASE ...] [--rounds 2] [--at-most avx2]

Finds its data through TUNEWRIGHT_BENCHMARK_DATA. All sides tune the starter model on the same
rows, cut to the same length, with updates of as many rows, in turn, forth and back; the first round
warms up. The peer is `transformers.Trainer`, or the trainer of sentence-transformers, once as it
comes and once in bf16, where the machine has it, with batches grouped by length where it can group
them. What counts are real tokens a second after the first updates; a peer's are the mean of all its
rows. Trainer has no way to tune one model to several tasks: of the parts of a multi-task it tunes a
model each, one after another, on the same rows, and the sums of tokens and of seconds count. There
`--updates` are those of all parts, of which each needs more than three. Results go to
`benchmarks/task_speed.json`, a table to docs/performance.md (`python -m benchmarks.speed_page`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForLanguageModeling,
    DataCollatorForMultipleChoice,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from benchmarks.masks import add_mask, begin_masked, check_mask
from benchmarks.quality import question_peer, sequence_data, sequence_peer, token_classification
from benchmarks.quality.harness import Rows, Settings, data_root, read_rows
from benchmarks.sides import (
    LEARNING_RATE,
    SEED,
    WARM_UPDATES,
    Measured,
    Own,
    Side,
    Watch,
    in_turn,
    measured,
)
from tunewright.devices import find_device, measure_roof, settle_allocator
from tunewright.models.files.folder import find_model
from tunewright.models.layers.native_products import ready_product
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.tasks import find_task
from tunewright.training.schedule import Schedule
from tunewright.types import Row

RESULTS = Path(__file__).with_suffix(".json")
LONGEST = 512  # text that the starter reads
FOLDER = find_model("starter")
USUAL, FAST = "as it comes", "at its fastest"

# What makes a trainer of its arguments, and the real tokens that it reads.
Training = tuple[Callable[..., Any], int]
# Takes the rows of a case; returns the trainings that it takes, most often one.
Peer = Callable[["Case", Rows], list[Training]]


@dataclass(frozen=True)
class Case:
    """A task on a data set: its rows, and how many an update has."""

    name: str
    task: str
    read: Callable[[Path], Rows]
    peer: Peer
    max_length: int = 128
    batch_rows: int = 32
    num_updates: int = 8
    peer_name: str = "Trainer"
    settings: Mapping[str, Any] = field(default_factory=dict)  # of our task


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--updates", type=int, help="fewer than a case has, to try it out")
    parser.add_argument("--output", type=Path, default=RESULTS)
    add_mask(parser)
    given = parser.parse_args()
    begin_masked(given.at_most)
    settle_allocator()
    device = find_device()
    check_mask(given.at_most, device.description)
    roof = measure_roof(device, 2.0, ready_product)
    known = json.loads(given.output.read_text()) if given.output.exists() else {}
    for case in CASES:
        if case.name not in given.names:
            continue
        updates = given.updates or case.num_updates
        rows = case.read(data_root())[: updates * case.batch_rows]
        with tempfile.TemporaryDirectory() as place:
            sides = {"ours": our_side(case, rows, device)} | peer_sides(
                case, rows, Path(place), device
            )
            found = in_turn(sides, given.rounds)
        speeds = {
            name: [round(run.tokens_per_second) for run in runs] for name, runs in found.items()
        }
        mfu = statistics.median(run.flop / run.seconds for run in found["ours"]) / roof
        known[f"{case.name} ({device.description})"] = {
            "device": device.description, "threads": torch.get_num_threads(), "roof": roof,
            "task": case.task, "peer": case.peer_name, "max_length": case.max_length,
            "batch_rows": case.batch_rows, "mfu": round(mfu, 4), "tokens_per_second": speeds,
        }  # fmt: skip
        given.output.write_text(json.dumps(known, indent=2) + "\n")
        told = ", ".join(f"{name} {statistics.median(each):,.0f}" for name, each in speeds.items())
        print(f"{case.name}: {told} tokens/s", flush=True)


def our_side(case: Case, rows: Rows, device: Any) -> Side:
    """Returns a function that trains on the rows once, as a run would."""
    tokenizer = load_tokenizer(FOLDER)
    read = [Row(number, row) for number, row in enumerate(rows)]
    kind: Any = find_task(case.task)
    cuts = "max_length" in {each.name for each in fields(kind)}
    length = {"max_length": case.max_length} if cuts else {}
    task = kind(**length, **case.settings).started_from(FOLDER)
    task = task.within(LONGEST if cuts else case.max_length).learn(read)
    own = Own.of(task, FOLDER, tokenizer, device)
    encoded = [task.encode(row, tokenizer) for row in read]
    schedule = Schedule("constant", len(rows) // case.batch_rows, 0)
    return lambda: measured(own.loop(encoded, case.batch_rows, schedule))


def peer_sides(case: Case, rows: Rows, place: Path, device: Any) -> dict[str, Side]:
    """Returns functions that train on the rows once with the peer, as it comes and at its best.

    Each has a model of its own: in bf16 the model that a Trainer was given stays so.
    """
    usual: dict[str, Any] = {
        "output_dir": str(place),
        "num_train_epochs": 1,
        "per_device_train_batch_size": case.batch_rows,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    fast = {**usual, "bf16": device.precision == "bf16"}
    if case.peer_name == "Trainer":
        fast["train_sampling_strategy"] = "group_by_length"

    def side(settings: dict[str, Any]) -> Side:
        trainings = case.peer(case, rows)

        def run() -> Measured:
            tokens, seconds = 0.0, 0.0
            for trainer_of, num_tokens in trainings:
                watch = Watch()
                trainer_of(settings, [watch]).train()
                tokens += num_tokens * (1 - WARM_UPDATES / len(watch.ends))
                seconds += watch.seconds
            return Measured(round(tokens), seconds, 0.0)

        return run

    return {USUAL: side(usual), FAST: side(fast)}


# The peers -----------------------------------------------------------------------------------


def library_trainer(
    model: Any, items: Sequence[Mapping[str, Any]], collator: Any
) -> list[Training]:
    def trainer_of(settings: dict[str, Any], callbacks: list[Any]) -> Trainer:
        arguments = TrainingArguments(**settings)
        return Trainer(model, arguments, collator, list(items), callbacks=callbacks)

    return [(trainer_of, sum(map(_length, items)))]


def _length(item: Mapping[str, Any]) -> int:
    ids = item["input_ids"]
    return sum(map(len, ids)) if isinstance(ids[0], list) else len(ids)


def entities(case: Case, rows: Rows) -> Any:
    tokenizer = load_tokenizer(FOLDER)
    names = sorted({tag for row in rows for tag in row["tags"]})
    encoded = token_classification.encode(rows, tokenizer, names, _settings(case))
    model = AutoModelForTokenClassification.from_pretrained(FOLDER, num_labels=len(names))
    collator = DataCollatorForTokenClassification(tokenizer)
    return library_trainer(model, [item for item, _ in encoded], collator)


def questions(case: Case, rows: Rows) -> Any:
    tokenizer = load_tokenizer(FOLDER)
    windows = question_peer.windows_of(rows, tokenizer, _settings(case))
    items = [{k: v for k, v in w.items() if k not in ("offsets", "row")} for w in windows]
    model = AutoModelForQuestionAnswering.from_pretrained(FOLDER)
    return library_trainer(model, items, DataCollatorWithPadding(tokenizer))


def sequences(case: Case, rows: Rows) -> Any:
    tokenizer = load_tokenizer(FOLDER)
    labels = _labels(case, rows)
    items = [sequence_peer.encode(row, tokenizer, labels, case.max_length) for row in rows]
    if case.task == "multiple-choice":
        model = AutoModelForMultipleChoice.from_pretrained(FOLDER)
        return library_trainer(model, items, DataCollatorForMultipleChoice(tokenizer))
    model = AutoModelForSequenceClassification.from_pretrained(
        FOLDER, num_labels=len(labels) or 1, problem_type=sequence_peer.PROBLEMS[case.task]
    )
    return library_trainer(model, items, DataCollatorWithPadding(tokenizer))


def _labels(case: Case, rows: Rows) -> list[Any]:
    if case.task == "text-classification":
        return sorted({row["label"] for row in rows})
    return sorted({name for row in rows for name in row.get("labels", ())})


def alone(_: Case, rows: Rows) -> list[Training]:
    """Each part of a multi-task in a model of its own."""
    return [
        training
        for part in PARTS
        for training in part.peer(part, [row for row in rows if row["task"] == part.name])
    ]


def masked(case: Case, rows: Rows) -> Any:
    tokenizer = load_tokenizer(FOLDER)
    items = [tokenizer(row["text"], truncation=True, max_length=case.max_length) for row in rows]
    model = AutoModelForMaskedLM.from_pretrained(FOLDER)
    return library_trainer(model, items, DataCollatorForLanguageModeling(tokenizer))


def vectors(case: Case, rows: Rows) -> Any:
    values = {name: [row[name] for row in rows] for name in ("query", "positive")}
    data = Dataset.from_dict(values)

    def trainer_of(settings: dict[str, Any], callbacks: list[Any]) -> Any:
        model = SentenceTransformer(str(FOLDER), device="cpu")
        model.max_seq_length = case.max_length
        return SentenceTransformerTrainer(
            model=model, args=SentenceTransformerTrainingArguments(**settings),
            train_dataset=data, loss=MultipleNegativesRankingLoss(model), callbacks=callbacks,
        )  # fmt: skip

    texts = (text for each in values.values() for text in each)
    return [(trainer_of, sum(_num_tokens(case, text) for text in texts))]


def pair_scores(case: Case, rows: Rows) -> Any:
    values = {name: [row[name] for row in rows] for name in ("query", "text")}
    data = Dataset.from_dict({**values, "label": [float(row["label"]) for row in rows]})

    def trainer_of(settings: dict[str, Any], callbacks: list[Any]) -> Any:
        model = CrossEncoder(str(FOLDER), num_labels=1, max_length=case.max_length, device="cpu")
        return CrossEncoderTrainer(
            model=model, args=CrossEncoderTrainingArguments(**settings), train_dataset=data,
            loss=BinaryCrossEntropyLoss(model), callbacks=callbacks,
        )  # fmt: skip

    pairs = zip(*values.values(), strict=True)
    return [(trainer_of, sum(_num_tokens(case, *pair) for pair in pairs))]


def _num_tokens(case: Case, *texts: str) -> int:
    found = load_tokenizer(FOLDER)(*texts, truncation=True, max_length=case.max_length)
    return len(found["input_ids"])


def _settings(case: Case) -> Settings:
    return Settings(1, LEARNING_RATE, max_length=case.max_length, batch_size=case.batch_rows)


# The cases -----------------------------------------------------------------------------------


def _file(path: str) -> Callable[[Path], Rows]:
    return lambda root: read_rows(root / f"{path}.jsonl.gz")


def _split(read: Callable[[Path], sequence_data.Splits]) -> Callable[[Path], Rows]:
    return lambda root: read(root)["train"]


def _judged(root: Path) -> Rows:
    """Each query with its answer, and with that of the query before."""
    rows = read_rows(root / "retrieval/medquad/train.jsonl.gz")
    return [
        {"query": row["query"], "text": answer["positive"], "label": int(answer is row)}
        for before, row in pairwise(rows)
        for answer in (row, before)
    ]


def _together(root: Path) -> Rows:
    """The rows of all parts by turns, as many of one as an update has, while all have some.

    Those of a part are shuffled: BANKING77 has them by label.
    """
    rows = {part.name: part.read(root) for part in PARTS}
    for own in rows.values():
        random.Random(SEED).shuffle(own)
    size = PARTS[0].batch_rows
    return [
        {**row, "task": name}
        for start in range(0, min(map(len, rows.values())) - size + 1, size)
        for name, own in rows.items()
        for row in own[start : start + size]
    ]


STSB = Case("STS-B", "regression", _split(sequence_data.stsb), sequences)
RQE = Case("Medical RQE", "text-classification", _split(sequence_data.medical_rqe), sequences)
BANKING = Case("BANKING77", "text-classification", _split(sequence_data.banking77), sequences)
PARTS = (STSB, RQE, BANKING)  # as in benchmarks.quality.multi_task

CASES = (
    Case("WNUT17", "token-classification", _file("ner/wnut17/train"), entities),
    Case("SQuAD v1", "question-answering", _file("qa/squad_v1/train"), questions, 384, 16),
    STSB,
    RQE,
    Case("MultiWOZ domains", "multi-label-classification",
         _split(sequence_data.multiwoz_domains), sequences, 512, 16),
    Case("MedQuAD, 1 of 4", "multiple-choice", _split(sequence_data.medquad_choices), sequences,
         128, 8),
    Case("AG News", "masked-language-modelling", _file("classification/ag_news/train"), masked),
    Case("MedQuAD", "sentence-embedding", _file("retrieval/medquad/train"), vectors, 128, 64, 8,
         "sentence-transformers"),
    Case("MedQuAD, pairs", "reranking", _judged, pair_scores, 128, 32, 8,
         "sentence-transformers"),
    Case(", ".join(part.name for part in PARTS), "multi-task", _together, alone,
         num_updates=8 * len(PARTS),
         settings={"parts": {part.name: {"name": part.task} for part in PARTS}}),
)  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
