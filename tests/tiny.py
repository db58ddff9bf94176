"""Tiny random models, saved as folders of the library's own format; each is built in a moment.

Hidden width 32, two layers, a vocabulary of a few hundred pieces with real words, single letters
and common Chinese characters, so that real texts become real tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from tunewright.models import transformer
from tunewright.models.files.sentence_folder import SentenceSettings

transformer.register()

_TEXT = """
    the a an of and to in is was it this that not no very film movie book food good bad great
    awful fine poor love hate like best worst ever never plot acting story price service slow fast
    new old market team game bank card match win lose music phone stock shares goal
"""
WORDS = _TEXT.split()
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
MARKS = ".,!?'\"-:;()£$%&/@#*+="
# The published pattern of Qwen 2 and 3, which stock transformers puts in by itself.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHINESE = "的一是不了在有我他这中大来上个国到说们好坏电影很差酒店房间服务书喜欢非常。，！"


@dataclass(frozen=True)
class Family:
    """The special tokens of a family: their names, order (= ids), and where they stand."""

    specials: Mapping[str, str]
    single: str
    pair: str
    padding_side: str = "right"
    type_ids: bool = False
    byte_level: bool = False
    languages: tuple[str, ...] = ()


BERT = Family(
    {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    },
    "[CLS] $A [SEP]",
    "[CLS] $A [SEP] $B:1 [SEP]:1",
    type_ids=True,
)
ROBERTA = Family(
    {
        "cls_token": "<s>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    },
    "<s> $A </s>",
    "<s> $A </s> </s> $B </s>",
)
_WRITERS = {
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}
WRITER = Family(_WRITERS, "$A </s>", "$A </s> $B </s>")
BART = Family(_WRITERS, "<s> $A </s>", "<s> $A </s> </s> $B </s>")
M2M = Family(_WRITERS, "$A </s>", "$A </s> $B </s>", languages=("__en__", "__de__"))
MBART = Family(_WRITERS, "$A </s>", "$A </s> $B </s>", languages=("en_XX", "de_DE"))
MBART50 = Family(_WRITERS, "$A </s>", "$A </s> $B </s>", languages=("en_XX", "de_DE", "gl_ES"))
DECODER = Family({"eos_token": "<|endoftext|>"}, "$A", "$A $B", byte_level=True)
XLNET = Family(
    {
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "cls_token": "<cls>",
        "sep_token": "<sep>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    },
    "$A <sep> <cls>:2",
    "$A <sep> $B:1 <sep>:1 <cls>:2",
    padding_side="left",
    type_ids=True,
)

_ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
_AFTER_PADDING = _ENCODER | {"max_position_embeddings": 130, "type_vocab_size": 1}
_LLAMA = _ENCODER | {"num_key_value_heads": 1, "head_dim": 16}

_T5 = {
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 128,
    "decoder_start_token_id": 2,
    "init_std": 0.2,
}

ARCHITECTURES: dict[str, tuple[Family, dict[str, Any]]] = {
    "albert": (BERT, _ENCODER | {"embedding_size": 16}),
    "bert": (BERT, _ENCODER),
    "camembert": (ROBERTA, _AFTER_PADDING),
    "deberta-v2": (
        BERT,
        _ENCODER
        | {
            "relative_attention": True,
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    "distilbert": (
        BERT,
        {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 48,
            "max_position_embeddings": 128,
            "initializer_range": 0.2,
        },
    ),
    "electra": (BERT, _ENCODER | {"embedding_size": 16}),
    "ernie": (BERT, _ENCODER | {"use_task_id": False}),
    "gpt2": (
        DECODER,
        {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.2},
    ),
    "llama": (DECODER, _LLAMA),
    "modernbert": (
        BERT,
        _ENCODER | {"local_attention": 16, "global_attn_every_n_layers": 2},
    ),
    "mpnet": (ROBERTA, _AFTER_PADDING),
    "nomic_bert": (BERT, _ENCODER),
    "qwen2": (DECODER, _LLAMA),
    "qwen3": (DECODER, _LLAMA),
    "roberta": (ROBERTA, _AFTER_PADDING),
    "smollm3": (DECODER, _LLAMA),
    "xlm-roberta": (ROBERTA, _AFTER_PADDING),
    "xlnet": (XLNET, {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48}),
}

# Encoder-decoders: they write texts, and have no heads.
WRITERS: dict[str, tuple[Family, dict[str, Any]]] = {
    "bart": (BART, _BART),
    "m2m_100": (M2M, _BART),
    "marian": (WRITER, _BART | {"decoder_start_token_id": 0}),
    "mbart": (MBART, _BART | {"decoder_start_token_id": None}),
    "mbart-50": (MBART50, _BART),
    "mt5": (WRITER, _T5),
    "t5": (WRITER, _T5),
    "tunewright-transformer": (
        WRITER,
        {name: size for name, size in _ENCODER.items() if name != "initializer_range"}
        | {"decoder_start_token_id": 1},
    ),
}
# Encoders of pictures, of 16 pixels in patches of 4, with a decoder that writes.
_VISION = {
    "model_type": "vit",
    **{name: size for name, size in _ENCODER.items() if name != "max_position_embeddings"},
    "image_size": 16,
    "patch_size": 4,
}
_CROSSING = {"add_cross_attention": True, "is_decoder": True}
CAPTIONERS: dict[str, tuple[Family, dict[str, Any]]] = {
    "tunewright-captioner": (
        WRITER,
        {name: size for name, size in _ENCODER.items() if name != "initializer_range"}
        | {"decoder_start_token_id": 1, "image_size": 16, "patch_size": 4},
    ),
    "vit-bert": (BERT, {"encoder": _VISION, "decoder": {"model_type": "bert"} | _ENCODER}),
    "vit-gpt2": (DECODER, {"encoder": _VISION, "decoder": {"model_type": "gpt2"} | {
        "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.2,
    }}),
}  # fmt: skip
# Names of ours that stand for a type of the library.
TYPES = {
    "mbart-50": "mbart",
    "vit-bert": "vision-encoder-decoder",
    "vit-gpt2": "vision-encoder-decoder",
}


def tiny_labels(num_labels: int) -> list[str]:
    """The label names that a tiny classifier carries: `label-0`, `label-1`, ..."""
    return [f"label-{index}" for index in range(num_labels)]


def tiny_model(
    architecture: str,
    folder: Path,
    num_labels: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Saves a random model and its tokenizer to `folder`, and returns it.

    With `num_labels` it is a classifier with names for its labels, else a bare backbone.
    `settings` go into the model's configuration. The same arguments give the same bits.
    """
    family, sizes = (ARCHITECTURES | WRITERS | CAPTIONERS)[architecture]
    folder.mkdir(parents=True, exist_ok=True)
    vocab_size = save_tokenizer(family, folder)
    ids = {name: index for index, name in enumerate(family.specials)}
    known = {
        f"{name.removesuffix('_token')}_token_id": ids.get(name)
        for name in ("pad_token", "eos_token", "bos_token", "cls_token", "sep_token")
    }
    known |= {"vocab_size": vocab_size}
    if "decoder" in sizes:
        known |= {"decoder_start_token_id": known["cls_token_id"] or known["eos_token_id"] or 0}
        sizes = sizes | {"decoder": sizes["decoder"] | known | _CROSSING}
    config = AutoConfig.for_model(
        TYPES.get(architecture, architecture), **(sizes | known | dict(settings or {}))
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if num_labels is None:
            auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModel
            auto = AutoModelForImageTextToText if architecture in CAPTIONERS else auto
            model = auto.from_config(config)
        else:
            config.id2label = dict(enumerate(tiny_labels(num_labels)))
            config.label2id = {label: index for index, label in config.id2label.items()}
            model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    return folder


def save_tokenizer(family: Family, folder: Path) -> int:
    """Writes tokenizer.json and tokenizer_config.json; returns the size of the vocabulary."""
    specials = list(family.specials.values())
    tokenizer = _byte_level(specials) if family.byte_level else _word_pieces(family)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=family.single,
        pair=family.pair if family.type_ids else family.pair.replace("$B", "$B:0"),
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in specials],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = dict(family.specials) | {
        "model_max_length": 128,
        "padding_side": family.padding_side,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return tokenizer.get_vocab_size()


def _word_pieces(family: Family) -> Tokenizer:
    """BERT's kind of tokenizer: whole words that are known, else letters."""
    specials = list(family.specials.values())
    continued = [f"##{letter}" for letter in LETTERS]
    pieces = dict.fromkeys([*specials, *LETTERS, *continued, *MARKS, *CHINESE, *WORDS])
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=family.specials["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([*specials, *family.languages])
    if "bos_token" in family.specials:
        tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _byte_level(specials: Sequence[str]) -> Tokenizer:
    """GPT-2's and Qwen's kind of tokenizer: all bytes, and merges learnt from the words."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=360,
        show_progress=False,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    return tokenizer


def tiny_sentence_model(folder: Path, settings: SentenceSettings) -> Path:
    """Makes a tiny encoder with the files by which sentence-transformers knows it."""
    tiny_model("bert", folder)
    for name, text in settings.files(32).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder
