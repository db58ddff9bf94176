"""Tokenizers, loaded without any hidden cutting.

The tokenizer is always the fast one, taken from tokenizer.json as it stands, or made of a family's
own files. What they say about truncation and padding is put aside: who encodes decides what is cut,
and counts it.
"""

from __future__ import annotations

import inspect
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

from tunewright.errors import ModelError
from tunewright.models.files.architecture import (
    CONFIG,
    ENCODER,
    load_config,
    model_class,
    text_part,
)
from tunewright.models.files.weights import read_json_object
from tunewright.models.text.chat_template import MAX_TEMPLATE_CHARACTERS, check_template
from tunewright.models.text.sentencepiece import (
    BPE_MODEL,
    SOURCE,
    TARGET,
    VOCABULARY,
    m2m100_backend,
    marian_backends,
)
from tunewright.models.text.tokenizer_files import (
    ADDED_TOKENS,
    CHAT_TEMPLATE,
    MAX_SETTINGS_BYTES,
    SPECIAL_TOKENS_MAP,
    TARGET_TOKENIZER,
    TOKENIZER,
    TOKENIZER_CONFIG,
    VOCABULARIES,
    check_tokenizer,
)

ADDED_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "special")
# A malformed normaliser may only show when it meets a text.
TRIED = "".join(map(chr, range(32, 0x250))) + " \u0e01\u3042\u4e2d\ud55c\U0001f600 e\u0301"
SPECIALS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
            "mask_token")  # fmt: skip

# model_max_length is set to 10^30 when nobody knows it.
MAX_SANE_LENGTH = 100_000_000
# Models that know no limit (relative positions only) were trained on pieces of about this length.
USUAL_LENGTH = 512

# These count positions from one past their padding id (create_position_ids_from_input_ids in
# transformers), so that many rows of the position table are never used.
POSITIONS_AFTER_PADDING = frozenset(
    {"camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm",
     "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"}
)  # fmt: skip


@dataclass(frozen=True)
class Side:
    """What encoding asks of a tokenizer, for targets that are cut otherwise than sources."""

    backend_tokenizer: Tokenizer
    pad_token_id: int


class TwoSided(PreTrainedTokenizerFast):  # type: ignore[misc]
    """A tokenizer of sources, with another one of targets that gives the same ids."""

    target_backend: Tokenizer

    def save_pretrained(self, save_directory: Any, **settings: Any) -> tuple[str, ...]:
        """Saves both; what reads tokenizer.json alone still turns ids into texts."""
        path = Path(save_directory) / TARGET_TOKENIZER
        saved: tuple[str, ...] = super().save_pretrained(save_directory, **settings)
        self.target_backend.save(str(path))
        return (*saved, str(path))


def target_side(tokenizer: Any) -> Any:
    """Returns what encodes targets: a side of the tokenizer, or the tokenizer itself."""
    if isinstance(tokenizer, TwoSided):
        return Side(tokenizer.target_backend, tokenizer.pad_token_id)
    return tokenizer


