"""Keys, bounds and errors, with a tiny classifier behind them."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest

from tunewright.prediction.predictor import Predictor
from tunewright.server import guard
from tunewright.server.app import build_app
from tunewright.server.guard import Bounds

JSON = {"content-type": "application/json"}


@pytest.fixture
def client(serve):
    return serve("text-classification")


def refused(response, status, words, error_type="Validation"):
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error", "error_type"}
    assert words in body["error"]
    assert body["error_type"] == error_type


def test_without_the_key_only_health_is_answered(serve):
    client = serve("text-classification", api_key="secret")
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
        response = client.post("/predict", json={"inputs": "a film"}, headers=headers)
        refused(response, 401, "Authorization")
        assert response.headers["www-authenticate"] == "Bearer"
    assert client.get("/info").status_code == 401
    assert client.get("/health").status_code == 200
    told = {"authorization": "Bearer secret"}
    assert client.post("/predict", json={"inputs": "a film"}, headers=told).status_code == 200


def test_paths_and_methods_that_are_not_there(client):
    refused(client.get("/nothing"), 404, "/nothing")
    refused(client.get("/predict"), 405, "GET /predict")
    refused(client.post("/embed", json={"inputs": "a"}), 404, "/embed")


@pytest.mark.parametrize(
    ("content", "status", "words", "error_type"),
    [
        ("", 400, "empty", "Empty"),
        (b'{"inputs": "\xed\xa0\xbd"}', 400, "no UTF-8 (byte 12)", "Validation"),
        ('{"inputs": "a film"}'.encode("utf-16"), 400, "no UTF-8", "Validation"),
        ("{", 400, "no JSON", "Validation"),
        ("null", 400, "empty", "Empty"),
        ("[]", 422, "body", "Validation"),
        ("{}", 422, "inputs", "Validation"),
        ('{"inputs": "a", "other": 1}', 422, "other", "Validation"),
        ('{"inputs": "a", "truncate": "yes"}', 422, "truncate", "Validation"),
        ('{"inputs": "a", "raw_scores": 1}', 422, "raw_scores", "Validation"),
        ('{"inputs": "\\ud83d"}', 422, "half a character", "Validation"),
        ('{"inputs": ' + "[" * 400 + "]" * 400 + "}", 422, "inputs", "Validation"),
        ('{"inputs": ' + "[" * 100_000 + "]" * 100_000 + "}", 400, "", "Validation"),
    ],
)  # fmt: skip
def test_bodies_that_are_no_request(client, content, status, words, error_type):
    response = client.post("/predict", content=content, headers=JSON)
    if status == 422 and "[[" in str(content):  # blank all the way down
        assert response.status_code in (400, 422)
        return
    refused(response, status, words, error_type)


def test_a_body_over_the_bound_is_refused_by_its_length_or_as_it_comes(serve):
    client = serve("text-classification", bounds=Bounds(max_bytes=1000))
    long = json.dumps({"inputs": "a" * 2000})
    refused(client.post("/predict", content=long, headers=JSON), 413, "1,000 bytes")

    def chunks():
        yield from (long[start : start + 100].encode() for start in range(0, len(long), 100))

    refused(client.post("/predict", content=chunks(), headers=JSON), 413, "1,000 bytes")
    assert client.post("/predict", json={"inputs": "a film"}).status_code == 200


def test_compressed_bodies_and_floods_of_headers_are_refused(client):
    zipped = {**JSON, "content-encoding": "gzip"}
    refused(client.post("/predict", content=b"x", headers=zipped), 415, "compressed")
    many = {f"x-{place}": "a" for place in range(10_000)}
    refused(client.get("/health", headers=many), 431, "headers")


async def asked(app, receive, path="/predict", headers=(), method="POST"):
    """Puts one request through an application by hand; returns what it sent."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "scheme": "http", "server": ("test", 80), "client": ("test", 1),
        "headers": [(b"content-type", b"application/json"), *headers],
    }  # fmt: skip
    await app(scope, receive, send)
    return sent


def test_a_body_that_comes_too_slowly_is_refused(model_of):
    app = build_app(model_of("text-classification"), bounds=Bounds(seconds=0.05))

    async def receive():
        await asyncio.sleep(0.03)
        return {"type": "http.request", "body": b" ", "more_body": True}

    sent = asyncio.run(asked(app, receive))
    assert sent[0]["status"] == 408
    assert b"0.05 seconds" in sent[1]["body"]


def test_a_client_that_leaves_before_its_body_is_here_gets_nothing(model_of):
    app = build_app(model_of("text-classification"))

    async def receive():
        return {"type": "http.disconnect"}

    assert asyncio.run(asked(app, receive)) == []


