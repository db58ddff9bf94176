"""How an encoder-decoder is given a source, text or picture, and writes a target.

    frame = frame_of(tokenizer, config, "en", "de")     # what stands around texts, what comes first
    written = write_targets(model, sources, row_ids, [frame.start], tokenizer, settings)

Shape letters: B rows, K texts of a row, T tokens of the longest text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor

from tunewright.errors import SettingsError, listed, nearest
from tunewright.models.batch import PackedPictures, PackedStream, padded
from tunewright.models.files.loading import quiet_library
from tunewright.models.generating.beams import search
from tunewright.models.generating.generation import Generation
from tunewright.models.generating.writing import Sampler, check_generation, end_ids_of
from tunewright.models.text.languages import THREE_LETTERS
from tunewright.models.transformer import EncoderDecoder

# Their texts carry a token that names their language.
BY_LANGUAGE = frozenset({"m2m_100", "mbart"})
Source = PackedStream | PackedPictures
# Beginnings (rows times beams) that go through the decoder together.
MAX_BEGINNINGS = 512


@dataclass(frozen=True)
class Frame:
    """The token ids around a source and a target, and the one that the decoder starts from.

    `before` of a target is given when the model writes: it is never the model's choice.
    """

    source: tuple[tuple[int, ...], tuple[int, ...]]
    target: tuple[tuple[int, ...], tuple[int, ...]]
    start: int


def frame_of(
    tokenizer: Any, model_type: str, start: int | None, source: str | None, target: str | None
) -> Frame:
    """Returns the frame of a family; `source` and `target` are languages, for those that ask.

    M2M100, NLLB and mBART-50 begin both texts with their language; mBART ends a source with it and
    starts to write from the target's. A Marian that writes several languages begins a source with
    the target's. All others frame texts as their tokenizer does.

    Raises SettingsError for a language that is missing or that the model does not know.
    """
    end = tokenizer.eos_token_id
    if model_type not in BY_LANGUAGE:
        around = _template(tokenizer)
        if not around[1] and end is not None:  # a decoder's tokenizer, which ends no text by itself
            around = (around[0], (end,))
        if start is None:
            start = next(
                i for i in (tokenizer.bos_token_id, tokenizer.pad_token_id, 0) if i is not None
            )
        asked = _asked_for(tokenizer, target) if model_type == "marian" else ()
        return Frame(((*asked, *around[0]), around[1]), around, start)
    of_source = language_id(tokenizer, source, "source_language")
    of_target = language_id(tokenizer, target, "target_language")
    if model_type == "mbart" and tokenizer.convert_tokens_to_ids("gl_ES") in _unknown(tokenizer):
        return Frame(((), (end, of_source)), ((), (end,)), of_target)
    return Frame(((of_source,), (end,)), ((of_target,), (end,)), end if start is None else start)


def _asked_for(tokenizer: Any, target: str | None) -> tuple[int, ...]:
    """Returns the token `>>fra<<` that asks a Marian for a language, if it writes several.

    Without a `target` the texts may say it themselves.
    """
    codes = {
        token[2:-2]: number
        for token, number in tokenizer.get_vocab().items()
        if token.startswith(">>") and token.endswith("<<")
    }
    if not codes or target is None:
        return ()
    for name in (target, THREE_LETTERS.get(target, target)):
        begun = [code for code in codes if code.startswith(f"{name}_")]
        if name in codes or len(begun) == 1:
            return (codes[name if name in codes else begun[0]],)
    near = nearest(target, codes)
    raise SettingsError(
        "task.target_language",
        f'the model writes no language "{target}"',
        f"It has {listed(sorted(codes), 12)}. "
        "Name one of them, here or as the key of a translation.",
        f'Did you mean "{near}"?' if near else "",
    )


def _unknown(tokenizer: Any) -> tuple[int | None, ...]:
    return None, tokenizer.unk_token_id


def _template(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the special tokens that a tokenizer puts before and after a text."""
    ids = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True)
    special = np.array(ids.special_tokens_mask, bool)
    own = np.flatnonzero(~special)
    first, last = (int(own[0]), int(own[-1])) if len(own) else (0, -1)
    return tuple(ids.ids[:first]), tuple(ids.ids[last + 1 :])


def language_id(tokenizer: Any, language: str | None, setting: str) -> int:
    """Returns the token of a language: `de`, `de_DE`, `__de__` and `deu_Latn` are known forms."""
    vocabulary = tokenizer.get_vocab()
    tokens = [
        token for token in tokenizer.added_tokens_encoder
        if token.startswith("__") or token[2:3] == "_" or token[3:4] == "_"
    ]  # fmt: skip
    if language is None:
        raise SettingsError(
            f"task.{setting}",
            "it is not set",
            f"The model knows texts by their language: {listed(sorted(tokens), 12)}.",
            f"Name it, such as task.{setting}=de.",
        )
    for token in (language, f"__{language}__"):
        if token in vocabulary:
            return int(vocabulary[token])
    begun = [token for token in tokens if token.startswith(f"{language}_")]
    if len(begun) == 1:
        return int(vocabulary[begun[0]])
    near = nearest(language, tokens)
    raise SettingsError(
        f"task.{setting}",
        f'the model knows no language "{language}"',
        f"It has {listed(sorted(tokens), 12)}.",
        f'Did you mean "{near}"?' if near else "",
    )


@dataclass(frozen=True)
class Written:
    """K texts for each of B rows, in the order of the rows, the best first.

    `token_ids` hold the end token. `ended` says which texts the model ended by itself or at a stop
    sequence. `scores` are the geometric means of the tokens' probabilities, empty where they have
    to be found by reading the texts again.
    """

    token_ids: list[list[int]]
    ended: list[bool]
    scores: list[float]


