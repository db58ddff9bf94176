"""The route of a model that chats: OpenAI's chat completions, whole or piece by piece."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from tunewright.answers import Generated
from tunewright.data.chats import read_messages
from tunewright.models.chat_tokens import prompt_length
from tunewright.models.generation import Generation
from tunewright.prediction.chat import Asked, ask, reply
from tunewright.prediction.predictor import Predictor, replace_generation
from tunewright.server.common import Body, note
from tunewright.server.figures import Figures
from tunewright.server.refusals import Refused, body_of, refusal_of
from tunewright.server.served import ServedModel, awaited, log
from tunewright.types import Message, Row

MAX_TOKENS = 4096  # of one answer
MAX_CHOICES = 8
Zero = Annotated[float, Field(ge=0, le=0)]
Piece = str | Generated | Exception


class StreamOptions(Body):
    include_usage: bool = False


class Completed(Body):
    """OpenAI's names; what this model cannot do is refused by its name, not ignored.

    What is left out is as the model's own `generation_config.json` says.
    """

    messages: list[dict[str, Any]]
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    presence_penalty: Zero = 0.0
    frequency_penalty: Zero = 0.0

    def settings(self, own: Generation) -> dict[str, Any]:
        """Returns the settings of `[generation]` that the request asks for."""
        most = self.max_completion_tokens or self.max_tokens
        found: dict[str, Any] = {"num_return_sequences": self.n}
        if most is not None:
            found["max_new_tokens"] = most
        if self.temperature is not None:
            found["do_sample"] = self.temperature > 0
            found |= {"temperature": self.temperature} if self.temperature else {}
        for name in ("top_p", "seed"):
            value = getattr(self, name)
            found |= {} if value is None else {name: value}
        if self.stop is not None:
            found["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if self.n > 1 and not found.get("do_sample", own.do_sample) and self.n > own.num_beams:
            raise Refused(422, f"n: it is {self.n}. Several answers need a temperature above 0.")
        return found


def chat_routes(served: ServedModel, figures: Figures) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=None)
    async def complete(
        body: Completed, request: Request, response: Response
    ) -> dict[str, Any] | Response:
        """Answers a conversation."""
        if not body.messages:
            raise Refused(400, "messages: it is empty. A conversation is needed.")
        messages = read_messages(body.messages, "messages")
        settings = body.settings(served.predictor.generation)
        predictor = replace_generation(served.predictor, **settings)
        answered = _Completion(served.name, body.stream)
        if not body.stream:
            row = Row(0, {"messages": [message.to_json() for message in messages]}, "messages")
            encoded = await served.encode([row], truncate=False)
            num_asked = _num_asked(encoded.features[0][-1].streams["text"].type_ids)
            (answer,) = await served.answers(request, encoded, predictor)
            note(encoded, figures, response)
            return answered.whole(answer, num_asked)
        asked = await served.read(lambda: _asked(served, predictor, messages))
        figures.read(len(asked.token_ids))
        stream = _Stream(served, predictor, asked)
        first = await stream.first(request)
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        lines = _lines(stream, first, answered, len(asked.token_ids), with_usage)
        return StreamingResponse(lines, media_type="text/event-stream")

    return router


def _num_asked(marks_N: Any) -> int:
    return int(prompt_length(marks_N))


def _asked(served: ServedModel, predictor: Predictor, messages: tuple[Message, ...]) -> Asked:
    asked = ask(replace(predictor, tokenizer=served.tokenizer), messages)
    if asked.num_cut:
        raise Refused(413, f"messages: {asked.num_cut:,} tokens are more than the model reads.")
    return replace(asked, row_id=0)  # as where the answer comes whole


class _Completion:
    """The answers to one request, in OpenAI's words."""

    def __init__(self, model: str, is_stream: bool) -> None:
        kind = "chat.completion.chunk" if is_stream else "chat.completion"
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, answer: Generated, num_asked: int) -> dict[str, Any]:
        texts = (answer, *answer.alternatives)
        choices = [
            {
                "index": place,
                "message": {"role": "assistant", "content": each.text},
                "finish_reason": each.finish_reason,
            }
            for place, each in enumerate(texts)
        ]
        usage = _usage(num_asked, sum(each.num_tokens for each in texts))
        return {**self._head, "choices": choices, "usage": usage}

    def piece(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {**self._head, "choices": [choice]}

    def usage(self, num_asked: int, answer: Generated) -> dict[str, Any]:
        return {**self._head, "choices": [], "usage": _usage(num_asked, answer.num_tokens)}


def _usage(num_asked: int, num_written: int) -> dict[str, int]:
    return {
        "prompt_tokens": num_asked,
        "completion_tokens": num_written,
        "total_tokens": num_asked + num_written,
    }


class _Gone(Exception):
    """Nobody reads the answer any more."""


class _Stream:
    """An answer that is read while it is written in the model's thread."""

    def __init__(self, served: ServedModel, predictor: Predictor, asked: Asked) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self._gone = threading.Event()
        self._future = served.queue.run(lambda: self._write(predictor, asked))

    def _write(self, predictor: Predictor, asked: Asked) -> None:
        try:
            self._put(reply(predictor, asked, self._hear))
        except _Gone:
            pass
        except Exception as error:
            self._put(error)

    def _hear(self, piece: str) -> None:
        if self._gone.is_set():
            raise _Gone
        self._put(piece)

    def _put(self, piece: Piece) -> None:
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    async def first(self, request: Request) -> Piece:
        """Returns the first piece. Raises what kept the model from writing any."""
        try:
            piece = await awaited(request, asyncio.ensure_future(self._pieces.get()))
        except Refused:
            self.leave()
            raise
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def next(self) -> Piece:
        return await self._pieces.get()

    def leave(self) -> None:
        """Ends the writing at its next token, or before it begins."""
        self._gone.set()
        self._future.cancel()


async def _lines(
    stream: _Stream, piece: Piece, completion: _Completion, num_asked: int, with_usage: bool
) -> AsyncIterator[bytes]:
    """Yields an answer as server-sent events."""
    try:
        yield _event(completion.piece({"role": "assistant", "content": ""}))
        while isinstance(piece, str):
            yield _event(completion.piece({"content": piece}))
            piece = await stream.next()
        if isinstance(piece, Exception):
            log.error("an answer ended in the middle", exc_info=piece)
            yield b"data: " + body_of(refusal_of(piece, "the model")) + b"\n\n"
            return
        yield _event(completion.piece({}, piece.finish_reason))
        if with_usage:
            yield _event(completion.usage(num_asked, piece))
        yield b"data: [DONE]\n\n"
    finally:
        stream.leave()


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode("utf-8", "replace")
