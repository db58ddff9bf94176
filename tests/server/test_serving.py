"""`tunewright serve` as a process of its own: sockets, signals, and the end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx2
import pytest

from tests.server.conftest import copy_of
from tunewright.cli import run

SECONDS = 60  # within which a slow machine has started the process


@pytest.fixture
def started(model_of, tmp_path):
    """Starts a server of a tiny classifier; returns (process, address)."""
    processes = []

    def start(*words):
        folder = copy_of(model_of("text-classification"), tmp_path / "model")
        process = subprocess.Popen(
            [sys.executable, "-m", "tunewright", "serve", str(folder), "--port", "0", "--json",
             *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        processes.append(process)
        line = process.stdout.readline()
        assert line, process.stderr.read()
        return process, json.loads(line)["address"]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_a_stop_lets_those_finish_who_have_asked(started):
    process, address = started("--exact")
    answered = []
    many = {"inputs": [["a film of the team, and the worst book ever"]] * 256}

    def ask():
        response = httpx2.post(f"{address}/predict", json=many, timeout=SECONDS)
        answered.append((response.status_code, response.json()))

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    for _ in range(20 * SECONDS):  # until both have their room
        if "tunewright_rows 512.0" in httpx2.get(f"{address}/metrics", timeout=SECONDS).text:
            break
        time.sleep(0.05)
    assert answered == []
    process.send_signal(signal.SIGTERM)
    for asker in askers:
        asker.join(SECONDS)
    assert process.wait(SECONDS) == 0
    assert [status for status, _ in answered] == [200, 200]
    assert answered[0] == answered[1]
    assert len(answered[0][1]) == 256


def test_a_refused_body_is_heard_and_not_reset(started):
    _, address = started()
    host, port = address.removeprefix("http://").split(":")
    for size in (3_000_000, 20_000_000):
        connection = http.client.HTTPConnection(host, int(port), timeout=SECONDS)
        connection.request("POST", "/predict", b"x" * size, {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.status == 413
        assert b"2,000,000 bytes" in response.read()
        connection.close()


def test_messages_of_what_cannot_be_served(model_of, tmp_path, capsys):
    folder = str(copy_of(model_of("text-classification"), tmp_path / "model"))
    assert run(["serve", folder, "--host", "0.0.0.0"]) == 2
    assert "A key is needed there" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(["serve", folder, "--port", port]) == 2
    assert "cannot be had" in capsys.readouterr().err
    assert run(["serve", folder, "nothing=1"]) == 2
    assert run(["serve", str(tmp_path / "none")]) == 2
