"""The routes of a model of sentence vectors."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request, Response
from pydantic import Field

from tunewright.data.checks import is_blank
from tunewright.models.pooling import quantised
from tunewright.retrieval.embedder import of_unit_length
from tunewright.server.common import Body, Texts, note
from tunewright.server.figures import Figures
from tunewright.server.inputs import MAX_ROWS
from tunewright.server.refusals import Refused
from tunewright.server.served import Encoded, ServedModel, raw_vectors
from tunewright.types import Row

Floats = npt.NDArray[np.float32]
Purpose = Literal["query", "document"]
EncodingFormat = Literal["float", "base64", "binary", "ubinary"]
Dimensions = Annotated[int, Field(ge=1, le=1_000_000)]


class Embedded(Body):
    inputs: str | Texts
    truncate: bool = False
    normalize: bool = True
    dimensions: Dimensions | None = None
    prompt_name: Purpose = "document"


class OpenAIEmbedded(Body):
    input: str | Texts
    model: str | None = None
    encoding_format: EncodingFormat = "float"
    dimensions: Dimensions | None = None
    user: str | None = None


class Compared(Body):
    source_sentence: str
    sentences: Texts


class SimilarityParameters(Body):
    truncate: bool = False
    prompt_name: Purpose = "document"


class SimilarityAsked(Body):
    inputs: Compared
    parameters: SimilarityParameters = SimilarityParameters()


def vector_routes(served: ServedModel, figures: Figures) -> APIRouter:
    router = APIRouter()
    raw = raw_vectors(served.predictor)

    async def vectors(
        request: Request,
        response: Response,
        texts: Sequence[str],
        purpose: Purpose = "document",
        truncate: bool | None = None,
    ) -> tuple[Floats, Encoded]:
        rows = _rows(texts, purpose)
        with served.room(request, len(rows)) as room:
            encoded = await served.encode(request, rows, truncate)
            answers = await served.answers(request, encoded, room, raw)
        note(encoded, figures, response)
        return np.stack([answer.values for answer in answers]), encoded

    @router.post("/embed")
    async def embed(body: Embedded, request: Request, response: Response) -> list[list[float]]:
        """Returns a vector for each text."""
        found, _ = await vectors(
            request, response, _several(body.inputs), body.prompt_name, body.truncate
        )
        return _finished(served, found, body.dimensions, body.normalize).tolist()

    @router.post("/v1/embeddings")
    async def embeddings(
        body: OpenAIEmbedded, request: Request, response: Response
    ) -> dict[str, Any]:
        """Returns OpenAI's answer; in base64 a vector is its float32 bytes, the lowest first.

        In binary and ubinary it is the signs of its numbers, 8 in a byte.
        """
        found, encoded = await vectors(request, response, _several(body.input))
        rows = _finished(served, found, body.dimensions, True)
        data = [
            {"object": "embedding", "index": place, "embedding": coded}
            for place, coded in enumerate(_coded(rows, body.encoding_format))
        ]
        usage = {"prompt_tokens": encoded.num_tokens, "total_tokens": encoded.num_tokens}
        return {"object": "list", "data": data, "model": served.name, "usage": usage}

    @router.post("/similarity")
    async def similarity(
        body: SimilarityAsked, request: Request, response: Response
    ) -> list[float]:
        """Returns the cosine of a sentence and each of others."""
        asked, how = body.inputs, body.parameters
        texts = [asked.source_sentence, *asked.sentences]
        found, _ = await vectors(request, response, texts, how.prompt_name, how.truncate)
        unit = of_unit_length(found)
        return (unit[1:] @ unit[0]).tolist()

    return router


def _several(inputs: str | list[str]) -> list[str]:
    return [inputs] if isinstance(inputs, str) else inputs


def _rows(texts: Sequence[str], purpose: Purpose) -> list[Row]:
    if not texts or any(map(is_blank, texts)):
        raise Refused(400, "inputs: a text is empty.")
    if len(texts) > MAX_ROWS:
        raise Refused(413, f"inputs: it has {len(texts):,} texts. At most {MAX_ROWS} are read.")
    return [
        Row(place, {"anchor": text, "prompt_name": purpose}, "inputs")
        for place, text in enumerate(texts)
    ]


def _finished(
    served: ServedModel, vectors_BD: Floats, dimensions: int | None, normalize: bool
) -> Floats:
    """Returns whole vectors cut to their first numbers, then of length 1 if so wished."""
    size = dimensions or getattr(served.task, "dimensions", None)
    full = vectors_BD.shape[1]
    if size is not None and size > full:
        raise Refused(422, f"dimensions: it is {size:,}. The model's vectors have {full} numbers.")
    cut = vectors_BD[:, :size]
    return of_unit_length(cut) if normalize else cut


def _coded(vectors_BD: Floats, form: EncodingFormat) -> list[str] | list[list[float]]:
    """Returns what stands for each vector in an answer."""
    if form == "base64":
        return [_in_base64(vector_D) for vector_D in vectors_BD]
    return (vectors_BD if form == "float" else quantised(vectors_BD, form)).tolist()


def _in_base64(vector_D: Floats) -> str:
    return base64.b64encode(vector_D.astype("<f4").tobytes()).decode()
