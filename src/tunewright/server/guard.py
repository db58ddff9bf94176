"""What stands before every route: the key, and bounds on headers, bodies and time.

It is plain ASGI: a body is read whole before a route sees the request, so that one which is too
large, too slow or not allowed costs no more than its bytes.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tunewright.data.arrays import without_lone_surrogates
from tunewright.server.refusals import CLIENT_GONE, RETRY_AFTER, Refused, body_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_HEADERS = 100
OPEN_PATHS = ("/health",)  # asked by those who have no key
NUM_BYTES = "tunewright.num_bytes"  # of the body, in the scope of a request
# What of a refused body is still taken in, so that the client hears the refusal and no reset.
LAST_SECONDS, LAST_BYTES = 1.0, 64_000_000
MAX_HELD = 256_000_000  # bytes of the bodies of all requests at one moment
# Half a character, as JSON writes it; whether its other half is beside it, a parser says.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Bounds:
    """Bounds of a request: bytes of its body, and seconds in which it has to be here."""

    max_bytes: int = 2_000_000
    seconds: float = 30.0


@dataclass(frozen=True)
class Guard:
    """An application behind a key and bounds.

    `heard` hears path, status and seconds of each request. `stop` tells the application that its
    server is about to end. Where it `is_full`, what is posted is refused before it is parsed.
    `in_flight` are the bytes of all bodies that are held.
    """

    app: App
    api_key: str | None
    bounds: Bounds
    heard: Callable[[str, int, float], None]
    stop: Callable[[], None] = lambda: None
    is_full: Callable[[], bool] = lambda: False
    in_flight: list[int] = field(default_factory=lambda: [0])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, held = time.perf_counter(), CLIENT_GONE, _Held(self.in_flight)

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._guarded(scope, receive, noted, held)
        finally:
            held.release()
            self.heard(scope["path"], status, time.perf_counter() - start)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, held: _Held) -> None:
        try:
            self._check_headers(scope)
            async with asyncio.timeout(self.bounds.seconds):
                body = await self._body(receive, held)
        except Refused as refused:
            await _refuse(send, refused, receive)
            return
        except TimeoutError:
            late = f"The body was not here after {self.bounds.seconds:g} seconds."
            await _refuse(send, Refused(408, late), receive)
            return
        if body is None:
            return
        try:
            if scope["method"] == "POST" and self.is_full():
                raise Refused(429, "No more rows can wait. Ask again in a moment.")
            await _check_text(body)
        except Refused as refused:
            await _refuse(send, refused)
            return
        scope[NUM_BYTES] = len(body)
        await self.app(scope, _received(body, receive), send)

    def _check_headers(self, scope: Scope) -> None:
        if len(scope["headers"]) > MAX_HEADERS:
            found = f"The request has {len(scope['headers']):,} headers."
            raise Refused(431, f"{found} At most {MAX_HEADERS} are read.")
        headers = dict(scope["headers"])
        if self.api_key is not None and scope["path"] not in OPEN_PATHS:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {self.api_key}".encode()):
                raise Refused(401, "The header Authorization: Bearer KEY is missing or wrong.")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refused(415, "The body is compressed. It has to come as it is.")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.bounds.max_bytes:
            raise self._too_large()

    def _too_large(self) -> Refused:
        return Refused(413, f"The body has more than {self.bounds.max_bytes:,} bytes.")

    async def _body(self, receive: Receive, held: _Held) -> bytes | None:
        """Returns the whole body; None where the client has gone."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            held.take(len(part))
            body += part
            if len(body) > self.bounds.max_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)


class _Held:
    """The bytes of one body among those of all."""

    def __init__(self, in_flight: list[int]) -> None:
        self._in_flight, self._own = in_flight, 0

    def take(self, num_bytes: int) -> None:
        """Counts more bytes. Raises Refused where all are too many."""
        self._own += num_bytes
        self._in_flight[0] += num_bytes
        if self._in_flight[0] > MAX_HELD:
            raise Refused(429, "The bodies of all requests are too large. Ask again in a moment.")

    def release(self) -> None:
        self._in_flight[0] -= self._own


async def _check_text(body: bytes) -> None:
    """Refuses half a character, which JSON can hold and no tokenizer reads."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise Refused(400, f"The body is no UTF-8 (byte {error.start:,}).", "Validation") from None
    if _HALF.search(body) and not await asyncio.to_thread(_is_whole, body):
        raise Refused(422, "The body holds half a character (a lone surrogate).")


def _is_whole(body: bytes) -> bool:
    try:
        value = json.loads(body)
        return bool(without_lone_surrogates(value) == value)
    except (ValueError, RecursionError):  # the route says what is wrong with it
        return True


def _received(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that gives the body once, and then what comes from the client."""
    is_given = False

    async def received() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return received


async def _refuse(send: Send, refused: Refused, receive: Receive | None = None) -> None:
    """Refuses a request.

    Where its body is not here yet, what is still sent is taken from `receive`, and the connection
    is closed.
    """
    body = body_of(refused)
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **({"connection": "close"} if receive is not None else {}),
        **({"www-authenticate": "Bearer"} if refused.status == 401 else {}),
        **(RETRY_AFTER if refused.status == 429 else {}),
    }
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_SECONDS):
            if receive is not None:
                await _drain(receive)
    await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    num_bytes, more = 0, True
    while more and num_bytes < LAST_BYTES:
        message = await receive()
        num_bytes += len(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)