def write_targets(
    model: Any,
    source: Source,
    row_ids: Sequence[int],
    first: Sequence[int],
    tokenizer: Any,
    settings: Generation,
) -> Written:
    """Returns what the library's own generation writes about each source, be it text or picture.

    `first` are the tokens that every target begins with, the decoder's start before them; they are
    no part of what is returned. Rows are written in pieces that fit into memory.

    Raises SettingsError for settings that do not go together.
    """
    check_generation(settings)
    texts = 1 if settings.num_beams > 1 else settings.num_return_sequences
    step = max(1, MAX_BEGINNINGS // max(settings.num_beams, texts))
    found = Written([], [], [])
    own = isinstance(model, EncoderDecoder) and not (settings.do_sample or settings.stop)
    for start in range(0, source.num_sequences, step):
        chosen = range(start, min(start + step, source.num_sequences))
        rows, ids = taken(source, chosen), [row_ids[i] for i in chosen]
        if own:
            piece = _searched(model, rows, first, tokenizer, settings)
        else:
            piece = _piece(model, rows, ids, first, tokenizer, settings)
        found.token_ids.extend(piece.token_ids)
        found.ended.extend(piece.ended)
        found.scores.extend(piece.scores)
    return found


def _searched(
    model: EncoderDecoder,
    source: Source,
    first: Sequence[int],
    tokenizer: Any,
    settings: Generation,
) -> Written:
    """Writes with our own model, which has a search of its own."""
    inputs = source_inputs(source, model.config.pad_token_id)
    read, mask = inputs[model.main_input_name], inputs.get("attention_mask")
    size = settings.no_repeat_ngram_size
    process = NoRepeatNGramLogitsProcessor(size) if size else None
    rows = search(model, read, mask, first, settings, _ends(model, tokenizer), process)
    texts = [found for row in rows for found in row]
    scores = [math.exp(found.log_probability / len(found.token_ids)) for found in texts]
    return Written(
        [list(found.token_ids) for found in texts], [found.ended for found in texts], scores
    )


def _ends(model: Any, tokenizer: Any) -> set[int]:
    return set(end_ids_of(model)) or {tokenizer.eos_token_id}


def taken(source: Source, places: Sequence[int]) -> Source:
    """Returns the sources at these places, each of which may stand there several times."""
    if isinstance(source, PackedPictures):
        return source.taken(places)
    bounds = source.boundaries
    spans = [slice(bounds[place], bounds[place + 1]) for place in places]
    return PackedStream(
        torch.cat([source.token_ids_N[span] for span in spans]),
        torch.cat([source.position_ids_N[span] for span in spans]),
        tuple(accumulate((span.stop - span.start for span in spans), initial=0)),
    )


def packed_targets(rows: Sequence[Sequence[int]], device: torch.device) -> PackedStream:
    """Returns token ids of several texts as a stream."""
    return PackedStream(
        torch.tensor([token for row in rows for token in row], device=device),
        torch.cat([torch.arange(len(row), device=device) for row in rows]),
        tuple(accumulate(map(len, rows), initial=0)),
    )


def source_inputs(source: Source, pad_id: int | None) -> dict[str, Tensor]:
    """Returns what the library's forward calls a source: padded token ids, or pixels."""
    if isinstance(source, PackedPictures):
        return {"pixel_values": source.pixels_BCHW}
    return padded(source, pad_id or 0)


def _piece(
    model: Any,
    source: Source,
    row_ids: Sequence[int],
    first: Sequence[int],
    tokenizer: Any,
    settings: Generation,
) -> Written:
    beams, texts = settings.num_beams, settings.num_return_sequences
    inputs = source_inputs(source, model.config.pad_token_id)
    processors = LogitsProcessorList()
    if beams == 1 and texts > 1:
        inputs = {name: values.repeat_interleave(texts, 0) for name, values in inputs.items()}
    if settings.do_sample:
        processors.append(Sampler(settings, row_ids))
    num_rows, device = source.num_sequences * (texts if beams == 1 else 1), model.device
    begun = torch.tensor([list(first)], device=device).expand(num_rows, -1)
    options = Generation.to_library(settings) | {"do_sample": False}
    for name in ("temperature", "top_k", "top_p", "num_return_sequences"):
        options.pop(name, None)
    with quiet_library():
        found = model.generate(
            **inputs,
            decoder_input_ids=begun,
            decoder_start_token_id=first[0],
            logits_processor=processors,
            num_return_sequences=texts if beams > 1 else 1,
            tokenizer=tokenizer if settings.stop else None,
            use_cache=True,
            **options,
        )
    return _cut(found[:, len(first) :].tolist(), _ends(model, tokenizer), settings.max_new_tokens)


def _cut(rows: Sequence[list[int]], ends: set[int], limit: int) -> Written:
    """Cuts each text after its end token; what follows is padding."""
    token_ids, ended = [], []
    for row in rows:
        place = next((i for i, token in enumerate(row) if token in ends), None)
        token_ids.append(row if place is None else row[: place + 1])
        ended.append(place is not None or len(row) < limit)
    return Written(token_ids, ended, [])


def log_probabilities(logits_NV: Tensor, token_ids_N: Tensor) -> Tensor:
    """Returns the log-probability of each token, float32 (N,)."""
    wide_NV = logits_NV.float()
    return wide_NV.gather(1, token_ids_N[:, None])[:, 0] - wide_NV.logsumexp(-1)
