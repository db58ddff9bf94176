"""`serve`: a model over HTTP."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

from tunewright.cli import show
from tunewright.cli.words import as_asked, writing_of
from tunewright.errors import SettingsError

EXTRA = ("fastapi", "uvicorn", "prometheus_client")


def serve_and_show(
    folder: str,
    pairs: Sequence[str],
    *,
    host: str,
    port: int,
    api_key: str | None,
    name: str | None,
    precision: str,
    exact: bool,
    as_json: bool,
) -> None:
    """Serves until it is stopped; says where, as soon as requests are taken."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise SettingsError(
            "serve", f"{missing[0]} is not installed", "", 'pip install "tunewright[serve]"'
        )
    from tunewright.run.loaded import load
    from tunewright.server.run import listening, serve_at

    def say(address: str) -> None:
        if as_json:
            show.print_json({"address": address})
            sys.stdout.flush()
        else:
            show.say(f"{folder} answers at {address} (routes: /openapi.json). Ctrl-C ends it.")

    with listening(host, port, api_key) as place:
        writing_of(pairs)  # what is wrong there is said before the model is loaded
        model = load(folder, precision, exact=exact)  # type: ignore[arg-type]
        model = replace(model, predictor=as_asked(model.predictor, pairs))
        serve_at(place, model, name, api_key=api_key, say=say)
