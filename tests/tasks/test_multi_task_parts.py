"""A run of parts of unlike kinds over one backbone, and its model card."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import tunewright as tw
from tests.tasks.examples import (
    ARCHITECTURES,
    EXAMPLES,
    SETTINGS,
    UNLIKE,
    UNLIKE_PARTS,
    rows_of,
)
from tests.tasks.test_contract import figures
from tests.training.loops import CPU
from tunewright.answers import Entities, FoundAnswer, Label, Similarity
from tunewright.models.generating.generation import Generation
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.tasks import MULTI_TASK_ROLES, TASKS, find_task
from tunewright.tasks.multi_task import MultiTask
from tunewright.tasks.shared.part_usage import example_row
from tunewright.types import Row

# A run of four kinds ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unlike")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in UNLIKE * 8))
    return tw.train(
        folder / "rows.jsonl",
        validation=UNLIKE,
        test=UNLIKE,
        task="multi-task",
        model=tiny_folder("bert"),
        settings={"task": {"parts": UNLIKE_PARTS}},
        folder=str(folder),
        name="run",
        batch_size=8,
        num_train_epochs=2,
        num_resamples=20,
        track=(),
    )


@pytest.fixture(scope="module")
def loaded(trained):
    return tw.load(trained.folder.path)


@pytest.fixture(scope="module")
def asked(loaded):
    """Rows as they are asked, without what only training reads, and their answers."""
    only = {role.name for role in MULTI_TASK_ROLES if role.only_training}
    rows = [{key: value for key, value in row.items() if key not in only} for row in UNLIKE]
    return rows, loaded.predict(rows)


def test_every_part_is_measured(trained):
    for name, metric in (
        ("topic", "accuracy"),
        ("names", "f1"),
        ("meaning", "ndcg@10"),
        ("answers", "f1"),
    ):
        assert f"{name}/{metric}" in trained.metrics
    assert np.isfinite(trained.metrics["mean"].value)


def test_each_row_has_the_answer_of_its_part(asked):
    kinds = [type(answer) for answer in asked[1]]
    assert kinds == [Label, Label, Entities, Entities, Similarity, Similarity, *[FoundAnswer] * 2]


@pytest.mark.parametrize("name", list(UNLIKE_PARTS)[1:])
def test_the_folder_of_a_part_answers_as_the_whole(trained, asked, name):
    rows = [row for row in asked[0] if row["task"] == name]
    bare = [{key: value for key, value in row.items() if key != "task"} for row in rows]
    together = tw.load(trained.folder.path, "fp32").predict(rows)
    alone = tw.load(trained.folder.model / "parts" / name, "fp32").predict(bare)
    assert len(alone) == 2
    assert figures(alone) == pytest.approx(figures(together), abs=1e-5)


def test_an_evaluation_may_lack_a_part(loaded):
    some = [row for row in UNLIKE if row["task"] in ("topic", "answers")]
    result = loaded.evaluate(some)
    assert result.metrics["mean"].value == pytest.approx(
        (result.metrics["topic/accuracy"].value + result.metrics["answers/f1"].value) / 2
    )
    assert not [name for name in result.metrics if name.startswith(("meaning", "names"))]


def test_training_goes_on_from_its_folder(trained, tmp_path):
    again = tw.train(
        UNLIKE * 4,
        task="multi-task",
        model=trained.folder.path,
        settings={"task": {"parts": UNLIKE_PARTS}},
        folder=str(tmp_path),
        max_steps=2,
        num_resamples=5,
        track=(),
    )
    notices = again.folder.read_json("run.json")["notices"]
    assert not [sentence for sentence in notices if "new weights" in sentence]


def test_a_text_without_a_part_is_answered_with_how_to_name_one(loaded):
    with pytest.raises(tw.TunewrightError) as caught:
        loaded.predict(["A fine film."])
    assert str(caught.value) == (
        'texts row 0: it names no task. The parts are "topic", "names", "meaning", "answers". A '
        "row is an object such as {'task': 'topic', 'text': 'A fine film.'}."
    )


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({}, "Name the column with data.columns.anchor=COLUMN."),
        ({"query": "a film"}, "Name the column with data.columns.anchor=COLUMN."),
        ({"anchor": None}, "Fill it in, or leave the row out."),
    ],
)
def test_a_row_without_what_its_part_needs_is_refused(loaded, values, remedy):
    with pytest.raises(tw.TunewrightError) as caught:
        loaded.predict([{"task": "meaning", **values}])
    assert 'it has no "anchor"' in str(caught.value)
    assert str(caught.value).endswith(remedy)


@pytest.mark.parametrize(
    "row",
    [
        {"task": "topic", "text": "a film", "label": ""},
        {"task": "topic", "text": "a film", "label": None},
        {"task": "names", "tokens": ["Ada"], "tags": None},
        {"task": "answers", "question": "who?", "context": "Ada", "answers": None},
    ],
)
def test_a_row_that_says_nothing_is_neither_learnt_nor_judged(row):
    task = MultiTask(parts=UNLIKE_PARTS)
    (unlabelled,) = rows_of([row])
    for use in (lambda: task.learn([unlabelled]), lambda: task.statistics(None, unlabelled)):
        with pytest.raises(tw.TunewrightError, match="needs it to be learnt or judged"):
            use()


# The model card --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def card(trained):
    return (trained.folder.model / "README.md").read_text(encoding="utf-8")


def snippets(card, folder):
    found = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)
    return [code.replace("path/to/this/folder", str(folder)) for code in found]


def test_the_snippet_of_its_card_asks_every_part(card, trained, monkeypatch):
    answers = []
    load = tw.load

    def watched(folder):
        model = load(folder)
        predict = model.predict

        class Watched:
            def predict(self, rows):
                answers.extend(zip(rows, predict(rows), strict=True))

        return Watched()

    monkeypatch.setattr(tw, "load", watched)
    exec(snippets(card, trained.folder.model)[0], {})
    assert [row["task"] for row, _ in answers] == list(UNLIKE_PARTS)
    assert [type(answer) for _, answer in answers][:2] == [Label, Entities]


@pytest.mark.filterwarnings("ignore")
def test_the_stock_snippet_of_its_card_reads_every_part(card, trained):
    names: dict[str, object] = {}
    code = snippets(card, trained.folder.model)[1]
    exec(code, names)
    assert code.count("# ") == len(UNLIKE_PARTS)
    assert {"pipeline", "SentenceTransformer", "AutoModelForQuestionAnswering"} <= set(names)


def test_the_card_says_what_stock_libraries_read(card):
    assert "library_name: transformers" in card
    assert "pipeline_tag: text-classification" in card
    assert (
        "- To other libraries each part is a model by itself: topic (text-classification) is this "
        "folder, names (token-classification) is this folder/parts/names, meaning "
        "(sentence-embedding) is this folder/parts/meaning, answers (question-answering) is this "
        "folder/parts/answers.\n" in card
    )
    assert "which cuts at 384 tokens" not in card  # the model reads no more than 64
    assert "fitted on validation rows. Stock `transformers` does not" not in card  # of sampling


def test_the_hub_knows_the_metrics_of_the_parts(card):
    assert "- type: accuracy" in card
    assert "topic/accuracy" not in card.partition("# run")[0].replace("name: Topic/accuracy", "")


def test_the_card_names_what_was_fitted_to_a_part():
    parts = {
        "topic": {"name": "text-classification", "temperature": 1.25, "abstain_below": 0.5},
        "mood": {"name": "text-classification", "max_length": 64},
    }
    told = MultiTask(parts=parts).within(128).limits()
    assert told[1:] == [
        "topic: Logits are divided by a temperature of 1.250, fitted on validation rows. Stock "
        "`transformers` does not know it: there the same is answered, with the uncorrected "
        "probability. It is kept in `task.json`.",
        "topic: Answers with a probability under 0.500 are marked as abstained. Stock "
        "`transformers` does not know this threshold, which is kept in `task.json`, and always "
        "answers.",
        "The parts share a tokenizer, which cuts at 128 tokens in stock libraries. Here fewer are "
        "read by mood 64.",
    ]


def test_the_gate_names_every_library_that_reads_a_part(trained):
    parity = trained.folder.read_json("run.json")["parity"]
    assert parity["against"] == "stock transformers and sentence-transformers"


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"multi-task", "image-captioning"}))
def test_the_example_of_every_task_can_be_answered(name, tiny_folder):
    folder = tiny_folder(ARCHITECTURES.get(name, "bert"))
    tokenizer = load_tokenizer(folder)
    task = find_task(name)(**SETTINGS.get(name, {})).learn(rows_of(EXAMPLES[name]))
    task = task.started_from(folder).within(64)
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
    row = Row(0, example_row("part", task), "card")
    generation = Generation(max_new_tokens=4)
    (answer,) = Predictor(task, model, tokenizer, CPU, generation=generation).answers([row])
    assert json.dumps(answer.to_json())
