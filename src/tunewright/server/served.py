"""A model that is served: rows are read in one thread, answered in another, awaited in a third."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from fastapi import Request

from tunewright.prediction.predictor import Predictor
from tunewright.prediction.queue import RequestQueue
from tunewright.run.loaded import TrainedModel
from tunewright.server.guard import NUM_BYTES
from tunewright.server.refusals import CLIENT_GONE, Refused
from tunewright.tasks.base import Task
from tunewright.types import Features, Row

Result = TypeVar("Result")
# A longer body takes the room of several rows, but never of so many that others have none.
BYTES_OF_A_ROW, ROWS_OF_A_BODY = 8192, 64
CLOSING_SECONDS = 10.0
log = logging.getLogger("tunewright.server")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as the model reads them, with the number of their tokens and of those that were cut."""

    rows: Sequence[Row]
    features: Sequence[Sequence[Features]]

    @property
    def num_tokens(self) -> int:
        return sum(item.num_tokens for items in self.features for item in items)

    @property
    def num_cut(self) -> int:
        return sum(item.num_cut for items in self.features for item in items)


@dataclass
class ServedModel:
    """A model behind a queue; `name` is what clients call it.

    `tokenizer` belongs to the reader's thread: the model's has another. `stopping` is true from the
    moment on when the server is about to end.
    """

    model: TrainedModel
    name: str
    queue: RequestQueue = field(init=False)
    tokenizer: Any = field(init=False)
    stopping: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.queue = RequestQueue(self.predictor)
        self.tokenizer = copy.deepcopy(self.predictor.tokenizer)
        self._reader = ThreadPoolExecutor(1, "reader")

    @property
    def predictor(self) -> Predictor:
        return self.model.predictor

    @property
    def task(self) -> Task:
        return self.predictor.task

    @contextmanager
    def room(self, request: Request, num_rows: int = 1) -> Iterator[ExitStack]:
        """Keeps room for a request; a large body counts as several rows.

        It is given back at the end of the block, or by who takes it over (`pop_all`). Raises
        Overloaded, before anything of the request is encoded.
        """
        size = min(request.scope.get(NUM_BYTES, 0) // BYTES_OF_A_ROW, ROWS_OF_A_BODY)
        with ExitStack() as kept:
            kept.enter_context(self.queue.room(max(num_rows, size)))
            yield kept

    async def read(self, request: Request, job: Callable[[], Result]) -> Result:
        """Runs a job of reading in the reader's thread."""
        return await awaited(request, asyncio.get_running_loop().run_in_executor(self._reader, job))

    async def encode(self, request: Request, rows: Sequence[Row], truncate: bool | None) -> Encoded:
        """Returns rows as the model reads them.

        Raises DataError for rows that cannot be read, Refused for texts that would be cut where
        `truncate` does not allow it; None is for requests that have no such word.
        """
        encoded = await self.read(
            request, lambda: Encoded(rows, [self.task.encode(row, self.tokenizer) for row in rows])
        )
        if encoded.num_cut and not truncate:
            limit = None if self.task.generates else getattr(self.task, "max_length", None)
            found = f"The texts have {encoded.num_cut:,} tokens more than the model reads."
            needed = "" if limit is None else f" It reads {limit:,} of each."
            remedy = "" if truncate is None else ', or "truncate": true'
            raise Refused(413, f"{found}{needed} Send less{remedy}.", "Validation")
        return encoded

    async def answers(
        self,
        request: Request,
        encoded: Encoded,
        room: ExitStack,
        predictor: Predictor | None = None,
    ) -> list[Any]:
        """Returns the answers of rows; a client that goes away takes its rows with it.

        Those that are being answered at that moment keep their room until they are.
        """
        future = self.queue.submit(encoded.rows, encoded.features, predictor)
        try:
            return await awaited(request, asyncio.wrap_future(future))
        finally:
            if not future.done():
                given_back_after(future, room.pop_all())

    def stop(self) -> None:
        """Says from now on that the server is about to end; requests are still answered."""
        self.stopping = True

    def close(self) -> None:
        """Answers those who wait, for some seconds, and takes no more."""
        if not self.queue.close(CLOSING_SECONDS):
            log.warning("the model still answered %d rows at the end", self.queue.num_rows)
        self._reader.shutdown(wait=False, cancel_futures=True)


def raw_vectors(predictor: Predictor) -> Predictor:
    """Returns a model of sentence vectors that gives them whole, as they come, of any length.

    Windows of a text are put together as in training: of length 1 where vectors are.
    """
    task: Any = predictor.task
    normalize = task.normalize if task.long == "window" else False
    return replace(predictor, task=replace(task, normalize=normalize, dimensions=None))


def given_back_after(future: Future[Any], room: ExitStack) -> None:
    """Lets room be given back when a future is done."""
    future.add_done_callback(lambda _: room.close())


async def awaited(request: Request, result: asyncio.Future[Result]) -> Result:
    """Returns a result when it is there; it is cancelled where nobody waits for it any more.

    Raises Refused where the client has gone before.
    """
    gone = asyncio.ensure_future(_gone(request))
    either: set[asyncio.Future[Any]] = {result, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise Refused(CLIENT_GONE, "The client has gone.")
        return result.result()
    finally:
        gone.cancel()
        result.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
