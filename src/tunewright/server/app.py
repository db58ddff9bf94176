"""The application: the routes that a model has, behind the guard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from tunewright import __version__
from tunewright.run.loaded import TrainedModel
from tunewright.server.chat import chat_routes
from tunewright.server.common import common_routes
from tunewright.server.figures import Figures
from tunewright.server.guard import Bounds, Guard
from tunewright.server.ranking import ranking_routes
from tunewright.server.refusals import add_refusals
from tunewright.server.served import ServedModel
from tunewright.server.vectors import vector_routes
from tunewright.tasks.reranking import Reranking
from tunewright.tasks.sentence_embedding import SentenceEmbedding
from tunewright.tasks.text_generation import TextGeneration

PICTURE_BYTES = 32_000_000  # of a body where the model reads pictures: 24 MB of them in base64


def build_app(
    model: TrainedModel,
    name: str | None = None,
    *,
    api_key: str | None = None,
    bounds: Bounds | None = None,
) -> Guard:
    """Returns an ASGI application that serves a model, for any ASGI server.

    `name` is what clients call the model: by default the name of its run. With `api_key` every
    route but `/health` wants it as a bearer token. `bounds` are those of a request: by default
    bodies of 2 MB, or 32 MB for a model that reads pictures.
    """
    task = model.predictor.task
    if bounds is None:
        bounds = Bounds(max_bytes=PICTURE_BYTES) if task.picture_roles else Bounds()
    served = ServedModel(model, name or _name_of(model))
    figures = Figures(lambda: served.queue.num_rows)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(served.close)

    app = FastAPI(
        title=f"Tunewright: {served.name}",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # pages that fetch their scripts from another server
        redoc_url=None,
    )
    add_refusals(app, served.name)
    app.include_router(common_routes(served, figures))
    for kind, routes in (
        (SentenceEmbedding, vector_routes),
        (Reranking, ranking_routes),
        (TextGeneration, chat_routes),
    ):
        if isinstance(task, kind):
            app.include_router(routes(served, figures))
    figures.paths = frozenset(app.openapi()["paths"])
    return Guard(app, api_key, bounds, figures.heard, served.stop, lambda: served.queue.is_full)


def _name_of(model: TrainedModel) -> str:
    """Returns the name of a run, or of a model's folder."""
    folder = model.folder.absolute()
    return folder.parent.name if folder.name == "model" else folder.name
