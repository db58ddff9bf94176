"""Whatever stands in a cell: a task reads it, or says which row it cannot read."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.tasks.examples import ARCHITECTURES, TRIED, URL, rows_of
from tests.training.loops import CPU
from tunewright.errors import DataError
from tunewright.models.generating.generation import Generation
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.run.config import compose
from tunewright.run.judging.judge import Judge
from tunewright.run.loaded import TrainedModel
from tunewright.run.preparing.groundwork import audit_only
from tunewright.tasks import find_task

ODD = {
    "missing": None,
    "blank": " \u200b",
    "not a number": math.nan,
    "endless": math.inf,
    "huge": 10**400,
    "negative": -2,
    "boolean": True,
    "half a character": "a\ud800b",
    "empty list": [],
    "list of nothing": [None],
    "list of unlike things": ["x", 1, None],
    "nested list": [[["x"]]],
    "place out of the text": [[0, 10**9, "x"]],
    "place turned round": [[1, 0, "x"]],
    "empty object": {},
    "object": {"text": "x", "answer_start": None},
    "object of lists": {"text": ["x"], "answer_start": []},
    "objects": [{"text": 1, "start": "x", "role": "y"}],
    "list that is cut": "['a', 'b'",
    "array": np.array([1.0, 2.0]),
}


@pytest.fixture(scope="module", params=TRIED)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name, tiny_folder):
    return tiny_folder(ARCHITECTURES.get(name, "bert"))


@pytest.fixture(scope="module")
def config(name, folder):
    task, _, told = TRIED[name]
    aside = {"split": {"validation": 0, "test": 0}}
    return compose({"task": {"name": task, **told}, "model": {"name": str(folder)}, "data": aside})


@pytest.fixture(scope="module")
def trained(name, folder):
    task_name, rows, told = TRIED[name]
    task = find_task(task_name)(**told).within(128).learn(rows_of(rows))
    tokenizer = load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
    predictor = Predictor(task, model, tokenizer, CPU, generation=Generation(max_new_tokens=2))
    columns = [role.name for role in task.roles if any(role.name in row for row in rows)]
    return TrainedModel(predictor, folder, dict(zip(columns, columns, strict=True)))


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_cell_is_read_or_refused(name, config, trained, odd):
    _, rows, _ = TRIED[name]
    if name == "image-captioning":  # a column cannot hold bytes beside anything else
        rows = [{**row, "image": URL} for row in rows]
    for role in trained.columns:
        data = with_cell(rows, role, ODD[odd])
        told = [
            outcome(lambda data=data: audit_only({"train": data}, config)),
            outcome(lambda data=data: trained.evaluate(data, judge=Judge(10))),
            outcome(lambda data=data: answers(trained, data)),
        ]
        assert all(each is None or each.startswith(("list", "the training")) for each in told), told


def with_cell(rows, role, cell):
    """Returns rows of which the first that has the role holds the cell there."""
    columns = dict.fromkeys(column for row in rows for column in row)
    whole = [{column: row.get(column) for column in columns} for row in rows]
    place = next(place for place, row in enumerate(rows) if role in row)
    whole[place][role] = cell
    return whole


def answers(trained, data):
    found = [answer.to_json() for answer in trained.predict(data, say=len)]
    assert len(json.loads(json.dumps(found))) == len(data)


def outcome(act):
    """Returns what is wrong with the data, None where nothing is; what else is raised fails."""
    try:
        act()
    except DataError as error:
        return str(error)
    return None
