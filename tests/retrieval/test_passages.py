"""Passages: nothing is left out, nothing is too long, and sentences stay whole where they can."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tunewright.retrieval.passages import passages, word_places

TEXTS = st.text(st.sampled_from("ab1 .!\n中文。，-'é"), max_size=80)


def cut(text, size, stride=0):
    return [text[start:end] for start, end in passages(text, word_places(text), size, stride)]


@given(TEXTS, st.integers(1, 9), st.integers(0, 9))
def test_every_token_is_in_a_passage_and_none_is_too_long(text, size, stride):
    places_N2 = word_places(text)
    found = passages(text, places_N2, size, stride)

    inside = np.array([[s <= a and b <= e for a, b in places_N2] for s, e in found], bool)
    assert inside.reshape(len(found), -1).any(0).all()
    assert (inside.sum(-1) <= size).all()
    assert [start for start, _ in found] == sorted({start for start, _ in found})
    assert found[0][0] == 0
    assert found[-1][1] == len(text)


def test_a_text_that_fits_is_one_passage_with_its_blanks():
    assert cut("  two words ", 2) == ["  two words "]


def test_a_text_without_tokens_is_one_passage():
    assert passages(" ", word_places(" "), 4, 0) == [(0, 1)]


def test_a_passage_ends_with_a_sentence_of_its_second_half():
    assert cut("One two three. Four five six.", 6) == ["One two three.", "Four five six."]


def test_a_number_is_no_end_of_a_sentence():
    assert cut("It is 3.5 m long and not more", 6) == ["It is 3.5 m", "long and not more"]


def test_chinese_sentences_end_without_a_blank():
    assert cut("酒店很好。房间很大。", 8) == ["酒店很好。", "房间很大。"]


def test_a_line_end_ends_a_sentence():
    assert cut("a title\nthe text goes on", 3) == ["a title", "the text goes", "on"]


def test_passages_overlap_by_the_stride():
    assert cut("a b c d e f g", 4, stride=2) == ["a b c d", "c d e f", "e f g"]


def test_a_stride_of_the_whole_size_still_goes_on():
    assert cut("a b c d", 1, stride=5) == ["a", "b", "c", "d"]


def test_a_passage_neither_ends_nor_begins_inside_a_word():
    text = "embeddings of embeddings"
    pieces_N2 = np.array([(0, 5), (5, 8), (8, 10), (11, 13), (14, 19), (19, 22), (22, 24)])
    found = passages(text, pieces_N2, size=5, stride=2)

    assert [text[start:end] for start, end in found] == ["embeddings of", "of embeddings"]


def test_a_character_of_several_tokens_is_never_cut():
    bytes_N2 = np.array([(0, 1), (1, 2), (1, 2), (2, 3)])

    assert passages("a😀b", bytes_N2, size=2, stride=0) == [(0, 2), (1, 3)]


def test_words_are_letters_characters_and_marks():
    text = "Don't, 中文!"
    assert [text[s:e] for s, e in word_places(text)] == ["Don", "'", "t", ",", "中", "文", "!"]
