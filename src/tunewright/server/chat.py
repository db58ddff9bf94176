"""The route of a model that chats: OpenAI's chat completions, whole or piece by piece."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from tunewright.answers import Generated
from tunewright.models.generating.generation import Generation
from tunewright.models.text.chat_tokens import prompt_length, whole_length
from tunewright.prediction.chat import Asked, ask, reply
from tunewright.prediction.predictor import Predictor, replace_generation
from tunewright.server.common import Body, note
from tunewright.server.figures import Figures
from tunewright.server.refusals import Refused, body_of, refusal_of
from tunewright.server.served import Encoded, ServedModel, awaited, given_back_after, log
from tunewright.tasks.shared.conversations import messages_of
from tunewright.types import Message, Row

MAX_TOKENS = 4096  # of one answer
MAX_CHOICES = 8
MAX_TURNS = 1000
MAX_SEED = 2**32
Nothing = Annotated[float, Field(ge=0, le=0)] | None
Turns = Annotated[list[dict[str, Any]], Field(max_length=MAX_TURNS, fail_fast=True)]
Stops = Annotated[list[str], Field(max_length=16)]
Piece = str | Generated | BaseException


class StreamOptions(Body):
    include_usage: bool = False


class PlainText(Body):
    type: Literal["text"]


class Completed(Body):
    """OpenAI's names; what this model cannot do is refused by its name, not ignored.

    What is left out, or null, is as the model's own `generation_config.json` says. The fields after
    `user` are known by what they are when they ask for nothing.
    """

    messages: Turns
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: str | Stops | None = None
    seed: Annotated[int, Field(ge=0, lt=MAX_SEED)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    presence_penalty: Nothing = None
    frequency_penalty: Nothing = None
    logprobs: Literal[False] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    response_format: PlainText | None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None

    def settings(self, own: Generation) -> dict[str, Any]:
        """Returns the settings of `[generation]` that the request asks for.

        Where an answer is drawn and no seed is given, each request gets one of its own.
        """
        most = self.max_completion_tokens or self.max_tokens
        count = self.n or 1
        found: dict[str, Any] = {"num_return_sequences": count}
        if most is not None:
            found["max_new_tokens"] = most
        if self.temperature is not None:
            found["do_sample"] = self.temperature > 0
            found |= {"temperature": self.temperature} if self.temperature else {}
        if self.top_p is not None:
            found["top_p"] = self.top_p
        is_drawn = found.get("do_sample", own.do_sample)
        if self.seed is not None or is_drawn:
            found["seed"] = secrets.randbelow(MAX_SEED) if self.seed is None else self.seed
        if self.stop is not None:
            found["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if count > 1 and self.stream:
            raise Refused(422, f"n: it is {count}. A stream has one answer.")
        if count > own.num_beams and count > 1 and not is_drawn:
            raise Refused(422, f"n: it is {count}. Several answers need a temperature above 0.")
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
        predictor = replace_generation(
            served.predictor, **body.settings(served.predictor.generation)
        )
        completion = _Completion(served.name, bool(body.stream))
        with served.room(request) as room:
            messages = await served.read(request, lambda: _messages(served, body.messages))
            if not body.stream:
                row = Row(0, {"messages": [each.to_json() for each in messages]}, "messages")
                encoded = await served.encode(request, [row], truncate=None)
                (answer,) = await served.answers(request, encoded, room, predictor)
                note(encoded, figures, response)
                return completion.whole(answer, _num_asked(encoded))
            asked = await served.read(request, lambda: _asked(served, predictor, messages))
            figures.read(len(asked.token_ids))
            stream = _Stream(served, predictor, asked, room.pop_all())
        piece = await stream.first(request)
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        lines = _lines(stream, piece, completion, len(asked.token_ids), with_usage)
        return StreamingResponse(lines, media_type="text/event-stream")

    return router


def _messages(served: ServedModel, messages: list[dict[str, Any]]) -> tuple[Message, ...]:
    """Returns the turns of a conversation. Raises Refused for one that the model cannot read."""
    task: Any = served.task
    turns = messages_of(Row(0, {"messages": messages}, "the request"), None, task.system)
    length = whole_length(served.tokenizer, turns, "the request")
    if length > task.prompt_room:  # before it is cut, which takes longer
        needed = f"The model reads {task.prompt_room:,} before its answer."
        raise Refused(413, f"messages: it has {length:,} tokens. {needed}")
    return turns


def _asked(served: ServedModel, predictor: Predictor, messages: Sequence[Message]) -> Asked:
    asked = ask(replace(predictor, tokenizer=served.tokenizer), messages)
    if asked.num_cut:
        found = f"messages: it has {asked.num_cut:,} tokens more than the model reads"
        raise Refused(413, f"{found} before its answer.")
    return replace(asked, row_id=0)  # as where the answer comes whole


def _num_asked(encoded: Encoded) -> int:
    marks_N = encoded.features[0][-1].streams["text"].type_ids
    return prompt_length(np.asarray(marks_N))


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
    """An answer that is read while it is written in the model's thread; it gives its room back."""

    def __init__(
        self, served: ServedModel, predictor: Predictor, asked: Asked, room: ExitStack
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self._gone = threading.Event()
        with room:  # given back at once where the queue is closed
            self._future = served.queue.run(lambda: self._write(predictor, asked))
            given_back_after(self._future, room.pop_all())

    def _write(self, predictor: Predictor, asked: Asked) -> None:
        try:
            self._put(reply(predictor, asked, self._hear))
        except _Gone:
            pass
        except BaseException as error:  # a tokenizer's panic is no Exception
            self._put(error)

    def _hear(self, piece: str) -> None:
        if self._gone.is_set():
            raise _Gone
        self._put(piece)

    def _put(self, piece: Piece) -> None:
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    async def first(self, request: Request) -> str | Generated:
        """Returns the first piece. Raises what kept the model from writing any."""
        try:
            piece = await awaited(request, asyncio.ensure_future(self._pieces.get()))
        except BaseException:
            self.leave()
            raise
        if isinstance(piece, BaseException):
            raise piece
        return piece

    async def next(self) -> Piece:
        return await self._pieces.get()

    def leave(self) -> None:
        """Ends the writing at its next token, or before it begins."""
        self._gone.set()
        self._future.cancel()


async def _lines(
    stream: _Stream,
    first: str | Generated,
    completion: _Completion,
    num_asked: int,
    with_usage: bool,
) -> AsyncIterator[bytes]:
    """Yields an answer as server-sent events."""
    piece: Piece = first
    try:
        yield _event(completion.piece({"role": "assistant", "content": ""}))
        while isinstance(piece, str):
            yield _event(completion.piece({"content": piece}))
            piece = await stream.next()
        if isinstance(piece, BaseException):
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
