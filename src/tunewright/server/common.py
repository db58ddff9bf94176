"""The routes that every model has: answers of any task, tokens, and what the server is."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from tunewright import __version__
from tunewright.models.pooling import Pooling
from tunewright.server.figures import Figures
from tunewright.server.inputs import MAX_ROWS, num_asked, rows_of
from tunewright.server.refusals import Refused
from tunewright.server.served import Encoded, ServedModel
from tunewright.server.shapes import shape_of
from tunewright.tasks.reranking import Reranking
from tunewright.tasks.sentence_embedding import SentenceEmbedding

MAX_CHARACTERS = 200_000  # of the texts of one request whose tokens are shown
CUT = "x-truncated-tokens"

Texts = Annotated[list[str], Field(max_length=MAX_ROWS)]


class Body(BaseModel):
    """A request's body: what it does not know is a mistake, and a number is no text."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Asked(Body):
    inputs: Any
    truncate: bool = False
    raw_scores: bool = False


class Tokenized(Body):
    inputs: str | Texts
    add_special_tokens: bool = True


def common_routes(served: ServedModel, figures: Figures) -> APIRouter:
    router = APIRouter()

    @router.post("/predict")
    async def predict(body: Asked, request: Request, response: Response) -> Any:
        """Answers rows: a text, a pair, an object with columns, or a batch of these."""
        with served.room(request, num_asked(body.inputs)) as room:
            rows, is_batch = await served.read(request, lambda: rows_of(served.model, body.inputs))
            encoded = await served.encode(request, rows, body.truncate)
            answers = await served.answers(request, encoded, room)
        note(encoded, figures, response)
        shapes = [shape_of(answer, body.raw_scores) for answer in answers]
        return shapes if is_batch else shapes[0]

    @router.post("/tokenize")
    async def tokenize(body: Tokenized, request: Request) -> Response:
        """Returns the tokens of texts, with their places in characters."""
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        size = sum(map(len, texts))
        if size > MAX_CHARACTERS:
            needed = f"At most {MAX_CHARACTERS:,} are read."
            raise Refused(413, f"inputs: it has {size:,} characters. {needed}")

        def found() -> bytes:
            tokenizer, special = served.tokenizer, body.add_special_tokens
            tokens = [tokens_of(tokenizer, text, special) for text in texts]
            return json.dumps(tokens, ensure_ascii=False).encode()

        with served.room(request, len(texts)):
            content = await served.read(request, found)
        return Response(content, media_type="application/json")

    @router.get("/info")
    async def info() -> dict[str, Any]:
        """Says which model this is, what it does, and what it takes."""
        return info_of(served)

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        entry = {"id": served.name, "object": "model", "created": 0, "owned_by": "tunewright"}
        return {"object": "list", "data": [entry]}

    @router.get("/health")
    async def health() -> Response:
        """Says 200 while requests are taken, 503 from the moment on when the server stops."""
        if served.stopping:
            raise Refused(503, "The server is about to stop.")
        return Response()

    @router.get("/metrics")
    async def metrics() -> Response:
        """Returns figures for Prometheus."""
        return Response(figures.text(), media_type=figures.content_type)

    return router


def note(encoded: Encoded, figures: Figures, response: Response) -> None:
    """Counts the tokens of a request, and says in the answer's head how many were cut."""
    figures.read(encoded.num_tokens)
    if encoded.num_cut:
        response.headers[CUT] = str(encoded.num_cut)


def tokens_of(tokenizer: Any, text: str, add_special_tokens: bool) -> list[dict[str, Any]]:
    found = tokenizer.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
    return [
        {"id": number, "text": token, "special": bool(special)}
        | ({} if special else {"start": start, "stop": stop})
        for number, token, special, (start, stop) in zip(
            found.ids, found.tokens, found.special_tokens_mask, found.offsets, strict=True
        )
    ]


def info_of(served: ServedModel) -> dict[str, Any]:
    """Returns the names of text-embeddings-inference's `/info`, with the task and its columns."""
    task, device = served.task, served.predictor.device
    return {
        "model_id": served.name,
        "model_type": _kind(served),
        "model_dtype": {"bf16": "bfloat16", "fp32": "float32"}[device.precision],
        "max_input_length": getattr(task, "max_length", None),
        "max_client_batch_size": MAX_ROWS,
        "max_concurrent_requests": served.queue.max_rows,
        "version": __version__,
        "task": task.name,
        "columns": {role.name: role.help for role in task.roles if not role.only_training},
    }


def _kind(served: ServedModel) -> dict[str, Any]:
    task = served.task
    if isinstance(task, SentenceEmbedding):
        pooling: Pooling = task.pooling or "mean"
        return {"embedding": {"pooling": pooling}}
    labels = [str(label) for label in getattr(task, "labels", ())]
    names = {str(place): label for place, label in enumerate(labels)}
    if isinstance(task, Reranking):
        return {"reranker": {}}
    if labels:
        known = {label: place for place, label in enumerate(labels)}
        return {"classifier": {"id2label": names, "label2id": known}}
    return {task.name.replace("-", "_"): {}}
