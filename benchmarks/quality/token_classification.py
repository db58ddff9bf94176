"""Entities beside `transformers.Trainer`: `python -m benchmarks.quality.token_classification`.

Names of cases may follow, such as `WNUT17`; `--only ours` makes one side's runs, `--rows 300` takes
the first rows of every split, to try it out. CLUENER2020 begins from a Chinese model: `--model`
names it. Each seed of ours runs beside the same seed of the peer, alternating. Results go to
`benchmarks/quality/token_classification.json`, with the numbers of true, answered and right
entities of every test row, and tables are printed. Settings were chosen on
validation rows, never on test; CLUENER2020 keeps its test labels to itself, so its validation rows
are the test here, and its settings were not tuned.

Shape letters: R rows.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from seqeval.metrics.sequence_labeling import get_entities
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    set_seed,
)

from benchmarks.quality.harness import (
    Comparison,
    Reduce,
    Results,
    Settings,
    Statistics,
    data_root,
    parser_of,
    read_rows,
    run_of_ours,
    table,
)
from benchmarks.quality.trainer_settings import trainer_arguments
from tunewright.models.files.folder import find_model

RESULTS = Path(__file__).with_suffix(".json")
IGNORED = -100

CASES = {
    "WNUT17": ("ner/wnut17", "test", Settings(5, 3e-4)),
    "BC5CDR": ("ner/bc5cdr", "test", Settings(5, 3e-4)),
    "UNER-EWT": ("ner/uner_ewt", "test", Settings(10, 3e-4)),
    "CLUENER2020": ("ner/cluener2020", "validation", Settings(6, 5e-4)),
}
CHINESE = ("CLUENER2020",)
Rows = Sequence[Mapping[str, Any]]


def main() -> None:
    parser = parser_of(__doc__ or "", tuple(CASES), ("ours", "peer"))
    parser.add_argument("--model", help="the folder of a Chinese model")
    given = parser.parse_args()
    results = Results(None if given.rows else given.results or RESULTS)
    for name in given.names:
        if name in CHINESE and not given.model:
            continue
        folder, test, settings = CASES[name]
        splits = {
            split: read_rows(data_root() / folder / f"{file}.jsonl.gz")[: given.rows]
            for split, file in (("train", "train"), ("test", test))
        }
        model = str(find_model(given.model if name in CHINESE else "starter"))
        results.measure(compared(name, settings, splits, given.seeds, model), given.only)
    print(table(results.found))


def compared(
    name: str, settings: Settings, splits: Mapping[str, Rows], seeds: Sequence[int], model: str
) -> Comparison:
    def counted(side: str, run: Any) -> Any:
        return lambda seed: {
            side: entity_counts(
                splits["test"], run(settings, splits["train"], splits["test"], seed, model)
            )
        }

    return Comparison(
        name,
        settings,
        ("f1",),
        {"ours": counted("ours", ours), "peer": counted("peer", peer)},
        (("ours", "peer"),),
        reducer=reducer_of_counts,
        num_rows=len(splits["test"]),
        seeds=seeds,
    )


def reducer_of_counts(statistics: Statistics) -> Reduce:
    """Returns F1, 2 right / (true + answered), as a function of how often each row counts."""

    def reduce(counts_R: np.ndarray | None) -> dict[str, float]:
        weight_R = np.ones(len(statistics["true"])) if counts_R is None else counts_R
        true, answered, right = (
            float(weight_R @ statistics[name]) for name in ("true", "answered", "right")
        )
        return {"f1": 2 * right / (true + answered) if true + answered else 0.0}

    return reduce


def entity_counts(rows: Rows, answered: Iterable[Sequence[str]]) -> Statistics:
    """Returns the numbers of true, answered and right entities of each row, (R,) each."""
    pairs = [
        (set(get_entities(row["tags"])), set(get_entities(list(tags))))
        for row, tags in zip(rows, answered, strict=True)
    ]
    return {
        "true": np.array([len(true) for true, _ in pairs]),
        "answered": np.array([len(found) for _, found in pairs]),
        "right": np.array([len(true & found) for true, found in pairs]),
    }


def ours(
    settings: Settings, train_rows: Rows, test_rows: Rows, seed: int, model: str
) -> list[list[str]]:
    """Returns the tags of every test row after one run of ours."""
    sources = {"train": list(train_rows), "test": list(test_rows)}
    task = {"name": "token-classification"}
    with run_of_ours(task, settings, sources, seed, model=model) as run:
        predictions = (run.folder.evaluation / "predictions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["tags"] for line in predictions.split("\n") if line]


def peer(
    settings: Settings, train_rows: Rows, test_rows: Rows, seed: int, model: str
) -> list[list[str]]:
    """Returns the tags of every test row after the same run with `transformers.Trainer`.

    It runs in bf16 and length-grouped, its fast settings; the first token of a word carries its
    tag, and words that max_length cuts are outside.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)
    names = sorted({tag for row in train_rows for tag in row["tags"]})
    set_seed(seed)
    network = AutoModelForTokenClassification.from_pretrained(
        model, num_labels=len(names), id2label=dict(enumerate(names))
    )
    encoded = [encode(rows, tokenizer, names, settings) for rows in (train_rows, test_rows)]
    with tempfile.TemporaryDirectory() as output:
        trainer = Trainer(
            network,
            trainer_arguments(settings, output, seed),
            train_dataset=[item for item, _ in encoded[0]],
            data_collator=DataCollatorForTokenClassification(tokenizer),
        )
        trainer.train()
        trainer.args.train_sampling_strategy = "random"  # else predict() answers sorted by length
        chosen = trainer.predict([item for item, _ in encoded[1]]).predictions.argmax(-1)
    return [
        read_tags(choices, words, len(row["tokens"]), names)
        for choices, (_, words), row in zip(chosen, encoded[1], test_rows, strict=True)
    ]


def encode(
    rows: Rows, tokenizer: Any, names: Sequence[str], settings: Settings
) -> list[tuple[dict[str, Any], list[int | None]]]:
    """Returns each row as the Trainer reads it, and the word of each token."""
    encoded = tokenizer(
        [row["tokens"] for row in rows],
        is_split_into_words=True,
        truncation=True,
        max_length=settings.max_length,
    )
    place_of = {name: place for place, name in enumerate(names)}
    found = []
    for place, row in enumerate(rows):
        words = encoded.word_ids(place)
        labels = [
            place_of.get(row["tags"][word], IGNORED) if is_first(words, token) else IGNORED
            for token, word in enumerate(words)
        ]
        item = {name: values[place] for name, values in encoded.items()} | {"labels": labels}
        found.append((item, words))
    return found


def is_first(words: Sequence[int | None], token: int) -> bool:
    """Says whether a token is the first of a word."""
    return words[token] is not None and (token == 0 or words[token - 1] != words[token])


def read_tags(
    choices: np.ndarray, words: Sequence[int | None], num_words: int, names: Sequence[str]
) -> list[str]:
    """Returns the tag of each word, that of its first token."""
    tags = ["O"] * num_words
    for token, word in enumerate(words):
        if word is not None and is_first(words, token):
            tags[word] = names[choices[token]]
    return tags


if __name__ == "__main__":
    main()
