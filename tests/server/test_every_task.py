"""What holds for the server of every task."""

from __future__ import annotations

import json

import pytest

from tests.server.conftest import as_json
from tests.tasks.examples import EXAMPLES
from tunewright.server.inputs import rows_of
from tunewright.server.shapes import shape_of
from tunewright.tasks import TASKS


@pytest.fixture(params=sorted(TASKS))
def name(request):
    return request.param


def asked(name):
    """The examples of a task as a client sends them: without what only training reads."""
    kept = {role.name for role in TASKS[name].roles if not role.only_training}
    return [
        {key: as_json(value) for key, value in row.items() if key in kept} for row in EXAMPLES[name]
    ]


def close_to(found, expected):
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            close_to(found[key], expected[key]) for key in expected
        )
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(close_to, found, expected))
    return found == (pytest.approx(expected, abs=1e-6) if isinstance(expected, float) else expected)


def test_rows_are_answered_as_predict_answers_them(serve, model_of, name):
    rows = [row for row in asked(name) if any(row.values())]
    client, model = serve(name), model_of(name)
    response = client.post("/predict", json={"inputs": rows})
    assert response.status_code == 200, response.text
    expected = [shape_of(answer) for answer in model.stream(rows_of(model, rows)[0])]
    assert len(response.json()) == len(rows)
    assert close_to(response.json(), expected)
    one = client.post("/predict", json={"inputs": rows[0]})
    assert one.json() == response.json()[0]


JSON = {"content-type": "application/json"}
ODD = [
    {},
    [],
    None,
    "",
    "  \n",
    7,
    1e18,
    True,
    [[]],
    [{}],
    [None],
    [1, 2],
    [["a", "b", "c", "d", "e"]],
    {"nothing": "a"},
    {"text": 5},
    {"text": {"a": 1}},
    {"text": [1, [2]]},
    {"tokens": 5},
    {"tokens": [1, None]},
    {"tokens": ["a", ["b"]]},
    {"question": 3, "context": 4, "choices": 5},
    {"question": "a", "context": "b", "choices": [1, 2]},
    {"question": "a", "choices": "b"},
    {"query": "a", "text": 5},
    {"query": "a", "text": [5]},
    {"query": ["a"], "text": "b"},
    {"anchor": 4},
    {"anchor": "a", "positive": 7},
    {"anchor": "a", "prompt_name": 9},
    {"messages": 1},
    {"messages": [{"role": "nobody", "content": "a"}]},
    {"messages": [{"role": "user", "content": 5}]},
    {"prompt": {"a": 1}},
    {"source": 5},
    {"translation": {"en": 1}},
    {"translation": "a"},
    {"document": ["a"]},
    {"image": 5},
    {"image": "README.md"},
    {"image": "/etc/passwd"},
    {"image": {"path": "/etc/passwd"}},
    {"image": "data:image/png;base64,AAAA"},
    {"image": "https://example.org/a.png"},
    {"task": "nothing", "text": "a"},
    {"task": 5, "text": "a"},
    "\ud800 a lone surrogate",
    "a\x00b",
    "e" + "\u0301" * 5_000,
    "word " * 3_000,
    "x" * 20_000,
]


def test_odd_rows_are_refused_or_answered_and_never_a_fault(serve, name):
    client = serve(name)
    usual = asked(name)[0]
    before = client.post("/predict", json={"inputs": usual})
    statuses = []
    for odd in [*ODD, [usual] * 257]:
        # as text, since the client would not send half a character
        response = client.post("/predict", content=json.dumps({"inputs": odd}), headers=JSON)
        assert response.status_code in (200, 400, 413, 422), (odd, response.text)
        if response.status_code != 200:
            assert response.json().keys() == {"error", "error_type"}, odd
        statuses.append(response.status_code)
    assert statuses[:5] == [400] * 5
    assert statuses[-1] == 413
    assert client.post("/predict", json={"inputs": usual}).content == before.content
