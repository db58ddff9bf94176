"""Dropout of attention's probabilities, against the textbook with the same keys lost."""

from __future__ import annotations

import os
from itertools import accumulate, pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import BertConfig, BertModel

from tests.models.test_native_attention import TOLERANCE, everything
from tunewright.models.batch import pack
from tunewright.models.layers.attention import PACKED, attend, packed_attention, register
from tunewright.models.layers.attention_dropout import AttentionDropout, kept_keys
from tunewright.models.layers.dropout import replace_dropout
from tunewright.native import native
from tunewright.training.recompute import recompute_activations
from tunewright.types import Features, TokenStream

HEADS, WIDTH = 3, 16

CASES = st.fixed_dictionaries(
    {
        "lengths": st.lists(
            st.tuples(st.integers(1, 150), st.integers(1, 150)), min_size=1, max_size=4
        ),
        "crosses": st.booleans(),
        "causal": st.booleans(),
        "window": st.one_of(st.none(), st.integers(1, 90)),
        "dropped": st.integers(1, 60_000),
        "dtype": st.sampled_from([torch.float32, torch.bfloat16]),
        "seed": st.integers(0, 2**16),
    }
)


pytestmark = pytest.mark.usefixtures("either_way")


def drawn(case):
    """Query, key, value and gradient; both boundaries; the dropout."""
    generator = torch.Generator().manual_seed(case["seed"])
    queries, keys = (tuple(accumulate(side, initial=0)) for side in zip(*case["lengths"]))  # noqa: B905
    keys = keys if case["crosses"] else queries
    sizes = queries[-1], keys[-1], keys[-1], queries[-1]
    tensors = [
        torch.randn(size, HEADS, WIDTH, generator=generator).to(case["dtype"]) for size in sizes
    ]
    seeds = np.random.default_rng(case["seed"]).integers(2**64, size=len(queries) - 1, dtype="u8")
    return tensors, queries, keys, AttentionDropout(seeds, case["dropped"])


def by_hand(case, query, key, value, queries, keys, dropout):
    found = []
    sequences = zip(pairwise(queries), pairwise(keys), dropout.seeds, strict=True)
    for (start, end), (first, last), seed in sequences:
        scores = torch.einsum("nhd,mhd->hnm", query[start:end], key[first:last]) * 0.2
        distance = torch.arange(end - start)[:, None] - torch.arange(last - first)
        hidden = torch.zeros_like(distance, dtype=torch.bool)
        if not case["crosses"]:
            hidden = (distance < 0) if case["causal"] else hidden
            hidden |= distance.abs() >= (case["window"] or 10**6)
        chances = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        positions = np.arange(end - start, dtype=np.uint32)[None]
        kept = kept_keys(np.array([seed]), positions, HEADS, last - first, dropout.dropped)[0]
        weights = chances * torch.from_numpy(kept) * (65536 / (65536 - dropout.dropped))
        found.append(torch.einsum("hnm,mhd->nhd", weights, value[first:last]))
    return torch.cat(found)


@settings(max_examples=50, deadline=None)
@given(CASES)
def test_it_is_textbook_attention_without_the_lost_keys(case):
    tensors, queries, keys, dropout = drawn(case)
    causal, window = (False, None) if case["crosses"] else (case["causal"], case["window"])
    found = everything(
        lambda q, k, v, _: attend(q, k, v, queries, keys if case["crosses"] else None, scale=0.2,
                                  causal=causal, window=window, dropout=dropout),
        tensors,
        None,
    )  # fmt: skip
    expected = everything(
        lambda q, k, v, _: by_hand(case, q, k, v, queries, keys, dropout),
        [x.double() for x in tensors],
        None,
    )
    for mine, theirs in zip(found, expected, strict=True):
        largest = max(1.0, float(theirs.abs().max()))
        # A row may keep one key of many, times the scale: what bf16 rounds weighs as much.
        assert float((mine - theirs).abs().max()) <= 2 * TOLERANCE[case["dtype"]] * largest


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_other_processors_lose_the_same_keys(target, monkeypatch):
    if os.environ["TUNEWRIGHT_NATIVE"] == "0":
        pytest.skip("one way is enough")
    monkeypatch.setenv("TUNEWRIGHT_MARCH", target)
    if native() is None:
        pytest.skip("this compiler, or this processor, does not know it")
    check = test_it_is_textbook_attention_without_the_lost_keys.hypothesis.inner_test
    for dtype, causal in product(TOLERANCE, (False, True)):
        check({"lengths": [(70, 9), (33, 150)], "crosses": not causal, "causal": causal,
               "window": 50 if causal else None, "dropped": 20_000, "dtype": dtype,
               "seed": 1})  # fmt: skip


