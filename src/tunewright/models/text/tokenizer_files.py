"""Tokenizer files, checked before anything is built from them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError
from tunewright.models.files.weights import DAMAGED, read_json_object
from tunewright.models.text.sentencepiece import SOURCE, TARGET

TOKENIZER = "tokenizer.json"
ADDED_TOKENS = "added_tokens.json"
TARGET_TOKENIZER = "target_tokenizer.json"  # where targets are cut otherwise, into the same ids
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
# Vocabularies from before tokenizer.json, which transformers turns into one.
VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
                "tokenizer.model", "spm.model", ADDED_TOKENS, SOURCE, TARGET)  # fmt: skip

# The largest published tokenizers (about 260,000 pieces) take less than 40 MB.
MAX_TOKENIZER_BYTES = 128_000_000
MAX_PIECES = 5_000_000
MAX_PIECE_CHARACTERS = 10_000  # of a Unigram piece; tokenizers crashes at a million
MAX_SETTINGS_BYTES = 20_000_000  # tokenizer_config.json may repeat thousands of added tokens

# Published patterns repeat at most three things without bound in one alternative.
MAX_REPETITIONS = 3
MAX_PATTERN_CHARACTERS = 10_000
# A bounded repetition up to here multiplies the work by a small constant.
SMALL_REPETITION = 10


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
    if model.get("type") == "Unigram":
        longest = max(
            (len(str(piece[0])) for piece in model.get("vocab") or () if piece), default=0
        )
        if longest > MAX_PIECE_CHARACTERS:
            raise _too_large(path, f"has a piece of {longest:,} characters", MAX_PIECE_CHARACTERS)
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
