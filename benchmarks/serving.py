"""How many requests a server answers, and what becomes of it when four times as many come.

    python -m benchmarks.serving [--seconds 20]

Finds its texts through TUNEWRIGHT_BENCHMARK_DATA: sentences, news and reviews, mixed. The server is
`tunewright serve starter`, and each request asks the vector of one text. First it is asked by 1, 8,
32 and 128 clients, each of which waits for its answer; the most answers a second are its peak. Then
requests come at four times that rate, whether or not those before have been answered: what it still
answers in time is its goodput. Clients and server share the machine's cores. Results go to
`benchmarks/serving.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.answering import mixed_texts
from tunewright.devices import find_device, measure_roof
from tunewright.models.layers.native_products import ready_product

RESULTS = Path(__file__).with_suffix(".json")
CLIENTS = (1, 8, 32, 128)
OVERLOAD = 4
NUM_TEXTS = 3000


class Client:
    """One connection that is kept open, with no more of HTTP than it takes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: Any = None

    async def ask(self, text: str) -> int:
        """Asks for the vector of a text; returns the status, 0 where the connection broke."""
        body = json.dumps({"inputs": text, "truncate": True}).encode()
        head = (
            f"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(head.encode() + body)
            await writer.drain()
            found = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(found.partition("content-length: ")[2].split("\r\n")[0])
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            self._streams = None
            return 0
        return int(found.split()[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def in_turn(port: int, texts: Sequence[str], num_clients: int, seconds: float) -> Any:
    """Lets clients ask, each one after its answer; returns requests a second and latencies."""
    waits: list[float] = []
    statuses: Counter[int] = Counter()
    end = time.perf_counter() + seconds

    async def keep_asking(place: int) -> None:
        client = Client(port)
        while time.perf_counter() < end:
            start = time.perf_counter()
            statuses[await client.ask(texts[(place + len(waits)) % len(texts)])] += 1
            waits.append(time.perf_counter() - start)
        client.close()

    start = time.perf_counter()
    await asyncio.gather(*(keep_asking(place) for place in range(num_clients)))
    return {
        "clients": num_clients,
        "a second": round(statuses[200] / (time.perf_counter() - start), 1),
        **_percentiles(waits),
        "statuses": {str(status): count for status, count in statuses.items()},
    }


async def at_a_rate(port: int, texts: Sequence[str], rate: float, seconds: float) -> Any:
    """Lets requests come at a rate, whatever becomes of those before."""
    waits: dict[int, list[float]] = {}
    idle: list[Client] = []

    async def ask(text: str) -> None:
        client = idle.pop() if idle else Client(port)
        start = time.perf_counter()
        status = await client.ask(text)
        waits.setdefault(status, []).append(time.perf_counter() - start)
        idle.append(client)

    start, asked, tasks = time.perf_counter(), 0, set()
    while (now := time.perf_counter() - start) < seconds:
        while asked < now * rate:
            task = asyncio.ensure_future(ask(texts[asked % len(texts)]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            asked += 1
        await asyncio.sleep(0.002)
    in_time = len(waits.get(200, ()))
    await asyncio.gather(*tasks)
    for client in idle:
        client.close()
    return {
        "rate": round(asked / seconds, 1),
        "answered a second": round(in_time / seconds, 1),
        "statuses": {str(status): len(found) for status, found in sorted(waits.items())},
        "answered": _percentiles(waits.get(200, [])),
        "refused": _percentiles(waits.get(429, [])),
    }


def _percentiles(waits: Sequence[float]) -> dict[str, float]:
    if not waits:
        return {}
    return {
        f"p{share} ms": round(1000 * float(np.percentile(waits, share)), 1) for share in (50, 99)
    }


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=20)
    chosen = options.parse_args()
    if "TUNEWRIGHT_BENCHMARK_DATA" not in os.environ:
        sys.exit("Set TUNEWRIGHT_BENCHMARK_DATA to the folder of the benchmark data.")
    texts = mixed_texts(NUM_TEXTS)
    device = find_device()
    roof = measure_roof(device, 2.0, ready_product)
    command = [sys.executable, "-m", "tunewright", "serve", "starter", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(json.loads(server.stdout.readline())["address"].rpartition(":")[2])
        asyncio.run(in_turn(port, texts, 1, 2.0))
        found = []
        for num_clients in CLIENTS:
            found.append(asyncio.run(in_turn(port, texts, num_clients, chosen.seconds)))
            print(json.dumps(found[-1]), flush=True)
        peak = max(each["a second"] for each in found)
        overload = asyncio.run(at_a_rate(port, texts, OVERLOAD * peak, chosen.seconds))
        overload["share of the peak"] = round(overload["answered a second"] / peak, 3)
        print(json.dumps(overload), flush=True)
        server.terminate()
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[device.description] = {"roof": roof, "in turn": found, "overload": overload}
    RESULTS.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
