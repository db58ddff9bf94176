"""Greedy and beam search with our own Transformers, several times faster than the general way.

    texts = search(model, input_ids, attention_mask, first=[1], settings)

A beginning reads its source's keys and values together with the other beams of its row, so that
they exist once (`kept.py`); and rows that are done leave the batch. What is written is what
transformers' own search writes.

Shape letters: B rows, K beams of a row, R = B·K beginnings, V vocabulary, T tokens so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tunewright.models.generating.generation import Generation
from tunewright.models.generating.kept import Kept, KeptInPlace
from tunewright.models.generating.native_writing import native_likeliest
from tunewright.models.transformer import Context, EncoderDecoder, Padded, narrowed, of_keys
from tunewright.native import native_for

Process = Callable[[Tensor, Tensor], Tensor]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NEVER = -1e9  # the score of a text that is not there
# Rows leave the batch when so large a share of them is done: each time all blocks are copied.
DONE_SHARE = 0.25


@dataclass(frozen=True)
class Found:
    """A text that was searched: its tokens, the end included, and the sum of their
    log-probabilities.
    """

    token_ids: tuple[int, ...]
    log_probability: float
    ended: bool


class _Decoder:
    """The decoder of a model over the beginnings of a batch, one token after another."""

    def __init__(
        self, model: EncoderDecoder, inputs: Tensor, mask: Tensor | None, room: int, beams: int
    ) -> None:
        self._model, self._mask = model, mask
        self._memory = narrowed(model.encode(inputs, mask))
        self._num_rows = len(inputs)
        in_place = native_for(self._memory) is not None
        self._kept = KeptInPlace(room, len(inputs) * beams) if in_place else Kept(room)
        self._beams = 1

    def logits(self, token_ids_RT: Tensor) -> Tensor:
        """Returns the logits of the token after these new ones, (R, V)."""
        model, kept = self._model, self._kept
        kept.begin(*token_ids_RT.shape)
        key_T = torch.arange(kept.length, device=token_ids_RT.device)
        query_T = key_T[kept.start :]
        of_sources = of_keys(self._mask)
        if len(query_T) == 1:
            own, cross = kept.layouts(self._beams, of_sources)
        else:  # the tokens that every text begins with
            own, cross = Padded((key_T <= query_T[:, None])[None, None]), Padded(of_sources)
        context = Context(
            own,
            cross,
            self._memory,
            kept,
            model.decoder.bias(query_T, key_T),
            model.decoder.rotation(query_T, kept.length),
        )
        embedded = model.embed(token_ids_RT, query_T, kept.length, model.decoder)
        return model.score(model.decoder(embedded, context)[:, -1])

    def spread(self, beams: int) -> None:
        """Lets every row have several beginnings from now on."""
        rows_B = torch.arange(self._num_rows, device=self._memory.device)
        self._kept.take(rows_B.repeat_interleave(beams))
        self._beams = beams

    def take(self, beginnings_R: Tensor) -> None:
        self._kept.take(beginnings_R)

    def take_rows(self, rows_B: Tensor) -> None:
        """Keeps some rows only, with all their beginnings."""
        places = torch.arange(self._beams, device=rows_B.device)
        self._kept.take((rows_B[:, None] * self._beams + places).flatten())
        self._kept.take_sources(rows_B)
        self._num_rows = len(rows_B)
        if self._mask is not None:
            self._mask = self._mask[rows_B]
        self._memory = self._memory[:0]  # its keys and values are kept


@dataclass
class _Beams:
    """The K beginnings of each row, (B, K), and the K best texts that have ended.

    A text's score is its log-probability over its number of tokens to the power of
    `length_penalty`.
    """

    settings: Generation
    rows: Integers
    sequences: Integers
    scores: Floats
    vocabulary: int
    ended: list[list[tuple[float, Found]]]

    def advance(self, chosen: Integers, scores: Floats, ends: set[int], last: bool) -> Integers:
        """Takes the likeliest continuations of each row, (B, 2K) places in K·V, with their scores;
        one beam needs the likeliest alone.

        Those that end count where they are among the first K; the K likeliest others go on.
        Returns the beginnings that go on, as (B, K) places among the old ones.
        """
        num_rows, beams = self.scores.shape
        beam, token = np.divmod(chosen, self.vocabulary)
        ending = np.isin(token, list(ends)) if not last else np.ones_like(token, bool)
        for row, place in np.argwhere(ending[:, :beams]).tolist():
            tokens = (*self.sequences[row, beam[row, place]].tolist(), int(token[row, place]))
            found = Found(tokens, float(scores[row, place]), tokens[-1] in ends)
            self._end(row, found)
        order = np.argsort(ending, axis=1, kind="stable")[:, :beams]
        rows = np.arange(num_rows)[:, None]
        beam, token = beam[rows, order], token[rows, order]
        self.scores = scores[rows, order]
        self.sequences = np.concatenate([self.sequences[rows, beam], token[..., None]], axis=2)
        return beam

    def _end(self, row: int, found: Found) -> None:
        score = found.log_probability / len(found.token_ids) ** self.settings.length_penalty
        kept = self.ended[self.rows[row]]
        kept.append((score, found))
        kept.sort(key=lambda each: -each[0])
        del kept[self.scores.shape[1] :]

    def done(self) -> npt.NDArray[np.bool_]:
        """Says which rows can find nothing better than what has ended."""
        beams, length = self.scores.shape[1], self.sequences.shape[2]
        if beams == 1:
            return np.array([bool(self.ended[row]) for row in self.rows])
        best = self.scores[:, 0] / length**self.settings.length_penalty
        ended = [self.ended[row] for row in self.rows]
        worst = np.array([kept[-1][0] if len(kept) == beams else np.nan for kept in ended])
        return np.asarray(best <= worst)  # nothing is better or worse than what is no number

    def keep(self, rows: Integers) -> None:
        self.rows, self.sequences = self.rows[rows], self.sequences[rows]
        self.scores = self.scores[rows]


@torch.no_grad()
def search(
    model: EncoderDecoder,
    inputs: Tensor,
    attention_mask: Tensor | None,
    first: Sequence[int],
    settings: Generation,
    ends: set[int],
    process: Process | None = None,
) -> list[list[Found]]:
    """Returns the best texts of each row of a padded batch, as many as `settings` ask for.

    `inputs` are what the encoder reads: token ids, or pixels, which need no mask.
    `first` are the tokens that every text begins with. `process` may change the log-probabilities
    of the next tokens, given the tokens so far, both of all beginnings. With one beam the likeliest
    token is taken each time.
    """
    num_rows, beams = len(inputs), settings.num_beams
    room = len(first) + settings.max_new_tokens
    decoder = _Decoder(model, inputs, attention_mask, room, beams)
    begun = torch.tensor([list(first)], device=inputs.device)
    logits_RV = decoder.logits(begun.expand(num_rows, -1))
    state = _Beams(
        settings,
        np.arange(num_rows),
        np.zeros((num_rows, beams, 0), np.int64),
        np.where(np.arange(beams) == 0, 0.0, NEVER) + np.zeros((num_rows, 1)),
        logits_RV.shape[1],
        [[] for _ in range(num_rows)],
    )
    if beams > 1:
        decoder.spread(beams)
        logits_RV = logits_RV.repeat_interleave(beams, 0)
    for step in range(settings.max_new_tokens):
        last = step + 1 == settings.max_new_tokens
        chosen, scores = _likeliest(logits_RV, state, first, process)
        beam = state.advance(chosen, scores, ends, last)
        done = state.done()
        if last or done.all():
            break
        keep = np.flatnonzero(~done)
        offsets = np.arange(len(beam))[:, None] * beams
        if len(keep) <= (1 - DONE_SHARE) * len(done):
            decoder.take(_on(model, (beam + offsets).flatten()))
            decoder.take_rows(_on(model, keep))
            state.keep(keep)
        elif beams > 1:
            decoder.take(_on(model, (beam + offsets).flatten()))
        logits_RV = decoder.logits(_on(model, state.sequences[:, :, -1].reshape(-1, 1)))
    wanted = settings.num_return_sequences
    return [[found for _, found in kept[:wanted]] for kept in state.ended]


def _likeliest(
    logits_RV: Tensor, state: _Beams, first: Sequence[int], process: Process | None
) -> tuple[Integers, Floats]:
    """Returns the 2K likeliest continuations of each row and their scores, (B, 2K)."""
    num_rows, beams = state.scores.shape
    before = torch.as_tensor(state.scores, dtype=torch.float32, device=logits_RV.device)
    wanted = min(2 * beams, beams * logits_RV.shape[1]) if beams > 1 else 1
    if process is None and native_for(logits_RV) is not None:
        places, scores = native_likeliest(logits_RV, before, wanted)
        return places.numpy(), scores.double().numpy()
    logs_RV = logits_RV.float().log_softmax(-1)
    if process is not None:
        written = state.sequences.reshape(num_rows * beams, -1)
        whole = np.concatenate([np.tile(first, (len(written), 1)), written], axis=1)
        logs_RV = process(_on(logs_RV, whole), logs_RV)
    summed = (logs_RV.view(num_rows, beams, -1) + before[:, :, None]).flatten(1)
    found = summed.topk(wanted)
    return found.indices.cpu().numpy(), found.values.double().cpu().numpy()


def _on(like: Any, values: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device)
