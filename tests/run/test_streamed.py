"""Training on rows that stay on the disk, on tiny models and small files with `streaming` on."""

from __future__ import annotations

import hashlib
import json
import os
import random

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

import tunewright as tw
from tests.run.test_resume import Cut
from tunewright.data import DataConfig
from tunewright.data.large import block_files, blocks
from tunewright.errors import DataError, SettingsError
from tunewright.run import pretrain as pretraining
from tunewright.run.config import compose
from tunewright.run.preparing import streamed
from tunewright.run.preparing.groundwork import Notice
from tunewright.run.preparing.plan import plan
from tunewright.run.training import Started
from tunewright.training import on_demand
from tunewright.training.events import Saved, Step

WORDS = ("good", "fine", "great"), ("bad", "awful", "poor")
QUICK = {
    "precision": "fp32",
    "num_train_epochs": 2,
    "num_resamples": 10,
    "batch_size": 8,
    "logging_steps": 1,
    "save_steps": 5,
    "track": (),
    "dropout": 0.2,
    "load_best_model_at_end": False,
    "streaming": "on",
}


def made_rows(num_rows, seed=0):
    rng = random.Random(seed)
    rows = []
    for number in range(num_rows):
        label = rng.randrange(2)
        rows.append({"text": f"a {rng.choice(WORDS[label])} film {number}", "label": "ab"[label]})
    return rows


ROWS = made_rows(200)


def write(path, rows=ROWS, group=16):
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Makes blocks, chunks and samples so small that the tests' files have several."""
    monkeypatch.setattr(block_files, "BLOCK_BYTES", 500)
    monkeypatch.setattr(on_demand, "CHUNK_ROWS", 24)
    monkeypatch.setattr(streamed, "MAX_ROWS", 20)


