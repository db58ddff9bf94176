from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tunewright.answers import Label
from tunewright.data import read_table
from tunewright.errors import DataError, SettingsError, listed
from tunewright.models.batch import Batch
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.tasks import TASKS, find_task
from tunewright.tasks.base import build_task
from tunewright.tasks.text_classification import TextClassification
from tunewright.types import Row

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-1.0, 3.0, 0.0], [1.0, 1.0, -2.0]])
TRUE = torch.tensor([0, 2, 0, 1])


def rows(*labels):
    return [Row(i, {"text": "a", "label": label}, "a.csv", i + 2) for i, label in enumerate(labels)]


def learned(*labels, **settings):
    return TextClassification(**settings).learn(rows(*labels))


def loss(task, true=TRUE):
    return task.loss({"logits": LOGITS}, Batch({}, {"label": true}, tuple(range(len(true)))))


def decoded(task, logits=LOGITS):
    return task.decode({"logits": logits}, [], None)


ABC = ("a", "b", "c", "a", "a", "b")
ANSWER = Label("a", 0.5, {"a": 0.5, "b": 0.3, "c": 0.2})


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("weights", [None, {"a": 0.5, "c": 3.0}, "balanced"])
def test_the_mean_loss_is_torch_s_cross_entropy(smoothing, weights):
    task = learned(*ABC, label_smoothing=smoothing, class_weights=weights)
    found = loss(task)
    per_class = {None: None, "balanced": torch.tensor([2 / 3, 1.0, 2.0])}
    weight_C = (
        per_class[weights] if not isinstance(weights, dict) else torch.tensor([0.5, 1.0, 3.0])
    )
    expected = nn.CrossEntropyLoss(weight_C, label_smoothing=smoothing)(LOGITS, TRUE)
    assert float(found.sum) / found.count == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_is_that_of_its_paper(gamma):
    found = loss(learned(*ABC, focal_gamma=gamma))
    p_B = LOGITS.softmax(1)[range(4), TRUE]
    assert float(found.sum) == pytest.approx(float((-((1 - p_B) ** gamma) * p_B.log()).sum()))
    assert found.count == 4


def test_balanced_weights_are_rows_over_classes_times_rows_of_the_class():
    assert learned(*ABC, class_weights="balanced").weights == (6 / 9, 6 / 6, 6 / 3)


@pytest.mark.parametrize(
    ("labels", "expected", "kind"),
    [
        (("pos", "neg", "pos"), ("neg", "pos"), "string"),
        ((10, 9, 2), ("2", "9", "10"), "integer"),
        ((True, False, True), ("false", "true"), "boolean"),
        (("很好", "差"), ("差", "很好"), "string"),
    ],
)
def test_labels_are_learned_in_order_and_answered_in_the_type_of_the_data(labels, expected, kind):
    task = learned(*labels, *labels)
    assert (task.labels, task.label_kind) == (expected, kind)
    answer = decoded(task, torch.eye(len(expected))[:1])[0]
    assert type(answer.label) is type(labels[0])


def test_given_labels_keep_their_places():
    task = learned("b", "a", "b", "a", labels=("c", "b", "a"))
    assert task.labels == ("c", "b", "a")


def test_a_label_that_the_given_ones_do_not_name_is_refused():
    with pytest.raises(DataError) as caught:
        learned("b", "bb", "b", "bb", labels=("a", "b"))
    assert str(caught.value) == (
        'a.csv: it has the labels "bb", which task.labels does not name. task.labels names "a", '
        '"b". Add them there, or leave task.labels out to learn the labels from the data.'
    )


def test_a_label_given_twice_is_refused():
    with pytest.raises(SettingsError) as caught:
        TextClassification(labels=("a", "a"))
    assert str(caught.value) == ("[task]: task.labels names a label twice. Each has one name.")


def test_labels_of_two_kinds_are_text():
    previous = learned("neg", "pos", "neg", "pos")
    task = learned(0, 1, 0, 1).continued(previous)
    assert (task.labels, task.label_kind) == (("neg", "pos", "0", "1"), "string")


def test_an_integer_in_the_data_is_the_label_of_that_name():
    task, answer = learned("0", "1", "0", "1"), Label("1", 0.9)
    assert task.compared(answer, rows(1)[0]) == ("1", "1")


