"""The end of a sublayer in one pass, against the library's own parts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertOutput

from tunewright.models.batch import pack
from tunewright.models.layers.dropout import replace_dropout
from tunewright.models.layers.native_layers import SublayerEnd, use_native_layers
from tunewright.native import native
from tunewright.types import Features, TokenStream

pytestmark = pytest.mark.skipif(native() is None, reason="there is no native code here")


def tiny_bert():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=40, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).train()


def prepared(model, rows=(3, 5)):
    """Gives a model our dropout, begun for a batch of rows of these lengths."""
    source = replace_dropout(model)
    source.begin(
        (1, 2), pack([Features(i, {"t": TokenStream([7] * n)}) for i, n in enumerate(rows)])
    )
    return model


def learned(model, ids, precision):
    """Returns the output, and the gradient of every parameter."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        output = model(ids).last_hidden_state
    (output.float() * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    return output.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.03)])
def test_a_model_learns_the_same_with_them(precision, tolerance):
    models = [tiny_bert(), tiny_bert()]
    use_native_layers(models[1])
    ids = torch.arange(8)[None]
    (expected, plain), (found, mine) = (learned(prepared(m), ids, precision) for m in models)
    assert found.dtype == expected.dtype == torch.float32
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())
    assert plain.keys() == mine.keys()
    for name, gradient in plain.items():
        if "key.bias" not in name:  # of which softmax sees nothing
            difference = float((mine[name] - gradient).abs().max())
            assert difference <= tolerance * float(gradient.abs().max()), name


def test_they_are_taken_where_they_fit_and_weights_keep_their_names():
    model = tiny_bert()
    names = list(model.state_dict())
    use_native_layers(model)
    ends = [module for module in model.modules() if isinstance(module, SublayerEnd)]

    assert [end.is_last for end in ends] == [False, False, False, True]
    assert list(model.state_dict()) == names
    use_native_layers(model)
    assert [m for m in model.modules() if isinstance(m, SublayerEnd)] == ends


class Other(BertOutput):
    def forward(self, hidden_states, input_tensor):
        return self.LayerNorm(self.dense(hidden_states) - input_tensor)


def test_a_module_that_computes_something_else_is_left_alone():
    model = tiny_bert()
    model.encoder.layer[0].output = Other(model.config)
    model.encoder.layer[1].output.register_forward_hook(lambda *_: None)
    use_native_layers(model)

    assert isinstance(model.encoder.layer[0].attention.output, SublayerEnd)
    assert type(model.encoder.layer[0].output) is Other
    assert type(model.encoder.layer[1].output) is BertOutput


def test_without_our_dropout_and_without_native_code_it_is_the_library_s(monkeypatch):
    models = [tiny_bert(), tiny_bert()]
    use_native_layers(models[1])
    ids = torch.arange(8)[None]
    outputs = []
    for model in models:
        torch.manual_seed(4)
        outputs.append(model(ids).last_hidden_state)
    assert torch.equal(*outputs)

    monkeypatch.setenv("TUNEWRIGHT_NATIVE", "0")
    assert torch.equal(*(prepared(model)(ids).last_hidden_state for model in models))


def end_of(width):
    parts = nn.Module()
    parts.dense, parts.dropout = nn.Identity(), nn.Dropout(0.4)
    parts.LayerNorm = nn.LayerNorm(width)
    nn.init.normal_(parts.LayerNorm.weight)
    nn.init.normal_(parts.LayerNorm.bias)
    return SublayerEnd(parts).train()


DTYPES = st.sampled_from([torch.float32, torch.bfloat16])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(16, 500), DTYPES, DTYPES, st.booleans(), st.booleans())
def test_it_is_the_norm_of_the_sum_forward_and_backward(rows, width, of_values, of_sum, last, drop):
    torch.manual_seed(rows * width)
    end = end_of(width)
    end.is_last = last
    end.dropout.p = 0.4 if drop else 0.0
    (end,) = prepared(nn.ModuleList([end]), [rows])
    values, residual = (
        torch.randn(rows, width).to(x).requires_grad_() for x in (of_values, of_sum)
    )
    found = end(values, residual)
    gradient = torch.randn(rows, width).to(found.dtype)
    found.backward(gradient)

    wide = [x.detach().double().requires_grad_() for x in (values, residual)]
    norm = end.LayerNorm
    parameters = [x.detach().double().requires_grad_() for x in (norm.weight, norm.bias)]
    dropped = prepared(nn.ModuleList([nn.Sequential(nn.Dropout(end.dropout.p))]), [rows])[0].train()
    total = wide[1] + wide[0] * dropped(torch.ones(rows, width)).double()
    expected = nn.functional.layer_norm(total, (width,), *parameters, norm.eps)
    expected.backward(gradient.double())
    assert found.dtype == (torch.float32 if last else of_values)
    mine = [found, values.grad, residual.grad, norm.weight.grad, norm.bias.grad]
    theirs = [expected, *(x.grad for x in (*wide, *parameters))]
    for one, other in zip(mine, theirs, strict=True):
        share = 1e-4 if one.dtype == torch.float32 else 0.005
        largest = max(1.0, float(other.detach().abs().max()))
        assert float((one.detach() - other.detach()).abs().max()) <= share * largest


def test_the_number_of_threads_changes_no_bit_and_what_is_not_a_number_stays_so():
    before, runs = torch.get_num_threads(), []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            torch.manual_seed(0)
            end = end_of(130)
            end.dropout.p = 0.0
            values = torch.randn(700, 130).bfloat16().requires_grad_()
            found = end(values, torch.randn(700, 130).bfloat16())
            found.sum().backward()
            runs.append([found, values.grad, end.LayerNorm.weight.grad, end.LayerNorm.bias.grad])
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))
    values = torch.zeros(3, 130)
    values[1, 5] = float("nan")
    assert end(values, torch.ones(3, 130)).isnan().any(1).tolist() == [False, True, False]
