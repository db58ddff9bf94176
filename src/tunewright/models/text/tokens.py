"""From text to token ids, with every token that was cut counted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from tokenizers import Encoding, Tokenizer

from tunewright.errors import DataError
from tunewright.types import TokenStream

# A longer text is tokenised in pieces, so that memory stays flat: those that the model reads are
# joined, the others only counted for the ledger (exact but for words across a border).
PIECE_CHARACTERS = 200_000

Long = Literal["error", "truncate", "window"]


def encode_text(
    tokenizer: Any,
    text: str,
    pair: str | None = None,
    max_length: int | None = None,
    *,
    offsets: bool = False,
    special: bool = True,
) -> TokenStream:
    """Returns the token ids of a text or pair, with special tokens, cut to `max_length`.

    Without `special` there are none, and a blank text has no tokens at all.

    The longer text of a pair is cut first, as transformers' `longest_first` does. Segment ids are
    given where the tokenizer's model reads them, the places of tokens where `offsets` are wanted:
    as the tokenizer has them, so those of a byte-level one may begin with a space.
    """
    backend: Tokenizer = tokenizer.backend_tokenizer
    first = _Tokens.of(backend, text, max_length, offsets)
    second = None if pair is None else _Tokens.of(backend, pair, max_length, offsets)
    num_second = 0 if second is None else second.num_tokens
    around = backend.num_special_tokens_to_add(pair is not None) if special else 0
    room = None if max_length is None else max(max_length - around, 0)
    keep_first, keep_second = _share(first.num_tokens, num_second, room)
    first.keep(keep_first)
    if second is not None:
        second.keep(keep_second)
    num_cut = first.num_tokens + num_second - keep_first - keep_second
    if not special:
        return TokenStream(np.array(first.encoding.ids, np.int32), num_cut=num_cut)
    stream = _joined(tokenizer, first, second)
    return replace(stream if offsets else _without_places(stream), num_cut=num_cut)


def encode_long(
    tokenizer: Any,
    text: str,
    pair: str | None = None,
    *,
    max_length: int,
    stride: int,
    long: Long,
    prompt: str = "",
    where: str = "a text",
) -> list[TokenStream]:
    """Returns a text or pair as one stream or, where that is too long, as `long` says.

    `truncate` cuts it as `encode_text` does, `window` gives the windows of the text, or of the
    longer one of a pair, with the other one before or after it in each, and `error` raises
    DataError, naming `where`. A `prompt` begins the text, and each of its windows.
    """
    text = prompt + text
    whole = encode_text(tokenizer, text, pair, max_length)
    if long == "truncate" or not whole.num_cut:
        return [whole]
    if long == "error":
        raise too_long_error(where, len(whole) + whole.num_cut, max_length)
    backend: Tokenizer = tokenizer.backend_tokenizer
    first, second = (
        None if each is None else _Tokens.of(backend, each, None, False) for each in (text, pair)
    )
    assert first is not None
    if second is None:
        begin = _Tokens.of(backend, prompt.rstrip(), None, False)
        found = _windows(tokenizer, first, None, False, max_length, stride, begin.encoding)
    elif second.num_tokens >= first.num_tokens:
        found = _windows(tokenizer, second, first, True, max_length, stride)
    else:
        found = _windows(tokenizer, first, second, False, max_length, stride)
    return [_without_places(window) for window in found]


def encode_windows(
    tokenizer: Any,
    text: str,
    *,
    max_length: int,
    stride: int,
    long: Long,
    prefix: str | None = None,
    where: str = "a text",
) -> list[TokenStream]:
    """Returns the windows of a text, each at most `max_length` tokens long, with offsets.

    A text that fits is one window. Of a longer one, `truncate` keeps the first window, `window`
    goes on with windows that begin with the last `stride` tokens of the one before (fewer where
    that would fill them), and `error` raises DataError, naming `where`. A `prefix`, such as a
    question, stands before the text in every window; it is cut where it takes more than half of one
    and the text does not fit beside it.
    """
    backend: Tokenizer = tokenizer.backend_tokenizer
    content = _Tokens.of(backend, text, max_length if long == "truncate" else None, True)
    before = None if prefix is None else _Tokens.of(backend, prefix, max_length, True)
    if long == "error":
        num_tokens = content.num_tokens + (0 if before is None else before.num_tokens)
        num_tokens += backend.num_special_tokens_to_add(before is not None)
        if num_tokens > max_length:
            raise too_long_error(where, num_tokens, max_length)
    found = _windows(tokenizer, content, before, True, max_length, stride)
    return [_cut_short(found[0], content)] if long == "truncate" else found


def _windows(
    tokenizer: Any,
    content: _Tokens,
    other: _Tokens | None,
    other_is_first: bool,
    max_length: int,
    stride: int,
    begin: Encoding | None = None,
) -> list[TokenStream]:
    """Returns the windows of a text, with another one in each, of which it may take half.

    Each begins with the tokens `begin`, where the text does and they leave room for more.
    """
    backend: Tokenizer = tokenizer.backend_tokenizer
    room = max_length - backend.num_special_tokens_to_add(other is not None)
    room = max(room, 1 if other is None else 2)
    keep = 0
    if other is not None:
        keep = min(other.num_tokens, max(room // 2, room - content.num_tokens))
        other.keep(keep)
    room -= keep
    rest = content.encoding
    head = [begin] if begin and 0 < len(begin) < room // 2 else []
    if head and rest.ids[: len(head[0])] == head[0].ids:
        room -= len(head[0])
        rest.truncate(len(rest) - len(head[0]), direction="left")
    else:
        head = []
    stride = min(stride, room // 2)
    rest.truncate(room, stride=stride)
    streams = []
    for index, piece in enumerate([rest, *rest.overflowing]):
        start = index * (room - stride)
        whole = Encoding.merge([*head, piece], growing_offsets=False) if head else piece
        own = replace(content, encoding=whole, places_N2=content.places_N2[start:])
        texts = (other, own) if other is not None and other_is_first else (own, other)
        stream = _joined(tokenizer, *texts)
        repeated = 0 if index == 0 else len(stream) - (len(piece) - stride)
        streams.append(replace(stream, num_repeated=repeated))
    num_cut = 0 if other is None else other.num_tokens - keep
    return [replace(streams[0], num_cut=num_cut), *streams[1:]]


def _cut_short(window: TokenStream, content: _Tokens) -> TokenStream:
    """Returns the first window of a text as all that is read of it."""
    num_cut = content.num_tokens - len(content.encoding)
    return replace(window, num_cut=window.num_cut + num_cut)


def bare_ids(tokenizer: Any, text: str) -> np.ndarray:
    """Returns a text's token ids, without special tokens added: int32 (N,)."""
    tokens = _Tokens.of(tokenizer.backend_tokenizer, text, None, False)
    return np.array(tokens.encoding.ids, np.int32)