@pytest.fixture
def train(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(data, name="run", **named):
        named = {"model": tiny_folder("bert"), "folder": str(tmp_path / "runs"), "name": name} | (
            QUICK | named
        )
        return tw.train(data, **named)

    return call


def test_the_digest_of_all_bytes_is_kept_with_the_run(train, tmp_path):
    run = train(write(tmp_path / "train.jsonl"))
    (kept,) = json.loads((run.path / "begun.json").read_text())["files"]
    assert kept["sha256"] == hashlib.sha256((tmp_path / "train.jsonl").read_bytes()).hexdigest()


def test_a_run_goes_on_with_a_file_that_was_copied_and_not_with_another(train, tmp_path):
    path = tmp_path / "train.jsonl"
    run = train(write(path), max_steps=2)
    os.utime(path, ns=(0, 12345))
    said = []
    tw.resume(run.path, max_steps=3, tell=lambda event: said.append(str(event)))
    assert any("all of it is compared first" in words for words in said)
    begun = json.loads((run.path / "begun.json").read_text())
    begun["files"][0]["sha256"] = "0" * 64
    (run.path / "begun.json").write_text(json.dumps(begun))
    os.utime(path, ns=(0, 54321))
    with pytest.raises(SettingsError, match="not the file that the run was begun with"):
        tw.resume(run.path, max_steps=4)


def weights(run):
    return (run.folder.model / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["train.parquet", "train.jsonl"])
def test_rows_in_one_window_give_the_weights_of_rows_in_memory(train, tmp_path, name):
    path = write(tmp_path / name)
    held = write(tmp_path / "held.jsonl", made_rows(20, seed=1))
    settings = {"validation": held, "test": held, "labels": ["a", "b"]}
    in_memory = train(path, "memory", streaming="off", **settings)
    on_disk = train(path, "disk", **settings)
    assert weights(on_disk) == weights(in_memory)


def test_all_rows_but_those_set_aside_are_trained_on_and_it_is_said(train, tmp_path):
    said, steps, started = [], [], []

    def tell(event):
        if isinstance(event, Notice):
            said.append(event.sentence)
        steps.extend([event] if isinstance(event, Step) else [])
        started.extend([event] if isinstance(event, Started) else [])

    path = write(tmp_path / "train.parquet")
    run = train(path, tell=tell)
    assert sum(step.num_rows for step in steps) == 2 * 160
    assert started[0].num_rows == {"train": 160, "validation": 20, "test": 20}
    assert f"validation: 20 of the 200 rows of {path} were set aside (stratified, seed 42)." in said
    assert (
        f"{path}: the task is learned from 20 of the 160 training rows, its labels from all."
        in said
    )
    assert any("its 200 rows stay on the disk" in sentence for sentence in said)
    found = json.loads((run.path / "audit.json").read_text())
    assert (found["splits"]["train"]["num_rows"], found["splits"]["train"]["num_scanned"]) == (
        160,
        20,
    )
    (train_file, *_) = json.loads((run.path / "data.json").read_text())
    assert (train_file["rows"], train_file["sha256"]) == (200, None)
    assert 'streaming = "on"' in (run.path / "run.toml").read_text()


def cut_off(train, path, after, **named):
    def tell(event):
        if isinstance(event, Saved) and event.step == after:
            raise Cut

    with pytest.raises(Cut):
        train(path, "cut", tell=tell, **named)


@pytest.mark.parametrize("after", [5, 25])
@pytest.mark.parametrize("name", ["train.parquet", "train.jsonl"])
def test_a_run_that_was_cut_off_ends_with_the_same_bits(train, tmp_path, name, after):
    path = write(tmp_path / name)
    whole = train(path)
    cut_off(train, path, after)
    assert weights(tw.resume(tmp_path / "runs" / "cut")) == weights(whole)


def test_a_run_does_not_go_on_with_other_rows(train, tmp_path):
    path = write(tmp_path / "train.jsonl")
    cut_off(train, path, 5)
    write(tmp_path / "train.jsonl", [*ROWS[:50], {"text": "changed", "label": "a"}, *ROWS[51:]])
    with pytest.raises(SettingsError, match="the train rows are others"):
        tw.resume(tmp_path / "runs" / "cut")


def test_a_label_outside_the_sample_is_learned_where_a_column_is_soon_read(train, tmp_path):
    rows = [*ROWS, {"text": "odd", "label": "rare"}]
    run = train(write(tmp_path / "train.parquet", rows))
    assert json.loads((run.folder.model / "task.json").read_text())["labels"] == ["a", "b", "rare"]


def test_a_label_outside_the_sample_ends_the_run_elsewhere_and_names_the_row(train, tmp_path):
    path = write(tmp_path / "train.jsonl", with_odd_row({"text": "odd", "label": "rare"}))
    with pytest.raises(DataError) as caught:
        train(path)
    assert str(caught.value) == (
        f'{path}, line 151: it has the label "rare", which was not there to be learned. From a '
        'sample of the rows the task has learned "a", "b". Name all labels with task.labels, or '
        "correct the row."
    )
    run = train(path, "named", labels=["a", "b", "rare"])
    assert run.folder.is_finished


def with_odd_row(row):
    """Returns the rows with one more that no sample has."""
    return [*ROWS[:150], row, *ROWS[150:]]


UNLABELLED = with_odd_row({"text": "odd", "label": ""})


def test_an_empty_label_ends_the_run_when_it_is_met_and_the_updates_before_it_are_kept(
    train, tmp_path
):
    path, steps, said = write(tmp_path / "train.jsonl", UNLABELLED), [], []
    with pytest.raises(DataError) as caught:
        train(path, tell=lambda event: steps.append(event) if isinstance(event, Step) else None)
    assert str(caught.value) == (
        f'{path}, line 151: column "label" is empty. Every row needs a label to train. Remove the '
        "row or pass data.drop_unlabelled=true."
    )
    assert 0 < len(steps) < 20
    run = tw.resume(tmp_path / "runs" / "run", drop_unlabelled=True,
                    tell=lambda event: said.append(event))  # fmt: skip
    assert next(event.step for event in said if isinstance(event, Step)) == len(steps) + 1
    whole = train(path, "whole", drop_unlabelled=True)
    assert weights(run) == weights(whole)
    (notice,) = [event.sentence for event in said if "on the way" in getattr(event, "sentence", "")]
    assert notice == (
        "1 training row without a label or text met on the way; the next row stood in the place of "
        "each."
    )


@pytest.mark.parametrize("name", ["train.jsonl", "train.parquet"])
def test_rows_without_a_label_or_text_are_dropped_where_that_is_wished(train, tmp_path, name):
    odd = [{"text": "odd", "label": None if n % 2 else "a"} for n in range(30)]
    odd = [row if row["label"] is None else {**row, "text": " "} for row in odd]
    rows = [row for pair in zip(ROWS[:30], odd, strict=True) for row in pair] + ROWS[30:]
    run = train(write(tmp_path / name, rows), drop_unlabelled=True, drop_blank=True)
    said = json.loads((run.path / "run.json").read_text())["notices"]
    assert any("training rows without a label or text met on the way" in words for words in said)


def test_a_column_without_labels_is_no_column_of_labels(train, tmp_path, monkeypatch):
    monkeypatch.setattr(on_demand, "MAX_DROPPED", 5)
    rows = [*ROWS[:100], *({"text": f"odd {n}", "label": None} for n in range(60)), *ROWS[100:]]
    with pytest.raises(DataError, match=r"it and the 4 rows after it are dropped, without a label"):
        train(write(tmp_path / "train.jsonl", rows), drop_unlabelled=True)


def test_a_split_that_needs_every_row_first_is_refused(train, tmp_path):
    path = write(tmp_path / "train.jsonl")
    with pytest.raises(SettingsError) as caught:
        train(path, method="group", group_column="text")
    assert str(caught.value) == (
        f"data.split.method=group: it needs to see every row of {path} first, and they stay on the "
        "disk. Rows are read as they are needed. Give validation and test files, or pass "
        "data.streaming=off where memory allows."
    )


def test_a_file_that_has_no_blocks_is_refused(train, tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,1\nb,2\n")
    with pytest.raises(SettingsError) as caught:
        train("train.csv")
    assert str(caught.value) == (
        "train.csv: it cannot be read in blocks, and data.streaming is on. Parquet and Arrow files "
        "can be, and JSONL and TXT files in UTF-8 that are not compressed. Write it as one of "
        "these, or pass data.streaming=off."
    )


@pytest.mark.parametrize(("times", "expected"), [(13, False), (11, True)])
def test_the_size_decides_by_itself(train, tmp_path, monkeypatch, times, expected):
    path, said = write(tmp_path / "train.jsonl"), []
    free = times * (tmp_path / "train.jsonl").stat().st_size
    monkeypatch.setattr(streamed, "free_bytes", lambda kind: free)
    train(path, streaming="auto", max_steps=1, tell=lambda event: said.append(str(event)))
    assert any("stay on the disk" in words for words in said) is expected


@pytest.mark.parametrize("task", ["masked-language-modelling", "sentence-embedding"])
def test_other_tasks_train_on_rows_on_the_disk(train, tmp_path, task):
    rows = [{"text": f"a {word} film, {n}", "anchor": f"{word} {n}", "positive": f"{n} {word}"}
            for n in range(40) for word in WORDS[0]]  # fmt: skip
    run = train(write(tmp_path / "train.jsonl", rows), task=task, num_train_epochs=1)
    assert run.folder.is_finished


def test_a_tokenizer_learns_from_a_part_of_a_corpus_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "TOKENIZER_BYTES", 4000)
    (tmp_path / "corpus.txt").write_text("".join(f"{row['text']}\n" for row in ROWS * 2))
    layer = {
        "data": {"streaming": "on"},
        "training": {"num_train_epochs": 1, "batch_size": 32, "precision": "fp32", "track": []},
        "evaluation": {"num_resamples": 10},
        "output": {"folder": str(tmp_path / "runs")},
        "model": {"name": "new:1x64"},
    }
    config = compose(pretraining.FROM_NOTHING, layer)
    tokenizer = pretraining.NewTokenizer("wordpiece", 300)
    run = pretraining.pretrain({"train": str(tmp_path / "corpus.txt")}, config, tokenizer)
    assert run.folder.is_finished


def test_a_plan_and_an_audit_look_at_rows_on_the_disk(tiny_folder, tmp_path):
    path = write(tmp_path / "train.parquet")
    layer = {
        "model": {"name": str(tiny_folder("bert"))},
        "training": {"precision": "fp32", "batch_size": 8, "max_steps": 3},
        "data": {"streaming": "on"},
    }
    found = plan({"train": path}, compose(layer))
    assert (found.num_rows["train"], found.total_steps) == (160, 3)
    audited = tw.audit(path, model=tiny_folder("bert"), streaming="on")
    (sentence,) = [found.sentence for found in audited.findings() if "looked at" in found.sentence]
    assert sentence.startswith("train: 20 of 160 rows were looked at")


def notices_of(source, **data):
    return streamed.find_blocks(source, DataConfig(**data))


def test_a_file_too_large_for_memory_that_has_no_blocks_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "free_bytes", lambda kind: 10)
    path = tmp_path / "train.csv"
    path.write_text("text,label\na,1\nb,2\n")
    assert notices_of(str(path)) == (
        None,
        [
            f"{path}: the data may be too large for the free memory, and this file cannot be read "
            "from the disk block by block. Parquet and Arrow files can be, and JSONL and TXT files "
            "in UTF-8 that are not compressed."
        ],
    )
    assert notices_of(str(path), streaming="off") == (None, [])


