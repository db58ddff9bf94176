"""Which tokens of a text are hidden from a masked language model, whole words at a time.

    word_C = character_words("酒店非常好", chinese_cutter("jieba"))    # [1, 1, 2, 2, 3]
    word_N = token_words(word_C, offsets_N2, text_ids_N)               # [-1, 1, 1, 2, 2, 3, -1]
    hidden_N = draw_words(word_N, 0.15, rng)

A word is a run of letters and digits, a Chinese word as a segmenter finds it, or any other single
character. Hiding whole words (Cui et al. 2019, "Pre-Training with Whole Word Masking for Chinese
BERT") takes away the easy guesses: the second half of a word from its first.

Shape letters: N tokens, W words, C characters.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Literal

import numpy as np

from tunewright.errors import SettingsError

Cutter = Callable[[str], Sequence[str]]
ChineseWords = Literal["auto", "jieba", "characters"]

SEGMENTER = "rjieba"

CHINESE = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
# Thai to Myanmar, Khmer, kana: written without spaces, and nothing here knows their words.
_UNSPACED = "\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff"
_UNITS = re.compile(rf"([{CHINESE}]+)|(?:(?![{CHINESE}{_UNSPACED}])\w)+|\S")


def settled(choice: ChineseWords) -> ChineseWords:
    """Returns `jieba` for `auto` where the package that finds words is installed."""
    if choice != "auto":
        return choice
    return "jieba" if importlib.util.find_spec(SEGMENTER) else "characters"


def chinese_cutter(choice: ChineseWords) -> Cutter:
    """Returns what cuts a run of Chinese characters into words.

    `jieba` is the dictionary and hidden Markov model of jieba, through the package rjieba;
    `characters` makes each one a word. Raises SettingsError when the package is missing.
    """
    if settled(choice) == "characters":
        return list
    try:
        segmenter = importlib.import_module(SEGMENTER)
    except ImportError:
        raise SettingsError(
            "task.chinese_words",
            f'it is "jieba", and the package {SEGMENTER} is not installed',
            "",
            'Run: pip install "tunewright[chinese]", or use task.chinese_words=characters.',
        ) from None
    cut: Cutter = segmenter.cut
    return cut


def character_words(text: str, cut: Cutter) -> np.ndarray:
    """Returns the number of each character's word, int32 (C,); spaces count to the one before."""
    starts = [
        start
        for unit in _UNITS.finditer(text)
        for start in (_starts(unit, cut) if unit[1] else (unit.start(),))
    ]
    begins_C = np.zeros(len(text), np.int32)
    begins_C[starts] = 1
    return begins_C.cumsum(dtype=np.int32)


def _starts(unit: re.Match[str], cut: Cutter) -> list[int]:
    """Returns where the words of a run of Chinese characters begin."""
    return list(accumulate(map(len, cut(unit[0])), initial=unit.start()))[:-1]


def token_words(word_C: np.ndarray, offsets_N2: np.ndarray, text_ids_N: np.ndarray) -> np.ndarray:
    """Returns the number of each token's word, int32 (N,); -1 for special tokens.

    `offsets_N2` are the tokens' places in the text, in characters. A token that covers several
    words, as pieces of Chinese may, counts to its last one.
    """
    if not len(word_C):
        return np.full(len(offsets_N2), -1, np.int32)
    last_N = np.maximum(offsets_N2[:, 1] - 1, offsets_N2[:, 0])
    return np.where(text_ids_N >= 0, word_C[np.minimum(last_N, len(word_C) - 1)], -1)


def draw_words(word_N: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Returns booleans (N,): the tokens of words that are drawn, each with the same probability.

    At least one word is drawn where there is one. Tokens of the word -1 are never drawn.
    """
    words_W = np.unique(word_N[word_N >= 0])
    drawn_W = rng.random(len(words_W)) < fraction
    if len(words_W) and not drawn_W.any():
        drawn_W[rng.integers(len(words_W))] = True
    return np.isin(word_N, words_W[drawn_W])
