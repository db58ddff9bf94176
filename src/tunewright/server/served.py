"""A model that is served: rows are read in one thread, answered in another, awaited in a third."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from fastapi import Request

from tunewright.prediction.predictor import Predictor
from tunewright.prediction.queue import RequestQueue
from tunewright.run.loaded import TrainedModel
from tunewright.server.refusals import Refused
from tunewright.tasks.base import Task
from tunewright.tasks.sentence_embedding import SentenceEmbedding
from tunewright.types import Features, Row

Result = TypeVar("Result")
CLIENT_GONE = 499  # nobody hears it; it stands in the figures, as nginx counts it
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

    Of a model of sentence vectors `predictor` gives them as they come, without length 1: whether
    they get it is a request's to say.
    """

    model: TrainedModel
    name: str
    queue: RequestQueue = field(init=False)
    predictor: Predictor = field(init=False)
    stopping: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        predictor = self.model.predictor
        if isinstance(predictor.task, SentenceEmbedding):
            raw = replace(predictor.task, normalize=False, dimensions=None)
            predictor = replace(predictor, task=raw)
        self.predictor = predictor
        self.queue = RequestQueue(predictor)
        self._reader = ThreadPoolExecutor(1, "reader")
        self._tokenizer = copy.deepcopy(predictor.tokenizer)  # the model's thread has the other

    @property
    def task(self) -> Task:
        return self.predictor.task

    async def encode(self, rows: Sequence[Row], truncate: bool) -> Encoded:
        """Returns rows as the model reads them.

        Raises DataError for rows that cannot be read, Refused for texts that would be cut where
        `truncate` does not allow it.
        """
        encoded = await self.read(
            lambda: Encoded(rows, [self.task.encode(row, self._tokenizer) for row in rows])
        )
        if encoded.num_cut and not truncate:
            raise Refused(
                413,
                f"inputs: {encoded.num_cut:,} tokens are more than the model reads. At most "
                f"{getattr(self.task, 'max_length', None)} of a text are read. "
                'Send less, or "truncate": true.',
            )
        return encoded

    async def read(self, job: Callable[[], Result]) -> Result:
        """Runs a job of reading in the reader's thread, which `tokenizer` belongs to."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, job)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the reader's thread."""
        return self._tokenizer

    async def answers(
        self, request: Request, encoded: Encoded, predictor: Predictor | None = None
    ) -> list[Any]:
        """Returns the answers of rows; a client that goes away takes its rows with it."""
        future = self.queue.submit(encoded.rows, encoded.features, predictor)
        return await awaited(request, asyncio.wrap_future(future))

    def stop(self) -> None:
        """Says from now on that the server is about to end; requests are still answered."""
        self.stopping = True

    def close(self) -> None:
        """Answers those who wait, and takes no more."""
        self.queue.close()
        self._reader.shutdown()


async def awaited(request: Request, result: asyncio.Future[Result]) -> Result:
    """Returns a result when it is there. Raises Refused where the client has gone before."""
    gone = asyncio.ensure_future(_gone(request))
    either: set[asyncio.Future[Any]] = {result, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            result.cancel()  # and with it what waits in the queue
            raise Refused(CLIENT_GONE, "The client has gone.")
        return result.result()
    finally:
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
