from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tunewright.models.batch import pack
from tunewright.models.layers.dropout import Dropout, DropoutSource, replace_dropout
from tunewright.types import Features, TokenStream

WIDTH = 8


pytestmark = pytest.mark.usefixtures("either_way")


def batch_of(rows):
    """Returns a batch of sequences: pairs of a row's id and its length."""
    return pack([Features(row, {"text": TokenStream([7] * length)}) for row, length in rows])


def begun(rows, seed=(0, 0)):
    source = DropoutSource()
    source.begin(seed, batch_of(rows))
    return source


def dropped(p=0.1, seed=(0, 0), size=100_000):
    return Dropout(p, begun([(0, size)], seed))(torch.ones(size, 1)).flatten()


def masks_of_rows(rows, num_masks, seed=(3, 4), fillers=0):
    """Returns the masks that each row sees in a packed pass: by row, (masks, length, WIDTH)."""
    source, lengths = begun(rows, seed), [length for _, length in rows]
    shape = torch.Size([1, sum(lengths) + fillers, WIDTH])
    masks = torch.stack([source.keep_mask(shape, 128)[0] for _ in range(num_masks)])
    parts = masks[:, : sum(lengths)].split(lengths, 1)
    return {row: part for (row, _), part in zip(rows, parts, strict=True)}


row_lengths = st.dictionaries(st.integers(0, 2**31), st.integers(1, 12), min_size=2, max_size=8)


@given(row_lengths, st.integers(1, 9), st.integers(0, 63), st.data())
def test_a_row_sees_the_same_masks_whatever_shares_its_pass(lengths, num_masks, fillers, data):
    rows = list(lengths.items())
    cut = data.draw(st.integers(1, len(rows) - 1))
    together = masks_of_rows(data.draw(st.permutations(rows)), num_masks, fillers=fillers)
    apart = masks_of_rows(rows[:cut], num_masks) | masks_of_rows(rows[cut:], num_masks)
    assert together.keys() == apart.keys()
    for row in together:
        assert torch.equal(together[row], apart[row])


def test_rows_windows_and_calls_have_masks_of_their_own():
    rows = masks_of_rows([(0, 64), (1, 64)], 2)
    assert not torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0][0], rows[0][1])
    windows = [Features(5, {"text": TokenStream([7] * 64)}, {}, window) for window in (0, 1)]
    source = DropoutSource()
    source.begin((0,), pack(windows))
    first, second = source.keep_mask(torch.Size([128, WIDTH]), 128).split(64)
    assert not torch.equal(first, second)


def test_padded_rows_and_single_vectors_see_masks_of_their_row():
    rows = [(3, 5), (9, 2), (4, 4)]
    source, alone = begun(rows), begun(rows[1:2])
    padded = source.keep_mask(torch.Size([3, 5, WIDTH]), 128)
    assert padded[1, 2:].all()  # padding is kept
    assert torch.equal(padded[1, :2], alone.keep_mask(torch.Size([1, 2, WIDTH]), 128)[0])
    vectors = source.keep_mask(torch.Size([3, WIDTH]), 128)
    assert torch.equal(vectors[1:2], alone.keep_mask(torch.Size([1, WIDTH]), 128))


def test_another_shape_draws_from_what_the_whole_pass_shares():
    masks = [begun([(3, 5), (9, 2)]).keep_mask(torch.Size([333, 4]), 128) for _ in range(2)]
    assert torch.equal(*masks)
    assert not masks[0].all()
    assert masks[0].any()


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_the_share_of_zeros_is_the_probability_rounded_to_a_256th(p):
    rounded, size = round(p * 256) / 256, 100_000
    share = float((dropped(p) == 0).float().mean())
    assert share == pytest.approx(rounded, abs=4 * (rounded * (1 - rounded) / size) ** 0.5)


def test_what_is_kept_is_scaled_so_that_the_expectation_stays():
    values = dropped(0.1)
    drop_bytes = round(0.1 * 256)
    assert values.unique().tolist() == [0.0, pytest.approx(256 / (256 - drop_bytes))]
    assert float(values.mean()) == pytest.approx(1, abs=0.005)


def test_the_mask_depends_on_seed_and_step_only():
    assert torch.equal(dropped(seed=(1, 2)), dropped(seed=(1, 2)))
    assert not torch.equal(dropped(seed=(1, 2)), dropped(seed=(1, 3)))
    assert not torch.equal(dropped(seed=(1, 2)), dropped(seed=(2, 2)))


def test_the_mask_is_the_same_for_any_number_of_threads():
    before, one = torch.get_num_threads(), dropped(seed=(3, 4))
    torch.set_num_threads(2 if before == 1 else 1)
    try:
        other = dropped(seed=(3, 4))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, other)


