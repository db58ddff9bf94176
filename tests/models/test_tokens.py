from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunewright.models import tokens
from tunewright.models.tokenizers import load_tokenizer
from tunewright.models.tokens import encode_text

WORDS = st.lists(st.sampled_from(["a", "fine", "film", "zq", "很好", "!", " "]), max_size=12)
ANY_TEXT = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", params=["bert", "roberta", "qwen2"])
def folder(request, tiny_folder):
    return tiny_folder(request.param)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def stock(folder):
    """A tokenizer of its own: calling one with truncation leaves it cutting."""
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def bert(tiny_folder):
    return load_tokenizer(tiny_folder("bert"))


@ANY_TEXT
@given(first=WORDS, second=st.one_of(st.none(), WORDS), limit=st.integers(4, 30))
def test_ids_are_those_of_stock_transformers_with_longest_first_truncation(
    tokenizer, stock, first, second, limit
):
    text, pair = " ".join(first) + "a", None if second is None else " ".join(second) + "a"
    expected = stock(text, pair, truncation="longest_first", max_length=limit)
    found = encode_text(tokenizer, text, pair, limit)
    assert found.token_ids.tolist() == expected["input_ids"]
    if found.type_ids is not None:
        assert found.type_ids.tolist() == expected["token_type_ids"]


@ANY_TEXT
@given(first=WORDS, second=st.one_of(st.none(), WORDS), limit=st.integers(4, 30))
def test_every_token_is_kept_or_counted_as_cut(tokenizer, first, second, limit):
    text, pair = " ".join(first) + "a", None if second is None else " ".join(second) + "a"
    whole, cut = encode_text(tokenizer, text, pair), encode_text(tokenizer, text, pair, limit)
    assert whole.num_cut == 0
    assert len(cut) + cut.num_cut == len(whole)
    assert len(cut) <= limit


def test_segment_ids_come_only_with_models_that_read_them(tiny_folder, bert):
    assert encode_text(bert, "a", "film").type_ids.tolist() == [0, 0, 0, 1, 1]
    assert encode_text(load_tokenizer(tiny_folder("roberta")), "a", "film").type_ids is None


@pytest.mark.parametrize(("architecture", "expected"), [("bert", [2, 3]), ("qwen2", [0])])
def test_a_blank_text_still_is_a_sequence(tiny_folder, architecture, expected):
    found = encode_text(load_tokenizer(tiny_folder(architecture)), "", max_length=8)
    assert (found.token_ids.tolist(), found.num_cut) == (expected, 0)


def test_a_huge_text_is_read_in_pieces_and_its_tokens_are_all_counted(bert, monkeypatch):
    monkeypatch.setattr(tokens, "PIECE_CHARACTERS", 60)
    text = "a fine film " * 50
    found = encode_text(bert, text, max_length=8)
    assert (
        found.token_ids.tolist()
        == encode_text(bert, "a fine film " * 5, None, 8).token_ids.tolist()
    )
    assert found.num_cut == 150 - 6


def test_special_tokens_alone_are_left_when_nothing_else_fits(bert):
    found = encode_text(bert, "a fine film", max_length=2)
    assert (found.token_ids.tolist(), found.num_cut) == ([2, 3], 3)