def test_the_figures_count_requests_tokens_and_nothing_of_the_clients_own(client):
    for _ in range(3):
        client.post("/predict", json={"inputs": "a film"})
    client.get("/secret-of-mine")
    text = client.get("/metrics").text
    assert 'tunewright_requests_total{path="/predict",status="200"} 3.0' in text
    assert 'tunewright_requests_total{path="other",status="404"} 1.0' in text
    assert "secret-of-mine" not in text
    assert "tunewright_tokens_total 12.0" in text  # [CLS] a film [SEP], three times
    assert "tunewright_rows 0.0" in text


def test_a_fault_is_counted_as_one_and_says_nothing_of_itself(client, monkeypatch):
    def fails(self, rows, encoded):
        raise RuntimeError("a secret")

    monkeypatch.setattr(Predictor, "answer_encoded", fails)
    response = client.post("/predict", json={"inputs": "a film"})
    refused(response, 500, "log", "Backend")
    assert "secret" not in response.text
    monkeypatch.undo()
    assert client.post("/predict", json={"inputs": "a film"}).status_code == 200
    text = client.get("/metrics").text
    assert 'tunewright_requests_total{path="/predict",status="500"} 1.0' in text
    assert "tunewright_rows 0.0" in text


def test_where_there_is_no_room_it_says_so_at_once(client, monkeypatch):
    entered, go = threading.Event(), threading.Event()
    original = Predictor.answer_encoded

    def held(self, rows, encoded):
        entered.set()
        assert go.wait(20)
        return original(self, rows, encoded)

    monkeypatch.setattr(Predictor, "answer_encoded", held)
    found = []
    many = {"inputs": [["a film"]] * 256}
    askers = [
        threading.Thread(target=lambda: found.append(client.post("/predict", json=many)))
        for _ in range(2)
    ]
    for asker in askers:
        asker.start()
    assert entered.wait(20)
    for _ in range(200):  # until the second has its room, too
        if "tunewright_rows 512.0" in client.get("/metrics").text:
            break
    response = client.post("/predict", json={"inputs": "a film"})
    refused(response, 429, "No more rows", "Overloaded")
    assert response.headers.get("connection") != "close"
    refused(client.post("/predict", content="{", headers=JSON), 429, "No more", "Overloaded")
    assert response.headers["retry-after"] == "1"
    go.set()
    for asker in askers:
        asker.join(20)
    assert [each.status_code for each in found] == [200, 200]
    assert client.post("/predict", json={"inputs": "a film"}).status_code == 200


def test_a_client_that_leaves_gives_its_room_back(model_of, monkeypatch):
    app = build_app(model_of("text-classification"))
    entered, go = threading.Event(), threading.Event()

    def held(self, rows, encoded):
        entered.set()
        assert go.wait(20)
        return []

    monkeypatch.setattr(Predictor, "answer_encoded", held)
    messages = [{"type": "http.request", "body": b'{"inputs": "a film"}', "more_body": False}]

    async def receive():
        if messages:
            return messages.pop()
        await asyncio.to_thread(entered.wait, 20)
        return {"type": "http.disconnect"}

    async def both():
        await asked(app, receive)
        return await asked(app, health, "/metrics", method="GET")

    async def health():
        return {"type": "http.request", "body": b"", "more_body": False}

    before = asyncio.run(both())[1]["body"].decode()
    assert 'path="/predict",status="499"} 1.0' in before
    assert "tunewright_rows 1.0" in before  # the row is being answered all the same
    go.set()
    for _ in range(200):
        after = asyncio.run(asked(app, health, "/metrics", method="GET"))[1]["body"].decode()
        if "tunewright_rows 0.0" in after:
            break
        time.sleep(0.02)
    assert "tunewright_rows 0.0" in after


def test_no_body_takes_all_the_room(serve):
    client = serve("image-captioning")
    entered, go = threading.Event(), threading.Event()
    long = {"inputs": ["x" * 20_000_000]}
    asker = threading.Thread(target=lambda: client.post("/predict", json=long))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunewright.server.common.rows_of", lambda *_: entered.set() or go.wait(20))
        asker.start()
        assert entered.wait(20)
        text = client.get("/metrics").text
        go.set()
        asker.join(20)
    assert "tunewright_rows 64.0" in text


def test_all_bodies_together_are_bounded(model_of, monkeypatch):
    monkeypatch.setattr(guard, "MAX_HELD", 1000)
    app = build_app(model_of("text-classification"))

    async def receive():
        return {"type": "http.request", "body": b" " * 400, "more_body": True}

    sent = asyncio.run(asked(app, receive))
    assert sent[0]["status"] == 429
    assert app.in_flight == [0]