def test_torch_s_random_state_neither_matters_nor_changes():
    before = torch.get_rng_state()
    first = dropped(seed=(5,))
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert torch.equal(dropped(seed=(5,)), first)


def test_the_gradient_passes_through_the_same_mask():
    values = torch.randn(1000, requires_grad=True)
    found = Dropout(0.3, DropoutSource())(values)
    found.sum().backward()
    kept = found.detach() != 0
    drop_bytes = round(0.3 * 256)
    torch.testing.assert_close(values.grad, kept * (256 / (256 - drop_bytes)))


def test_two_calls_in_one_step_draw_two_masks():
    source = DropoutSource()
    layer = Dropout(0.5, source)
    assert not torch.equal(layer(torch.ones(100)), layer(torch.ones(100)))


@pytest.mark.parametrize("p", [0.0, 0.001, 0.5])
def test_dropout_is_off_in_evaluation_and_when_its_probability_rounds_to_nothing(p):
    values, layer = torch.randn(10), Dropout(p, DropoutSource())
    if p > 0.01:
        layer.eval()
    assert layer(values) is values


def test_every_dropout_of_a_model_is_replaced_and_nothing_else():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Sequential(nn.Dropout(1.0)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    replace_dropout(model)
    found = [module for module in model.modules() if isinstance(module, Dropout)]
    assert [layer.p for layer in found] == [0.1, 255 / 256]
    assert not any(type(module) is nn.Dropout for module in model.modules())
    assert before.keys() == model.state_dict().keys()


def test_a_stream_that_is_named_has_the_masks_of_its_own_lengths():
    def masks(rows):
        streams = [
            Features(row, {"source": TokenStream([7] * a), "target": TokenStream([7] * b)})
            for row, a, b in rows
        ]
        source = DropoutSource()
        source.begin((1, 2), pack(streams))
        found = {}
        for place, name in enumerate(("source", "target"), 1):
            source.read(name)
            lengths = [row[place] for row in rows]
            mask = source.keep_mask(torch.Size([sum(lengths), WIDTH]), 128)
            found |= {
                (name, row[0]): part for row, part in zip(rows, mask.split(lengths), strict=True)
            }
        return found

    rows = [(0, 5, 9), (1, 9, 5), (2, 3, 3)]
    together = masks(rows)
    for row in rows:
        for key, mask in masks([row]).items():
            assert torch.equal(mask, together[key])
    assert not torch.equal(together["source", 2], together["target", 2])


def test_native_code_and_torch_drop_the_same_elements_to_the_same_bits(monkeypatch):
    for dtype in (torch.float32, torch.bfloat16):
        values, found = torch.randn(333, WIDTH).to(dtype), []
        for way in ("0", "1"):
            monkeypatch.setenv("TUNEWRIGHT_NATIVE", way)
            leaf = values.clone().requires_grad_()
            dropped = Dropout(0.3, begun([(0, 333)])).train()(leaf)
            dropped.backward(values)
            found.append((dropped.detach(), leaf.grad))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@given(
    st.lists(st.integers(1, 700), min_size=1, max_size=5),
    st.sampled_from([1, 3, 8, 33]),
    st.sampled_from(["packed", "padded", "pooled"]),
)
def test_native_code_draws_numpy_s_bytes_on_any_threads(lengths, width, kind):
    size, longest = len(lengths), max(lengths)
    shapes = {"packed": (1, sum(lengths) + 5), "padded": (size, longest), "pooled": (size,)}
    shape, before, drawn = torch.Size((*shapes[kind], width)), torch.get_num_threads(), []
    with pytest.MonkeyPatch.context() as patch:
        for way, threads in (("0", 1), ("1", 1), ("1", 3)):
            patch.setenv("TUNEWRIGHT_NATIVE", way)
            torch.set_num_threads(threads)
            source = begun(list(enumerate(lengths)))
            drawn.append([source.raw_bytes(shape).clone() for _ in range(9)])
    torch.set_num_threads(before)
    for other in drawn[1:]:
        assert all(map(torch.equal, drawn[0], other))


def test_a_stream_goes_on_where_native_code_has_gone(monkeypatch):
    shape, drawn = torch.Size([1, 40, 3]), []
    for ways in (("0", "0"), ("1", "0"), ("0", "1")):
        source = begun([(0, 25), (1, 15)])
        for way in ways:
            monkeypatch.setenv("TUNEWRIGHT_NATIVE", way)
            drawn.append([source.raw_bytes(shape).clone() for _ in range(4)])
    assert all(map(torch.equal, drawn[0] + drawn[1], drawn[2] + drawn[3]))
    assert all(map(torch.equal, drawn[0] + drawn[1], drawn[4] + drawn[5]))
