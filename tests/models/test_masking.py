"""Whole words are hidden together, in every script."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.errors import SettingsError
from tunewright.models.text import masking
from tunewright.models.text.masking import (
    character_words,
    chinese_cutter,
    draw_words,
    settled,
    token_words,
)


def each_character(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The places of one token a character, and that all are of the text."""
    starts = np.arange(len(text))
    return np.stack([starts, starts + 1], 1), np.zeros(len(text), np.int8)


def words(text: str, choice: masking.ChineseWords) -> list[str]:
    """The words of a text, found through one token a character."""
    word_N = token_words(character_words(text, chinese_cutter(choice)), *each_character(text))
    groups = [[c for c, w in zip(text, word_N, strict=True) if w == n] for n in np.unique(word_N)]
    return ["".join(group).strip() for group in groups]


def test_a_word_is_a_run_of_letters_and_digits():
    assert words("it's 3rd, naïve_ab", "characters") == ["it", "'", "s", "3rd", ",", "naïve_ab"]


def test_each_chinese_character_is_a_word_without_a_segmenter():
    assert words("电影very好", "characters") == ["电", "影", "very", "好"]


@pytest.mark.skipif(settled("auto") != "jieba", reason="rjieba is not installed")
def test_chinese_words_are_found_by_the_segmenter():
    assert words("酒店的服务非常好。iPhone", "jieba") == [
        "酒店",
        "的",
        "服务",
        "非常",
        "好",
        "。",
        "iPhone",
    ]


def test_scripts_without_spaces_count_by_character():
    assert words("カタ ไทย", "characters") == list("カタไทย")


def test_pieces_of_one_word_share_it_and_special_tokens_have_none():
    offsets = np.array([(0, 0), (0, 4), (4, 8), (9, 10), (0, 0)])
    text_ids = np.array([-1, 0, 0, 0, -1])
    word_N = token_words(character_words("unkindly x", list), offsets, text_ids)
    assert word_N.tolist() == [-1, 1, 1, 2, -1]


def test_a_blank_text_has_no_words():
    nothing = np.zeros((2, 2), np.int32)
    assert token_words(np.zeros(0), nothing, np.array([-1, -1])).tolist() == [-1, -1]
    assert not draw_words(np.array([-1, -1]), 0.5, np.random.default_rng(0)).any()


def test_a_missing_segmenter_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(masking, "SEGMENTER", "no_such_package")
    assert settled("auto") == "characters"
    with pytest.raises(SettingsError) as caught:
        chinese_cutter("jieba")
    assert str(caught.value) == (
        'task.chinese_words: it is "jieba", and the package no_such_package is not installed. '
        'Run: pip install "tunewright[chinese]", or use task.chinese_words=characters.'
    )


@given(st.text(max_size=60), st.integers(0, 99))
def test_every_character_of_a_text_belongs_to_one_unbroken_word(text, seed):
    word_N = token_words(character_words(text, list), *each_character(text))
    assert (np.diff(word_N) >= 0).all()
    assert len(word_N) == len(text)
    chosen_N = draw_words(word_N, 0.3, np.random.default_rng(seed))
    assert chosen_N.any() == (len(text) > 0)
    assert not set(word_N[chosen_N]) & set(word_N[~chosen_N])


def test_words_are_drawn_with_the_wanted_probability():
    word_N = np.repeat(np.arange(5000), np.arange(5000) % 4 + 1)
    chosen_N = draw_words(word_N, 0.15, np.random.default_rng(0))
    assert chosen_N.mean() == pytest.approx(0.15, abs=0.01)
