"""The queue that batches requests: those who wait at the same moment share a forward pass.

    queue = RequestQueue(predictor)
    with queue.room(len(rows)):                  # or Overloaded, at once
        queue.submit(rows, encoded).result()     # the answers of these rows, in order
    queue.close()                                # answers those who wait, then ends

One thread has the model, so callers may come from any number of threads. A request that cannot be
answered fails alone: those that shared its pass are asked again without it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from tunewright.errors import Overloaded
from tunewright.prediction.predictor import Predictor
from tunewright.types import Features, Row

Result = TypeVar("Result")

MAX_ROWS = 512  # text-embeddings-inference has as many requests at once


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """Rows that are asked together, or a job that has the model for itself."""

    future: Future[Any]
    num_rows: int = 1
    num_tokens: int = 0
    rows: Sequence[Row] = ()
    encoded: Sequence[Sequence[Features]] = ()
    predictor: Predictor | None = None
    key: Any = None
    job: Callable[[], Any] | None = None


@dataclass
class RequestQueue:
    """The requests that wait for one model, answered in the order in which they came.

    `max_rows` bounds the rows that have room: those that are read, wait, or are answered.
    """

    predictor: Predictor
    max_rows: int = MAX_ROWS
    _waiting: deque[_Request] = field(default_factory=deque, init=False)
    _num_rows: int = field(default=0, init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _closed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._num_threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def num_rows(self) -> int:
        """The rows that have room now."""
        return self._num_rows

    @property
    def is_full(self) -> bool:
        """Whether there is no room for one more row."""
        return self._num_rows >= self.max_rows

    @contextmanager
    def room(self, num_rows: int) -> Iterator[None]:
        """Keeps room for rows during a block, from before they are read until they are answered.

        Raises Overloaded where there is none, and where the queue is closed.
        """
        with self._changed:
            if self._closed:
                raise Overloaded("the model", "it is about to stop")
            if self._num_rows + num_rows > self.max_rows:
                raise Overloaded(
                    "the model",
                    f"{self._num_rows:,} rows are being answered",
                    f"At most {self.max_rows:,} may.",
                    "Ask again in a moment.",
                )
            self._num_rows += num_rows
        try:
            yield
        finally:
            with self._changed:
                self._num_rows -= num_rows

    def submit(
        self,
        rows: Sequence[Row],
        encoded: Sequence[Sequence[Features]],
        predictor: Predictor | None = None,
    ) -> Future[list[Any]]:
        """Asks rows that `task.encode` has been through; the future holds one answer for each.

        `predictor` is one of the same model with other settings, such as those of writing; requests
        share a pass where their settings are equal. A future that is cancelled in time costs
        nothing. Raises Overloaded where the queue is closed.
        """
        predictor = predictor or self.predictor
        size = sum(item.num_tokens for items in encoded for item in items)
        key = (predictor.task, predictor.generation)
        return self._put(_Request(Future(), len(rows), size, rows, encoded, predictor, key))

    def run(self, job: Callable[[], Result]) -> Future[Result]:
        """Lets a job have the model for itself when its turn comes. Raises Overloaded."""
        return self._put(_Request(Future(), job=job))

    def close(self, seconds: float | None = None) -> bool:
        """Takes no more requests, answers those that wait, and returns when that is done.

        Returns whether it was done in so many seconds; what is left ends with the process.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _put(self, request: _Request) -> Future[Any]:
        with self._changed:
            if self._closed:
                raise Overloaded("the model", "it is about to stop")
            self._waiting.append(request)
            self._changed.notify()
        request.future.add_done_callback(lambda future: self._forget(future, request))
        return request.future

    def _forget(self, future: Future[Any], request: _Request) -> None:
        """Drops what nobody waits for any more, with all that it holds."""
        if future.cancelled():
            with self._changed, suppress(ValueError):
                self._waiting.remove(request)

    def _work(self) -> None:
        torch.set_num_threads(self._num_threads)  # each thread has a number of its own
        while requests := self._next():
            running = [each for each in requests if each.future.set_running_or_notify_cancel()]
            if running:
                _answer(running)

    def _next(self) -> list[_Request]:
        """Waits for requests and takes those of one pass: as many as fit of one kind, in order.

        Returns none when the queue is closed and empty.
        """
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            taken: list[_Request] = []
            num_tokens = 0
            while self._waiting:
                first = self._waiting[0]
                num_tokens += first.num_tokens
                fits = num_tokens <= self.predictor.pass_tokens
                alike = taken and taken[0].job is None and first.key == taken[0].key
                if taken and not (fits and alike):
                    break
                taken.append(self._waiting.popleft())
            return taken


def _answer(requests: Sequence[_Request]) -> None:
    """Answers requests in one go; where that fails, each by itself."""
    try:
        answers = _answers(requests)
    except BaseException as error:
        if len(requests) == 1:
            requests[0].future.set_exception(error)
            return
        for request in requests:
            _answer([request])
        return
    for request, own in zip(requests, answers, strict=True):
        request.future.set_result(own)


def _answers(requests: Sequence[_Request]) -> list[Any]:
    first = requests[0]
    if first.job is not None:
        return [first.job()]
    assert first.predictor is not None
    rows = [row for request in requests for row in request.rows]
    encoded = [items for request in requests for items in request.encoded]
    answers = list(first.predictor.answer_encoded(rows, encoded))
    found, done = [], 0
    for request in requests:
        found.append(answers[done : done + request.num_rows])
        done += request.num_rows
    return found
