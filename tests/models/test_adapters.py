"""Adapters in a model: who learns, which way the model runs, and what the bottleneck computes."""

from __future__ import annotations

import sys

import pytest
import torch

from tunewright.errors import SettingsError
from tunewright.models.adapting.adapter_config import ADAPTERS, PROMPTS, AdapterConfig
from tunewright.models.adapting.adapters import Bottleneck, adapters_of, attach, is_adapter, stirred
from tunewright.models.batch import PackedStream
from tunewright.models.files.architecture import ENCODER, MASKED_LM, SEQUENCE_CLASSIFIER
from tunewright.models.files.loading import load_classifier, load_library_model
from tunewright.models.heads import choose_route, classify

LABELS = ("label-0", "label-1", "label-2")
PROMPT = "padded: a prompt stands before each text, and a packed row would have one"


def stream(*lengths):
    boundaries = [0]
    for length in lengths:
        boundaries.append(boundaries[-1] + length)
    ids = torch.arange(boundaries[-1]) % 50 + 10
    positions = torch.cat([torch.arange(length) for length in lengths])
    return PackedStream(ids, positions, tuple(boundaries))


@pytest.fixture
def adapted(tiny_folder):
    """Returns a function (name, architecture, ...) -> classifier with that adapter, unrouted."""

    def build(name, architecture="bert", **settings):
        model = load_classifier(tiny_folder(architecture), LABELS, pad_token_id=0).model
        attach(model, AdapterConfig(name=name, **settings), SEQUENCE_CLASSIFIER)
        return model

    return build


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "gpt2", "qwen3", "albert"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_every_method_takes_the_route_that_is_right_with_it(adapted, name, architecture):
    if name == "prefix" and architecture in ("albert", "modernbert"):
        pytest.skip("their attention takes no keys from outside")
    assert choose_route(adapted(name, architecture)) == (PROMPT if name in PROMPTS else "packed")


@pytest.mark.parametrize("name", ["lora", "bottleneck"])
def test_a_model_that_cannot_run_packed_runs_padded_with_an_adapter(adapted, name):
    assert choose_route(adapted(name, "mpnet")).startswith("padded: mpnet does not follow")


def test_the_probe_sees_adapters_that_are_still_nothing(adapted):
    model = adapted("lora")
    probe = stream(5, 9)
    with torch.no_grad():
        plain = classify(model, probe)
        with stirred(model):
            changed = classify(model, probe)
        again = classify(model, probe)
    assert (changed - plain).abs().max() > 0.1
    assert torch.equal(plain, again)


def test_a_route_that_loses_the_adapter_is_refused(adapted):
    model = adapted("lora")
    (adapters,) = [adapters_of(model)]

    def forgetful(model, probe):
        if model.config._attn_implementation != "packed":
            return classify(model, probe)
        with adapters.peft.disable_adapter():
            return classify(model, probe)

    assert choose_route(model, forgetful).startswith("padded: packed logits differ")


@pytest.mark.parametrize("name", ADAPTERS)
def test_only_the_adapter_and_the_head_learn(adapted, name):
    model = adapted(name)
    learning = [n for n, p in model.named_parameters() if p.requires_grad]
    heads = [n for n in learning if not is_adapter(n)]
    assert any(is_adapter(n) for n in learning)
    assert {n.split(".")[0] for n in heads} == {"classifier", "bert"}
    assert all("classifier" in n or "pooler" in n for n in heads)


@pytest.mark.parametrize("name", ["lora", "dora", "adalora", "ia3", "bottleneck"])
def test_a_new_adapter_leaves_the_answers_as_they_were(adapted, tiny_folder, name):
    plain = load_classifier(tiny_folder("bert"), LABELS, pad_token_id=0).model
    expected = classify(plain, stream(7, 3))
    tolerance = 0.05 if name == "bottleneck" else 1e-5
    torch.testing.assert_close(classify(adapted(name), stream(7, 3)), expected,
                               atol=tolerance, rtol=0)  # fmt: skip


