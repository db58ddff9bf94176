"""`serve`: a model over HTTP."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from tunewright.cli import show
from tunewright.cli.words import writing_of
from tunewright.errors import SettingsError

EXTRA = ("fastapi", "uvicorn", "prometheus_client")


def serve_and_show(
    folder: str,
    pairs: Sequence[str],
    listen: Mapping[str, Any],
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
    from tunewright.prediction.predictor import replace_generation
    from tunewright.run.loaded import load
    from tunewright.server.run import serve

    model = load(folder, precision, exact=exact)  # type: ignore[arg-type]
    written = writing_of(pairs)
    if written:
        model = replace(model, predictor=replace_generation(model.predictor, **written))

    def say(address: str) -> None:
        if as_json:
            show.print_json({"address": address})
            sys.stdout.flush()
        else:
            show.say(f"{folder} answers at {address} (routes: /openapi.json). Ctrl-C ends it.")

    serve(model, **listen, say=say)
