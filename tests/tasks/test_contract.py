"""What every task promises; it runs over the whole table of tasks."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tasks.examples import ARCHITECTURES, EXAMPLES, TRIED, rows_of
from tests.training.loops import CPU, build_loop, gradients
from tunewright.data import resolve_columns
from tunewright.errors import DataError
from tunewright.models.generating.generation import Generation
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.tasks import TASKS, find_task
from tunewright.tasks.base import load_task
from tunewright.training.fitting import measure_pass
from tunewright.types import Row

USUAL = "bert"
GENERATION = Generation(max_new_tokens=8)


def test_every_task_of_the_table_has_eight_examples():
    assert sorted(TASKS) == sorted(EXAMPLES)
    assert len(TASKS) >= 6
    assert {len(rows) for _, rows, _ in TRIED.values()} == {8}


@pytest.fixture(params=TRIED)
def name(request):
    return request.param


@pytest.fixture
def rows(name):
    return rows_of(TRIED[name][1])


@pytest.fixture
def task(name, rows):
    task_name, _, settings = TRIED[name]
    return find_task(task_name)(**settings).within(128).learn(rows)


@pytest.fixture
def folder(name, tiny_folder):
    return tiny_folder(ARCHITECTURES.get(name, USUAL))


@pytest.fixture
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture
def predictor(task, folder, tokenizer):
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
    return Predictor(task, model, tokenizer, CPU, generation=GENERATION)


def bare(row: Row, roles) -> Row:
    """The row without what only training reads."""
    kept = {
        r.name: row.values[r.name] for r in roles if not r.only_training and r.name in row.values
    }
    return Row(row.id, kept, row.source, row.line)


def test_the_loss_of_eight_rows_falls(task, rows, folder):
    epoch = build_loop(folder, task, rows).steps_per_epoch  # one update, or one for each part
    losses = [event.loss for event in build_loop(folder, task, rows, steps=12 * epoch).run()]
    assert sum(losses[-epoch:]) < sum(losses[:epoch]) / 2


@pytest.mark.parametrize("max_tokens", [1, 25, 60])
def test_any_cut_of_an_update_gives_the_gradient_of_one_batch(task, rows, folder, max_tokens):
    whole = gradients(build_loop(folder, task, rows))
    pieces = gradients(build_loop(folder, task, rows, max_tokens=max_tokens))
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    assert whole.keys() == pieces.keys()
    for key, gradient in whole.items():
        torch.testing.assert_close(pieces[key], gradient, rtol=1e-5, atol=1e-5 * largest, msg=key)


def test_what_a_pass_keeps_can_be_measured(task, rows, folder):
    loop = build_loop(folder, task, rows)
    found = measure_pass(loop)
    assert found.longest == max(item.num_tokens for row in loop.rows for item in row)
    floats = 4 * 32  # of one layer of the smallest model
    assert floats < found.per_token < 1000 * floats


def figures(answers) -> np.ndarray:
    """All numbers of the answers' JSON, in order."""
    found: list[float] = []

    def walk(value):
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                walk(item)
        elif isinstance(value, int | float):
            found.append(float(value))

    walk([answer.to_json() for answer in answers])
    return np.array(found)


def test_answers_do_not_depend_on_batch_size_or_order(predictor, rows):
    together = list(predictor.answers(rows))
    small = Predictor(predictor.task, predictor.model, predictor.tokenizer, CPU, 1, GENERATION)
    backwards = list(predictor.answers(rows[::-1]))[::-1]
    for others in (list(small.answers(rows)), backwards):
        np.testing.assert_allclose(figures(others), figures(together), atol=1e-5, rtol=0)


def test_exact_answers_have_the_same_bits_whatever_stands_beside_them(predictor, rows):
    exact = replace(predictor, exact=True)
    together = [answer.to_json() for answer in exact.answers(rows)]
    assert together == [answer.to_json() for row in rows for answer in exact.answers([row])]
    backwards = [answer.to_json() for answer in exact.answers(rows[::-1])]
    assert backwards == together[::-1]