def backends_of(tokenizer: Any) -> list[Tokenizer]:
    """Returns all that decides how a tokenizer cuts texts: one backend, or those of both sides."""
    target = [tokenizer.target_backend] if isinstance(tokenizer, TwoSided) else []
    return [tokenizer.backend_tokenizer, *target]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Returns the fast tokenizer of a model folder; it neither cuts nor pads by itself.

    A tokenizer without padding token gets one that does not end texts: the padding token that
    config.json names, else the end token, else another special token, else the rarest token.

    Raises ModelError as `check_tokenizer` does, when the file cannot be used, or when it has more
    tokens than the model has embeddings.
    """
    check_tokenizer(folder)
    config = load_config(folder)
    settings = _settings(folder)
    backend, target = _backends(folder, config.model_type, settings)
    for each in (backend, target):
        if each is not None:
            _settle(each)
            _check_ids(folder, each, config)
    tokenizer = (PreTrainedTokenizerFast if target is None else TwoSided)(
        tokenizer_object=backend,
        model_max_length=_stated_length(settings),
        padding_side="left" if settings.get("padding_side") == "left" else "right",
        clean_up_tokenization_spaces=False,
        model_input_names=_input_names(folder, config),
        **_specials(settings, backend),
    )
    if target is not None:
        tokenizer.target_backend = target
    if tokenizer.pad_token is None:
        tokenizer.pad_token = _padding(tokenizer, config)
    tokenizer.chat_template = _chat_template(folder, settings)
    return tokenizer


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """Returns the template that makes a text of a conversation, checked; None where there is none.

    Of several, named ones the one called default is taken.
    """
    path = folder / CHAT_TEMPLATE
    template = settings.get("chat_template")
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            template = file.read(MAX_TEMPLATE_CHARACTERS + 1)
    if isinstance(template, list):
        named = [item for item in template if isinstance(item, dict)]
        template = next((x.get("template") for x in named if x.get("name") == "default"), None)
    if not isinstance(template, str):
        return None
    check_template(template, str(folder))
    return template


def _settings(folder: Path) -> dict[str, Any]:
    """Returns tokenizer_config.json over special_tokens_map.json; either may be absent."""
    settings: dict[str, Any] = {}
    for name in (SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG):
        if (folder / name).is_file():
            settings |= read_json_object(folder / name, MAX_SETTINGS_BYTES)
    return settings


def _settle(backend: Tokenizer) -> None:
    """Makes a tokenizer cut and pad nothing, and split words always alike."""
    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None):
        backend.model.dropout = None


def _backends(
    folder: Path, model_type: str, settings: Mapping[str, Any]
) -> tuple[Tokenizer, Tokenizer | None]:
    """Returns the bare tokenizer, and that of targets where they have their own."""
    target = folder / TARGET_TOKENIZER
    if (folder / TOKENIZER).is_file() and target.is_file():
        return _backend(folder, model_type), _read(target)
    try:
        if model_type == "marian" and _all_there(folder, SOURCE, TARGET, VOCABULARY):
            return _tried(marian_backends(folder), folder, settings)
        if (folder / TOKENIZER).is_file():
            return _backend(folder, model_type), None
        if model_type == "m2m_100" and _all_there(folder, BPE_MODEL, VOCABULARY):
            known = FAIRSEQ_LANGUAGE_CODES
            languages = known.get(settings.get("language_codes"), known["m2m100"])
            return _tried((m2m100_backend(folder, languages), None), folder, settings)
    except ModelError:
        raise
    except BaseException as error:  # a normaliser or a vocabulary that is none
        raise _unusable(folder, error) from error
    return _backend(folder, model_type), None


def _tried(
    sides: tuple[Tokenizer, Tokenizer | None], folder: Path, settings: Mapping[str, Any]
) -> tuple[Tokenizer, Tokenizer | None]:
    """Returns tokenizers with the tokens that somebody added to the folder's, tried on a text.

    Raises ModelError where a token would get another id.
    """
    added = _added_tokens(folder, settings)
    for side in (side for side in sides if side is not None):
        for number, token in sorted(added.items()):
            if side.token_to_id(token.content) is None:
                side.add_tokens([token])
            if side.token_to_id(token.content) != number:
                raise ModelError(
                    str(folder),
                    f'the added token "{token.content}" has the id {number:,}',
                    f"It would be {side.token_to_id(token.content):,}.",
                    "Use the tokenizer that belongs to the model.",
                )
        side.encode(TRIED)
    return sides


def _added_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[int, AddedToken]:
    """Returns the tokens that were added to a vocabulary, by their ids."""
    found: dict[int, AddedToken] = {}
    if (folder / ADDED_TOKENS).is_file():
        named = read_json_object(folder / ADDED_TOKENS, MAX_SETTINGS_BYTES)
        found = {
            int(number): AddedToken(token, normalized=False) for token, number in named.items()
        }
    for number, told in dict(settings.get("added_tokens_decoder") or {}).items():
        known = {key: told[key] for key in ADDED_TOKEN_FLAGS if key in told}
        found[int(number)] = AddedToken(told["content"], normalized=False, **known)
    return found


def _all_there(folder: Path, *names: str) -> bool:
    return all((folder / name).is_file() for name in names)


def _backend(folder: Path, model_type: str) -> Tokenizer:
    """Returns the bare tokenizer.

    For the model types whose published tokenizer files transformers mends, its mended one is
    taken: stock transformers would mend the folder that we save, too.
    """
    path = folder / TOKENIZER
    if not path.is_file() or model_type in MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS:
        return _converted(folder, model_type)
    return _read(path)


def _read(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8-sig"))
    except BaseException as error:  # a malformed file may panic, which is no Exception
        raise _unusable(path, error) from error


def _unusable(path: Path, error: BaseException) -> BaseException:
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return error
    reason = " ".join(str(error).split())
    return ModelError(
        str(path),
        f"is no tokenizer that can be used ({reason})",
        "",
        "Use the model's own tokenizer.",
    )


def _converted(folder: Path, model_type: str) -> Tokenizer:
    """Lets transformers make the fast tokenizer from vocabulary files and nothing else."""
    with tempfile.TemporaryDirectory(prefix="tunewright-tokenizer-") as name:
        clean = Path(name)
        for file in (TOKENIZER, *VOCABULARIES):
            if (folder / file).is_file():
                shutil.copyfile(folder / file, clean / file)
        settings = {k: v for k, v in _settings(folder).items() if _is_plain_setting(k)}
        (clean / TOKENIZER_CONFIG).write_text(json.dumps(settings), encoding="utf-8")
        (clean / CONFIG).write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
        try:
            made = AutoTokenizer.from_pretrained(
                clean, local_files_only=True, trust_remote_code=False
            )
            backend: Tokenizer = made.backend_tokenizer
        except BaseException as error:  # a missing converter, a malformed vocabulary, a panic
            raise _unusable(folder, error) from error
    return backend


def _is_plain_setting(key: str) -> bool:
    plain = {"do_lower_case", "strip_accents", "tokenize_chinese_chars", "tokenizer_class",
             "add_prefix_space", "add_bos_token", "add_eos_token", "keep_accents", "remove_space",
             "added_tokens_decoder", "split_special_tokens"}  # fmt: skip
    return key in plain or key in SPECIALS


def _check_ids(folder: Path, backend: Tokenizer, config: Any) -> None:
    embeddings = getattr(text_part(config), "vocab_size", None)
    if embeddings is None:
        return
    token, largest = max(backend.get_vocab().items(), key=lambda item: item[1])
    if largest >= embeddings:
        raise ModelError(
            str(folder),
            f'the tokenizer gives "{token}" the id {largest:,}, '
            f"and the model has embeddings for {embeddings:,} tokens",
            "Every token needs its embedding.",
            "Use the tokenizer that belongs to the model.",
        )


def _stated_length(settings: Mapping[str, Any]) -> int | None:
    stated = settings.get("model_max_length")
    usable = isinstance(stated, int | float) and 0 < stated < MAX_SANE_LENGTH
    return int(stated) if usable and stated is not None else None


def _input_names(folder: Path, config: Any) -> list[str]:
    """Returns what the tokenizer hands to the model; segment ids only where it has segments."""
    takes = (
        "token_type_ids"
        in inspect.signature(model_class(folder, config, ENCODER).forward).parameters
    )
    segments = getattr(config, "type_vocab_size", 0) > 1 or config.model_type == "xlnet"
    types = ["token_type_ids"] if takes and segments else []
    return ["input_ids", *types, "attention_mask"]


def _specials(settings: Mapping[str, Any], backend: Tokenizer) -> dict[str, str]:
    """Returns the special tokens that are named and that the vocabulary has."""
    named: dict[str, str] = {}
    for key in SPECIALS:
        value = settings.get(key)
        token = value.get("content") if isinstance(value, dict) else value
        if isinstance(token, str) and backend.token_to_id(token) is not None:
            named[key] = token
    return named or _conventional(backend)


def _conventional(backend: Tokenizer) -> dict[str, str]:
    """Finds special tokens by their usual names, for folders that say nothing of them."""
    usual = {
        "pad_token": ("[PAD]", "<pad>"),
        "unk_token": ("[UNK]", "<unk>"),
        "cls_token": ("[CLS]", "<s>"),
        "sep_token": ("[SEP]", "</s>"),
        "mask_token": ("[MASK]", "<mask>"),
        "eos_token": ("</s>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>"),
    }
    return {
        key: next(token for token in tokens if backend.token_to_id(token) is not None)
        for key, tokens in usual.items()
        if any(backend.token_to_id(token) is not None for token in tokens)
    }


def _padding(tokenizer: PreTrainedTokenizerFast, config: Any) -> str:
    """Returns an existing token to pad with; not one that ends texts, where that can be avoided.

    A decoder's head reads the last token that is not padding.
    """
    stated = getattr(text_part(config), "pad_token_id", None)
    if isinstance(stated, int) and 0 <= stated < len(tokenizer):
        return str(tokenizer.convert_ids_to_tokens(stated))
    ends = tokenizer("a")["input_ids"][-1:]
    named = (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token)
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    for token in (*named, *special):
        if token is not None and tokenizer.convert_tokens_to_ids(token) not in ends:
            return str(token)
    return str(tokenizer.convert_ids_to_tokens(len(tokenizer) - 1))  # the rarest


def max_length_of(config: Any, tokenizer: PreTrainedTokenizerFast) -> int:
    """Returns the most tokens that the model takes, special tokens included.

    The smaller of the model's positions and the tokenizer's model_max_length, as far as either
    is known; 512 when neither is.
    """
    limits, config = [], text_part(config)
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        skipped = (config.pad_token_id or 0) + 1 if _skips_padding(config) else 0
        limits.append(positions - skipped)
    if 0 < tokenizer.model_max_length < MAX_SANE_LENGTH:
        limits.append(tokenizer.model_max_length)
    return min(limits, default=USUAL_LENGTH)


def _skips_padding(config: Any) -> bool:
    return config.model_type in POSITIONS_AFTER_PADDING