def test_a_missing_text_is_blank_and_a_number_is_refused(tiny_folder):
    task, tokenizer = TextClassification(labels=("a", "b")), load_tokenizer(tiny_folder("bert"))
    (blank,) = task.encode(Row(0, {"text": None}, "a.csv", 2), tokenizer)
    assert len(blank.streams["text"]) == 2
    with pytest.raises(DataError) as caught:
        task.encode(Row(0, {"text": 5}, "a.csv", 2), tokenizer)
    assert str(caught.value) == (
        "a.csv, line 2: its text is 5, which is no text. A text is needed. Name another column "
        "with data.columns.text, or turn this one into text."
    )


def test_one_class_alone_is_refused():
    with pytest.raises(DataError) as caught:
        learned("a", "a")
    assert str(caught.value) == (
        'a.csv: column "label" has the one label "a" in all 2 rows. A classifier needs at least '
        "two classes. Add rows of another class, or name another column with data.columns.label."
    )


def test_labels_that_do_not_do_are_named_by_their_column():
    table = read_table({"review": ["a"] * 4, "stars": ["a", "a", "a", "a"]})
    data = table.rows({"text": "review", "label": "stars"})
    with pytest.raises(DataError, match='column "stars" has the one label "a"'):
        TextClassification().learn(data)


def test_a_target_that_no_score_reaches_is_told():
    task = learned(*ABC, target_accuracy=0.9)
    assert task.fitted_as() == ()
    data = rows(*("a", "b") * 10)
    (sentence,) = task.calibrate(decoded(task, LOGITS[:1].repeat(20, 1)), data).fitted_as()
    assert sentence.endswith("the model abstains from every text.")


@pytest.mark.parametrize("odd", [["a"], {"label": "a"}, [], " "])
def test_what_is_no_label_is_no_unseen_one_either(odd):
    (row,) = rows(odd)
    for read in (learned(*ABC).unseen_label, lambda row: learned(*ABC).statistics(ANSWER, row)):
        with pytest.raises(DataError, match="its label is"):
            read(row)


def test_a_label_unseen_in_training_has_no_loss():
    with pytest.raises(DataError) as caught:
        loss(learned(*ABC), torch.tensor([0, -1, 0, 1]))
    assert str(caught.value) == (
        "the training data: a label was not there when the labels were learned. "
        'The model knows "a", "b", "c".'
    )


def test_an_answer_has_label_score_all_scores_and_raw_logits():
    answer = decoded(learned(*ABC))[0]
    p_C = LOGITS[0].softmax(0).tolist()
    assert (answer.label, answer.abstained) == ("a", False)
    assert answer.score == pytest.approx(p_C[0])
    assert dict(answer.scores) == pytest.approx(dict(zip("abc", p_C, strict=True)))
    assert answer.logits == tuple(LOGITS[0].tolist())


def test_the_temperature_softens_the_scores_and_leaves_the_label_and_the_logits():
    settings = {"labels": ("a", "b", "c")}
    hot, cold = (decoded(TextClassification(temperature=t, **settings))[0] for t in (4.0, 1.0))
    assert hot.score < cold.score
    assert (hot.label, hot.logits) == (cold.label, cold.logits)
    assert hot.score == pytest.approx(float((LOGITS[0] / 4).softmax(0)[0]))


def test_answers_under_the_threshold_abstain():
    task = TextClassification(labels=("a", "b", "c"), abstain_below=0.6)
    assert [answer.abstained for answer in decoded(task)] == [False, True, False, True]


def test_calibration_of_overconfident_answers_raises_the_temperature():
    generator = np.random.default_rng(0)
    true = generator.integers(0, 2, 400)
    sure = np.where(generator.random(400) < 0.7, true, 1 - true)
    logits = torch.tensor(8.0 * np.eye(2)[sure], dtype=torch.float32)
    task = TextClassification(labels=("a", "b"))
    data = rows(*("ab"[index] for index in true))
    fitted = task.calibrate(decoded(task, logits), data)
    assert fitted.temperature > 5
    assert np.mean([a.score for a in decoded(fitted, logits)]) == pytest.approx(0.7, abs=0.03)


def test_calibration_can_be_off():
    task = TextClassification(labels=("a", "b"), calibrated=False)
    data = rows("a", "b")
    assert task.calibrate(decoded(task, torch.eye(2)), data) == task


def test_a_target_accuracy_sets_a_threshold_that_reaches_it():
    task = TextClassification(labels=("a", "b"), target_accuracy=1.0)
    logits = torch.tensor([[4.0, 0.0], [3.0, 0.0], [1.0, 0.0], [0.0, 5.0]])
    many, data = logits.repeat(10, 1), rows(*("a", "a", "b", "b") * 10)
    answers = decoded(task.calibrate(decoded(task, many), data), logits)
    assert [answer.abstained for answer in answers] == [False, False, True, False]


