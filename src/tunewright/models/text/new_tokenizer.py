"""A tokenizer trained on the spot, for a model that begins from nothing.

    tokenizer = train_tokenizer(texts, "wordpiece", vocab_size=8000)
    tokenizer.save_pretrained(folder)        # tokenizer.json and tokenizer_config.json

Chinese characters are always tokens of their own, in every kind: a vocabulary of 8,000 holds nearly
all that occur, where one of words would hold few.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Literal

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from tunewright.errors import DataError, SettingsError
from tunewright.models.text.masking import CHINESE

TokenizerKind = Literal["wordpiece", "bpe", "unigram"]

TokenizerStyle = Literal["encoder", "sequence-to-sequence"]

# Their order gives them their ids, from 0.
SPECIALS: dict[TokenizerStyle, dict[str, str]] = {
    "encoder": {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    },
    "sequence-to-sequence": {
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
    },
}
# What stands around a text, and around two.
TEMPLATES: dict[TokenizerStyle, tuple[str, str, tuple[str, ...]]] = {
    "encoder": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ("[CLS]", "[SEP]")),
    "sequence-to-sequence": ("$A </s>", "$A </s> $B </s>", ("</s>",)),
}
# All bytes, letters and special tokens need a place before there is room for a piece.
LEAST_VOCABULARY, MOST_VOCABULARY = 300, 1_000_000
# Letters and digits but Chinese characters, which the pre-tokenizer cuts apart.
_INSIDE_WORDS = re.compile(rf"(?![{CHINESE}])\w")
# The share of a vocabulary that single characters may take; rarer ones become unknown.
ALPHABET_SHARE = 0.8


def train_tokenizer(
    texts: Collection[str],
    kind: TokenizerKind = "wordpiece",
    vocab_size: int = 8000,
    *,
    lowercase: bool = False,
    max_length: int = 512,
    style: TokenizerStyle = "encoder",
) -> Any:
    """Returns a fast tokenizer of transformers (PreTrainedTokenizerFast) learned from texts.

    `wordpiece` is BERT's (Schuster & Nakajima 2012), `bpe` works on bytes and knows no unknown
    character (Radford et al. 2019), `unigram` is SentencePiece's (Kudo 2018). The vocabulary has at
    most `vocab_size` tokens, fewer where the texts hold no more. `max_length` is the length, in
    tokens, that its models read. An `encoder` has its texts between [CLS] and [SEP], as BERT; in
    sequence to sequence they end with </s>, and <s> begins what is written. The same texts give
    the same tokens, but for `unigram`, whose figures are added up in any order.

    Raises SettingsError for an unknown kind or size, DataError where the texts hold nothing.
    """
    _check(kind, vocab_size)
    specials = SPECIALS[style]
    backend = _MAKERS[kind](texts, vocab_size, lowercase, specials)
    if backend.get_vocab_size() <= len(specials):
        raise DataError("the tokenizer", "the texts hold no character", "It learns from texts.")
    single, pair, around = TEMPLATES[style]
    backend.post_processor = processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[(token, backend.token_to_id(token)) for token in around],
    )
    types = ["token_type_ids"] if style == "encoder" else []
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", *types, "attention_mask"],
        **specials,
    )


def _check(kind: str, vocab_size: int) -> None:
    if kind not in _MAKERS:
        needed = "It is wordpiece, bpe or unigram."
        raise SettingsError("the tokenizer", f'there is no kind "{kind}"', needed)
    if not LEAST_VOCABULARY <= vocab_size <= MOST_VOCABULARY:
        raise SettingsError(
            "the vocabulary",
            f"its size is {vocab_size:,}",
            f"It must be from {LEAST_VOCABULARY} to {MOST_VOCABULARY:,}.",
        )


def _word_pieces(
    texts: Collection[str], vocab_size: int, lowercase: bool, specials: Mapping[str, str]
) -> Tokenizer:
    """Trains WordPiece with every single character given a number beforehand.

    The library numbers them, and with that decides between pieces that are equally frequent, in
    the random order of a hash table.
    """
    backend = Tokenizer(models.WordPiece(unk_token=specials["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet, inner = _alphabet(texts, backend.normalizer, int(ALPHABET_SHARE * vocab_size))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=[*specials.values(), *inner],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    trained = Tokenizer(models.WordPiece(backend.get_vocab(), unk_token=specials["unk_token"]))
    trained.normalizer, trained.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    trained.decoder = decoders.WordPiece()
    return trained


def _alphabet(texts: Collection[str], normalizer: Any, limit: int) -> tuple[list[str], list[str]]:
    """Returns the most frequent characters, and those that can stand inside words, with their ##.

    Both together are at most `limit`.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    alphabet: list[str] = []
    inner: list[str] = []
    for character, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if character.isspace():
            continue
        if len(alphabet) + len(inner) + 2 > limit:
            break
        alphabet.append(character)
        if _INSIDE_WORDS.fullmatch(character):
            inner.append(f"##{character}")
    return alphabet, inner


def _byte_pairs(
    texts: Collection[str], vocab_size: int, lowercase: bool, specials: Mapping[str, str]
) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.normalizer = _normalizer(normalizers.NFC(), lowercase)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [_each_chinese_character(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(specials.values()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _unigrams(
    texts: Collection[str], vocab_size: int, lowercase: bool, specials: Mapping[str, str]
) -> Tokenizer:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = _normalizer(normalizers.NFKC(), lowercase)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), _each_chinese_character()]
    )
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        unk_token=specials["unk_token"],
        special_tokens=list(specials.values()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _normalizer(form: Any, lowercase: bool) -> Any:
    return normalizers.Sequence([form, normalizers.Lowercase()]) if lowercase else form


def _each_chinese_character() -> Any:
    return pre_tokenizers.Split(Regex(f"[{CHINESE}]"), behavior="isolated")


_MAKERS = {"wordpiece": _word_pieces, "bpe": _byte_pairs, "unigram": _unigrams}