def test_the_task_comes_back_whole_from_its_file(task, tmp_path):
    (tmp_path / "task.json").write_text(task.to_json_text(), encoding="utf-8")
    again = load_task(tmp_path, find_task)
    assert again == task
    assert type(again) is type(task)


def test_a_folder_without_a_task_says_so(tmp_path):
    assert load_task(tmp_path, find_task) is None


def test_the_task_pickles(task):
    assert pickle.loads(pickle.dumps(task)) == task


def test_a_missing_role_is_named_with_its_help(task):
    needed = [role for role in task.roles if role.required]
    for role in needed:
        columns = [other.name for other in needed if other is not role]
        with pytest.raises(DataError) as caught:
            resolve_columns(task.roles, columns, {}, training=True, source="rows.jsonl")
        quoted = ", ".join(f'"{column}"' for column in columns)
        assert str(caught.value) == (
            f'rows.jsonl: there is no column "{role.name}" ({role.help}). It has {quoted}. '
            f"Name the column with data.columns.{role.name}=COLUMN."
        )


def test_roles_that_only_training_reads_may_be_absent_from_columns(task):
    columns = [role.name for role in task.roles if not role.only_training]
    found = resolve_columns(task.roles, columns, {}, training=False, source="rows.csv")
    assert list(found.mapping) == columns


def test_prediction_works_without_what_only_training_reads(predictor, rows):
    full = list(predictor.answers(rows))
    without = list(predictor.answers([bare(row, predictor.task.roles) for row in rows]))
    assert figures(without).tolist() == figures(full).tolist()


def test_answers_are_json(predictor, rows):
    answers = list(predictor.answers(rows))
    assert len(answers) == len(rows)
    for answer in answers:
        assert json.loads(json.dumps(answer.to_json(), allow_nan=False)) == answer.to_json()


def test_encoding_is_deterministic_and_knows_its_row(task, rows, tokenizer, folder):
    other = load_tokenizer(folder)
    for row in rows:
        first, second = task.encode(row, tokenizer), task.encode(row, other)
        assert [item.row_id for item in first] == [row.id] * len(first)
        assert [plain(item) for item in first] == [plain(item) for item in second]


def plain(features):
    streams = {name: np.asarray(s.token_ids).tolist() for name, s in features.streams.items()}
    targets = {name: np.asarray(target).tolist() for name, target in features.targets.items()}
    return streams, targets, features.window


def test_counting_each_row_once_is_counting_no_rows_at_all(predictor, rows):
    task = predictor.task
    statistics = task.stack(
        task.statistics(answer, row)
        for answer, row in zip(predictor.answers(rows), rows, strict=True)
    )
    ones = np.ones(len(rows), np.int64)
    once = task.reduce(statistics)
    declared = [metric.name for metric in task.metrics]
    assert declared[0] in once
    assert set(once) <= set(declared)
    for found in (task.reduce(statistics, ones), dict(task.prepare(statistics)(ones))):
        assert found == pytest.approx(once, nan_ok=True)


def test_counting_a_row_twice_is_having_it_twice(predictor, rows):
    task = predictor.task
    pairs = list(zip(predictor.answers(rows), rows, strict=True))
    statistics = task.stack(task.statistics(*pair) for pair in pairs)
    counts = np.array([2, 1, 1, 0, 1, 1, 1, 1])
    drawn = {name: np.repeat(values, counts, axis=0) for name, values in statistics.items()}
    assert task.reduce(statistics, counts) == pytest.approx(task.reduce(drawn), nan_ok=True)


def test_calibrating_keeps_the_task_usable(predictor, rows):
    answers = list(predictor.answers(rows))
    fitted = predictor.task.calibrate(answers, rows)
    again = Predictor(fitted, predictor.model, predictor.tokenizer, CPU, generation=GENERATION)
    assert len(list(again.answers(rows))) == len(rows)
