"""Weights in fewer bits: near the full ones, alike in training and evaluation, and back again."""

from __future__ import annotations

import sys

import pytest
import torch

from tests.models.test_adapters import PROMPT, stream
from tests.tiny import tiny_model
from tunewright.errors import ModelError, SettingsError
from tunewright.models.adapting.adapter_config import ADAPTERS, AdapterConfig
from tunewright.models.adapting.adapters import adapters_of, attach
from tunewright.models.adapting.quantised import quantise, restore
from tunewright.models.files.architecture import SEQUENCE_CLASSIFIER
from tunewright.models.files.loading import load_classifier
from tunewright.models.heads import choose_route, classify

LABELS = ("label-0", "label-1", "label-2")
# Relative error of a matrix: half a step of 127, and of sixteen quantiles.
ERRORS = {"8bit": 0.01, "4bit": 0.12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sizes = {"hidden_size": 64, "intermediate_size": 128}
    return tiny_model("bert", tmp_path_factory.mktemp("wide") / "bert", settings=sizes)


@pytest.fixture
def model(folder):
    return load_classifier(folder, LABELS, pad_token_id=0).model


@pytest.mark.parametrize("bits", ERRORS)
def test_the_weights_are_near_the_full_ones_and_take_less(model, bits):
    before = {n: p.clone() for n, p in model.named_parameters()}
    quantise(model, bits)
    layers = model.bert.encoder.layer
    small = sum(p.nbytes for n, p in layers.named_parameters() if n.endswith("dense.weight"))
    full = sum(p.nbytes for n, p in before.items() if ".layer." in n and n.endswith("dense.weight"))
    assert small == full / (4 if bits == "8bit" else 8)
    restore(model)
    for name, parameter in model.named_parameters():
        full = before[name]
        error = (parameter - full).norm() / full.norm().clamp(min=1e-9)
        is_layer = ".layer." in name and "LayerNorm" not in name and name.endswith("weight")
        assert 0 < error < ERRORS[bits] if is_layer else torch.equal(parameter, full), name


@pytest.mark.parametrize("bits", ERRORS)
def test_training_and_evaluation_answer_alike_and_gradients_pass_after_both(model, bits):
    attach(model, AdapterConfig(name="lora", quantize=bits), SEQUENCE_CLASSIFIER)
    assert choose_route(model.eval()) == "packed"
    with torch.no_grad():
        evaluated = classify(model, stream(7, 3))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trained = classify(model.train(), stream(7, 3))
    torch.testing.assert_close(trained, evaluated, atol=1e-5, rtol=1e-5)
    trained.sum().backward()
    lowest = model.bert.encoder.layer[0].attention.self.query.lora_B["default"].weight
    assert lowest.grad.abs().max() > 0


@pytest.mark.parametrize("bits", ERRORS)
@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_stands_on_them(model, name, bits):
    attach(model, AdapterConfig(name=name, quantize=bits), SEQUENCE_CLASSIFIER)
    padded = name in ("prefix", "prompt", "p-tuning")
    assert choose_route(model) == (PROMPT if padded else "packed")
    classify(model, stream(5, 6)).sum().backward()
    assert all(p.grad is not None for p in adapters_of(model).parameters)


@pytest.mark.parametrize("bits", ERRORS)
def test_an_answer_is_that_of_the_numbers_that_stand_for_the_weights(model, bits):
    quantise(model, bits)
    with torch.no_grad():
        expected = classify(model, stream(9, 4))
        restore(model)
        torch.testing.assert_close(classify(model, stream(9, 4)), expected, atol=1e-5, rtol=1e-5)


def refusal(call, *arguments):
    with pytest.raises(SettingsError) as caught:
        call(*arguments)
    return str(caught.value)


def test_layers_that_are_no_linear_ones_are_refused(tiny_folder):
    model = load_classifier(tiny_folder("gpt2"), LABELS, pad_token_id=0).model
    assert refusal(quantise, model, "4bit") == (
        "adapter.quantize: the layers of gpt2 cannot be kept in 4bit. bitsandbytes has its own for "
        "torch's linear layers. Leave it off, or use another model."
    )


def test_weights_that_come_back_wrong_are_refused(model, monkeypatch):
    bnb = pytest.importorskip("bitsandbytes")
    right = bnb.functional.dequantize_4bit
    monkeypatch.setattr(bnb.functional, "dequantize_4bit", lambda *given: 1.5 * right(*given))
    with pytest.raises(ModelError) as caught:
        quantise(model, "4bit")
    assert str(caught.value).startswith(
        'adapter.quantize=4bit: the weights of "encoder.layer.0.attention.self.query", [64, 64], '
        "come back 5"
    )


def test_without_bitsandbytes_it_is_said_how_to_get_it(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert refusal(quantise, model, "8bit") == (
        "adapter.quantize: bitsandbytes is not installed. It keeps weights in fewer bits. "
        'Run: pip install "tunewright[quantised]"'
    )