def test_attaching_is_the_same_for_the_same_seed_and_leaves_the_random_state(adapted):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, second = (adapted("lora") for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    for (name, one), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_backward_stops_at_the_lowest_adapter(tiny_folder):
    model = load_classifier(tiny_folder("bert"), LABELS, pad_token_id=0).model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layer.1" in name or "classifier" in name)
    attach(model, AdapterConfig(name="lora"), SEQUENCE_CLASSIFIER)
    kept = []
    layers = model.bert.encoder.layer
    for layer in layers:
        layer.register_forward_hook(lambda _, __, output: kept.append(output.requires_grad))
    classify(model, stream(6)).sum().backward()
    assert kept == [False, True]
    assert not any(is_adapter(name) for name, _ in layers[0].named_parameters())
    assert all(p.grad is None for p in layers[0].parameters())


def kept_bytes(model):
    """What a forward pass keeps for the backward pass, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def take(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(take, lambda tensor: tensor):
        outputs = classify(model, stream(30, 34))
    return sum(kept.values()), outputs


@pytest.mark.parametrize("name", ["ia3", "prompt", "prefix", "bottleneck"])
def test_layers_that_are_frozen_keep_less_for_the_backward_pass(adapted, tiny_folder, name):
    whole = load_classifier(tiny_folder("bert"), LABELS, pad_token_id=0).model
    model = adapted(name, bottleneck_size=4, num_virtual_tokens=1)
    assert kept_bytes(model)[0] < kept_bytes(whole)[0]


def test_layers_under_the_lowest_adapter_keep_nothing(tiny_folder):
    kept = []
    for frozen in ((), ("embeddings", "layer.0")):
        model = load_classifier(tiny_folder("bert"), LABELS, pad_token_id=0).model
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not any(part in name for part in frozen))
        attach(model, AdapterConfig(name="lora"), SEQUENCE_CLASSIFIER)
        kept.append(kept_bytes(model)[0])
    assert kept[1] < 0.6 * kept[0]


def test_the_bottleneck_is_the_formula():
    layer = torch.nn.Linear(6, 4)
    bottleneck = Bottleneck(layer, 3)
    down, up = bottleneck.adapter_down, bottleneck.adapter_up
    for parameter in (down.bias, up.bias):
        torch.nn.init.normal_(parameter)
    values = torch.randn(5, 6)
    hidden = values @ layer.weight.T + layer.bias
    inner = hidden @ down.weight.T + down.bias
    gelu = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    expected = hidden + gelu @ up.weight.T + up.bias
    torch.testing.assert_close(bottleneck(values), expected)


@pytest.mark.parametrize(("placement", "places"), [("houlsby", 4), ("pfeiffer", 2)])
def test_bottlenecks_stand_where_they_are_wanted(adapted, placement, places):
    model = adapted("bottleneck", placement=placement, bottleneck_size=5)
    found = [n for n, m in model.named_modules() if isinstance(m, Bottleneck)]
    assert len(found) == places
    assert all(n.endswith("output.dense") for n in found)
    assert any(".attention." in n for n in found) == (placement == "houlsby")


def test_target_modules_are_ends_of_names(adapted):
    model = adapted("lora", target_modules=("query", "value"))
    layers = {n.split(".lora_A")[0] for n, _ in model.named_parameters() if ".lora_A." in n}
    assert {n.split(".")[-1] for n in layers} == {"query", "value"}


def refusal(call, *arguments, **named):
    with pytest.raises(SettingsError) as caught:
        call(*arguments, **named)
    return str(caught.value)


def test_target_modules_that_nothing_has(adapted):
    assert refusal(adapted, "lora", target_modules=("q_proj",)) == (
        'adapter.target_modules: no layer that learns ends in "q_proj". There are '
        '"attention.output.dense", "attention.self.key", "attention.self.query", '
        '"attention.self.value", "intermediate.dense", "output.dense". Name some of them.'
    )


def test_a_prefix_needs_attention_that_takes_one(adapted):
    assert refusal(adapted, "prefix", "distilbert") == (
        "adapter prefix: the attention of distilbert takes no keys and values from outside. A "
        'prefix is made of them. Use adapter "prompt" or "lora".'
    )


def test_peft_has_no_prompts_for_a_masked_language_model(tiny_folder):
    model = load_library_model(tiny_folder("bert"), MASKED_LM).model
    assert refusal(attach, model, AdapterConfig(name="prompt"), MASKED_LM) == (
        "adapter prompt: peft has none for a masked language model. Use lora, or another one that "
        "changes layers."
    )


def test_all_layers_frozen(tiny_folder):
    model = load_library_model(tiny_folder("bert"), ENCODER).model.requires_grad_(False)
    assert refusal(attach, model, AdapterConfig(name="lora"), ENCODER) == (
        "adapter lora: all layers are frozen, or it finds none. It is put into linear layers that "
        "would learn. Lower training.freeze_layers, or name another model."
    )


def test_without_peft_it_is_said_how_to_get_it(adapted, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert refusal(adapted, "lora") == (
        "[adapter]: peft is not installed. It makes every adapter but the bottleneck. "
        'Run: pip install "tunewright[adapters]"'
    )
    assert adapters_of(adapted("bottleneck")).name == "bottleneck"
