"""Words that are hidden in plain text: what a model is pretrained on, or adapted to a domain with.

{"text": "The film is very good."}
->  Filled("The film is very [MASK].", [Guess("good", 0.93)])
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional

from tunewright.answers import Filled, Guess
from tunewright.errors import DataError, ModelError, SettingsError
from tunewright.figures import Figure, Table
from tunewright.metrics.perplexity import (
    LANGUAGE_METRICS,
    by_frequency,
    frequency_scores,
    language_metrics,
)
from tunewright.metrics.spec import MetricSpec
from tunewright.models.batch import Batch, PackedStream
from tunewright.models.chosen_tokens import chosen_outputs
from tunewright.models.files.architecture import MASKED_LM, Kind, load_config
from tunewright.models.files.loading import load_library_model, set_dropout
from tunewright.models.heads import choose_route, token_outputs
from tunewright.models.text.masking import (
    ChineseWords,
    character_words,
    chinese_cutter,
    draw_words,
    settled,
    token_words,
)
from tunewright.models.text.tokens import encode_windows
from tunewright.tasks import PASSAGE
from tunewright.tasks.base import Loss, Outputs, Statistics, Task, each_window, stack
from tunewright.tasks.shared.related_texts import number_of
from tunewright.tasks.shared.texts import text_of
from tunewright.types import Features, Role, Row, Target, TokenStream

DEFAULT_WINDOW = 256
NUM_CHOICES = 5
NOT_HIDDEN = -100  # the library's mark of a token without a target

# Devlin et al. 2019, section 3.1: of the hidden tokens 80 % become [MASK], 10 % another token, and
# 10 % stay, so that a model also learns to read words that are not hidden.
MASKED_SHARE, REPLACED_SHARE = 0.8, 0.1


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MaskedLanguageModelling(Task):
    """Masked language modelling (Devlin et al. 2019) with the library's own heads.

    A text of any length is read in windows; none of it is dropped. In training every window is
    hidden anew in each epoch. An evaluation hides the same words of a text each time, all behind
    the mask token, so that figures of two models over one vocabulary can be compared. The loss is
    cross-entropy; its count is the number of hidden tokens. A text that holds mask tokens itself
    is filled in there, and nothing else of it is hidden.
    """

    name: ClassVar[str] = "masked-language-modelling"
    roles: ClassVar[tuple[Role, ...]] = (PASSAGE,)
    metrics: ClassVar[tuple[MetricSpec, ...]] = LANGUAGE_METRICS
    kind: ClassVar[Kind] = MASKED_LM
    pipeline_tag: ClassVar[str] = "fill-mask"
    own_usage: ClassVar[str] = (
        "import tunewright as tw\n\n"
        'tw.train("reviews.csv", model="path/to/this/folder")  # for a task of your own'
    )
    stock_usage: ClassVar[str] = (
        "from transformers import pipeline\n\n"
        'fill = pipeline("fill-mask", model="path/to/this/folder")\n'
        'fill(f"The film is very {fill.tokenizer.mask_token}.")'
    )

    window_length: PositiveInt | None = field(
        default=None,
        metadata={"help": "tokens of a window, special tokens included; longer texts become "
                          "several. Off: 256, or the model's limit if that is less"},
    )  # fmt: skip
    mask_fraction: float = field(
        default=0.15, metadata={"help": "share of the words that are hidden, in (0, 1)"}
    )
    whole_words: bool = field(
        default=True, metadata={"help": "hide all pieces of a word together; false: by token"}
    )
    chinese_words: ChineseWords = field(
        default="auto",
        metadata={"help": '"jieba" hides Chinese words whole (package rjieba), "characters" one '
                          'by one; "auto" takes jieba where it is installed'},
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not 0 < self.mask_fraction < 1:
            raise SettingsError(
                "[task]",
                f"task.mask_fraction is {self.mask_fraction}",
                "It must be more than 0 and less than 1.",
            )

    def learn(self, rows: Iterable[Row]) -> Self:
        source = "the training data"
        for row in rows:
            if text_of(row, "text").strip():
                return replace(self, chinese_words=settled(self.chinese_words))
            source = row.source
        raise DataError(source, "all its texts are blank", "There is nothing to learn from.")

    def within(self, limit: int) -> Self:
        if self.window_length is None:
            return replace(self, window_length=min(DEFAULT_WINDOW, limit))
        if self.window_length > limit:
            raise SettingsError(
                "[task]",
                f"task.window_length is {self.window_length}",
                f"The model reads at most {limit} tokens.",
                f"Use task.window_length={limit} or a model that reads more.",
            )
        return self

    def encode(self, row: Row, processor: Any) -> list[Features]:
        """Returns the windows of a text as an evaluation sees them.

        Their targets are what `vary` draws from: the true tokens, the word of each (-1 where none
        may be hidden), and the mask token's id beside the size of the vocabulary.
        """
        text, mask_id = text_of(row, "text"), _mask_id(processor)
        windows = encode_windows(
            processor,
            text,
            max_length=self.window_length or DEFAULT_WINDOW,
            stride=0,
            long="window",
        )
        words = self._words(windows, text, np.array(processor.all_special_ids))
        asks = any(mask_id in window.token_ids for window in windows)
        rng = np.random.Generator(np.random.PCG64(_seed(text)))
        features = []
        for number, (window, word_N) in enumerate(zip(windows, words, strict=True)):
            true_N = np.asarray(window.token_ids)
            hidden_N = (true_N == mask_id) if asks else draw_words(word_N, self.mask_fraction, rng)
            stream = replace(window, token_ids=np.where(hidden_N, mask_id, true_N))
            targets: dict[str, Target] = {
                "true": true_N,
                "word": word_N,
                "ids": (mask_id, len(processor)),
            }
            features.append(Features(row.id, {"text": stream}, targets, number))
        return features

    def _words(
        self, windows: Sequence[TokenStream], text: str, special_ids: np.ndarray
    ) -> list[np.ndarray]:
        """Returns the word of each token of each window, -1 for special tokens and unknown ones."""
        word_C = np.arange(len(text), dtype=np.int32)
        if self.whole_words:
            word_C = character_words(text, chinese_cutter(self.chinese_words))
        found = []
        for window in windows:
            assert window.offsets is not None
            assert window.text_ids is not None
            word_N = token_words(word_C, window.offsets, window.text_ids)
            found.append(np.where(np.isin(window.token_ids, special_ids), -1, word_N))
        return found

    def units(self, rows: Sequence[Sequence[Features]]) -> list[list[Features]]:
        """Returns each window as a row of its own: `batch_size` counts windows."""
        return each_window(rows)

    def vary(self, features: Features, rng: np.random.Generator) -> Features:
        """Returns the window hidden anew, as BERT was trained: 80 % mask, 10 % other, 10 % same."""
        stream = features.streams["text"]
        true_N, word_N, (mask_id, num_ids) = (
            np.asarray(features.targets[name]) for name in ("true", "word", "ids")
        )
        hidden_N = draw_words(word_N, self.mask_fraction, rng)
        share_N = rng.random(len(true_N))
        token_N = np.where(hidden_N & (share_N < MASKED_SHARE), mask_id, true_N)
        replaced_N = hidden_N & (share_N >= 1 - REPLACED_SHARE)
        token_N[replaced_N] = rng.integers(num_ids, size=replaced_N.sum())
        return replace(
            features,
            streams={"text": replace(stream, token_ids=token_N)},
            targets={"label": np.where(hidden_N, true_N, NOT_HIDDEN)},
        )

    def build(
        self, source: Path, processor: Any, *, dropout: float | None, seed: int
    ) -> tuple[Any, tuple[str, ...]]:
        mask_id = _mask_id(processor)
        loaded = load_library_model(
            source,
            self.kind,
            dropout=dropout,
            seed=seed,
            pad_token_id=processor.pad_token_id,
        )
        config, own = loaded.model.config, load_config(source)
        config.mask_token_id = mask_id
        for name in set_dropout(copy.deepcopy(own), 0.0):
            # What is trained from the result begins with the model's dropout, not with this run's.
            setattr(config, name, getattr(own, name))
        return loaded.model, loaded.notices

    def route(self, model: Any) -> str:
        def logits(model: Any, stream: PackedStream) -> Tensor:
            return token_outputs(model, stream, "logits")[0]

        return choose_route(model, logits)

    def forward(self, model: Any, batch: Batch) -> Outputs:
        stream = batch.streams["text"]
        if "label" in batch.targets:
            hidden_N = batch.targets["label"] != NOT_HIDDEN
        else:
            hidden_N = stream.token_ids_N == model.config.mask_token_id
        return {"logits": chosen_outputs(model, stream, hidden_N)}

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        label_N = batch.targets["label"]
        label_M = label_N[label_N != NOT_HIDDEN]
        loss = functional.cross_entropy(outputs["logits"].float(), label_M, reduction="sum")
        return Loss(loss, len(label_M))

    def decode(
        self, outputs: Outputs, features: Sequence[Features], processor: Any
    ) -> list[list[Guess]]:
        parts, start = [], 0
        for item in features:
            mask_id, _ = np.asarray(item.targets["ids"])
            places_M = np.flatnonzero(np.asarray(item.streams["text"].token_ids) == mask_id)
            logits_MV = outputs["logits"][start : start + len(places_M)]
            parts.append(_guesses(logits_MV, item, places_M, processor))
            start += len(places_M)
        return parts

    def join(self, parts: Sequence[Sequence[Guess]], row: Row) -> Filled:
        guesses = tuple(guess for part in parts for guess in part)
        return Filled(_filled(text_of(row, "text"), guesses), guesses)

    def limits(self) -> Sequence[str]:
        return (
            f"Texts of more than {self.window_length} tokens are read in windows of so many. Stock "
            "`transformers` reads a text at once.",
        )

    def statistics(self, answer: Filled, row: Row) -> Mapping[str, Any]:
        known = [guess for guess in answer.guesses if guess.loss is not None]
        return {
            "loss": math.fsum(guess.loss for guess in known if guess.loss is not None),
            "hidden": len(known),
            "right": sum(guess.right is True for guess in known),
            "tokens": np.array([number_of(str(guess.true)) for guess in known], np.int64),
            "losses": np.array([guess.loss for guess in known], np.float32),
            "guessed": np.array([guess.right is True for guess in known], bool),
        }

    def stack(self, statistics: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Stacks the sums of rows; of their tokens, those by how often each is hidden in all."""
        rows = list(statistics)
        sums = stack([{name: row[name] for name in ("loss", "hidden", "right")} for row in rows])
        return sums | {"by_frequency": by_frequency(rows)} if rows else sums

    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        return language_metrics(statistics, counts)

    def compared(self, answer: Filled, row: Row) -> tuple[str, str]:
        """Returns the hidden tokens and the guesses, each in one line."""
        known = [guess for guess in answer.guesses if guess.true is not None]
        return " ".join(str(g.true) for g in known), " ".join(g.token for g in known)

    def severity(self, answer: Filled, row: Row) -> float | None:
        """Returns the mean loss of a text's hidden tokens: high where the model finds it odd."""
        figures = self.statistics(answer, row)
        if figures["right"] == figures["hidden"]:
            return None
        return float(figures["loss"] / figures["hidden"])

    def figures(self, statistics: Statistics) -> Sequence[Figure]:
        if "by_frequency" not in statistics:
            return ()
        header = ("hidden in these rows", "tokens", "guessed", "perplexity")
        scores = frequency_scores(statistics["by_frequency"])
        return [Table("Rare and common tokens", header, scores)] if scores else ()


