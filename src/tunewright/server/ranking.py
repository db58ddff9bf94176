"""The routes of a reranker: texts in the order in which they answer a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tunewright.answers import Ranking
from tunewright.data.checks import is_blank
from tunewright.server.common import Body, Texts, note
from tunewright.server.figures import Figures
from tunewright.server.inputs import MAX_ROWS
from tunewright.server.refusals import Refused
from tunewright.server.served import Encoded, ServedModel
from tunewright.types import Row


class Reranked(Body):
    query: str
    texts: Texts
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool = False


class CohereReranked(Body):
    query: str
    documents: Annotated[list[str | dict[str, Any]], Field(max_length=MAX_ROWS)]
    model: str | None = None
    top_n: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    return_documents: bool = False


def ranking_routes(served: ServedModel, figures: Figures) -> APIRouter:
    router = APIRouter()

    async def ranked(
        request: Request,
        response: Response,
        query: str,
        texts: Sequence[str],
        truncate: bool | None,
    ) -> tuple[Ranking, Encoded]:
        if not texts or is_blank(query):
            raise Refused(400, "query, texts: a query and at least one text are needed.")
        row = Row(0, {"query": query, "text": list(texts)}, "inputs")
        with served.room(request, len(texts)) as room:
            encoded = await served.encode(request, [row], truncate)
            (answer,) = await served.answers(request, encoded, room)
        note(encoded, figures, response)
        return answer, encoded

    @router.post("/rerank")
    async def rerank(body: Reranked, request: Request, response: Response) -> list[dict[str, Any]]:
        """Returns the places of texts with their scores, the best first."""
        ranking, _ = await ranked(request, response, body.query, body.texts, body.truncate)
        scores = ranking.logits if body.raw_scores else ranking.scores
        return [
            {"index": place, "score": scores[place]}
            | ({"text": body.texts[place]} if body.return_text else {})
            for place in ranking.order
        ]

    @router.post("/v1/rerank")
    async def cohere(body: CohereReranked, request: Request, response: Response) -> dict[str, Any]:
        """Returns the answer of Cohere's and Jina's routes."""
        texts = [_text_of(document, place) for place, document in enumerate(body.documents)]
        ranking, encoded = await ranked(request, response, body.query, texts, None)
        results = [
            {"index": place, "relevance_score": ranking.scores[place]}
            | ({"document": {"text": texts[place]}} if body.return_documents else {})
            for place in ranking.order[: body.top_n]
        ]
        return {
            "model": served.name,
            "results": results,
            "usage": {"total_tokens": encoded.num_tokens},
        }

    return router


def _text_of(document: str | dict[str, Any], place: int) -> str:
    text = document if isinstance(document, str) else document.get("text")
    if not isinstance(text, str):
        raise Refused(422, f'documents[{place}]: a text, or {{"text": "..."}}, is needed.')
    return text
