from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from tests.tiny import ARCHITECTURES
from tunewright.models.batch import pack
from tunewright.models.files.architecture import (
    CHOOSER,
    ENCODER,
    MASKED_LM,
    SPAN_FINDER,
    TOKEN_CLASSIFIER,
)
from tunewright.models.files.loading import load_classifier, load_library_model
from tunewright.models.heads import (
    choose_route,
    classify,
    hidden_states,
    is_packed,
    token_outputs,
)
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.models.text.tokens import encode_text
from tunewright.types import Features

PADDED = ("deberta-v2", "mpnet", "xlnet")
PACKED = (
    "albert",
    "bert",
    "camembert",
    "distilbert",
    "electra",
    "ernie",
    "gpt2",
    "llama",
    "modernbert",
    "nomic_bert",
    "qwen2",
    "qwen3",
    "roberta",
    "smollm3",
    "xlm-roberta",
)
LABELS = ("bad", "fair", "good")
PAIRS = [
    ("a fine film", "good plot"),
    ("the worst book ever, very slow and awful, not like the old one", "never"),
    ("not", "a very fine market game for the team, and the best service of the new bank"),
    ("stock", "phone"),
]

# Matrix products of other sizes sum in another order; fp32 at these widths stays far below.
SAME_ANSWER = 1e-5


def test_every_tiny_architecture_is_in_one_of_the_two_lists():
    assert sorted((*PACKED, *PADDED)) == sorted(ARCHITECTURES)
    assert len(ARCHITECTURES) == 18


def loaded(folder):
    pad = load_tokenizer(folder).pad_token_id
    return load_classifier(folder, LABELS, pad_token_id=pad).model


def stream(folder, pairs=PAIRS):
    tokenizer = load_tokenizer(folder)
    encoded = [encode_text(tokenizer, first, second) for first, second in pairs]
    features = [Features(row, {"text": tokens}) for row, tokens in enumerate(encoded)]
    return pack(features).streams["text"]


def answered(model, packed):
    with torch.no_grad():
        return classify(model, packed)


@pytest.mark.parametrize("architecture", PACKED)
def test_the_architecture_runs_packed(tiny_folder, architecture):
    model = loaded(tiny_folder(architecture, 3))
    assert choose_route(model) == "packed"
    assert is_packed(model)


@pytest.mark.parametrize("architecture", PADDED)
def test_the_architecture_runs_padded_and_says_why(tiny_folder, architecture):
    model = loaded(tiny_folder(architecture, 3))
    assert choose_route(model) == f"padded: {architecture} does not follow the attention interface"
    assert not is_packed(model)


@pytest.mark.parametrize("architecture", [*PACKED, *PADDED])
def test_logits_of_pairs_are_those_of_stock_transformers_with_its_own_padding(
    tiny_folder, architecture
):
    folder = tiny_folder(architecture, 3)
    model, tokenizer = loaded(folder), load_tokenizer(folder)
    model.load_state_dict(stock(folder).state_dict())
    choose_route(model)
    inputs = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, return_tensors="pt")
    assert ("token_type_ids" in inputs) == (stream(folder).type_ids_N is not None)
    with torch.no_grad():
        expected_BC = stock(folder, tokenizer.pad_token_id)(**inputs).logits
    torch.testing.assert_close(answered(model, stream(folder)), expected_BC, atol=1e-4, rtol=0)


def stock(folder, pad_token_id=None):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    if model.config.pad_token_id is None:
        model.config.pad_token_id = pad_token_id
    return model


TYPED = [("a fine {pad} film", "good"), ("{pad}", "book"), ("the plot", "old {pad}"), ("a", "b")]


@pytest.mark.parametrize("architecture", PACKED)
def test_a_padding_token_that_a_text_names_counts_as_stock_transformers_counts_it(
    tiny_folder, architecture
):
    folder = tiny_folder(architecture, 3)
    model, pad = loaded(folder), load_tokenizer(folder).pad_token
    packed = stream(folder, [(a.format(pad=pad), b.format(pad=pad)) for a, b in TYPED])
    expected_BC = classify(model, packed).detach()
    assert choose_route(model) == "packed"
    torch.testing.assert_close(answered(model, packed), expected_BC, atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", [*PACKED, *PADDED])
def test_a_text_gets_the_same_answer_alone_and_in_a_batch(tiny_folder, architecture):
    folder = tiny_folder(architecture, 3)
    model = loaded(folder)
    choose_route(model)
    together_BC = answered(model, stream(folder))
    alone_BC = torch.cat([answered(model, stream(folder, [pair])) for pair in PAIRS])
    torch.testing.assert_close(together_BC, alone_BC, atol=SAME_ANSWER, rtol=0)
    assert together_BC.argmax(1).tolist() == alone_BC.argmax(1).tolist()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "mpnet"])