@pytest.mark.parametrize(
    ("data", "settings"),
    [
        (json.dumps(ROWS[0]).encode("utf-16"), {}),
        (json.dumps(ROWS[0]).encode("gb18030"), {"encoding": "gb18030"}),
    ],
)
def test_lines_in_another_encoding_have_no_blocks(tmp_path, data, settings):
    (tmp_path / "train.jsonl").write_bytes(data)
    with pytest.raises(SettingsError, match="it cannot be read in blocks"):
        notices_of(str(tmp_path / "train.jsonl"), streaming="on", **settings)


def test_rows_in_memory_have_no_blocks():
    assert notices_of(ROWS) == (None, [])
    with pytest.raises(SettingsError, match="it cannot be read in blocks"):
        notices_of(ROWS, streaming="on")


def test_large_row_groups_are_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "MAX_WINDOW_BYTES", 10)
    path = write(tmp_path / "train.parquet", group=50)
    table, notes = notices_of(path, streaming="on")
    assert table.window_blocks == 1
    assert notes == [
        f"{path}: its 200 rows stay on the disk and are read as they are needed (data.streaming). "
        "They are mixed in windows of about 50 rows, which lie together in one block.",
        f"{path}: its row groups are so large that rows are mixed within one only. If neighbours "
        "are alike, write it with smaller ones, such as row_group_size=50_000.",
    ]


@pytest.mark.parametrize("splits", [("train",), ("train", "validation")])
def test_what_datasets_saved_can_stay_on_the_disk(train, tmp_path, splits):
    names = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    made = [{"text": row["text"], "label": "ba".index(row["label"])} for row in ROWS]
    saved = Dataset.from_list(made, features=names)
    (DatasetDict(dict.fromkeys(splits, saved)) if splits[1:] else saved).save_to_disk("saved")
    run = train("saved")
    assert json.loads((run.folder.model / "task.json").read_text())["labels"] == ["bad", "good"]
    files = json.loads((run.path / "data.json").read_text())
    assert [(file["split"], file["rows"], file["sha256"] is None) for file in files] == [
        (split, 200, split == "train") for split in splits
    ]


def test_lines_whose_translations_lie_beside_them_have_no_blocks(tmp_path):
    for name in ("train.src", "train.tgt"):
        (tmp_path / name).write_text("one\ntwo\n")
    with pytest.raises(SettingsError, match=r"train\.src: it cannot be read in blocks"):
        notices_of(str(tmp_path / "train.src"), streaming="on")
