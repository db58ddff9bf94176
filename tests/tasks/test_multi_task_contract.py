"""What a multi-task passes on to its parts: the contract of a task, name by name."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest

import tunewright as tw
from tests.tasks.examples import UNLIKE_PARTS, rows_of
from tests.training.loops import CPU
from tunewright.data import resolve_columns
from tunewright.models.files.sentence_folder import SentenceSettings
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.tasks import MULTI_TASK_ROLES, TASKS
from tunewright.tasks.base import Task
from tunewright.tasks.multi_task import MultiTask
from tunewright.tasks.text_classification import TextClassification
from tunewright.tasks.text_generation import TextGeneration
from tunewright.types import Features, Row, TokenStream

# What a multi-task leaves as every task has it, and why.
INHERITED = {
    "bare_roles": "a text without a name says nothing of its part",
    "label_role": "parts have labels of their own",
    "picture_roles": "no part reads pictures",
    "thumbnail": "no part reads pictures",
    "probe_picture": "no part reads pictures",
    "tokenizer_style": "the backbone has read texts before",
    "stock_usage": "stock_lines puts together that of the parts",
    "extra_files": "models gives each part's folder its own",
    "to_json": "the parts are a field",
    "to_json_text": "the parts are a field",
}


def test_every_name_of_the_contract_is_passed_on_to_the_parts_or_left_for_a_reason():
    contract = {name for name in (*vars(Task), *Task.__annotations__) if name[0] != "_"}
    own = {name for name in vars(MultiTask) if name[0] != "_"}
    assert len(contract) > 55
    assert contract - own == set(INHERITED)


# What is passed on, one by one -----------------------------------------------------------------


def two(**parts):
    return MultiTask(parts={"topic": {"name": "text-classification"}, **parts})


def test_to_others_the_folder_is_that_of_the_first_part():
    task = MultiTask(parts={name: UNLIKE_PARTS[name] for name in ("meaning", "names")})
    first = task.tasks["meaning"]
    assert (task.kind, task.library, task.pipeline_tag) == (
        first.kind,
        "sentence-transformers",
        "sentence-similarity",
    )
    assert task.kind is not task.tasks["names"].kind


def test_a_part_learns_from_the_starting_model(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder("bert"), tmp_path / "start")
    settings = SentenceSettings("cls", True, 48, "query: ", "passage: ")
    for name, content in settings.files(32).items():
        file = tmp_path / "start" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else content.decode())
    part = two(e={"name": "sentence-embedding"}).started_from(tmp_path / "start").tasks["e"]
    assert (part.pooling, part.query_prompt, part.max_length) == ("cls", "query: ", 48)


def test_the_parts_of_a_multi_task_begin_from_their_own_folders(tmp_path, monkeypatch):
    (tmp_path / "parts" / "mood").mkdir(parents=True)
    seen = []
    monkeypatch.setattr(
        TextClassification, "started_from", lambda self, source: seen.append(source) or self
    )
    two(mood={"name": "text-classification"}).started_from(tmp_path)
    assert seen == [tmp_path, tmp_path / "parts" / "mood"]


def test_an_update_counts_windows_of_the_parts_that_read_in_windows(tiny_folder):
    long, answers = "the film " * 60, [{"text": "film", "start": 4}]
    rows = rows_of(
        [
            {"task": "topic", "text": long, "label": "film"},
            {"task": "topic", "text": "a book", "label": "book"},
            {"task": "q", "question": "a?", "context": long, "answers": answers},
            {"task": "t", "tokens": long.split(), "tags": ["O", "B-x"] * 60},
        ]
    )
    sizes = {"max_length": 32, "stride": 8}
    task = two(
        q={"name": "question-answering", **sizes}, t={"name": "token-classification", **sizes}
    ).learn(rows)
    encoded = [task.encode(row, load_tokenizer(tiny_folder("bert"))) for row in rows]
    units = task.units(encoded)
    assert {len(unit) for unit in units} == {1}
    assert [unit[0] for unit in units] == [item for own in encoded for item in own]
    assert [len(own) > 3 for own in encoded] == [False, False, True, True]


def test_rows_are_kept_as_they_are_where_every_part_counts_rows():
    rows = [[Features(0, {"mood/text": TokenStream([1])})]]
    assert two(mood={"name": "text-classification"}).units(rows) is rows


def written(rows, file):
    """A CSV file with the columns of all rows, blank where a row has none."""
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return file


SHARED = [
    *({"task": "topic", "text": f"film {i}", "label": "ab"[i % 2]} for i in range(8)),
    *({"task": "score", "text": f"a {i}", "text_pair": "b", "score": i} for i in range(8)),
    *({"task": "near", "anchor": f"q {i}", "positive": f"p {i}"} for i in range(7)),
    {"task": "topic", "text": "", "label": "a"},
]
SHARING = {
    "topic": {"name": "text-classification"},
    "score": {"name": "regression"},
    "near": {"name": "sentence-embedding"},
}


def test_columns_of_other_parts_are_not_blank_texts(tiny_folder, tmp_path):
    found = tw.audit(
        written(SHARED, tmp_path / "rows.csv"),
        task="multi-task",
        model=tiny_folder("bert"),
        settings={
            "task": {"parts": SHARING},
            "data": {"split": {"validation": 0, "test": 0}},
        },
    )
    (train,) = found.splits
    assert (train.num_blank, train.num_duplicates) == (1, 0)
    assert train.first_blank.endswith("line 25")


def test_a_blank_cell_of_a_column_that_parts_share_is_nothing(tiny_folder):
    rows = rows_of(
        [
            {"task": "topic", "text": "a film", "text_pair": "", "label": "a", "score": ""},
            {"task": "topic", "text": "a book", "text_pair": "", "label": "b", "score": ""},
            {"task": "score", "text": "a", "text_pair": "b", "score": 1},
            {"task": "score", "text": "a", "text_pair": "c", "score": 2},
            {"task": "near", "anchor": "a", "positive": "b", "negative": "", "score": ""},
        ]
    )
    task = MultiTask(parts=SHARING).within(32).learn(rows)
    assert task.tasks["near"].objective == "ranking"
    tokenizer = load_tokenizer(tiny_folder("bert"))
    bare = Row(0, {"task": "topic", "text": "a film", "label": "a"})
    assert [
        list(item.streams["topic/text"].token_ids) for item in task.encode(rows[0], tokenizer)
    ] == [list(item.streams["topic/text"].token_ids) for item in task.encode(bare, tokenizer)]
    assert len(task.encode(rows[4], tokenizer)) == 2


def test_a_blank_cell_of_labels_is_no_labels():
    rows = rows_of(
        [
            {"task": "topic", "text": "a", "label": "a"},
            {"task": "topic", "text": "b", "label": "b"},
            {"task": "all", "text": "a", "labels": "x|y"},
            {"task": "all", "text": "b", "labels": ""},
        ]
    )
    task = two(all={"name": "multi-label-classification"}).learn(rows)
    assert task.tasks["all"].labels == ("x", "y")


def test_a_list_of_mistakes_shows_rows_as_their_parts_do(monkeypatch):
    monkeypatch.setattr(TextClassification, "shown", lambda self, row: "as the part shows it")
    row = rows_of([{"task": "topic", "text": "a film"}])[0]
    assert two(q={"name": "question-answering"}).shown(row) == "as the part shows it"


def test_what_parts_say_has_their_names(monkeypatch):
    monkeypatch.setattr(TextClassification, "measured_as", lambda self, _: ["As ever."])
    monkeypatch.setattr(
        TextClassification,
        "remarks",
        lambda self, split, rows: [f"{split}: {sum(len(row) for row in rows)} inputs."],
    )
    task = two(mood={"name": "text-classification"})
    rows = [
        [Features(i, {f"{name}/text": TokenStream([1])})]
        for i, name in enumerate(("topic", "mood", "mood"))
    ]
    both = {"topic/": np.array([True, False]), "mood/": np.array([False, True])}
    assert task.measured_as(both) == ["topic: As ever.", "mood: As ever."]
    monkeypatch.setattr(TextClassification, "fitted_as", lambda self: ["No more."])
    assert task.fitted_as() == ["topic: No more.", "mood: No more."]
    assert task.remarks("train", iter(rows)) == [
        "topic: train: 1 inputs.",
        "mood: train: 2 inputs.",
    ]


def test_mistakes_that_all_rows_tell_are_taken_by_turns(monkeypatch):
    parts = {name: {"name": "text-classification"} for name in ("topic", "mood")}
    task = MultiTask(parts=parts)
    here = np.array([True, False, True])
    statistics = {"topic/": here, "mood/": ~here, "topic/x": np.arange(3), "mood/x": np.arange(3)}
    rows = rows_of([{"task": name, "text": "a"} for name in ("topic", "mood", "topic")])
    assert task.mistakes(statistics, rows, 5) is None

    def mistakes(self, statistics, rows, limit):
        return len(rows), [f"{row.id} {x}" for row, x in zip(rows, statistics["x"], strict=True)]

    monkeypatch.setattr(TextClassification, "mistakes", mistakes)
    assert task.mistakes(statistics, rows, 5) == (3, ["0 0", "1 1", "2 2"])
    assert task.mistakes(statistics, rows, 1) == (3, ["0 0"])


def test_texts_and_lengths_and_streams_are_those_of_the_parts():
    task = MultiTask(
        parts={
            "t": {"name": "translation", "max_length": 40},
            "s": {"name": "summarization", "max_length": 60},
        }
    )
    row = rows_of([{"task": "s", "document": "long", "summary": "short"}])[0]
    assert task.texts(row) == ["long", "short"]
    assert task.streams == ("t/source", "t/target", "s/source", "s/target")
    assert task.training_streams == ("t/target", "s/target")
    assert (task.max_length, task.generates) == (60, True)
    assert not two(q={"name": "question-answering"}).generates


def test_what_is_only_measured_is_examined_and_not_written(monkeypatch, tiny_folder):
    folder = tiny_folder("llama")
    tokenizer = load_tokenizer(folder)
    task = two(lm={"name": "text-generation"}).within(64)
    task = task.learn(
        rows_of(
            [
                {"task": "topic", "text": "a film", "label": "a"},
                {"task": "topic", "text": "a book", "label": "b"},
                {"task": "lm", "text": "the film the film"},
            ]
        )
    )
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
    monkeypatch.delattr(TextGeneration, "generate")
    row = rows_of([{"task": "lm", "text": "the film the film"}])[0]
    predictor = Predictor(task, model, tokenizer, CPU, examining=True)
    (answer,) = predictor.answers([row])
    assert task.statistics(answer, row)


def test_few_rows_have_an_update_for_each_part_in_an_epoch(tiny_folder, tmp_path):
    rows = [
        *({"task": "topic", "text": f"a {i}", "label": "ab"[i % 2]} for i in range(10)),
        *({"task": "mood", "text": f"b {i}", "label": "cd"[i % 2]} for i in range(5)),
        *({"task": "score", "text": f"c {i}", "score": i} for i in range(5)),
    ]
    kinds = {"topic": "text-classification", "mood": "text-classification", "score": "regression"}
    run = tw.train(
        rows,
        task="multi-task",
        model=tiny_folder("bert"),
        settings={
            "task": {"parts": {name: {"name": kind} for name, kind in kinds.items()}},
            "data": {"split": {"validation": 0, "test": 0}},
        },
        folder=str(tmp_path),
        batch_size=16,
        num_train_epochs=1,
        track=(),
    )
    about = run.folder.read_json("run.json")
    assert about["kept_step"] == 3
    assert (
        "An epoch of 20 rows has 3 updates instead of 2: one at least for each part of the task."
        in about["notices"]
    )


def test_translation_and_summarization_share_a_model(tiny_folder, tmp_path):
    rows = [
        *({"task": "t", "source": f"the film {i}", "target": "the the"} for i in range(12)),
        *({"task": "s", "document": f"a book {i}.", "summary": "the book"} for i in range(12)),
    ]
    parts = {"t": {"name": "translation"}, "s": {"name": "summarization"}}
    run = tw.train(
        rows,
        task="multi-task",
        model=tiny_folder("tunewright-transformer"),
        settings={"task": {"parts": parts}, "generation": {"max_new_tokens": 5}},
        folder=str(tmp_path),
        max_steps=2,
        num_resamples=5,
        track=(),
    )
    assert {"t/bleu", "s/rouge1"} <= set(run.metrics)
    model = tw.load(run.folder.path)
    answers = model.predict([{"task": "t", "source": "a"}, {"task": "s", "document": "a book."}])
    assert [next(iter(answer.to_json())) for answer in answers] == [
        "translation_text",
        "summary_text",
    ]
    assert all(answer.num_tokens <= 5 for answer in answers)


# Columns, names and weights --------------------------------------------------------------------


def test_no_part_takes_the_column_that_has_the_name_of_another_ones_role():
    names = [role.name for role in MULTI_TASK_ROLES]
    found = resolve_columns(MULTI_TASK_ROLES, names, {}, training=True, source="rows.csv")
    assert found.mapping == {name: name for name in names}
    for name in sorted(set(TASKS) - {"multi-task", "text-generation", "image-captioning"}):
        own = ["task", *(role.name for role in TASKS[name].roles)]
        found = resolve_columns(MULTI_TASK_ROLES, own, {}, training=True, source="rows.csv")
        assert set(found.mapping) == set(own), name


def test_hidden_words_share_the_table_that_scores_them(tiny_folder):
    folder = tiny_folder("bert")
    rows = rows_of(
        [
            {"task": "topic", "text": "a film", "label": "a"},
            {"task": "topic", "text": "a book", "label": "b"},
            {"task": "words", "text": "the film is good"},
        ]
    )
    task = two(words={"name": "masked-language-modelling"}).within(64).learn(rows)
    model, _ = task.build(folder, load_tokenizer(folder), dropout=0.0, seed=0)
    words = model.heads["words"]
    table = model.heads["topic"].get_input_embeddings().weight
    assert words.get_input_embeddings().weight is table
    assert words.get_output_embeddings().weight is table


def test_hidden_words_beside_another_part_are_saved_as_they_were_learned(tiny_folder, tmp_path):
    rows = [
        *({"task": "topic", "text": f"film {i}", "label": "ab"[i % 2]} for i in range(16)),
        *({"task": "words", "text": "the film is good and the book is bad"} for _ in range(16)),
    ]
    run = tw.train(
        rows,
        task="multi-task",
        model=tiny_folder("bert"),
        settings={
            "task": {
                "parts": {
                    "topic": {"name": "text-classification"},
                    "words": {"name": "masked-language-modelling"},
                }
            }
        },
        folder=str(tmp_path),
        max_steps=12,
        learning_rate=1e-2,
        warmup_ratio=0,
        num_resamples=5,
        track=(),
    )
    assert run.folder.model.is_dir()


@pytest.mark.parametrize("name", ["a/b", "", "..", "v1.2", "type", "values", "training"])
def test_a_name_that_no_folder_or_model_could_have_is_refused(name):
    with pytest.raises(tw.TunewrightError) as caught:
        two(**{name: {"name": "regression"}})
    assert str(caught.value) == (
        f'[task.parts.{name}]: a part is called "{name}". It must not hold "/" or ".", or be a '
        "word that PyTorch has taken. Call it otherwise."
    )


def test_a_part_that_reads_pictures_is_refused():
    with pytest.raises(tw.TunewrightError) as caught:
        two(p={"name": "image-captioning"})
    assert str(caught.value) == (
        "[task.parts.p]: image-captioning reads pictures. The parts share a backbone that reads "
        "texts. Train it by itself."
    )


@pytest.mark.parametrize("name", [["topic"], {"topic": 1}, 5, float("nan")])
def test_what_is_no_name_of_a_part_is_named(name):
    row = rows_of([{"task": name, "text": "a"}])[0]
    with pytest.raises(tw.TunewrightError, match="its task is "):
        two(q={"name": "regression"}).encode(row, None)
