"""Regression. What every task promises is tested in test_contract.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import tunewright as tw
from tests.tasks.examples import EXAMPLES, rows_of
from tests.training.loops import CPU
from tunewright.answers import Number
from tunewright.errors import DataError
from tunewright.models.batch import pack
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.tasks.regression import Regression
from tunewright.types import Features, TokenStream

ROWS = rows_of(EXAMPLES["regression"])
NOT_A_NUMBER = (
    "is not a finite number. A number is needed here. Correct the value, or remove the row."
)
TARGETS = np.array([5, 1, 3, 1.5, 4, 2.5, 3.25, 2])


@pytest.fixture
def task():
    return Regression().within(64).learn(ROWS)


def built(task, folder):
    tokenizer = load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
    return model, [item for row in ROWS for item in task.encode(row, tokenizer)]


def test_mean_and_scale_are_the_training_rows(task):
    assert (task.mean, task.scale) == pytest.approx((TARGETS.mean(), TARGETS.std()))


def test_the_squared_error_is_that_of_stock_transformers(task, tiny_folder):
    model, features = built(task, tiny_folder("bert"))
    plain = Regression(max_length=64)
    batch = pack(features)
    with torch.no_grad():
        outputs = plain.forward(model, batch)
    found = plain.loss(outputs, batch)
    expected = torch.nn.functional.mse_loss(outputs["logits"], torch.tensor(TARGETS).float())
    assert float(found.sum) / found.count == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("loss_type", ["mse", "mae", "huber"])
def test_a_learned_loss_is_of_targets_of_mean_0_and_deviation_1(loss_type):
    task = Regression(max_length=64, loss_type=loss_type, mean=10.0, scale=2.0)
    batch = pack([_features(14.0)])
    found = task.loss({"logits": torch.tensor([0.0])}, batch)
    assert float(found.sum) == {"mse": 4.0, "mae": 2.0, "huber": 1.5}[loss_type]


def _features(score):
    return Features(0, {"text": TokenStream(np.array([1]))}, {"score": score})


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "modernbert", "qwen2"])
def test_settling_moves_mean_and_scale_into_the_model_and_changes_no_answer(
    task, tiny_folder, architecture
):
    model, features = built(task, tiny_folder(architecture))
    with torch.no_grad():
        before = task.decode(task.forward(model, pack(features)), features, None)
        settled = task.settle(model)
        after = settled.decode(settled.forward(model, pack(features)), features, None)
    assert [a.value for a in after] == pytest.approx([b.value for b in before], abs=1e-4)
    has_bias = architecture != "qwen2"
    assert (settled.mean, settled.scale) == ((0.0, 1.0) if has_bias else (task.mean, task.scale))


def test_a_saved_model_puts_out_the_data_s_own_unit_in_stock_transformers(tiny_folder, tmp_path):
    rows = [{**row, "score": 1000 * float(row["score"])} for row in EXAMPLES["regression"]] * 6
    run = tw.train(rows, task="regression", model=tiny_folder("bert"), folder=str(tmp_path),
                   num_train_epochs=8, learning_rate=3e-3, num_resamples=20, track=(),
                   precision="fp32")  # fmt: skip
    stock = AutoModelForSequenceClassification.from_pretrained(run.folder.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(run.folder.model)
    with torch.no_grad():
        expected = stock(**tokenizer("a fine film", return_tensors="pt")).logits.item()
    found = tw.load(run.folder.model, precision="fp32").predict(["a fine film"])[0]
    assert found.value == pytest.approx(expected, rel=1e-4)
    assert 500 < found.value < 6000
    assert stock.config.problem_type == "regression"
    assert run.metrics["spearman"].value > 0.5


def test_intervals_hold_nine_of_ten_validation_rows():
    rows = rows_of([{"text": "a", "score": float(error)} for error in range(1, 20)])
    fitted = Regression().calibrate([Number(0.0)] * 19, rows)
    assert fitted.half_width == 18.0
    assert fitted.decode({"logits": torch.tensor([5.0])}, [None], None) == [
        Number(5.0, -13.0, 23.0)
    ]


def test_too_few_validation_rows_give_no_interval():
    rows = rows_of([{"text": "a", "score": 1.0}] * 8)
    assert Regression().calibrate([Number(0.0)] * 8, rows).half_width is None


def test_a_mistake_is_an_answer_whose_interval_misses_the_truth():
    row = rows_of([{"text": "a", "score": 3.0}])[0]
    task = Regression(half_width=1.0)
    assert task.severity(Number(3.5), row) is None
    assert task.severity(Number(5.0), row) == 2.0
    assert Regression().severity(Number(3.5), row) == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["N/A", 1], f'rows.csv, line 2, score: "N/A" {NOT_A_NUMBER}'),
        ([1, "1e400"], f'rows.csv, line 3, score: "1e400" {NOT_A_NUMBER}'),
        (
            [2, 2.0],
            "the training data: every score is 2.0. At least two different ones are needed.",
        ),
    ],
)
def test_scores_that_cannot_be_learned_are_named(values, message):
    with pytest.raises(DataError) as caught:
        Regression().learn(rows_of([{"text": "a", "score": value} for value in values]))
    assert str(caught.value) == message


def test_the_report_shows_truth_beside_answer():
    (figure,) = Regression().figures({"true": np.array([1.0]), "predicted": np.array([2.0])})
    assert (figure.x, figure.y, figure.diagonal) == ([1.0], [2.0], True)


def test_a_symmetric_model_answers_a_pair_alike_in_both_orders(tiny_folder):
    task = Regression(symmetric=True).within(64).learn(ROWS)
    folder = tiny_folder("bert")
    tokenizer = load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
    pairs = [("a fine film", "the worst book"), ("the worst book", "a fine film")]
    rows = rows_of([{"text": a, "text_pair": b} for a, b in pairs])
    first, second = Predictor(task, model, tokenizer, CPU).answers(rows)
    assert first.value == pytest.approx(second.value, abs=1e-5)
    one, other = task.encode(rows[0], tokenizer)
    assert (one.num_repeated, other.num_repeated) == (0, len(other.streams["text"]))
    plain = Predictor(Regression(max_length=64), model, tokenizer, CPU)
    found = [answer.value for answer in plain.answers(rows)]
    assert found[0] != pytest.approx(found[1], abs=1e-3)
