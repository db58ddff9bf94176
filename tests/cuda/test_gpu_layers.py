"""Fused layers on a GPU, against the library's own; elsewhere these tests are skipped."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from tunewright.models.layers import gpu_layers
from tunewright.models.layers.gpu_layers import FusedEnd, FusedIntermediate, Joined, use_gpu_layers
from tunewright.models.layers.sublayers import kept_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")


def bert(width=48, **changes):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=width, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * width, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        **changes,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).cuda().train()
    for parameter in model.parameters():  # or biases and norms would hide what is wrong with them
        nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else nn.init.normal_(parameter)
    return model


def learned(model, ids):
    with torch.autocast("cuda", torch.bfloat16):
        output = model(ids).last_hidden_state
    weighted = output.float() * torch.linspace(-1, 1, output.numel(), device="cuda").view_as(output)
    weighted.sum().backward()
    return output.detach(), {name: p.grad for name, p in model.named_parameters()}


def test_triton_compiles_here():
    assert gpu_layers.why_not_fused() is None


@pytest.mark.parametrize("width", [48, 384, 1024])
def test_a_model_learns_the_same_with_them(width):
    plain, mine = bert(width), bert(width)
    use_gpu_layers(mine)
    kinds = [type(module) for module in mine.modules()]
    assert [kinds.count(kind) for kind in (FusedEnd, FusedIntermediate, Joined)] == [4, 2, 6]
    ids = torch.randint(1, 50, (3, 70), device="cuda")
    (expected, wanted), (found, got) = learned(plain, ids), learned(mine, ids)
    assert found.dtype == torch.float32
    wide = bert(width)
    exact = wide(ids).last_hidden_state
    (exact * torch.linspace(-1, 1, exact.numel(), device="cuda").view_as(exact)).sum().backward()
    error, usual = (float((x - exact).norm() / exact.norm()) for x in (found, expected))
    assert error <= 1.5 * usual + 1e-3
    for name, parameter in wide.named_parameters():
        if "key.bias" not in name:  # of which softmax sees nothing
            scale = float(parameter.grad.norm())
            error, usual = (float((x[name] - parameter.grad).norm()) for x in (got, wanted))
            assert error <= 1.5 * usual + 0.003 * scale, name


def test_dropout_takes_its_share_and_the_gradient_sees_the_same_one():
    values, residual = torch.randn(2, 300, 64, device="cuda").bfloat16()
    norm = nn.LayerNorm(64, device="cuda")
    weight = torch.eye(64, device="cuda")
    shift = torch.zeros(64, device="cuda", requires_grad=True)
    values.requires_grad_()
    torch.cuda.manual_seed(1)
    given = (values, residual, weight.bfloat16(), weight, shift, norm.weight, norm.bias)
    settings = (0.25, norm.eps, torch.float32)
    output = gpu_layers._End.apply(*given, settings)
    (gradient,) = torch.autograd.grad(output, values, torch.randn_like(output))
    kept = gradient != 0
    assert 0.72 < float(kept.float().mean()) < 0.78
    shares = kept.float().mean(0)
    assert 0.55 < float(shares.min()) < float(shares.max()) < 0.92
    expected = norm((values.float() / 0.75).where(kept, 0) + residual.float())
    assert float((output - expected).abs().max()) < 0.02
    other = gpu_layers._End.apply(*given, settings)
    assert not torch.equal(other, output)
    torch.cuda.manual_seed(1)
    assert torch.equal(gpu_layers._End.apply(*given, settings), output)


def test_answers_are_those_of_the_library():
    plain, mine = bert().eval(), bert().eval()
    use_gpu_layers(mine)
    ids = torch.randint(1, 50, (3, 70), device="cuda")
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        expected = plain(ids).last_hidden_state.float()
        with kept_weights(mine):
            found, again = (mine(ids).last_hidden_state for _ in range(2))
    assert torch.equal(found, again)
    assert float((found - expected).abs().max()) < 0.03 * float(expected.abs().max())
    with torch.no_grad():  # in fp32 they are the library's
        assert torch.equal(mine(ids).last_hidden_state, plain(ids).last_hidden_state)


def test_another_activation_and_hooks_are_left_alone():
    model = bert(hidden_act="relu")
    model.encoder.layer[0].output.dense.register_forward_hook(lambda *_: None)
    use_gpu_layers(model)
    assert not any(isinstance(module, FusedIntermediate) for module in model.modules())
    ids = torch.randint(1, 50, (2, 9), device="cuda")
    seen = []
    model.encoder.layer[1].output.dense.register_forward_hook(lambda *_: seen.append(1))
    with torch.autocast("cuda", torch.bfloat16):
        model(ids)
    assert seen