def test_as_many_keys_are_lost_as_were_asked_for_and_nowhere_more_often():
    positions = np.tile(np.arange(256, dtype=np.uint32), (40, 1))
    seeds = np.random.default_rng(0).integers(2**64, size=40, dtype="u8")
    lost = ~kept_keys(seeds, positions, 4, 256, dropped=6554)

    assert lost.mean() == pytest.approx(0.1, abs=4 * 0.3 / lost.size**0.5)
    for axes in ((0, 1, 2), (0, 1, 3), (1, 2, 3)):  # by key, by query, by sequence
        share = lost.mean(axes)
        expected_spread = (0.1 * 0.9 / (lost.size / len(share))) ** 0.5
        assert share.std() == pytest.approx(expected_spread, rel=0.35)
    flat = lost.reshape(-1, 256, 256) - lost.mean()
    for shift in ((0, 1), (0, 2), (1, 0), (1, 1), (16, 0)):  # neighbours know nothing of each other
        moved = np.roll(flat, shift, (1, 2))
        assert abs((flat * moved).mean() / 0.09) < 4 / lost.size**0.5


def attended(rows, calls=1, probability=0.25):
    """What rows, pairs of an id and its vectors, find together, by row, at each call."""
    source = replace_dropout(model := nn.Module())
    features = [Features(row, {"text": TokenStream([7] * len(x))}) for row, x in rows]
    source.begin((3, 4), pack(features))
    ends = tuple(accumulate((len(x) for _, x in rows), initial=0))
    values = torch.cat([x for _, x in rows]).transpose(0, 1)[None]
    found = [
        packed_attention(model, values, values, values, None, probability, boundaries=ends)[0][0]
        for _ in range(calls)
    ]
    return [dict(zip((row for row, _ in rows), x.split([len(x) for _, x in rows]), strict=True))
            for x in found]  # fmt: skip


def test_a_row_loses_the_same_keys_whatever_shares_its_pass_and_others_at_each_call():
    rows = [
        (number, torch.randn(size, HEADS, WIDTH)) for number, size in ((5, 40), (9, 7), (2, 31))
    ]
    together, later = attended(rows, calls=2)
    (alone,) = attended([rows[2]])

    assert torch.allclose(together[2], alone[2], atol=1e-6)
    assert not torch.allclose(together[2], later[2], atol=1e-3)
    same = torch.randn(30, HEADS, WIDTH)
    (twins,) = attended([(1, same), (2, same)])
    assert not torch.allclose(twins[1], twins[2], atol=1e-3)


def encoder(dropout=0.4):
    """A small packed encoder in training mode whose only dropout is attention's."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, hidden_dropout_prob=0, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    model = BertModel(config).train()
    register()
    model.set_attn_implementation(PACKED)
    return model


IDS, ENDS = torch.arange(40)[None], (0, 12, 40)


def test_a_model_drops_what_its_configuration_asks_for_while_it_learns():
    model = encoder()
    source = replace_dropout(model)
    rows = [Features(row, {"text": TokenStream([7] * size)}) for row, size in ((1, 12), (2, 28))]

    def found(update):
        source.begin((0, update), pack(rows))
        return model(IDS, boundaries=ENDS).last_hidden_state.detach()

    assert torch.equal(found(1), found(1))
    assert not torch.allclose(found(1), found(2), atol=1e-3)
    plain = encoder(dropout=0.0)
    assert torch.allclose(
        model.eval()(IDS, boundaries=ENDS)[0], plain(IDS, boundaries=ENDS)[0], atol=1e-6
    )


def test_activations_that_are_computed_anew_lose_the_same_keys():
    found = []
    for recomputes in (False, True):
        model = encoder()
        if recomputes:
            recompute_activations(model)
        torch.manual_seed(5)
        model(IDS, boundaries=ENDS).last_hidden_state.square().sum().backward()
        found.append([parameter.grad for parameter in model.encoder.parameters()])

    for mine, theirs in zip(*found, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_a_configuration_may_leave_it_open():
    values = torch.randn(1, HEADS, 9, WIDTH)
    found, _ = packed_attention(nn.Module(), *[values] * 3, None, None, boundaries=(0, 9))
    plain, _ = packed_attention(nn.Module(), *[values] * 3, None, 0.0, boundaries=(0, 9))
    assert torch.equal(found, plain)


def test_a_pass_of_other_sequences_than_the_batch_s_is_refused():
    source = replace_dropout(nn.Module())
    source.begin((0,), pack([Features(row, {"text": TokenStream([7])}) for row in range(3)]))
    assert len(source.seeds(4)) == 4  # one of filler
    with pytest.raises(ValueError, match="a pass of 3 sequences asks for the seeds of 2"):
        source.seeds(2)


def test_without_a_source_torchs_random_state_says_which_keys():
    values, ends = torch.randn(1, HEADS, 40, WIDTH), (0, 25, 40)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(packed_attention(nn.Module(), *[values] * 3, None, 0.3, boundaries=ends)[0])

    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
