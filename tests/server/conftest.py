"""Tiny models of every task behind a server, each built once."""

from __future__ import annotations

import base64

import pytest
from fastapi.testclient import TestClient

from tests.tasks.examples import ARCHITECTURES, EXAMPLES, SETTINGS, rows_of
from tests.training.loops import CPU
from tunewright.models.files.folder import save_model
from tunewright.models.generating.generation import Generation
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.run.loaded import TrainedModel
from tunewright.server.app import build_app
from tunewright.tasks import find_task


def as_json(value):
    """The value as it comes in JSON: bytes in base64."""
    if isinstance(value, dict):
        if "bytes" in value:
            return as_json(value["bytes"])
        return {key: as_json(item) for key, item in value.items()}
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def copy_of(model, folder):
    """Saves a model where a process of its own can load it."""
    save_model(model.predictor.model, model.predictor.tokenizer, folder)
    (folder / "task.json").write_text(model.predictor.task.to_json_text(), encoding="utf-8")
    (folder / "manifest.json").unlink()
    return folder


@pytest.fixture(scope="session")
def model_of(tiny_folder):
    """Returns a function (task name, **settings of the task) -> TrainedModel of a tiny model."""
    built = {}

    def build(name, **settings):
        key = (name, *settings.items())
        if key not in built:
            rows = rows_of(EXAMPLES[name])
            chosen = {**SETTINGS.get(name, {}), **settings}
            task = find_task(name)(**chosen).within(128).learn(rows)
            folder = tiny_folder(ARCHITECTURES.get(name, "bert"))
            tokenizer = load_tokenizer(folder)
            model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
            task.route(model)
            predictor = Predictor(
                task, model, tokenizer, CPU, generation=Generation(max_new_tokens=8), exact=True
            )
            built[key] = TrainedModel(predictor, folder, {})
        return built[key]

    return build


@pytest.fixture
def serve(model_of):
    """Returns a function (task name, **of build_app) -> client; its errors are answers."""
    opened = []

    def open_client(name, settings=None, **options):
        app = build_app(model_of(name, **settings or {}), name, **options)
        client = TestClient(app, raise_server_exceptions=False)
        opened.append(client)
        return client.__enter__()

    yield open_client
    for client in opened:
        client.__exit__(None, None, None)
