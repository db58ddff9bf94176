from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.models.batch import TOKEN_QUANTUM, fill, filled, pack, padded
from tunewright.types import Features, TokenStream

TOKENS = st.lists(st.integers(1, 99), min_size=1, max_size=12)
TEXTS = st.lists(TOKENS, min_size=1, max_size=12)


def features(texts, targets=None):
    return [
        Features(row, {"text": TokenStream(np.array(ids, np.int32))}, (targets or {}).get(row, {}))
        for row, ids in enumerate(texts)
    ]


@given(TEXTS)
def test_packing_keeps_every_token_once_and_in_order(texts):
    stream = pack(features(texts)).streams["text"]
    pieces = stream.token_ids_N.split(stream.lengths)
    assert [piece.tolist() for piece in pieces] == texts
    assert stream.token_ids_N.dtype == stream.position_ids_N.dtype == torch.int64
    assert (stream.num_tokens, stream.num_sequences) == (sum(map(len, texts)), len(texts))


@given(TEXTS)
def test_positions_count_from_zero_in_every_sequence(texts):
    stream = pack(features(texts)).streams["text"]
    pieces = stream.position_ids_N.split(stream.lengths)
    assert [piece.tolist() for piece in pieces] == [list(range(len(ids))) for ids in texts]


@given(TEXTS)
def test_first_and_last_point_at_the_ends_of_each_sequence(texts):
    stream = pack(features(texts)).streams["text"]
    assert stream.token_ids_N[stream.first_B].tolist() == [ids[0] for ids in texts]
    assert stream.token_ids_N[stream.last_B].tolist() == [ids[-1] for ids in texts]


@given(TEXTS, st.integers(1, 40), st.one_of(st.none(), st.integers(1, 5)))
def test_filling_loses_nothing_keeps_order_and_stays_in_its_budget(texts, max_tokens, limit):
    items = features(texts)
    groups = list(fill(items, max_tokens=max_tokens, max_sequences=limit))
    assert [item for group in groups for item in group] == items
    for group in groups:
        assert len(group) == 1 or sum(item.num_tokens for item in group) <= max_tokens
        assert len(group) <= (limit or len(group))


@given(TEXTS, st.integers(1, 40))
def test_filling_starts_a_group_only_when_the_next_does_not_fit(texts, max_tokens):
    groups = list(fill(features(texts), max_tokens=max_tokens))
    for group, after in pairwise(groups):
        assert sum(item.num_tokens for item in group) + after[0].num_tokens > max_tokens


@settings(max_examples=50)
@given(TEXTS, st.sampled_from(["left", "right"]))
def test_padding_and_its_mask_give_back_the_texts(texts, side):
    stream = pack(features(texts)).streams["text"]
    found = padded(stream, 0, side)
    ids_BS, mask_BS = found["input_ids"], found["attention_mask"]
    assert "token_type_ids" not in found
    assert [row[keep.bool()].tolist() for row, keep in zip(ids_BS, mask_BS, strict=True)] == texts
    assert int(ids_BS[~mask_BS.bool()].sum()) == 0
    edge_B = mask_BS[:, -1] if side == "left" else mask_BS[:, 0]
    assert edge_B.all()


@given(TEXTS)
def test_filling_up_adds_one_sequence_at_the_end_and_leaves_the_texts_as_they_are(texts):
    stream = pack(features(texts)).streams["text"]
    found = filled(stream)
    assert found.num_tokens % TOKEN_QUANTUM == 0
    assert found.num_tokens - stream.num_tokens < TOKEN_QUANTUM
    assert found.token_ids_N[: stream.num_tokens].tolist() == stream.token_ids_N.tolist()
    assert found.boundaries[: len(texts) + 1] == stream.boundaries
    assert found.num_sequences - len(texts) == (found.num_tokens > stream.num_tokens)


def test_segment_ids_are_packed_and_padded_beside_the_tokens():
    streams = [TokenStream([5, 6, 7], [0, 0, 1]), TokenStream([8], [0])]
    batch = pack([Features(row, {"text": stream}) for row, stream in enumerate(streams)])
    stream = batch.streams["text"]
    assert stream.type_ids_N.tolist() == [0, 0, 1, 0]
    assert padded(stream, 0)["token_type_ids"].tolist() == [[0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("values", "expected", "dtype"),
    [
        ([1, 0], [1, 0], torch.int64),
        ([1, 0.5], [1.0, 0.5], torch.float32),
        ([[1, 2], [3]], [1, 2, 3], torch.int64),
    ],
)
def test_targets_are_joined_and_whole_numbers_stay_whole(values, expected, dtype):
    targets = {row: {"y": value} for row, value in enumerate(values)}
    found = pack(features([[1], [2]], targets)).targets["y"]
    assert (found.tolist(), found.dtype) == (expected, dtype)


def test_a_batch_counts_the_tokens_of_all_streams_and_names_its_rows():
    streams = {"source": TokenStream([1, 2]), "target": TokenStream([3])}
    batch = pack([Features(7, streams), Features(9, streams)])
    assert (batch.num_tokens, batch.num_sequences, batch.row_ids) == (6, 2, (7, 9))


@given(
    windows=st.lists(st.integers(1, 3), min_size=1, max_size=12),
    max_tokens=st.integers(1, 40),
    is_padded=st.booleans(),
)
def test_the_windows_of_a_row_stay_together(windows, max_tokens, is_padded):
    items = [
        Features(row, {"text": TokenStream(np.arange(4 + row % 3))}, {}, window)
        for row, count in enumerate(windows)
        for window in range(count)
    ]
    groups = list(fill(items, max_tokens=max_tokens, padded=is_padded, together=True))
    assert [item for group in groups for item in group] == items
    rows = [{item.row_id for item in group} for group in groups]
    assert all(not first & second for first, second in pairwise(rows))
    for group, own in zip(groups, rows, strict=True):
        longest = max(item.num_tokens for item in group)
        cost = longest * len(group) if is_padded else sum(item.num_tokens for item in group)
        assert cost <= max_tokens or len(own) == 1
