"""Tokenizer files: checked before they are believed, and loaded without any hidden cutting.

The tokenizer is always the fast one, taken from tokenizer.json as it stands, or made of a family's
own files. What they say about truncation and padding is put aside: who encodes decides what is cut,
and counts it.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

from tunewright.errors import ModelError
from tunewright.models.architecture import CONFIG, ENCODER, load_config, model_class, text_part
from tunewright.models.chat_template import MAX_TEMPLATE_CHARACTERS, check_template
from tunewright.models.sentencepiece import (
    BPE_MODEL,
    SOURCE,
    TARGET,
    VOCABULARY,
    m2m100_backend,
    marian_backends,
)
from tunewright.models.weights import DAMAGED, read_json_object

TOKENIZER = "tokenizer.json"
TARGET_TOKENIZER = "target_tokenizer.json"  # where targets are cut otherwise, into the same ids
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
# Vocabularies from before tokenizer.json, which transformers turns into one.
VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
                "tokenizer.model", "spm.model", "added_tokens.json", SOURCE, TARGET)  # fmt: skip

# The largest published tokenizers (about 260,000 pieces) take less than 40 MB.
MAX_TOKENIZER_BYTES = 128_000_000
MAX_PIECES = 5_000_000
MAX_SETTINGS_BYTES = 20_000_000  # tokenizer_config.json may repeat thousands of added tokens

SPECIALS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
            "mask_token")  # fmt: skip

# Published patterns repeat at most three things without bound in one alternative.
MAX_REPETITIONS = 3
MAX_PATTERN_CHARACTERS = 10_000
# A bounded repetition up to here multiplies the work by a small constant.
SMALL_REPETITION = 10

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


def check_tokenizer(folder: Path) -> None:
    """Checks the tokenizer files of a folder without building anything from them.

    Raises ModelError when there are none, when tokenizer.json is malformed or too large, or when
    one of its patterns could take forever on an ordinary text.
    """
    if (folder / TOKENIZER).is_file():
        for name in (TOKENIZER, TARGET_TOKENIZER):
            if (folder / name).is_file():
                read_tokenizer(folder / name)
        return
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise ModelError(
            str(folder),
            "holds no tokenizer",
            f"A model folder holds {TOKENIZER}.",
            "Save the tokenizer of the model here with save_pretrained().",
        )
    for name in VOCABULARIES:
        path = folder / name
        if path.is_file() and path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise _too_large(path, f"is {path.stat().st_size:,} bytes long", MAX_TOKENIZER_BYTES)


def read_tokenizer(path: Path) -> dict[str, Any]:
    """Returns the content of a tokenizer.json, checked for its size and its patterns.

    Raises ModelError when it is over 128 MB or five million pieces, or when a pattern backtracks.
    """
    content = read_json_object(path, MAX_TOKENIZER_BYTES)
    model = content.get("model")
    if not isinstance(model, dict):
        raise ModelError(str(path), 'has no "model"', "It is no tokenizer file.", DAMAGED)
    pieces = sum(len(model.get(key) or ()) for key in ("vocab", "merges"))
    pieces += len(content.get("added_tokens") or ())
    if pieces > MAX_PIECES:
        raise _too_large(path, f"holds {pieces:,} pieces and merges", MAX_PIECES)
    parts = [
        content.get(key) for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    ]
    for pattern in _patterns(parts):
        reason = backtracks(pattern)
        if reason:
            shown = pattern if len(pattern) <= 60 else f"{pattern[:60]}..."
            raise ModelError(
                str(path),
                f'the pattern "{shown}" {reason}',
                "On some texts such a pattern never ends.",
                "Use the model's own tokenizer.",
            )
    return content


def _too_large(path: Path, found: str, limit: int) -> ModelError:
    return ModelError(
        str(path), found, f"It may have at most {limit:,}.", "Use the model's own tokenizer."
    )


def _patterns(part: Any) -> Iterator[str]:
    """Yields every regular expression in a part of tokenizer.json, at any depth."""
    if isinstance(part, dict):
        if isinstance(part.get("Regex"), str):
            yield part["Regex"]
        for value in part.values():
            yield from _patterns(value)
    elif isinstance(part, list):
        for value in part:
            yield from _patterns(value)


_TOKEN = re.compile(
    r"\\[pP]\{[^}]*\}|\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]"  # one character of some kind
    r"|\((?:\?(?:<?[=!]|[:>|~]|[imsxa-]*:|<\w+>|'\w+'|[imsxa-]*(?=\))))?"  # a group opens
    r"|\)|\||[*+][?+]?|\?[?+]?|\{\d*,?\d*\}[?+]?|.",
    re.DOTALL,
)


def backtracks(pattern: str) -> str:
    """Says why a pattern may take more than polynomial time, or returns "".

    tokenizers matches by backtracking (Oniguruma). Refused are: an unbounded repetition of a
    group that itself repeats without bound or offers alternatives, as in `(a+)+` and `(a|b)*`;
    references back, and comments; and more than three unbounded repetitions in one alternative.
    No published tokenizer needs those; the rule errs on the safe side. See Davis et al. 2018,
    "The impact of regular expression denial of service in practice".
    """
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        return "is too long to be checked"
    if re.search(r"\\[1-9]|\\[kg][<']|\(\?[R&0-9~#]", pattern):
        return "refers back to itself or hides a part"
    # One entry a nested group: (unbounded repetitions in this alternative, in any, alternatives).
    stack = [[0, 0, 0]]
    closed = [0, 0, 0]  # of the group that has just been closed
    previous = ""
    for token in _TOKEN.findall(pattern):
        if token.startswith("("):
            stack.append([0, 0, 0])
        elif token == ")" and len(stack) > 1:
            closed = stack.pop()
            stack[-1][0] += closed[0]
            stack[-1][1] += closed[1]
            stack[-1][2] += closed[2]
        elif token == "|":
            stack[-1][1] += stack[-1][0]
            stack[-1][0] = 0
            stack[-1][2] += 1
        elif _is_unbounded(token):
            if previous == ")" and (closed[0] or closed[1] or closed[2]):
                return "repeats what already repeats or has alternatives"
            stack[-1][0] += 1
        if stack[-1][0] > MAX_REPETITIONS:
            return f"repeats more than {MAX_REPETITIONS} things without bound"
        previous = token
    return ""


def _is_unbounded(token: str) -> bool:
    """Says whether a token repeats what stands before it many times."""
    if token[0] in "*+" and len(token) <= 2:
        return True
    numbers = re.fullmatch(r"\{(\d*)(,?)(\d*)\}[?+]?", token)
    if numbers is None:
        return False
    low, comma, high = numbers.groups()
    return bool(comma and not high) or int(high or low or 0) > SMALL_REPETITION


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
    if (folder / TOKENIZER).is_file():
        path = folder / TARGET_TOKENIZER
        return _backend(folder, model_type), _read(path) if path.is_file() else None
    try:
        if model_type == "marian" and _all_there(folder, SOURCE, TARGET):
            return marian_backends(folder)
        if model_type == "m2m_100" and _all_there(folder, BPE_MODEL, VOCABULARY):
            known = FAIRSEQ_LANGUAGE_CODES
            languages = known.get(settings.get("language_codes"), known["m2m100"])
            return m2m100_backend(folder, languages), None
    except ModelError:
        raise
    except BaseException as error:  # a normaliser or a vocabulary that is none
        raise _unusable(folder, error) from error
    return _backend(folder, model_type), None


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