def first_places(tokenizer: Any, text: str, limit: int) -> tuple[np.ndarray, int]:
    """Returns where a text's first tokens stand, (N, 2) in characters, and how many it has.

    The places are those of at most `limit` tokens; all of the text's are counted.
    """
    tokens = _Tokens.of(tokenizer.backend_tokenizer, text, limit, True)
    return tokens.places_N2[:limit], tokens.num_tokens


def too_long_error(
    where: str, num_tokens: int, max_length: int, choices: str = '"truncate" or "window"'
) -> DataError:
    """Returns the error for a text of more tokens than are read at once."""
    return DataError(
        where,
        f"it has {num_tokens:,} tokens",
        f"The model reads {max_length:,} at once.",
        f"Cut it, or choose task.long={choices}.",
    )


@dataclass(frozen=True)
class _Tokens:
    """A text as tokens: at least as many as the limit, where there are as many.

    `num_tokens` counts those of the whole text. `places_N2` are the tokens' first and last places
    in it, where they are wanted; else there are none.
    """

    encoding: Encoding
    num_tokens: int
    places_N2: np.ndarray

    @classmethod
    def of(cls, backend: Tokenizer, text: str, limit: int | None, placed: bool) -> Self:
        kept: list[Encoding] = []
        places = [np.zeros((0, 2), np.int32)]
        num_kept = num_tokens = 0
        for start in range(0, max(len(text), 1), PIECE_CHARACTERS):
            part = text[start : start + PIECE_CHARACTERS]
            # a batch of one, since that alone lets other threads of Python go on meanwhile
            (piece,) = backend.encode_batch([part], add_special_tokens=False)
            num_tokens += len(piece)
            if not kept or limit is None or num_kept < limit:
                kept.append(piece)
                num_kept += len(piece)
                if placed and len(piece):
                    places.append(np.array(piece.offsets, np.int32) + start)
        merged = kept[0] if len(kept) == 1 else Encoding.merge(kept)
        return cls(merged, num_tokens, np.concatenate(places))

    def keep(self, number: int) -> None:
        """Cuts the tokens off behind so many.

        Twice, so that the rest is one piece: joining two texts joins all pieces of both, too.
        """
        self.encoding.truncate(number + 1)
        self.encoding.truncate(number)


def _joined(tokenizer: Any, first: _Tokens, second: _Tokens | None) -> TokenStream:
    """Puts the special tokens around one text or two, and says where each token comes from."""
    pair = None if second is None else second.encoding
    whole = tokenizer.backend_tokenizer.post_process(first.encoding, pair, True)
    reads_types = "token_type_ids" in tokenizer.model_input_names
    ids, types, texts = whole.ids, whole.type_ids, whole.sequence_ids
    if not ids:  # a blank text without special tokens, and no model answers nothing
        ids, types, texts = [_blank(tokenizer)], [0], [None]
    text_ids_N = np.array([-1 if text is None else text for text in texts], np.int8)
    offsets_N2 = np.zeros((len(ids), 2), np.int32)
    for text_id, tokens in enumerate((first, second)):
        if tokens is not None and len(tokens.places_N2):
            own_N = text_ids_N == text_id
            offsets_N2[own_N] = tokens.places_N2[: own_N.sum()]
    types_N = np.array(types, np.int32) if reads_types else None
    return TokenStream(np.array(ids, np.int32), types_N, offsets=offsets_N2, text_ids=text_ids_N)


def _without_places(stream: TokenStream) -> TokenStream:
    """Spares the memory of what training does not read."""
    return replace(stream, offsets=None, text_ids=None)


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