def test_choosing_leaves_the_mode_and_torch_s_random_state_as_they_were(
    tiny_folder, architecture, training
):
    model = loaded(tiny_folder(architecture, 3)).train(training)
    before = torch.get_rng_state()
    choose_route(model)
    assert {module.training for module in model.modules()} == {training}
    assert torch.equal(torch.get_rng_state(), before)


class Neighbourly(nn.Module):
    """A head that looks at all tokens, which the packed head does not show to it."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, hidden):
        return self.head(hidden) + hidden.shape[1]


def test_a_model_whose_packed_logits_differ_falls_back_and_answers_as_stock_does(tiny_folder):
    folder = tiny_folder("roberta", 3)
    model = loaded(folder)
    model.classifier = Neighbourly(model.classifier)
    expected_BC = classify(model, stream(folder))
    assert choose_route(model) == "padded: packed logits differ by 29"
    assert not is_packed(model)
    torch.testing.assert_close(answered(model, stream(folder)), expected_BC.detach())


class Picky(nn.Module):
    """A pooler that does not work with one token a text."""

    def forward(self, hidden_states):
        if hidden_states.shape[1] == 1:
            raise ValueError("one token is not enough")
        return hidden_states[:, 0]


def test_a_model_that_fails_on_the_packed_route_falls_back_and_says_how(tiny_folder):
    model = loaded(tiny_folder("bert", 3))
    model.base_model.pooler = Picky()
    found = choose_route(model)
    assert found == "padded: the packed probe failed (ValueError: one token is not enough)"
    assert not is_packed(model)


def test_nan_weights_never_take_the_packed_route(tiny_folder):
    model = loaded(tiny_folder("bert", 3))
    nn.init.constant_(model.classifier.weight, float("nan"))
    assert choose_route(model) == "padded: packed logits differ by nan"


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "qwen2", "mpnet"])
def test_gradients_of_the_route_are_those_of_the_padded_forward(tiny_folder, architecture):
    folder = tiny_folder(architecture, 3)
    model = loaded(folder)
    packed = stream(folder)
    expected = gradients(model, classify(model, packed))
    choose_route(model)
    found = gradients(model, classify(model, packed))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def gradients(model, logits_BC):
    model.zero_grad()
    (logits_BC * torch.arange(1.0, 4)).sum().backward()
    named = model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


KINDS = {
    "tokens": (TOKEN_CLASSIFIER, ("logits",)),
    "spans": (SPAN_FINDER, ("start_logits", "end_logits")),
    "words": (MASKED_LM, ("logits",)),
}
LACKING = {("nomic_bert", "spans"), ("xlnet", "words")} | {
    (decoder, "words") for decoder in ("gpt2", "llama", "qwen2", "qwen3", "smollm3")
}
TOKEN_HEADS = [
    (architecture, kind)
    for architecture in [*PACKED, *PADDED]
    for kind in KINDS
    if (architecture, kind) not in LACKING
]


@pytest.mark.parametrize(("architecture", "kind"), TOKEN_HEADS)
def test_outputs_of_each_token_are_those_of_the_library_s_padded_forward(
    tiny_folder, architecture, kind
):
    folder, (wanted, names) = tiny_folder(architecture), KINDS[kind]
    labels = LABELS if wanted.labelled else ()
    pad = load_tokenizer(folder).pad_token_id
    model = load_library_model(folder, wanted, labels, pad_token_id=pad).model

    def forward(model, stream):
        return torch.cat([x.reshape(len(x), -1) for x in token_outputs(model, stream, *names)], 1)

    packed = stream(folder)
    with torch.no_grad():
        expected = forward(model, packed)
        route = choose_route(model, forward)
        found = forward(model, packed)
    assert (route == "packed") == (architecture in PACKED)
    assert len(found) == packed.num_tokens
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("layer", [-1, 1])
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "qwen3", "mpnet"])
def test_hidden_states_of_a_layer_are_those_of_the_library(tiny_folder, architecture, layer):
    folder = tiny_folder(architecture)
    model = load_library_model(folder, ENCODER, pad_token_id=0).model
    packed = stream(folder)
    with torch.no_grad():
        expected = hidden_states(model, packed, layer)
        choose_route(model, hidden_states)
        found = hidden_states(model, packed, layer)
    assert found.shape == (packed.num_tokens, 32)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_span_finder_s_stored_head_comes_whole(tiny_folder, tmp_path):
    model = load_library_model(tiny_folder("bert"), SPAN_FINDER, seed=3).model
    model.save_pretrained(tmp_path / "spans")
    again = load_library_model(tmp_path / "spans", SPAN_FINDER, seed=4)
    assert again.notices == ()
    assert torch.equal(again.model.qa_outputs.weight, model.qa_outputs.weight)


def test_a_head_of_another_shape_is_left_behind_with_a_notice(tiny_folder):
    found = load_library_model(tiny_folder("bert", 3), CHOOSER)
    assert found.model.classifier.weight.shape == (1, 32)
    assert any('"classifier.weight"' in notice for notice in found.notices)
