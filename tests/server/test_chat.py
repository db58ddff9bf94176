"""Chat completions, whole and streamed, beside the answers of `Chat`."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest

from tunewright.prediction.chat import Chat
from tunewright.prediction.predictor import replace_generation
from tunewright.server import chat

ROUTE = "/v1/chat/completions"
MESSAGES = [{"role": "system", "content": "be good"}, {"role": "user", "content": "a film?"}]


@pytest.fixture
def client(serve):
    return serve("text-generation")


def expected(model, **settings):
    talk = Chat(replace_generation(model.predictor, **settings), "be good")
    return talk.say("a film?")


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
        ({"tools": [{"type": "function"}]}, 422, "tools"),
        ({"response_format": {"type": "json_object"}}, 422, "response_format"),
        ({"nothing": 1}, 422, "nothing"),
        ({"messages": [{"role": "user", "content": "a"}] * 1001}, 413, "1000"),
        ({"messages": [{"role": "user", "content": "a"}] * 1000}, 413, "tokens"),
        ({"stream": "yes"}, 422, "stream"),
        ({"messages": [{"role": "user", "content": "film " * 500}]}, 413, "tokens"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_by_name(client, body, status, words, stream):
    response = client.post(ROUTE, json={"messages": MESSAGES, "stream": stream, **body})
    if stream and "n" in body:
        words = "A stream has one answer"
    assert response.status_code == status, response.text
    assert words in response.json()["error"]


def test_a_stream_that_is_left_ends_the_writing(client, model_of, monkeypatch):
    written = []
    original = chat.reply

    def watched(predictor, asked, hear):
        def slowly(piece):
            written.append(piece)
            time.sleep(0.02)
            hear(piece)

        return original(predictor, asked, slowly)

    monkeypatch.setattr(chat, "reply", watched)
    body = {"messages": MESSAGES, "stream": True, "max_tokens": 100}
    _, whole = streamed(client, **body)
    num_pieces = len(written)
    written.clear()

    app, start = client.app, threading.Event()
    incoming = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive():
        if incoming:
            return incoming.pop()
        await asyncio.to_thread(start.wait, 20)
        return {"type": "http.disconnect"}

    async def send(message):
        if b"delta" in message.get("body", b""):
            start.set()

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": ROUTE, "raw_path": ROUTE.encode(), "query_string": b"", "root_path": "",
        "scheme": "http", "server": ("test", 80), "client": ("test", 1),
        "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    client.portal.call(app, scope, receive, send)
    response = client.post(ROUTE, json={"messages": MESSAGES})
    assert (
        response.json()["choices"][0]["message"]["content"]
        == expected(model_of("text-generation")).text
    )
    assert num_pieces > 20
    assert len(written) < num_pieces / 2
    assert whole


def test_what_asks_for_nothing_is_taken(client):
    neutral = {
        "n": None, "stream": None, "presence_penalty": 0, "frequency_penalty": None, "tools": [],
        "logprobs": False, "logit_bias": {}, "response_format": {"type": "text"}, "user": "me",
        "metadata": None, "store": False, "stop": None, "seed": None,
    }  # fmt: skip
    plain = client.post(ROUTE, json={"messages": MESSAGES}).json()
    response = client.post(ROUTE, json={"messages": MESSAGES, **neutral})
    assert response.status_code == 200, response.text
    assert response.json()["choices"] == plain["choices"]


def test_what_is_drawn_without_a_seed_differs_from_time_to_time(client):
    body = {"messages": MESSAGES, "temperature": 5.0}
    found = {
        client.post(ROUTE, json=body).json()["choices"][0]["message"]["content"] for _ in range(5)
    }
    assert len(found) > 1
