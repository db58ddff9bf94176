"""What a server says when it cannot answer: a status, and `{"error", "error_type"}`.

The types are those of text-embeddings-inference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tunewright.errors import Overloaded, UserError

TYPES = {400: "Empty", 413: "Validation", 422: "Validation", 429: "Overloaded", 503: "Unhealthy"}
CLIENT_GONE = 499  # nobody hears it; it stands in the figures, as nginx counts it
RETRY_AFTER = {"retry-after": "1"}  # seconds


class Refused(Exception):
    """A request that is not answered, with the HTTP status that says why."""

    def __init__(self, status: int, message: str, error_type: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type or TYPES.get(status, "Validation")

    def to_json(self) -> dict[str, str]:
        return {"error": str(self), "error_type": self.error_type}


def body_of(refused: Refused) -> bytes:
    """Returns a refusal as the body of an answer."""
    return json.dumps(refused.to_json(), ensure_ascii=False).encode("utf-8", "replace")


def refusal_of(error: BaseException, model: str) -> Refused:
    """Returns what is said for an error; of a fault of ours only that there was one."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Overloaded):
        return Refused(429, str(error))
    if isinstance(error, UserError):
        return Refused(422, str(error))
    if isinstance(error, RecursionError):
        return Refused(422, "The body is nested too deep.")
    return Refused(500, f"{model}: it failed to answer. The server's log says why.", "Backend")


def add_refusals(app: FastAPI, model: str) -> None:
    """Lets every error of a route be said in one shape."""

    def said(_: Request, error: Any) -> JSONResponse:
        refused = refusal_of(error, model)
        headers = RETRY_AFTER if refused.status in (429, 503) else None
        return JSONResponse(refused.to_json(), refused.status, headers)

    def invalid(request: Request, error: Any) -> JSONResponse:
        return said(request, _invalid(error))

    def failed(request: Request, error: Any) -> JSONResponse:
        words = f"{request.method} {request.url.path}: {error.detail}."
        if error.status_code == 404:
            words += f" There is {', '.join(app.openapi()['paths'])}."
        return said(request, Refused(error.status_code, words, "Validation"))

    for kind in (Refused, Overloaded, UserError, RecursionError, Exception):
        app.add_exception_handler(kind, said)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, failed)


def _invalid(error: RequestValidationError) -> Refused:
    """Returns the first of the mistakes in a body, with its place; too much goes before others."""
    mistakes = error.errors()
    first = next((each for each in mistakes if each["type"] == "too_long"), mistakes[0])
    if first["type"] == "too_long" and first["ctx"]["max_length"]:
        context = first["ctx"]
        found = f"it has {context['actual_length'] or 'more'} items"
        return Refused(413, f"{_place(first)}: {found}. At most {context['max_length']} are read.")
    if first["type"] == "json_invalid":
        return Refused(400, f"The body is no JSON: {first['ctx']['error']}.", "Validation")
    if len(first["loc"]) == 1 and first["input"] is None:
        return Refused(400, "The body is empty. A JSON object is needed.")
    found = f"{first['input']!r:.60}"
    return Refused(422, f"{_place(first)}: it is {found}. {first['msg']}.")


def _place(mistake: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in mistake["loc"][1:]) or "The body"
