"""How a decoder goes on with prompts: transformers' own generation, the same for every batch.

    texts = write(model, prompts, row_ids, settings, tokenizer, limit=8192)

Prompts are padded on the left and run on the library's own attention, with its cache. Sampling
takes the likeliest token after noise is added (Gumbel 1954: the largest of log-probabilities with
Gumbel noise is a draw from them), and the noise depends on the seed and the row alone, so that a
row's text does not depend on its neighbours.

Shape letters: B prompts, K texts of a prompt, T tokens written, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tunewright.errors import SettingsError
from tunewright.models.batch import PackedStream
from tunewright.models.chosen_tokens import next_token_losses
from tunewright.models.generating.generation import Generation
from tunewright.models.layers.attention import PACKED

# So many last tokens are looked at for a stop sequence: it can be at most so many tokens long.
STOP_TOKENS = 64
# Tokens, prompts and texts, whose keys and values are kept at once: about 2 GB for a small decoder.
MAX_CACHED_TOKENS = 32_768


@dataclass(frozen=True)
class Writing:
    """What was written for one prompt: token ids without the end, and how it ended.

    `score` is the geometric mean of the tokens' probabilities, their end included.
    """

    ids: tuple[int, ...]
    score: float
    stopped: bool


def check_generation(settings: Generation) -> None:
    """Raises SettingsError for settings that do not go together."""
    if settings.do_sample and settings.num_beams > 1:
        raise SettingsError(
            "generation.do_sample",
            f"sampling is asked for, and {settings.num_beams} beams",
            "One of the two is needed.",
            "Use num_beams=1 to sample.",
        )
    most = settings.num_return_sequences if settings.do_sample else settings.num_beams
    if settings.num_return_sequences > most:
        raise SettingsError(
            "generation.num_return_sequences",
            f"it is {settings.num_return_sequences}, and num_beams is {settings.num_beams}",
            "There are as many texts as beams, unless they are sampled.",
            f"Use num_beams={settings.num_return_sequences}, or do_sample=true.",
        )


def write(
    model: Any,
    prompts: Sequence[Sequence[int]],
    row_ids: Sequence[int],
    settings: Generation,
    tokenizer: Any,
    limit: int,
    streamer: Any = None,
) -> list[list[Writing]]:
    """Returns the texts of each prompt, the best first.

    `limit` is the most tokens, prompt and text, that the model reads. The text of a stop sequence
    is still in the ids; `cut_at_stop` takes it off. `streamer` hears of each token of one prompt.

    Raises SettingsError for settings that do not go together.
    """
    check_generation(settings)
    found: dict[int, list[Writing]] = {}
    for places in _groups([len(prompt) for prompt in prompts], settings, limit):
        texts = _write(
            model,
            [prompts[place] for place in places],
            [row_ids[place] for place in places],
            settings,
            tokenizer,
            _room(len(prompts[places[0]]), settings, limit),
            streamer,
        )
        found |= dict(zip(places, texts, strict=True))
    return [found[place] for place in range(len(prompts))]


def _room(length: int, settings: Generation, limit: int) -> int:
    """Returns how many tokens may be written after a prompt."""
    return max(min(settings.max_new_tokens, limit - length), 1)


def _groups(lengths: Sequence[int], settings: Generation, limit: int) -> Iterator[list[int]]:
    """Yields the places of prompts that are written for together: with the same room, in memory."""
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    texts = max(settings.num_beams, settings.num_return_sequences)
    group: list[int] = []
    for place in order:
        room = _room(lengths[place], settings, limit)
        size = (len(group) + 1) * texts * (lengths[place] + room)
        other = group and room != _room(lengths[group[0]], settings, limit)
        if group and (other or size > MAX_CACHED_TOKENS):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


@torch.no_grad()
def _write(
    model: Any,
    prompts: Sequence[Sequence[int]],
    row_ids: Sequence[int],
    settings: Generation,
    tokenizer: Any,
    room: int,
    streamer: Any,
) -> list[list[Writing]]:
    ends = end_ids_of(model)
    longest = max(map(len, prompts))
    ids_BN, mask_BN = _left_padded(prompts, tokenizer.pad_token_id, model.device)
    probabilities = _Recorder()
    processors = LogitsProcessorList([probabilities])
    if settings.do_sample:
        processors.append(Sampler(settings, row_ids))
    stopping = [_StopSequences(tokenizer, settings.stop, longest)] if settings.stop else []
    num_texts = settings.num_return_sequences
    if settings.do_sample and num_texts > 1:
        ids_BN, mask_BN = (x.repeat_interleave(num_texts, 0) for x in (ids_BN, mask_BN))
    with stock_attention(model):
        found = model.generate(
            input_ids=ids_BN,
            attention_mask=mask_BN,
            max_new_tokens=room,
            max_length=None,
            do_sample=False,
            num_beams=settings.num_beams,
            length_penalty=settings.length_penalty if settings.num_beams > 1 else None,
            num_return_sequences=1 if settings.do_sample else num_texts,
            no_repeat_ngram_size=settings.no_repeat_ngram_size or None,
            eos_token_id=list(ends) or None,
            pad_token_id=tokenizer.pad_token_id,
            temperature=None,
            top_k=None,
            top_p=None,
            stop_strings=None,
            logits_processor=processors,
            stopping_criteria=stopping,
            use_cache=True,
            streamer=streamer,
            return_dict_in_generate=True,
        )
    made_BT = found.sequences[:, longest:]
    counts = [_num_written(row, ends) for row in made_BT.cpu().numpy()]
    logs_BT = (
        _beam_logs(model, found.sequences, ids_BN, mask_BN, counts)
        if settings.num_beams > 1
        else probabilities.of(made_BT)
    )
    texts = [
        _writing(row, ends, logs, count)
        for row, logs, count in zip(made_BT.cpu().numpy(), logs_BT, counts, strict=True)
    ]
    grouped = [texts[i : i + num_texts] for i in range(0, len(texts), num_texts)]
    if settings.do_sample:
        return [sorted(group, key=lambda text: -text.score) for group in grouped]
    return grouped


def end_ids_of(model: Any) -> tuple[int, ...]:
    """Returns the tokens at which a model ends its texts."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        return ()
    return (int(ends),) if isinstance(ends, int) else tuple(int(end) for end in ends)


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Returns a text up to the first stop sequence in it, and whether there is one."""
    places = [place for place in (text.find(mark) for mark in stop if mark) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


@contextmanager
def stock_attention(model: Any) -> Iterator[None]:
    """Runs a model on the library's own attention for a block: ours keeps no cache."""
    before = model.config._attn_implementation
    if before != PACKED:
        yield
        return
    model.set_attn_implementation("sdpa" if type(model)._supports_sdpa else "eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _left_padded(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros((len(prompts), longest), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.as_tensor(np.asarray(prompt, np.int64))
        mask[row, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _num_written(made_T: np.ndarray, ends: Sequence[int]) -> int:
    """Returns how many tokens were written, the end included; what follows it is padding."""
    places = np.flatnonzero(np.isin(made_T, ends))
    return int(places[0]) + 1 if len(places) else len(made_T)


def _writing(made_T: np.ndarray, ends: Sequence[int], logs_T: np.ndarray, count: int) -> Writing:
    stopped = count > 0 and int(made_T[count - 1]) in ends
    score = float(np.exp(logs_T[:count].mean())) if count else 0.0
    return Writing(tuple(map(int, made_T[: count - stopped])), min(score, 1.0), stopped)


def _beam_logs(
    model: Any, whole_BN: Tensor, ids_BN: Tensor, mask_BN: Tensor, counts: Sequence[int]
) -> list[np.ndarray]:
    """Returns the log-probabilities of what beam search wrote, from one more forward pass."""
    prompt, per_row = ids_BN.shape[1], len(whole_BN) // len(ids_BN)
    rows, starts = [], []
    for place, count in enumerate(counts):
        first = prompt - int(mask_BN[place // per_row].sum())
        rows.append(whole_BN[place, first : prompt + count])
        starts.append(prompt - first)
    ends = list(accumulate(map(len, rows), initial=0))
    stream = PackedStream(
        torch.cat(rows),
        torch.cat([torch.arange(len(row), device=ids_BN.device) for row in rows]),
        tuple(ends),
    )
    places = [torch.arange(ends[i] + starts[i], ends[i + 1]) for i in range(len(rows))]
    losses_M, _ = next_token_losses(model, stream, torch.cat(places).to(ids_BN.device))
    return [-part.cpu().numpy() for part in losses_M.split([len(place) for place in places])]


@dataclass
class _Recorder(LogitsProcessor):  # type: ignore[misc]
    """Keeps the log-probability of each token that is taken; the scores stay as they are."""

    _before: Tensor | None = None
    _taken: list[Tensor] = field(default_factory=list)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._take(input_ids[:, -1])
        self._before = scores.float().log_softmax(-1)
        return scores

    def _take(self, token_B: Tensor) -> None:
        if self._before is not None and len(self._before) == len(token_B):
            self._taken.append(self._before.gather(1, token_B[:, None])[:, 0])

    def of(self, made_BT: Tensor) -> np.ndarray:
        """Returns the log-probabilities of the tokens that were written, (B, T)."""
        if made_BT.shape[1] == len(self._taken) + 1:
            self._take(made_BT[:, -1])
        return torch.stack(self._taken, 1).cpu().numpy()


class Sampler(LogitsProcessor):  # type: ignore[misc]
    """Leaves of each row's scores the token that is drawn, so that the likeliest one is it."""

    def __init__(self, settings: Generation, row_ids: Sequence[int]) -> None:
        self._warpers: list[Callable[[Tensor, Tensor], Tensor]] = [
            TemperatureLogitsWarper(settings.temperature)
        ]
        if settings.top_k:
            self._warpers.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1:
            self._warpers.append(TopPLogitsWarper(settings.top_p))
        self._noise = [
            np.random.Generator(np.random.Philox(np.random.SeedSequence((settings.seed, row, k))))
            for row in row_ids
            for k in range(settings.num_return_sequences)
        ]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores_BV = scores.float()
        for warper in self._warpers:
            scores_BV = warper(input_ids, scores_BV)
        noise_BV = np.stack([noise.gumbel(size=scores.shape[1]) for noise in self._noise])
        return scores_BV + torch.from_numpy(noise_BV).to(scores_BV)


class _StopSequences(StoppingCriteria):  # type: ignore[misc]
    """Ends each text that holds one of the stop sequences."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], start: int) -> None:
        self._tokenizer, self._stop, self._start = tokenizer, [s for s in stop if s], start

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        begin = max(self._start, input_ids.shape[1] - STOP_TOKENS)
        texts = self._tokenizer.batch_decode(input_ids[:, begin:], skip_special_tokens=True)
        found = [any(mark in text for mark in self._stop) for text in texts]
        return torch.tensor(found, device=input_ids.device)
