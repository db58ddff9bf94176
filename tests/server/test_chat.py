"""Chat completions, whole and streamed, beside the answers of `Chat`."""

from __future__ import annotations

import json

import pytest

from tunewright.prediction.chat import Chat
from tunewright.prediction.predictor import replace_generation

ROUTE = "/v1/chat/completions"
MESSAGES = [{"role": "system", "content": "be good"}, {"role": "user", "content": "a film?"}]


@pytest.fixture
def client(serve):
    return serve("text-generation")


def expected(model, **settings):
    chat = Chat(replace_generation(model.predictor, **settings), "be good")
    return chat.say("a film?")


def streamed(client, **body):
    """The events of a stream, and its text."""
    with client.stream("POST", ROUTE, json={"messages": MESSAGES, "stream": True, **body}) as found:
        assert found.status_code == 200
        assert found.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in found.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    choices = [event["choices"][0] for event in events if event["choices"]]
    return events, "".join(choice["delta"].get("content", "") for choice in choices)


def test_an_answer_is_that_of_chat(client, model_of):
    answer = expected(model_of("text-generation"))
    response = client.post(ROUTE, json={"messages": MESSAGES, "model": "any"})
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": answer.text}
    assert body["choices"][0]["finish_reason"] == answer.finish_reason
    assert body["usage"]["completion_tokens"] == answer.num_tokens
    assert body["usage"]["prompt_tokens"] > 5


@pytest.mark.parametrize(
    "body",
    [{}, {"max_tokens": 3}, {"temperature": 2.0, "seed": 3}, {"stop": "e"}, {"temperature": 0}],
    ids=["plain", "short", "sampled", "stop", "greedy"],
)
def test_a_stream_is_the_whole_answer_in_pieces(client, body):
    whole = client.post(ROUTE, json={"messages": MESSAGES, **body}).json()
    events, text = streamed(client, **body, stream_options={"include_usage": True})
    assert text == whole["choices"][0]["message"]["content"]
    assert events[-1]["usage"] == whole["usage"]
    assert events[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert len({event["id"] for event in events}) == 1


def test_several_answers_are_drawn(client):
    body = {"messages": MESSAGES, "n": 3, "temperature": 3.0, "seed": 1}
    choices = client.post(ROUTE, json=body).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in choices}) > 1


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"messages": []}, 400, "empty"),
        ({"messages": [{"role": "nobody", "content": "a"}]}, 422, "nobody"),
        ({"messages": [{"role": "user", "content": 5}]}, 422, "content"),
        ({"messages": "a"}, 422, "messages"),
        ({"max_tokens": 10**18}, 422, "max_tokens"),
        ({"max_tokens": 0}, 422, "max_tokens"),
        ({"temperature": -1}, 422, "temperature"),
        ({"n": 2}, 422, "temperature above 0"),
        ({"presence_penalty": 0.5}, 422, "presence_penalty"),
        ({"tools": []}, 422, "tools"),
        ({"stream": "yes"}, 422, "stream"),
        ({"messages": [{"role": "user", "content": "film " * 500}]}, 413, "tokens are more"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_by_name(client, body, status, words, stream):
    response = client.post(ROUTE, json={"messages": MESSAGES, "stream": stream, **body})
    if words == "temperature above 0" and stream:
        return
    assert response.status_code == status, response.text
    assert words in response.json()["error"]


def test_a_stream_that_is_left_ends_the_writing(client, model_of):
    body = {"messages": MESSAGES, "stream": True, "max_tokens": 64}
    with client.stream("POST", ROUTE, json=body) as found:
        next(found.iter_lines())
    response = client.post(ROUTE, json={"messages": MESSAGES})
    assert (
        response.json()["choices"][0]["message"]["content"]
        == expected(model_of("text-generation")).text
    )
