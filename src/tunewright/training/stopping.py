"""SIGTERM and SIGINT as a wish: the update is finished and saved before the run stops.

with StopSignals("runs/reviews") as stop:
    for event in ...:
        if stop.is_wished:
            raise stop.error(event.step)
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from tunewright.errors import Interrupted, Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Takes the two signals for the time of a block; the second time one comes, it acts at once.

    Only a main thread can take signals; in any other nothing is ever wished.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._came: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._give_back()

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._came = signal.Signals(number)
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: it was not Python's own
        self._before = {}

    @property
    def is_wished(self) -> bool:
        return self._came is not None

    def error(self, step: int) -> Stopped:
        """Returns what to raise after update `step`, which is saved.

        Where the signal came to another process of the run, it is taken for SIGTERM.
        """
        came = self._came or signal.SIGTERM
        kind = Interrupted if came == signal.SIGINT else Stopped
        return kind(
            self._run,
            f"{came.name} came, and the run stopped after update {step:,}, which is saved",
            "",
            f"Go on with: tunewright resume {self._run}",
        )
