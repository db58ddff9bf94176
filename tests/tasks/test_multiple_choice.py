"""Multiple choice. What every task promises is tested in test_contract.py."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForMultipleChoice, AutoTokenizer

import tunewright as tw
from tests.tasks.examples import EXAMPLES, rows_of
from tunewright.answers import Choice
from tunewright.errors import DataError, SettingsError
from tunewright.models.batch import Batch, pack
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.tasks.base import build_task, stack
from tunewright.tasks.multiple_choice import MultipleChoice
from tunewright.tasks.shared.windows import Window
from tunewright.types import Row

ROWS = rows_of(EXAMPLES["multiple-choice"])


def question(label, choices=("cat", "dog", "cow"), **values):
    return {"question": "what", "choices": list(choices), "label": label, **values}


def learned(*values, **settings):
    return MultipleChoice(**settings).learn(rows_of(values))


def found(*logits):
    return [Window(place, logit) for place, logit in enumerate(logits)]


def choice(*scores, label=0):
    place = int(np.argmax(scores))
    return Choice(label, place, "", max(scores), scores, tuple(np.log(scores)))


def test_labels_that_may_count_from_0_or_from_1_are_told_of():
    rows = rows_of(
        [{"question": "?", "choices": ["a", "b", "c", "d"], "label": n} for n in (1, 2, 3, 0)]
    )
    for learnt, is_doubtful in ((rows[:3], True), (rows, False)):
        task = MultipleChoice().learn(learnt)
        assert (task.label_form, task.is_doubtful) == ("place", is_doubtful)
        assert ('write task.label_form="number"' in task._notices()[-1]) == is_doubtful
    assert not MultipleChoice(label_form="number").learn(rows[:3]).is_doubtful


def test_the_loss_is_the_cross_entropy_of_each_row_s_own_choices():
    logits_N = torch.tensor([1.0, 2.0, 0.5, -1.0, 3.0], requires_grad=True)
    batch = Batch({}, {"right": torch.tensor([0, 1, 0, 0, 1])}, (4, 4, 9, 9, 9))
    found = MultipleChoice().loss({"logits": logits_N}, batch)
    first = functional.cross_entropy(logits_N[None, :2], torch.tensor([1]))
    second = functional.cross_entropy(logits_N[None, 2:], torch.tensor([2]))
    assert found.sum.item() == pytest.approx((first + second).item())
    assert found.count == 2
    found.sum.backward()
    assert logits_N.grad.isfinite().all()


def test_the_loss_of_a_batch_is_that_of_the_library_s_model(tiny_folder):
    folder = tiny_folder("bert")
    tokenizer = load_tokenizer(folder)
    task = MultipleChoice().within(64).learn(ROWS[:1])
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
    features = task.encode(ROWS[0], tokenizer)
    inputs = tokenizer(["the film was"] * 2, ["good", "book"], padding=True, return_tensors="pt")
    expected = model(**{name: ids[None] for name, ids in inputs.items()},
                     labels=torch.tensor([0])).loss  # fmt: skip
    assert task.route(model) == "packed"
    batch = pack(features)
    found = task.loss(task.forward(model, batch), batch)
    assert found.sum.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("values", "form"),
    [
        ([question(0), question(2)], "place"),
        ([question(1), question(3)], "number"),
        ([question("1"), question("3")], "number"),
        ([question("A"), question("c")], "letter"),
        ([question("dog"), question("cow")], "text"),
        ([question("A", {"text": ["x", "y"], "label": ["A", "B"]})], "letter"),
        ([question("dog"), question("2", "12")], "text"),
    ],
)
def test_the_form_of_labels_is_found(values, form):
    assert learned(*values).label_form == form


def test_keys_come_with_the_choices():
    keyed = {"text": ["cat", "dog"], "label": ["x", "y"]}
    task = learned({"question": "a", "choices": keyed, "label": "y"})
    assert task.label_form == "key"
    answer = task.join(found(0.0, 1.0), rows_of([{"question": "a", "choices": keyed}])[0])
    assert (answer.label, answer.text) == ("y", "dog")
    without = rows_of([{"question": "a", "choices": ["cat", "dog"]}])[0]
    assert task.join(found(0.0, 1.0), without).label == "B"


def test_columns_of_choices_are_found_and_told(tiny_folder):
    extras = [{"choice_a": "cat", "choice_b": "dog", "choice_c": end} for end in ("cow", "")]
    rows = [
        Row(i, {"question": "a", "label": "B"}, "a.csv", i + 2, cells)
        for i, cells in enumerate(extras)
    ]
    folder = tiny_folder("bert")
    tokenizer = load_tokenizer(folder)
    task = MultipleChoice().within(64).learn(rows)
    assert [len(task.encode(row, tokenizer)) for row in rows] == [3, 2]
    _, notices = task.build(folder, tokenizer, dropout=None, seed=0)
    assert notices[:2] == (
        'The choices are read from "choice_a", "choice_b", "choice_c".',
        "A label is the letter of one of the choices, from A (task.label_form names another).",
    )


def test_a_context_stands_first_and_question_and_choice_together_second(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("bert"))
    row = rows_of([question(1, ("new", "old"), context="the story")])[0]
    task = MultipleChoice(label_form="place").within(64)
    found = [
        tokenizer.decode(each.streams["text"].token_ids) for each in task.encode(row, tokenizer)
    ]
    assert [text.replace(" ##", "") for text in found] == [
        "[CLS] the story [SEP] what new [SEP]",
        "[CLS] the story [SEP] what old [SEP]",
    ]
    assert [dict(each.targets) for each in task.encode(row, tokenizer)] == [
        {"right": 0},
        {"right": 1},
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [question(0), question("E")],
            "rows.csv, line 3, label: it is 'E'. It must be the place of one of the choices, from "
            "0; there are 3 choices.",
        ),
        (
            [question(3), question(0)],
            "rows.csv, line 3, label: it is 0. It must be the place of one of the choices, from 1; "
            "there are 3 choices.",
        ),
        (
            [{"question": "a", "label": 0}],
            "rows.csv: there are no choices. They are a column of lists, or a column for each. "
            "Name them with data.columns.choices=COLUMN or "
            'task.choice_columns=["COLUMN", "COLUMN"].',
        ),
        (
            [question(0, ["cat"])],
            "rows.csv, line 2, choices: it holds 1 choice. Two are needed.",
        ),
    ],
)
def test_rows_that_cannot_be_learned_are_named(values, message):
    with pytest.raises(DataError) as caught:
        learned(*values)
    assert str(caught.value) == message


def test_a_column_of_choices_that_is_not_there_is_named():
    with pytest.raises(DataError) as caught:
        learned({"question": "a", "label": 0}, choice_columns=("x", "y"))
    assert str(caught.value) == (
        'rows.csv: there is no column "x", "y", or it plays a role. Each of task.choice_columns is '
        "a column without a role."
    )


def test_a_form_that_there_is_not_is_refused():
    with pytest.raises(SettingsError, match=r"task\.label_form is 'index'"):
        build_task(MultipleChoice, {"label_form": "index"})


def test_an_answer_has_the_choice_in_the_form_of_the_data_and_all_scores():
    task = MultipleChoice(label_form="letter", temperature=2.0)
    answer = task.join(found(0.0, 2.0, 4.0), rows_of([question("A")])[0])
    expected = torch.tensor([0.0, 1.0, 2.0]).softmax(0).tolist()
    assert (answer.label, answer.place, answer.text) == ("C", 2, "cow")
    assert answer.scores == pytest.approx(expected)
    assert (answer.score, answer.logits) == (answer.scores[2], (0.0, 2.0, 4.0))


def test_overconfident_answers_raise_the_temperature_whatever_the_number_of_choices():
    rng = np.random.default_rng(0)
    rows, answers = [], []
    for number in range(400):
        right, count = int(rng.integers(2)), 2 + number % 2
        sure = right if rng.random() < 0.7 else 1 - right
        rows.append(question(right, ("cat", "dog", "cow")[:count]))
        answers.append(Choice(0, 0, "", 1.0, (), tuple(8.0 * np.eye(count)[sure])))
    task = MultipleChoice(label_form="place")
    fitted = task.calibrate(answers, rows_of(rows))
    assert fitted.temperature > 5
    off = MultipleChoice(label_form="place", calibrated=False)
    assert off.calibrate(answers, rows_of(rows)) == off


def test_the_figures_of_a_row_are_its_rank_and_the_probability_of_the_right_choice():
    task = MultipleChoice(label_form="place")
    row = rows_of([question(1)])[0]
    found = task.statistics(choice(0.5, 0.3, 0.2), row)
    assert (found["true"], found["predicted"], found["rank"], found["num_choices"]) == (1, 0, 2, 3)
    assert found["log_probability"] == pytest.approx(np.log(0.3))
    assert task.compared(choice(0.5, 0.3, 0.2), row) == (1, 0)


def test_a_row_whose_label_means_no_choice_cannot_be_judged():
    with pytest.raises(DataError, match="line 2, label: it is 7"):
        MultipleChoice(label_form="place").statistics(choice(0.6, 0.4), rows_of([question(7)])[0])


def test_the_report_counts_places():
    task = MultipleChoice(label_form="place")
    rows = rows_of([question(1), question(0, ("cat", "dog"))])
    pairs = zip([choice(0.1, 0.6, 0.3), choice(0.2, 0.8)], rows, strict=True)
    (table,) = task.figures(stack(task.statistics(*pair) for pair in pairs))
    assert [tuple(row) for row in table.rows] == [("1", 1, 0, 0), ("2", 1, 2, 1), ("3", 0, 0, 0)]
    assert table.note == "Choosing at random is right in 41.7% of these rows."


def test_a_run_answers_as_the_library_s_model_does(tiny_folder, tmp_path):
    rows = [
        {"question": f"the {name} {n}", "choice_a": one, "choice_b": two, "label": right}
        for n in range(12)
        for name, one, two, right in (
            ("film", "plot", "bank", "A"),
            ("book", "game", "story", "B"),
            ("card", "bank", "plot", "A"),
            ("team", "story", "game", "B"),
        )
    ]
    run = tw.train(rows, task="multiple-choice", model=tiny_folder("bert"), folder=str(tmp_path),
                   num_train_epochs=4, learning_rate=3e-3, num_resamples=20, track=(),
                   precision="fp32")  # fmt: skip
    about = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    assert about["route"] == "packed"
    assert any("from A" in notice for notice in about["notices"])
    folder = run.folder.model
    stock = AutoModelForMultipleChoice.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(["the film"] * 2, ["plot", "a new game"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = stock(**{name: ids[None] for name, ids in inputs.items()}).logits[0]
    asked = {"question": "the film", "choice_a": "plot", "choice_b": "a new game"}
    (answer,) = tw.load(folder, precision="fp32").predict([asked])
    assert answer.logits == pytest.approx(expected.tolist(), abs=1e-4)
    assert answer.label in ("A", "B")
    lines = (run.path / "evaluation" / "predictions.jsonl").read_text().splitlines()
    assert set(json.loads(lines[0])) >= {"question", "true", "label", "text", "scores", "logits"}
