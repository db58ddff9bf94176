"""A server around the application: sockets, signals, and an end without a broken request."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from os import PathLike
from types import FrameType

import uvicorn

from tunewright.errors import SettingsError
from tunewright.run.loaded import TrainedModel, load
from tunewright.server.app import build_app

HEADER_BYTES = 1 << 18  # what a parser holds; the guard counts the headers themselves
IDLE_SECONDS = 30
LAST_SECONDS = 60  # in which those who wait are answered before the end


class _Server(uvicorn.Server):
    """One that says it is about to stop before it takes no more connections.

    A signal is what ends it, and no failure: it is not raised again at the end. A second Ctrl-C
    does not wait for those who are still answered.
    """

    def __init__(self, config: uvicorn.Config, stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop = stop

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
    address. Raises SettingsError for an address that cannot be had, and for one that other machines
    reach where there is no `api_key`.
    """
    if api_key is None and not _is_loopback(host):
        raise SettingsError(
            "--host", f"{host} can be reached from other machines", "A key is needed there.",
            "Give --api-key, or set TUNEWRIGHT_API_KEY.",
        )  # fmt: skip
    listening = _listening(host, port)
    loaded = model if isinstance(model, TrainedModel) else load(model)
    app = build_app(loaded, name, api_key=api_key)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        http="h11",
        ws="none",
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=LAST_SECONDS,
        server_header=False,
    )
    place = listening.getsockname()
    say(f"http://{f'[{place[0]}]' if ':' in place[0] else place[0]}:{place[1]}")
    with listening:
        _Server(config, app.stop).run(sockets=[listening])


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int) -> socket.socket:
    """Returns a socket that listens, so that a port which is taken is found before the model."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with ExitStack() as closing:
            listening = closing.enter_context(socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            closing.pop_all()
    except (OSError, OverflowError) as error:
        raise SettingsError(
            "--host, --port", f"{host}:{port} cannot be had ({error})", "",
            "Name another, or 0 for a free port.",
        ) from None  # fmt: skip
    return listening
