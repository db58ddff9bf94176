from __future__ import annotations

from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tunewright.errors import DataError
from tunewright.models.text import tokens
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.models.text.tokens import encode_long, encode_text, encode_windows

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


SPOT = st.lists(st.sampled_from(["a", "fine", "film", "zq", "很好", "!"]), min_size=1, max_size=40)


@ANY_TEXT
@given(words=SPOT, question=st.one_of(st.none(), WORDS), limit=st.integers(8, 40), data=st.data())
def test_windows_cover_every_token_once_but_for_their_overlap(
    tokenizer, words, question, limit, data
):
    text = " ".join(words)
    prefix = None if question is None else " ".join(question)
    stride = data.draw(st.integers(0, limit))
    found = encode_windows(
        tokenizer, text, prefix=prefix, max_length=limit, stride=stride, long="window"
    )
    own = 0 if prefix is None else 1
    alone = encode_text(tokenizer, text, offsets=True)
    expected = list(zip(alone.token_ids, map(tuple, alone.offsets), strict=True))
    expected = [pair for pair, of in zip(expected, alone.text_ids, strict=True) if of == 0]
    seen = []
    for number, window in enumerate(found):
        assert len(window) <= limit
        tokens = list(zip(window.token_ids, map(tuple, window.offsets), strict=True))
        tokens = [pair for pair, of in zip(tokens, window.text_ids, strict=True) if of == own]
        fresh = len(tokens) if number == 0 else len(window) - window.num_repeated
        assert seen[len(seen) - (len(tokens) - fresh) :] == tokens[: len(tokens) - fresh]
        seen += tokens[len(tokens) - fresh :]
    assert seen == expected
    assert sum(len(w) - w.num_repeated for w in found[1:]) + len(found[0]) >= len(expected)


@ANY_TEXT
@given(words=SPOT)
def test_places_of_tokens_spell_the_text(bert, words):
    text = " ".join(words)
    found = encode_text(bert, text, offsets=True)
    spelt = "".join(text[a:b] for (a, b), of in zip(found.offsets, found.text_ids, strict=True)
                    if of == 0)  # fmt: skip
    assert spelt == text.replace(" ", "")


def test_places_go_on_across_the_pieces_of_a_huge_text(bert, monkeypatch):
    monkeypatch.setattr(tokens, "PIECE_CHARACTERS", 12)
    text = "a fine film " * 5
    found = encode_text(bert, text, offsets=True)
    assert [text[a:b] for a, b in found.offsets[1:-1]] == ["a", "fine", "film"] * 5


def test_a_text_that_is_too_long_is_cut_or_refused_as_wished(bert):
    cut = encode_windows(bert, "a fine film " * 5, max_length=8, stride=2, long="truncate")
    assert [(len(w), w.num_cut) for w in cut] == [(8, 9)]
    with pytest.raises(DataError) as caught:
        encode_windows(
            bert, "a fine film", max_length=4, stride=0, long="error", where="a.csv, line 2"
        )
    assert str(caught.value) == (
        "a.csv, line 2: it has 5 tokens. The model reads 4 at once. "
        'Cut it, or choose task.long="truncate" or "window".'
    )


def test_a_question_is_cut_where_a_text_needs_the_other_half_of_its_windows(bert):
    question = "fine " * 20
    sizes = {"a film": [(11, 14)], "a film " * 3: [(11, 16), (9, 0)]}
    for text, expected in sizes.items():
        found = encode_windows(bert, text, prefix=question, max_length=11, stride=0, long="window")
        assert [(len(w), w.num_cut) for w in found] == expected


@pytest.mark.parametrize("long", ["error", "truncate", "window"])
def test_nothing_of_a_question_is_cut_where_it_fits_beside_the_text(bert, long):
    question, text = "fine " * 40, "a film " * 2
    (found,) = encode_windows(bert, text, prefix=question, max_length=47, stride=4, long=long)
    (whole,) = encode_long(bert, question, text, max_length=47, stride=4, long=long)
    assert (len(found), found.num_cut) == (len(whole), whole.num_cut) == (47, 0)
    assert found.token_ids.tolist() == whole.token_ids.tolist()


@ANY_TEXT
@given(words=SPOT, others=st.one_of(st.none(), SPOT), limit=st.integers(8, 40), data=st.data())
def test_windows_hold_the_longer_text_of_a_pair_and_the_other_one_in_each(
    tokenizer, words, others, limit, data
):
    text, pair = " ".join(words), None if others is None else " ".join(others)
    stride = data.draw(st.integers(0, limit))
    found = encode_long(tokenizer, text, pair, max_length=limit, stride=stride, long="window")
    whole = encode_text(tokenizer, text, pair)
    assert all(len(window) <= limit for window in found)
    if len(whole) <= limit:
        assert [w.token_ids.tolist() for w in found] == [whole.token_ids.tolist()]
        return
    sizes = [len(encode_text(tokenizer, each, special=False)) for each in (text, pair or "")]
    read = sum(len(w) - w.num_repeated for w in found)
    assert read + sum(w.num_cut for w in found) == len(whole)
    room = limit - (len(whole) - sum(sizes))
    assert found[0].num_cut == max(0, min(sizes) - max(room // 2, room - max(sizes)))
    assert len(found) > 1


def test_a_pair_that_is_too_long_is_cut_or_refused_as_wished(bert):
    (cut,) = encode_long(bert, "a film " * 9, "fine", max_length=9, stride=2, long="truncate")
    assert cut.token_ids.tolist() == encode_text(bert, "a film " * 9, "fine", 9).token_ids.tolist()
    assert cut.num_cut == 13
    with pytest.raises(DataError, match="it has 22 tokens"):
        encode_long(bert, "a film " * 9, "fine", max_length=9, stride=2, long="error",
                    where="a.csv, line 2")  # fmt: skip


def test_a_pair_of_two_long_texts_is_read_without_joining_all_their_pieces(bert, monkeypatch):
    joined = []
    process = Tokenizer.post_process

    def counted(self, first, second, special):
        joined.append((1 + len(first.overflowing)) * (1 + len(second.overflowing)))
        return process(self, first, second, special)

    class Counted:
        def __getattr__(self, name):
            return partial(counted, real) if name == "post_process" else getattr(real, name)

    real = bert.backend_tokenizer
    monkeypatch.setattr(type(bert), "backend_tokenizer", Counted())
    text = "a fine film " * 400
    encode_text(bert, text, text, 64)
    encode_long(bert, text, text, max_length=64, stride=8, long="window")
    assert max(joined) <= 150  # it would be 2,500 of a pair's pieces
