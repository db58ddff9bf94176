"""Question answering. What every task promises is tested in test_contract.py."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tunewright as tw
from tests.tasks.examples import EXAMPLES, rows_of
from tests.training.loops import CPU
from tunewright.answers import FoundAnswer
from tunewright.data import read_table
from tunewright.errors import DataError, ModelError
from tunewright.models.batch import pack
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.tasks.question_answering import QuestionAnswering
from tunewright.tasks.shared.found_spans import best_spans, true_answers
from tunewright.types import TokenStream

VALUES = EXAMPLES["question-answering"]
ROWS = rows_of(VALUES)


def learned(limit=128, rows=ROWS, **given):
    return QuestionAnswering(**given).within(limit).learn(rows)


def predictor(task, folder, seed=0):
    tokenizer = load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=seed)
    task.route(model)
    return Predictor(task, model, tokenizer, CPU)


# The best spans


@given(seed=st.integers(0, 200), num_question=st.integers(0, 3), num_context=st.integers(1, 9),
       limit=st.integers(1, 12))  # fmt: skip
def test_the_best_spans_are_those_of_trying_all(seed, num_question, num_context, limit):
    rng = np.random.default_rng(seed)
    text_ids = np.array([-1, *[0] * num_question, -1, *[1] * num_context, -1])
    places = np.cumsum(np.ones(len(text_ids), int))
    offsets = np.stack([places, places + 1], 1) * (text_ids >= 0)[:, None]
    stream = TokenStream(np.zeros(len(text_ids)), offsets=offsets, text_ids=text_ids)
    start, end = rng.normal(size=(2, len(text_ids)))
    context = np.flatnonzero(text_ids == 1)
    every = sorted(
        ((start[a] + end[b], offsets[a, 0], offsets[b, 1])
         for a in context for b in context if a <= b < a + limit),
        reverse=True,
    )  # fmt: skip
    found = best_spans(stream, start, end, limit, 5)
    assert [(s.score, s.start, s.end) for s in found] == [tuple(map(float, e)) for e in every[:5]]


# What is read


@pytest.mark.parametrize(
    "answers",
    [
        [{"text": "film", "start": 2}],
        [{"text": "film", "answer_start": 2}],
        {"text": ["film"], "answer_start": [2]},
        {"text": "film", "answer_start": 2},
    ],
)
@pytest.mark.parametrize("write", [lambda answers: answers, json.dumps, str])
def test_every_form_of_an_answer_is_read(answers, write):
    (row,) = rows_of([{"question": "?", "context": "a film", "answers": write(answers)}])
    assert [(a.text, a.start, a.end) for a in true_answers(row)] == [("film", 2, 6)]


def test_answers_that_other_libraries_wrote_to_a_csv_file_are_read(tmp_path):
    answers = [{"text": ["film", "a film"], "answer_start": [2, 0]},
               {"text": [], "answer_start": []}]  # fmt: skip
    wide = {"question": ["?", "?"], "context": ["a film", "a film"], "answers": answers}
    datasets.Dataset.from_dict(wide).to_csv(tmp_path / "a.csv")
    rows = read_table(tmp_path / "a.csv").rows({name: name for name in wide})
    assert [[(a.text, a.start) for a in true_answers(row)] for row in rows] == [
        [("film", 2), ("a film", 0)], [],
    ]  # fmt: skip
    assert learned(rows=rows).may_lack is True


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            [{"text": "film", "start": 1}],
            'rows.csv, line 2: its answer "film" does not stand at 1 of the context; there stands '
            '" fil". Starts count characters, not bytes or tokens. It stands at 2. Correct the '
            "row, or remove it.",
        ),
        (
            [{"text": "book", "start": 2}],
            'rows.csv, line 2: its answer "book" does not stand at 2 of the context; there stands '
            '"film". Starts count characters, not bytes or tokens. It stands nowhere in the '
            "context. Correct the row, or remove it.",
        ),
        *[
            (
                answers,
                f'rows.csv, line 2: its answers are {answers}. Answers are [{{"text", "start"}}], '
                'or {"text": [...], "answer_start": [...]}.',
            )
            for answers in (
                {},
                {"texts": ["a"], "starts": [0]},
                {"text": None, "answer_start": None},
                {"answer": "a", "start": 0},
            )
        ],
        (
            "film",
            'rows.csv, line 2: its answers are \'film\'. Answers are [{"text", "start"}], or '
            '{"text": [...], "answer_start": [...]}. Write them so, as JSON where the file has '
            "only texts; [] says that there is none.",
        ),
    ],
)
def test_answers_that_do_not_fit_are_named(answers, message):
    rows = rows_of([{"question": "?", "context": "a film", "answers": answers}])
    with pytest.raises(DataError) as caught:
        learned(rows=rows)
    assert str(caught.value) == message


def test_whether_questions_may_lack_an_answer_is_learned():
    assert learned().may_lack is True
    assert learned(rows=ROWS[:2]).may_lack is False
    with pytest.raises(DataError, match="no question has an answer"):
        learned(rows=[ROWS[2]])


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_targets_are_the_answer_s_tokens_or_the_first_token(tiny_folder, architecture):
    tokenizer = load_tokenizer(tiny_folder(architecture))
    task = learned(limit=24, stride=4)
    context = "good " * 12 + "the new film " + "bad " * 12
    start = context.index("new film")
    (row,) = rows_of([{"question": "film?", "context": context,
                       "answers": [{"text": "new film", "start": start}]}])  # fmt: skip
    windows = task.encode(row, tokenizer)
    spelt = []
    for item in windows:
        stream, first, last = item.streams["text"], item.targets["start"], item.targets["end"]
        if first == 0:
            assert last == 0
            continue
        begin, stop = stream.offsets[first][0], stream.offsets[last][1]
        spelt.append(context[begin:stop].strip())
    assert len(windows) > 1
    assert set(spelt) == {"new film"}


def test_an_update_counts_windows(tiny_folder):
    task, tokenizer = learned(limit=24), load_tokenizer(tiny_folder("bert"))
    long = {"question": "who won", "context": "the team won . " * 30, "answers": []}
    rows = [task.encode(row, tokenizer) for row in rows_of([VALUES[0], long])]
    assert len(rows[1]) > 1
    assert task.units(rows) == [[window] for windows in rows for window in windows]


def test_a_model_without_special_tokens_is_refused(tiny_folder):
    with pytest.raises(ModelError, match="puts no special token around a text"):
        predictor(learned(), tiny_folder("qwen2"))


# Learning and answering


def test_the_loss_is_that_of_the_library(tiny_folder):
    task = learned()
    ours = predictor(task, tiny_folder("bert"))
    features = [item for row in ROWS for item in task.encode(row, ours.tokenizer)]
    batch = pack(features)
    with torch.no_grad():
        loss = task.loss(task.forward(ours.model, batch), batch)
    ours.model.set_attn_implementation("sdpa")
    total = 0.0
    for item in features:
        ids, types = (
            torch.tensor(np.asarray(x))[None].long()
            for x in (item.streams["text"].token_ids, item.streams["text"].type_ids)
        )
        targets = {
            f"{end}_positions": torch.tensor([item.targets[end]]) for end in ("start", "end")
        }
        with torch.no_grad():
            total += float(ours.model(input_ids=ids, token_type_ids=types, **targets).loss)
    assert float(loss.sum) == pytest.approx(total, rel=1e-5)
    assert loss.count == len(features)


def test_eight_questions_are_learned_by_heart(tiny_folder, tmp_path):
    run = tw.train(VALUES * 10, task="question-answering", model=tiny_folder("bert"),
                   folder=str(tmp_path), num_train_epochs=25, learning_rate=4e-3, batch_size=8,
                   num_resamples=20, track=(), precision="fp32")  # fmt: skip
    assert run.metrics["f1"].value > 0.8
    model = tw.load(run.folder.path)
    found = model.predict([("a film?", "the new film is good"), ("team?", "the team won the game")])
    assert (found[0].text, found[0].start, found[0].end) == ("new film", 4, 12)
    assert found[1].text == ""
    assert len(found[0].alternatives) == 5
    assert {"accuracy_no_answer", "f1_has_answer"} <= set(run.metrics)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "mpnet"])
def test_answers_stand_in_the_context_whatever_the_windows(tiny_folder, architecture):
    long = " ".join(["good film", "a bad book", "很好"] * 8)
    rows = rows_of([{"question": "which film?", "context": c} for c in (long, "film", " ", "")])
    for limit in (24, 128):
        ours = predictor(learned(limit, stride=6), tiny_folder(architecture), seed=2)
        for answer, row in zip(ours.answers(rows), rows, strict=True):
            context = row.values["context"]
            for each in (answer, *answer.alternatives):
                assert context[each.start : each.end] == each.text
                assert each.text == each.text.strip()
            assert [a.text for a in answer.alternatives if not a.text] == []


def test_no_answer_longer_than_allowed_is_given(tiny_folder):
    ours = predictor(learned(max_answer_length=2), tiny_folder("bert"), seed=3)
    rows = rows_of([{"question": "film?", "context": "good film a bad book the game"}])
    (answer,) = ours.answers(rows)
    assert max(len(each.text.split()) for each in answer.alternatives) <= 2


def test_the_threshold_is_fitted_where_questions_may_lack_an_answer():
    rows = rows_of([
        {"question": "?", "context": "a film", "answers": [{"text": "film", "start": 2}]},
        {"question": "?", "context": "a film", "answers": []},
    ])  # fmt: skip
    found = FoundAnswer("film", 2, 6, 0.9)
    answers = [FoundAnswer("film", 2, 6, 0.9, margin, (found,)) for margin in (1.0, 3.0)]
    assert learned().calibrate(answers, rows).threshold == 2.0
    assert QuestionAnswering(may_lack=False).calibrate(answers, rows).threshold == 0.0


def test_a_best_answer_of_which_nothing_is_left_is_as_good_as_none():
    rows = rows_of([
        {"question": "?", "context": "the film", "answers": []},
        {"question": "?", "context": "a film", "answers": [{"text": "film", "start": 2}]},
    ])  # fmt: skip
    answers = [
        FoundAnswer(text, 0, 1, 0.9, margin, (FoundAnswer(text, 0, 1, 0.9),))
        for text, margin in (("the", 1.0), ("film", 3.0))
    ]
    assert learned().calibrate(answers, rows).threshold == 3.0


def test_scores_are_grouped_by_question_word():
    task = learned()
    (row,) = rows_of([{"question": "Who won?", "context": "Ada", "answers": [{"text": "Ada",
                       "start": 0}]}])  # fmt: skip
    statistics = task.stack([task.statistics(FoundAnswer("Ada", 0, 3, 1.0), row)])
    (bars,) = task.figures(statistics)
    assert dict(bars.values) == {"who (1)": 1.0}


def test_a_question_without_answers_given_is_unlabelled_and_not_unanswerable(tmp_path, tiny_folder):
    asked = {"question": "what film?", "context": "the film is good"}
    rows = [
        {**asked, "answers": [{"text": "film", "start": 4}]},
        {**asked, "answers": []},
        {**asked, "answers": None},
    ] * 4
    settings = {"task": "question-answering", "model": tiny_folder("bert"), "max_steps": 1,
                "num_resamples": 10, "folder": str(tmp_path), "track": ()}  # fmt: skip
    with pytest.raises(DataError, match=r'column "answers" is empty in 4 of 12 rows'):
        tw.train(rows, **settings)
    run = tw.train(rows, drop_unlabelled=True, **settings)
    assert run.task.may_lack
    with pytest.raises(DataError, match="it has no column answers"):
        run.evaluate([asked])


def test_of_several_rows_with_answers_out_of_place_all_are_counted():
    asked = {"question": "what film?", "context": "the film is good"}
    starts = (4, 5, 3, 0)
    rows = rows_of([{**asked, "answers": [{"text": "film", "start": start}]} for start in starts])
    with pytest.raises(DataError) as caught:
        QuestionAnswering().learn(rows)
    assert str(caught.value) == (
        'rows.csv, line 3: its answer "film" does not stand at 5 of the context; there stands '
        '"ilm "; 2 more rows cannot be read, the next at rows.csv, line 4. Starts count '
        "characters, not bytes or tokens. It stands at 4. Correct the row, or remove it."
    )
