"""Multi-label classification. What every task promises is tested in test_contract.py."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import pipeline

import tunewright as tw
from tests.tasks.examples import rows_of
from tunewright.answers import Labels
from tunewright.errors import DataError, SettingsError
from tunewright.models.batch import Batch
from tunewright.tasks.base import build_task, stack
from tunewright.tasks.multi_label_classification import MultiLabelClassification
from tunewright.types import Row

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, -0.2, 0.3], [-1.0, 3.0, 0.0], [1.0, 1.0, -2.0]])
TRUE = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 1]])
ABC = (["a", "c"], [], ["b"], ["a", "c"])


def rows(*labels):
    return rows_of([{"text": "a", "labels": each} for each in labels])


def learned(*labels, **settings):
    return MultiLabelClassification(**settings).learn(rows(*labels))


def loss(task):
    return task.loss({"logits": LOGITS}, Batch({}, {"labels": TRUE.flatten()}, (0, 1, 2, 3)))


def decoded(task, logits=LOGITS):
    return task.decode({"logits": logits}, [], None)


@pytest.mark.parametrize(
    ("pos_weight", "weights"),
    [(None, None), ({"a": 0.5, "c": 3.0}, [0.5, 1, 3]), ("balanced", [1.0, 3.0, 1.0])],
)
def test_the_mean_loss_is_torch_s(pos_weight, weights):
    found = loss(learned(*ABC, pos_weight=pos_weight))
    expected = nn.BCEWithLogitsLoss(
        pos_weight=None if weights is None else torch.tensor(weights, dtype=torch.float32)
    )(LOGITS, TRUE.float())
    assert float(found.sum) / found.count == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_is_that_of_its_paper(gamma):
    found = loss(learned(*ABC, focal_gamma=gamma))
    p_BC = torch.where(TRUE == 1, LOGITS.sigmoid(), 1 - LOGITS.sigmoid())
    assert float(found.sum) == pytest.approx(float((-((1 - p_BC) ** gamma) * p_BC.log()).sum()))


@pytest.mark.parametrize(
    ("labels", "expected", "separator"),
    [
        ((["b", "a"], ["a"], []), ("a", "b"), None),
        (("b;a", "a", ""), ("a", "b"), ";"),
        (("b, a|c", "c|a", "a"), ("a", "b, a", "c"), "|"),
        (("['b', 'a']", "[]"), ("a", "b"), None),
        (([10, 9], [2]), ("2", "9", "10"), None),
    ],
)
def test_labels_are_learned_from_lists_and_joined_texts(labels, expected, separator):
    task = learned(*labels)
    assert (task.labels, task.separator) == (expected, separator)


def test_a_separator_that_was_found_is_told(tiny_folder):
    from tunewright.models.text.tokenizers import load_tokenizer

    folder = tiny_folder("bert")
    build = [
        learned(*labels).build(folder, load_tokenizer(folder), dropout=None, seed=0)[1]
        for labels in (("a;b", "a"), (["a", "b"],))
    ]
    told = 'Labels are cut at ";" (task.separator names another).'
    assert [told in notices for notices in build] == [True, False]
    task = learned([1, 0], [0, 1], labels=["a", "b"])
    _, notices = task.build(folder, load_tokenizer(folder), dropout=None, seed=0)
    assert notices[0] == "Lists of zeros and ones say which of task.labels apply, in its order."


def test_columns_of_zeros_and_ones_are_labels():
    values = [("1", 0), ("0", 1.0), ("1", True)]
    data = [
        Row(i, {"text": "a"}, "a.csv", i + 2, {"cheap": x, "near": y})
        for i, (x, y) in enumerate(values)
    ]
    task = MultiLabelClassification(label_columns=("cheap", "near")).learn(data)
    assert task.labels == ("cheap", "near")
    assert [task.compared(Labels(()), row)[0] for row in data] == [
        ["cheap"], ["near"], ["cheap", "near"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "values", "message"),
    [
        (
            {},
            [{"text": "a"}],
            "rows.csv: there is no column of labels. Name the column of the labels with "
            "data.columns.labels=COLUMN, or columns of zeros and ones with "
            'task.label_columns=["COLUMN", "COLUMN"].',
        ),
        (
            {},
            [{"text": "a", "labels": ""}],
            "rows.csv: no row has a label. At least one is needed. Name the column of the labels "
            "with data.columns.labels=COLUMN, or columns of zeros and ones with "
            'task.label_columns=["COLUMN", "COLUMN"].',
        ),
        (
            {},
            [{"text": "a", "labels": ["x"]}, {"text": "a", "labels": None}],
            "rows.csv, line 3, labels: it is missing. Every row needs its labels. "
            'An empty list, or "", says that no label applies.',
        ),
        (
            {"labels": ("x", "y")},
            [{"text": "a", "labels": ["x", "z"]}],
            'rows.csv: it has the labels "z", which task.labels does not name. task.labels names '
            '"x", "y". Add them there, or leave task.labels out to learn the labels from the data.',
        ),
        (
            {"label_columns": ("x",)},
            [{"text": "a"}],
            'rows.csv: there is no column "x", or it plays a role. Each of task.label_columns is '
            "a column without a role.",
        ),
        (
            {},
            [{"text": "a", "labels": [1]}, {"text": "a", "labels": ["1", "2"]}],
            'rows.csv: column "labels" writes the label 1 in 2 ways: 1 in 1 row, "1" in 1 row. '
            "Each label has to be written in one way. Write all of them alike.",
        ),
    ],
)
def test_labels_that_cannot_be_learned_are_named(settings, values, message):
    with pytest.raises(DataError) as caught:
        MultiLabelClassification(**settings).learn(rows_of(values))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1}, "task.threshold is 1.0. It must be more than 0 and less than 1."),
        ({"focal_gamma": -1}, "task.focal_gamma is -1.0. It must be at least 0."),
        ({"separator": ""}, "task.separator is ''. It must be at least one character."),
        ({"labels": ["a", "a"]}, "task.labels names a label twice. Each has one name."),
    ],
)
def test_settings_that_make_no_sense_are_named(options, message):
    with pytest.raises(SettingsError) as caught:
        build_task(MultiLabelClassification, options)
    assert str(caught.value) == f"[task]: {message}"


def test_an_answer_has_the_labels_over_their_thresholds_and_all_scores():
    task = MultiLabelClassification(labels=("a", "b", "c"), thresholds=(0.5, 0.2, 0.7))
    answer = decoded(task)[0]
    scores = LOGITS[0].sigmoid().tolist()
    assert answer.labels == ("a", "b")
    assert dict(answer.scores) == pytest.approx(dict(zip("abc", scores, strict=True)))
    assert answer.logits == tuple(LOGITS[0].tolist())
    assert [len(each) for each in decoded(MultiLabelClassification(labels=("a", "b", "c")))] == [
        2, 2, 2, 2,
    ]  # fmt: skip


def test_integers_of_the_data_come_back_as_integers():
    assert decoded(learned([1, 2, 3], [1]))[0].labels == (1, 3)


def test_thresholds_are_fitted_on_validation():
    true = [["a"]] * 10 + [[]] * 10
    logits = torch.tensor([[-1.0, 0.0]] * 10 + [[-2.0, 0.0]] * 10)
    task = MultiLabelClassification(labels=("a", "b"))
    fitted = task.calibrate(decoded(task, logits), rows(*true))
    middle = (torch.tensor(-1.0).sigmoid() + torch.tensor(-2.0).sigmoid()) / 2
    assert fitted.thresholds == pytest.approx((float(middle), 0.5))  # b has no rows
    assert [tuple(each) for each in decoded(fitted, logits)] == [("a", "b")] * 10 + [("b",)] * 10
    fixed = MultiLabelClassification(labels=("a", "b"), tune_thresholds=False)
    assert fixed.calibrate(decoded(fixed, logits), rows(*true)) == fixed


def test_a_label_never_seen_in_training_counts_as_missed():
    task = MultiLabelClassification(labels=("a", "b", "c"))
    (row,) = rows(["a", "new"])
    answer = Labels(("a",), {"a": 0.9, "b": 0.1, "c": 0.1})
    assert task.compared(answer, row) == (["a", "new"], ["a"])
    assert task.severity(answer, row) == 1.0
    found = task.reduce(stack([task.statistics(answer, row)]))
    assert (found["recall_micro"], found["precision_micro"], found["subset_accuracy"]) == (
        0.5,
        1,
        0,
    )


def test_the_surer_a_mistake_the_worse():
    task = MultiLabelClassification(labels=("a", "b"))
    (row,) = rows(["a"])
    answers = [Labels((), {"a": a, "b": b}) for a, b in ((0.9, 0.1), (0.4, 0.1), (0.1, 0.9))]
    assert [task.severity(answer, row) for answer in answers] == [
        None, pytest.approx(0.1), pytest.approx(0.8),
    ]  # fmt: skip


def test_the_report_has_a_table_of_labels():
    task = MultiLabelClassification(labels=("a", "b", "c"), thresholds=(0.5, 0.4, 0.3))
    pairs = zip(decoded(task), rows(*ABC), strict=True)
    (table,) = task.figures(stack(task.statistics(*pair) for pair in pairs))
    assert [row[:4] for row in table.rows] == [("a", 2, 3, 0.5), ("b", 1, 3, 0.4), ("c", 2, 3, 0.3)]
    assert len(table.header) == len(table.rows[0])


def test_further_training_keeps_the_old_labels_first():
    previous = learned(["x", "b"], ["b"], max_length=9)
    task = learned(["a", "x"], ["a"], pos_weight={"a": 2.0}).continued(previous)
    assert (task.labels, task.max_length, task.weights) == (("b", "x", "a"), 9, (1.0, 1.0, 2.0))


@pytest.fixture(scope="module")
def trained(tiny_folder, tmp_path_factory):
    """A run over a CSV file with joined labels; texts say their labels."""
    folder = tmp_path_factory.mktemp("runs")
    texts = [("film", "film"), ("book", "book"), ("film book", "film; book"), ("game", "")]
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "topics"])
        writer.writerows(
            [(f"the {text} of {n}", labels) for n in range(30) for text, labels in texts]
        )
    return tw.train(folder / "rows.csv", task="multi-label-classification",
                    model=tiny_folder("bert"), folder=str(folder), num_train_epochs=6,
                    learning_rate=3e-3, num_resamples=20, track=(), precision="fp32")  # fmt: skip


def test_a_run_learns_from_joined_labels_and_says_what_it_found(trained):
    about = json.loads((trained.path / "run.json").read_text(encoding="utf-8"))
    assert 'Labels are cut at ";" (task.separator names another).' in about["notices"]
    assert trained.metrics["f1_micro"].value > 0.8
    lines = (trained.path / "evaluation" / "predictions.jsonl").read_text().splitlines()
    assert set(json.loads(lines[0])) >= {"text", "true", "labels", "scores", "logits"}


def test_stock_transformers_gives_the_same_scores(trained):
    stock = pipeline("text-classification", model=str(trained.folder.model), top_k=None)
    model = tw.load(trained.folder.model, precision="fp32")
    for text in ("the film", "a book of the film and more"):
        expected = {each["label"]: each["score"] for each in stock([text])[0]}
        (found,) = model.predict([text])
        assert dict(found.scores) == pytest.approx(expected, abs=1e-4)
        assert np.all([0 < score < 1 for score in found.scores.values()])
    config = json.loads((trained.folder.model / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1.0, 0.0, 1], [0, 0, 1]),
        ("[1, 0, 1]", "[0, 0, 1]"),
        (["1", "0", "1"], ["0", "0", "1"]),
        ("1,0,1", "0,0,1"),
    ],
)
def test_zeros_and_ones_without_names_are_refused(first, second):
    rows = rows_of([{"text": "a", "labels": first}, {"text": "b", "labels": second}])
    with pytest.raises(DataError) as caught:
        MultiLabelClassification().learn(rows)
    assert str(caught.value) == (
        "rows.csv: the labels of every row are 3 zeros and ones. They say which labels apply, but "
        "not what these are called. Name the labels in that order with task.labels, or write the "
        "names of those that apply, as a list, or a column of zeros and ones for each label, named "
        "in task.label_columns."
    )


FLAGS = [
    ([1, 0, 1], [0, 0, 0], [0, True, False]),
    ([1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
    ("[1, 0, 1]", "[0, 0, 0]", "[0 1 0]"),
    ("[True, False, True]", "[False, False, False]", "[False, True, False]"),
    ("1,0,1", "0,0,0", "0,1,0"),
]


@pytest.mark.parametrize("flags", FLAGS)
def test_zeros_and_ones_are_those_of_the_labels_that_are_named(flags):
    task = learned(*flags, labels=["film", "book", "a"], pos_weight="balanced")
    assert (task.labels, task.label_kind) == (("film", "book", "a"), "string")
    assert task.weights == (2.0, 2.0, 2.0)
    answer = decoded(task)[0]
    found = [task.compared(answer, row)[0] for row in rows(*flags)]
    assert found == [["film", "a"], [], ["book"]]
    assert [task.unseen_label(row) for row in rows(*flags)] == [None] * 3
    figures = task.statistics(answer, rows(*flags)[0])
    assert (figures["true_labels"].tolist(), figures["unseen"]) == ([True, False, True], False)


def test_a_model_that_learned_zeros_and_ones_reads_names_too():
    task = learned([1, 0], [0, 1], labels=["film", "book"])
    saved = {name: value for name, value in task.to_json().items() if name != "task"}
    again = build_task(MultiLabelClassification, saved)
    found = [again.compared(decoded(task, LOGITS[:, :2])[0], row)[0] for row in rows(["book"], [])]
    assert found == [["book"], []]


def test_one_label_may_come_as_a_zero_or_a_one():
    task = learned(1, 0, "1", labels=["spam"])
    truth = [task.compared(Labels(()), row)[0] for row in rows(1, 0, "")]
    assert truth == [["spam"], [], []]


def test_labels_learned_before_keep_the_places_of_zeros_and_ones():
    task = learned([1, 0], [0, 1], labels=["b", "c"]).continued(learned(["a"], ["b"]))
    assert task.labels == ("a", "b", "c")
    assert [task.compared(Labels(()), row)[0] for row in rows([1, 0], [1, 1])] == [
        ["b"],
        ["b", "c"],
    ]


@pytest.mark.parametrize(
    ("labels", "given", "learned_labels"),
    [
        (["0", "1"], (["0"], ["1"], ["0", "1"]), [["0"], ["1"], ["0", "1"]]),
        ([0, 1, 2], ([0, 1], [1, 0]), [[0, 1], [0, 1]]),
        (["true", "x"], (["true"], ["x"]), [["true"], ["x"]]),
        (["a", "b"], (["a", "b"], ["b"]), [["a", "b"], ["b"]]),
    ],
)
def test_zeros_and_ones_that_are_labels_are_names(labels, given, learned_labels):
    task = learned(*given, labels=labels)
    assert [task.compared(Labels(()), row)[0] for row in rows(*given)] == learned_labels


def test_zeros_and_ones_that_may_be_either_are_refused():
    with pytest.raises(DataError) as caught:
        learned([0, 1], [1, 1], labels=[0, 1])
    assert str(caught.value) == (
        "rows.csv: the labels of every row are 2 zeros and ones. They may be names of labels, or "
        "say which of task.labels apply. Write the names of those that apply, as a list, or a "
        "column of zeros and ones for each label, named in task.label_columns."
    )


def test_zeros_and_ones_of_another_number_of_labels_are_refused():
    message = (
        'rows.csv, line 3, labels: it holds zeros and ones of 3 labels. There are 2: "a", "b". '
        "Mend the list, or write the names of those that apply."
    )
    with pytest.raises(DataError) as caught:
        learned([1, 0], [1, 0, 1], labels=["a", "b"])
    assert str(caught.value) == message
    task = learned([1, 0], [0, 1], labels=["a", "b"])
    with pytest.raises(DataError) as caught:
        task.statistics(Labels(()), rows([1, 0], [1, 0, 1])[1])
    assert str(caught.value) == message


def test_labels_of_a_strange_form_are_named_by_their_row():
    rows = rows_of([{"text": "a", "labels": [{"a": 1}, {"b": 2}]}] * 2)
    with pytest.raises(DataError, match=r"rows\.csv, line 2, labels"):
        MultiLabelClassification().learn(rows)


def test_labels_that_training_has_not_seen_are_a_finding(tmp_path, tiny_folder):
    rows = [{"text": "a film", "labels": ["film"]}, {"text": "a book", "labels": ["book"]}] * 8
    found = tw.audit(
        rows,
        test=[{"text": "rain", "labels": ["weather"]}, {"text": "snow", "labels": ["weather"]}],
        task="multi-label-classification",
        model=tiny_folder("bert"),
    )
    assert ["test", "weather", 2] in [
        [each.split, each.label, each.num_rows] for each in found.unseen_labels
    ]