def test_a_pair_is_one_sequence_with_two_segments(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("bert"))
    row = Row(3, {"text": "a film", "text_pair": "good"})
    (found,) = TextClassification().encode(row, tokenizer)
    assert found.streams["text"].type_ids.tolist() == [0, 0, 0, 0, 1, 1]
    assert (found.row_id, dict(found.targets)) == (3, {})


@pytest.mark.parametrize("blank", [None, "", " \u200b"])
def test_a_blank_second_text_is_none_whatever_the_format_can_say(tiny_folder, blank):
    tokenizer = load_tokenizer(tiny_folder("bert"))
    (found,) = TextClassification().encode(Row(3, {"text": "a", "text_pair": blank}), tokenizer)
    (alone,) = TextClassification().encode(Row(3, {"text": "a"}), tokenizer)
    assert found.streams["text"].token_ids.tolist() == alone.streams["text"].token_ids.tolist()


@pytest.mark.parametrize(("limit", "expected"), [(128, 128), (8192, 256)])
def test_without_a_length_the_model_s_limit_or_256_is_taken(limit, expected):
    assert TextClassification().within(limit).max_length == expected


def test_a_length_past_the_model_s_limit_is_refused():
    with pytest.raises(SettingsError) as caught:
        TextClassification(max_length=512).within(128)
    assert str(caught.value) == (
        "[task]: task.max_length is 512. The model reads at most 128 tokens. "
        "Use task.max_length=128 or a model that reads more."
    )


def test_further_training_keeps_the_old_labels_first():
    previous = learned("x", "b", "x", "b", max_length=9)
    task = TextClassification().learn(rows("a", "x", "a", "x")).continued(previous)
    assert (task.labels, task.max_length) == (("b", "x", "a"), 9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"label_smothing": 0.1},
            "[task]: task.label_smothing is not a setting of text-classification. "
            "Did you mean task.label_smoothing?",
        ),
        (
            {"label_smoothing": 1.5},
            "[task]: task.label_smoothing is 1.5. It must be at least 0 and less than 1.",
        ),
        ({"focal_gamma": -1}, "[task]: task.focal_gamma is -1.0. It must be at least 0."),
        (
            {"target_accuracy": 2},
            "[task]: task.target_accuracy is 2.0. It must be more than 0 and at most 1.",
        ),
        (
            {"max_length": 0},
            "[task]: task.max_length is 0. Input should be greater than 0.",
        ),
    ],
)
def test_settings_that_make_no_sense_are_named(options, message):
    with pytest.raises(SettingsError) as caught:
        build_task(TextClassification, options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"z": 2.0},
            '[task]: task.class_weights names "z". The labels are "a", "b", "c".',
        ),
        (
            {"a": 0.0},
            '[task]: task.class_weights gives "a" the weight 0. It must be more than 0.',
        ),
        (
            {"b": float("nan")},
            '[task]: task.class_weights gives "b" the weight nan. It must be more than 0.',
        ),
    ],
)
def test_class_weights_that_make_no_sense_are_named(weights, message):
    with pytest.raises(SettingsError) as caught:
        learned(*ABC, class_weights=weights)
    assert str(caught.value) == message


def test_an_unknown_task_gets_the_nearest_name():
    with pytest.raises(SettingsError) as caught:
        find_task("text-clasification")
    assert str(caught.value) == (
        f'task: there is no task "text-clasification". There is {listed(TASKS)}. '
        'Did you mean "text-classification"?'
    )


def test_truth_and_answer_are_compared_in_the_types_of_the_data():
    task, answer = learned(1, 2, 1, 2), Label(2, 0.9)
    assert task.compared(answer, rows(1)[0]) == (1, 2)


def test_a_row_is_counted_as_abstained_where_there_is_a_threshold():
    task = TextClassification(labels=("a", "b", "c"), abstain_below=0.99999)
    found = task.statistics(decoded(task)[2], rows("b")[0])
    assert found["abstained"] is True


def test_the_figures_of_a_row_are_its_truth_prediction_and_probabilities():
    task = TextClassification(labels=("a", "b", "c"))
    found = task.statistics(decoded(task)[2], rows("b")[0])
    assert (found["true"], found["predicted"], len(found)) == (1, 1, 3)
    np.testing.assert_allclose(found["probabilities"], LOGITS[2].softmax(0), rtol=1e-6)
    assert task.statistics(decoded(task)[2], rows("unseen")[0])["true"] == -1