def _mask_id(processor: Any) -> int:
    if processor.mask_token_id is None:
        raise ModelError(
            "the tokenizer",
            "it has no mask token",
            "Hidden words need one.",
            "Use an encoder such as BERT, RoBERTa or ModernBERT.",
        )
    return int(processor.mask_token_id)


def _seed(text: str) -> int:
    """Returns a number that depends on the text alone."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def _guesses(
    logits_MV: Tensor, item: Features, places_M: np.ndarray, processor: Any
) -> list[Guess]:
    """Returns the guesses of one window, in the order of the text."""
    offsets_N2, true_N = item.streams["text"].offsets, np.asarray(item.targets["true"])
    assert offsets_N2 is not None
    mask_id, _ = np.asarray(item.targets["ids"])
    logs_MV = logits_MV.float().log_softmax(-1)
    logs_MK, ids_MK = (x.cpu().numpy() for x in logs_MV.topk(min(NUM_CHOICES, logs_MV.shape[1])))
    true_M = true_N[places_M]
    loss_M = -logs_MV[np.arange(len(places_M)), true_M].cpu().numpy()
    guesses = []
    for (start, end), logs_K, ids_K, true_id, loss in zip(
        offsets_N2[places_M].tolist(), logs_MK, ids_MK, true_M, loss_M, strict=True
    ):
        tokens, scores = [_shown(processor, i) for i in ids_K], np.exp(logs_K).tolist()
        choices = dict(zip(tokens, scores, strict=True))
        guess = Guess(start, end, tokens[0], scores[0], choices)
        if true_id != mask_id:
            right = bool(ids_K[0] == true_id)
            guess = replace(guess, true=_shown(processor, true_id), right=right, loss=float(loss))
        guesses.append(guess)
    return guesses


def _shown(processor: Any, token_id: int) -> str:
    """Returns a token as it stands in a text, with the ## of a word's later pieces."""
    return str(processor.decode([token_id])).strip()


def _filled(text: str, guesses: Sequence[Guess]) -> str:
    """Puts the guesses in the places of the hidden tokens; a space that a token has stays."""
    parts, done = [], 0
    for guess in guesses:
        covered = text[guess.start : guess.end]
        space = covered[: len(covered) - len(covered.lstrip())]
        parts += [text[done : guess.start], space, guess.token.removeprefix("##")]
        done = guess.end
    return "".join(parts) + text[done:]
