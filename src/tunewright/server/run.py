"""A server around the application: sockets, signals, and an end without a broken request."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from os import PathLike
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tunewright.errors import SettingsError
from tunewright.run.loaded import TrainedModel, load
from tunewright.server.app import build_app

HEADER_BYTES = 1 << 18  # what a parser holds; the guard counts the headers themselves
HEADER_SECONDS = 30.0
IDLE_SECONDS = 30
SILENT_SECONDS = 0.3  # in which a request that is on its way at the end still comes
LAST_SECONDS = 60  # in which those who wait are answered before the end
BACKLOG = 2048


class _Protocol(H11Protocol):
    """One that closes a connection when the head of a request is not here after some seconds."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._has_request():
            self._stop_waiting()
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _has_request(self) -> bool:
        cycle: Any = getattr(self, "cycle", None)
        return cycle is not None and not cycle.response_complete

    def _wait_for_head(self) -> None:
        if self._patience is None:  # a byte a second does not win time
            self._patience = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class _Server(uvicorn.Server):
    """One that tells when it takes requests, and when it is about to stop.

    A signal is what ends it, and no failure: it is not raised again at the end. A second Ctrl-C
    does not wait for those who are still answered.
    """

    def __init__(
        self, config: uvicorn.Config, started: Callable[[], None], stop: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._started, self._stop = started, stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(SILENT_SECONDS)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stop()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def serve(
    model: TrainedModel | str | PathLike[str],
    name: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    api_key: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Serves a model, or its folder, until SIGTERM or SIGINT; to be called in the main thread.

    Requests in flight are answered before it ends. Port 0 takes a free one; `say` hears the
    address as soon as requests are taken. Raises SettingsError for an address that cannot be had,
    and for one that other machines reach where there is no `api_key`.
    """
    with listening(host, port, api_key) as place:
        loaded = model if isinstance(model, TrainedModel) else load(model)
        serve_at(place, loaded, name, api_key=api_key, say=say)


def serve_at(
    place: socket.socket,
    model: TrainedModel,
    name: str | None = None,
    *,
    api_key: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Serves a model at a socket that listens; see `serve`."""
    app = build_app(model, name, api_key=api_key)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        http=_Protocol,
        ws="none",
        backlog=BACKLOG,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=LAST_SECONDS,
        server_header=False,
    )
    with suppress(ImportError, ValueError, OSError):  # each connection is an open file
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_Server(config, lambda: say(_address(place)), app.stop).serve(sockets=[place]))


def listening(host: str, port: int, api_key: str | None) -> socket.socket:
    """Returns a socket that listens, so that a port which is taken is found before the model.

    Raises SettingsError as `serve` does.
    """
    if api_key is None and not _is_loopback(host):
        raise SettingsError(
            "--host", f"{host} can be reached from other machines", "A key is needed there.",
            "Give --api-key, or set TUNEWRIGHT_API_KEY.",
        )  # fmt: skip
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with ExitStack() as closing:
            place = closing.enter_context(socket.socket(family, kind, protocol))
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind(address)
            place.listen(BACKLOG)
            closing.pop_all()
    except (OSError, OverflowError) as error:
        raise SettingsError(
            "--host, --port", f"{host}:{port} cannot be had ({error})", "",
            "Name another, or 0 for a free port.",
        ) from None  # fmt: skip
    return place


def _address(place: socket.socket) -> str:
    host, port = place.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
