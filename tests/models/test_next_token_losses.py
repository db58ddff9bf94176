from __future__ import annotations

import pytest
import torch

from tunewright.models import chosen_tokens
from tunewright.models.batch import pack
from tunewright.models.chosen_tokens import next_token_logits, next_token_losses
from tunewright.models.files.architecture import CAUSAL_LM
from tunewright.models.files.loading import load_library_model
from tunewright.models.heads import choose_route, is_packed
from tunewright.types import Features, TokenStream

DECODERS = ("gpt2", "llama", "qwen2", "qwen3", "smollm3")
IDS = [[40, 41, 42, 43, 44, 45, 46], [90, 91, 92], [60], [70, 71, 72, 73, 74]]
PLACES = torch.tensor([1, 3, 6, 8, 9, 12, 15])  # none the first of its sequence


@pytest.fixture(params=DECODERS)
def architecture(request):
    return request.param


@pytest.fixture
def model(architecture, tiny_folder):
    return load_library_model(tiny_folder(architecture), CAUSAL_LM, pad_token_id=0).model


def stream_of(sequences):
    features = [Features(row, {"text": TokenStream(ids)}) for row, ids in enumerate(sequences)]
    return pack(features).streams["text"]


def alone(model, ids):
    """The losses of every token but the first, by the library's own attention and loss."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    return torch.nn.functional.cross_entropy(
        logits[:-1].float(), torch.tensor(ids[1:], dtype=torch.int64), reduction="none"
    )


def test_every_decoder_runs_packed(model):
    assert choose_route(model, next_token_logits) == "packed"
    assert is_packed(model)


def test_losses_are_the_library_s_of_each_sequence_alone(model):
    expected = torch.cat([torch.cat([torch.zeros(1), alone(model, ids)]) for ids in IDS])
    for route in ("padded", "packed"):
        if route == "packed":
            choose_route(model, next_token_logits)
        losses, right = next_token_losses(model, stream_of(IDS), PLACES)
        torch.testing.assert_close(losses, expected[PLACES], atol=1e-5, rtol=1e-5)
        assert right.shape == losses.shape


def test_a_sequence_has_no_part_in_the_gradient_of_another(model):
    choose_route(model, next_token_logits)
    embeddings = model.get_input_embeddings()
    seen = []
    handle = embeddings.register_forward_hook(
        lambda _m, _i, out: (out.retain_grad(), seen.append(out))[0]
    )
    next_token_losses(model, stream_of(IDS), torch.tensor([8, 9]))[0].sum().backward()
    handle.remove()
    gradient_N = seen[0].grad[0].abs().sum(1)
    assert gradient_N[7:9].min() > 0
    assert gradient_N[:7].max() == 0
    assert gradient_N[9:].max() == 0


def test_a_head_run_in_pieces_gives_the_same_losses_and_gradients(model, monkeypatch):
    choose_route(model, next_token_logits)

    def result():
        model.zero_grad()
        losses, _ = next_token_losses(model, stream_of(IDS), PLACES)
        losses.sum().backward()
        return losses.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}

    whole_losses, whole = result()
    monkeypatch.setattr(chosen_tokens, "HEAD_TOKENS", 2)
    losses, pieces = result()
    torch.testing.assert_close(losses, whole_losses)
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_the_head_sees_the_tokens_that_are_learnt_and_no_others(model):
    choose_route(model, next_token_logits)
    sizes = []
    handle = model.get_output_embeddings().register_forward_hook(
        lambda _m, inputs, _o: sizes.append(inputs[0].shape[0])
    )
    next_token_losses(model, stream_of(IDS), PLACES[:2])
    handle.remove()
    assert sizes == [2]


def test_no_place_is_no_loss(model):
    choose_route(model, next_token_logits)
    losses, right = next_token_losses(model, stream_of(IDS), PLACES[:0])
    assert losses.shape == right.shape == (0,)


def test_a_model_that_changes_its_scores_after_the_head_runs_padded(tiny_folder):
    model = load_library_model(tiny_folder("llama"), CAUSAL_LM, pad_token_id=0).model
    forward = model.forward

    def softcapped(**inputs):
        outputs = forward(**inputs)
        outputs.logits = torch.tanh(outputs.logits)
        return outputs

    model.forward = softcapped
    assert choose_route(model, next_token_logits).startswith("padded: packed logits differ")
