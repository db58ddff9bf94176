"""From text to token ids, with every token that was cut counted."""

from __future__ import annotations

from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from tunewright.types import TokenStream

# A longer text is tokenised in pieces, so that memory stays flat: those that the model reads are
# joined, the others only counted for the ledger (exact but for words across a border).
PIECE_CHARACTERS = 200_000


def encode_text(
    tokenizer: Any, text: str, pair: str | None = None, max_length: int | None = None
) -> TokenStream:
    """Returns the token ids of a text or pair, with special tokens, cut to `max_length`.

    The longer text of a pair is cut first, as transformers' `longest_first` does. Segment ids are
    given where the tokenizer's model reads them.
    """
    backend: Tokenizer = tokenizer.backend_tokenizer
    first, num_first = _encode(backend, text, max_length)
    second, num_second = (None, 0) if pair is None else _encode(backend, pair, max_length)
    special = backend.num_special_tokens_to_add(pair is not None)
    room = None if max_length is None else max(max_length - special, 0)
    keep_first, keep_second = _share(num_first, num_second, room)
    first.truncate(keep_first)
    if second is not None:
        second.truncate(keep_second)
    whole = backend.post_process(first, second, True)
    reads_types = "token_type_ids" in tokenizer.model_input_names
    # A blank text without special tokens would be no tokens at all, and no model answers nothing.
    token_ids, type_ids = (whole.ids, whole.type_ids) if whole.ids else ([_blank(tokenizer)], [0])
    return TokenStream(
        np.array(token_ids, np.int32),
        np.array(type_ids, np.int32) if reads_types else None,
        num_first + num_second - keep_first - keep_second,
    )


def _encode(backend: Tokenizer, text: str, limit: int | None) -> tuple[Encoding, int]:
    """Returns an encoding of at least `limit` tokens, where there are as many, and their number.

    None keeps all. The number counts the tokens of the whole text.
    """
    kept: list[Encoding] = []
    num_kept = num_tokens = 0
    for start in range(0, max(len(text), 1), PIECE_CHARACTERS):
        piece = backend.encode(text[start : start + PIECE_CHARACTERS], add_special_tokens=False)
        num_tokens += len(piece)
        if not kept or limit is None or num_kept < limit:
            kept.append(piece)
            num_kept += len(piece)
    return kept[0] if len(kept) == 1 else Encoding.merge(kept), num_tokens


def _blank(tokenizer: Any) -> int:
    """Returns the token that stands for a text without any: the one that begins or ends texts."""
    candidates = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return next((token_id for token_id in candidates if token_id is not None), 0)


def _share(first: int, second: int, room: int | None) -> tuple[int, int]:
    """Returns how many tokens of each text are kept in `room`, cutting the longer one first."""
    if room is None or first + second <= room:
        return first, second
    smaller = min(first, second, room // 2)
    return (room - smaller, smaller) if first > second else (smaller, room - smaller)
