"""A model that turns texts into vectors: of whole texts, or of each token.

    encoder = load_encoder("starter")
    encoder.encode(["a text", "another"])             # float32 (2, 384)
    encoder.encode(texts, precision="int8")           # a quarter of the memory
    load_encoder("starter", layer=4, pooling="cls")   # after the 4th layer, the first token's

Shape letters: B texts, N tokens, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field, fields, replace
from itertools import count
from os import PathLike, fspath
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from tunewright.devices import Precision, find_device, settle_allocator
from tunewright.errors import ModelError, SettingsError, listed
from tunewright.models.batch import Batch
from tunewright.models.files.architecture import load_config
from tunewright.models.files.folder import check_model_folder, find_model
from tunewright.models.heads import hidden_states
from tunewright.models.layers.own_layers import use_own_layers
from tunewright.models.pooling import (
    Codes,
    Floats,
    Pooling,
    VectorForm,
    normalised,
    pool,
    quantised,
)
from tunewright.models.text.tokenizers import load_tokenizer, max_length_of
from tunewright.models.text.tokens import Long, encode_text
from tunewright.prediction.predictor import Predictor
from tunewright.retrieval.embedder import Purpose
from tunewright.retrieval.passages import Places
from tunewright.tasks import find_task
from tunewright.tasks.base import Outputs, load_task
from tunewright.tasks.sentence_embedding import SentenceEmbedding
from tunewright.types import Features, Row

Kind = TypeVar("Kind", bound="LayerEmbedding")
Item = TypeVar("Item")

# Texts whose tokens are in memory at a time, whichever comes first. Where each token gets a vector
# they are fewer: 256 tokens of 384 numbers are 400 kB.
WINDOW_TEXTS, WINDOW_CHARACTERS = 1024, 8_000_000
TOKEN_WINDOW_TEXTS = 128
# A passage cut out of its text may have some more tokens than there: words at its ends.
SPARE_TOKENS = 4


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LayerEmbedding(SentenceEmbedding):
    """Sentence embedding after any layer of the encoder: -1 is the last, 0 the word embeddings."""

    window_texts: ClassVar[int] = WINDOW_TEXTS
    layer: int = field(default=-1, metadata={"help": "the layer whose hidden states are pooled"})

    def forward(self, model: Any, batch: Batch) -> Outputs:
        stream = batch.streams["text"]
        vectors_BD = pool(hidden_states(model, stream, self.layer), stream, self.pooling or "mean")
        return {"vectors": vectors_BD if self.normalize is False else normalised(vectors_BD)}


@plain_dataclass(frozen=True, slots=True, eq=False)
class TokenVectors:
    """The tokens of a text: their pieces, their places in characters (N, 2), float32 (N, D)."""

    tokens: tuple[str, ...]
    places_N2: Places
    vectors_ND: Codes

    def to_json(self) -> dict[str, Any]:
        starts, ends = self.places_N2.T.tolist()
        return {"tokens": self.tokens, "starts": starts, "ends": ends,
                "vectors": self.vectors_ND.tolist()}  # fmt: skip


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TokenEmbedding(LayerEmbedding):
    """A vector for each token of a text; special tokens are left out of the answers."""

    window_texts: ClassVar[int] = TOKEN_WINDOW_TEXTS

    def encode(self, row: Row, processor: Any) -> list[Features]:
        text = str(row.values["anchor"])
        stream = encode_text(processor, text, max_length=self.max_length, offsets=True)
        return [Features(row.id, {"text": stream})]

    def forward(self, model: Any, batch: Batch) -> Outputs:
        vectors_ND = hidden_states(model, batch.streams["text"], self.layer)
        return {"vectors": normalised(vectors_ND) if self.normalize else vectors_ND}

    def decode(  # type: ignore[override]
        self, outputs: Outputs, features: Sequence[Features], processor: Any
    ) -> list[TokenVectors]:
        vectors_ND = outputs["vectors"].float().cpu().numpy()
        ends = np.cumsum([item.num_tokens for item in features])[:-1]
        parts = np.split(vectors_ND, ends)
        return [_of_text(item, part, processor) for item, part in zip(features, parts, strict=True)]

    def join(self, parts: Sequence[TokenVectors], row: Row) -> TokenVectors:  # type: ignore[override]
        return parts[0]


def _of_text(item: Features, vectors_ND: Floats, tokenizer: Any) -> TokenVectors:
    stream = item.streams["text"]
    is_text_N = np.asarray(stream.text_ids) == 0
    ids = np.asarray(stream.token_ids)[is_text_N].tolist()
    return TokenVectors(
        tuple(tokenizer.convert_ids_to_tokens(ids)),
        np.asarray(stream.offsets)[is_text_N],
        vectors_ND[is_text_N],
    )


@plain_dataclass(frozen=True)
class Encoder:
    """A model ready to embed; `name` and `settings` are what `load_encoder` finds it by again."""

    predictor: Predictor
    name: str
    settings: Mapping[str, Any]

    def encode(
        self,
        texts: Iterable[str],
        precision: VectorForm = "float32",
        ranges: Floats | None = None,
    ) -> Codes:
        """Returns the vectors of texts, as documents, float32 (B, D).

        `precision` is as in sentence-transformers: int8 and uint8 are codes of each number's range,
        (B, D), binary and ubinary the signs as packed bits, (B, D / 8). The `ranges` (2, D) are
        those of these texts unless given: codes can be compared where they have the same.
        """
        return self.encode_document(texts, precision, ranges)

    def encode_document(
        self,
        texts: Iterable[str],
        precision: VectorForm = "float32",
        ranges: Floats | None = None,
    ) -> Codes:
        return self._stacked(texts, "document", precision, ranges)

    def encode_query(
        self,
        texts: Iterable[str],
        precision: VectorForm = "float32",
        ranges: Floats | None = None,
    ) -> Codes:
        """Returns the vectors of queries, before which some models want a prompt."""
        return self._stacked(texts, "query", precision, ranges)

    def _stacked(
        self, texts: Iterable[str], purpose: Purpose, form: VectorForm, ranges: Floats | None
    ) -> Codes:
        check_choice("precision", form, get_args(VectorForm))
        found = np.array([answer.values for answer in self.stream(texts, purpose)], np.float32)
        return quantised(found, form, ranges) if len(found) else found

    def stream(
        self,
        texts: Iterable[str],
        purpose: Purpose = "document",
        cut: Callable[[int], None] = lambda _: None,
    ) -> Iterator[Any]:
        """Yields a Vector (or TokenVectors) for each text; memory does not grow with their number.

        `cut` hears, for every text that is longer than the model reads, how many tokens were cut.
        Raises ModelError for numbers that are not finite.
        """
        for rows, encoded in self.predictor.encoded(self._windows(texts, purpose)):
            self.predictor.tell_cuts(encoded, cut)
            for answer in self.predictor.answer_encoded(rows, encoded):
                self._check_finite(answer)
                yield answer

    def _windows(self, texts: Iterable[str], purpose: Purpose) -> Iterator[list[Row]]:
        task: Any = self.predictor.task
        places = count()
        for window in windows(texts, task.window_texts, len):
            yield [
                Row(place, {"anchor": text, "prompt_name": purpose}, "texts")
                for place, text in zip(places, window, strict=False)
            ]

    def _check_finite(self, answer: Any) -> None:
        values = answer.vectors_ND if isinstance(answer, TokenVectors) else answer.values
        if not np.isfinite(values).all():
            raise ModelError(
                self.name, "it gave a vector that is not finite", "", "Try the precision fp32."
            )

    def token_places(self, text: str) -> Places:
        """Returns where the tokens of a text stand in it, in characters, (N, 2)."""
        stream = encode_text(self.predictor.tokenizer, text, offsets=True)
        return np.asarray(stream.offsets)[np.asarray(stream.text_ids) == 0]

    @property
    def passage_tokens(self) -> int:
        """How many tokens of a text are read at once, beside special ones and the prompt."""
        task: Any = self.predictor.task
        around = len(encode_text(self.predictor.tokenizer, task.document_prompt or ""))
        return max(1, int(task.max_length) - around - SPARE_TOKENS)

    @property
    def reference(self) -> dict[str, Any]:
        """How the encoder is loaded again, as plain values."""
        return {"name": self.name, "settings": dict(self.settings)}


def windows(
    items: Iterable[Item], most: int, length: Callable[[Item], int]
) -> Iterator[list[Item]]:
    """Yields items by at most so many, and fewer where they are long in characters."""
    window: list[Item] = []
    characters = 0
    for item in items:
        window.append(item)
        characters += length(item)
        if len(window) == most or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def load_encoder(
    model: str | PathLike[str] = "starter",
    *,
    pooling: Pooling | None = None,
    normalize: bool | None = None,
    layer: int = -1,
    max_length: int | None = None,
    long: Long | None = None,
    stride: int | None = None,
    precision: Precision = "auto",
    exact: bool = False,
) -> Encoder:
    """Loads a model of sentence vectors: `starter`, a folder, a run, or a Hub id.

    A folder of sentence-transformers or of our own says how tokens are pooled, how long texts may
    be and what is put before queries; any other encoder is pooled by the mean and reads 256 tokens.
    What is given here goes before that. Texts longer than that are cut ("truncate"), refused
    ("error"), or have the mean of the vectors of windows that share `stride` tokens ("window").
    `layer` -1 is the last, 0 the word embeddings. When `exact`, a vector has the same bits whatever
    is asked beside it, which takes longer.

    Raises ModelError when the folder cannot be used, SettingsError for a layer that is not there.
    """
    check_choice("long", long or "truncate", get_args(Long))
    given = {"pooling": pooling, "normalize": normalize, "max_length": max_length, "layer": layer,
             "long": long, "stride": stride}  # fmt: skip
    return _loaded(LayerEmbedding, model, given, precision, exact)


def load_token_encoder(
    model: str | PathLike[str] = "starter",
    *,
    normalize: bool = False,
    layer: int = -1,
    max_length: int | None = None,
    precision: Precision = "auto",
    exact: bool = False,
) -> Encoder:
    """Loads a model whose `stream` yields TokenVectors; see `load_encoder`."""
    given = {"normalize": normalize, "max_length": max_length, "layer": layer}
    return _loaded(TokenEmbedding, model, given, precision, exact)


def _loaded(
    kind: type[Kind],
    model: str | PathLike[str],
    given: Mapping[str, Any],
    precision: Precision,
    exact: bool,
) -> Encoder:
    if precision in get_args(VectorForm):
        raise SettingsError(
            "precision", f'it is "{precision}"',
            f"Here it is how the model computes: {listed(get_args(Precision))}.",
            f'Write vectors="{precision}", or encode(texts, precision="{precision}").',
        )  # fmt: skip
    check_choice("precision", precision, get_args(Precision))
    check_choice("pooling", given.get("pooling") or "mean", get_args(Pooling))
    settle_allocator()
    path = find_model(model)
    check_model_folder(path)
    tokenizer = load_tokenizer(path)
    config = load_config(path)
    _check_layer(path, given["layer"], config.num_hidden_layers)
    chosen = {name: value for name, value in given.items() if value is not None}
    limit = max_length_of(config, tokenizer)
    task = replace(_task_of(kind, path), **chosen).within(limit)
    library_model, _ = task.build(path, tokenizer, dropout=None, seed=0)
    task.route(library_model)
    device = find_device(precision)
    library_model.to(device.name).eval()
    use_own_layers(library_model)
    name = str(path.absolute()) if Path(model).expanduser().is_dir() else fspath(model)
    predictor = Predictor(task, library_model, tokenizer, device, exact=exact)
    return Encoder(predictor, name, chosen | ({"exact": True} if exact else {}))


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Raises SettingsError for a value that is not one of those known."""
    if value not in known:
        raise SettingsError(name, f'it is "{value}"', f"It is one of {listed(known)}.")


def _task_of(kind: type[Kind], path: Path) -> Kind:
    """Returns the task that the folder was saved with, or what its files say of its pooling."""
    saved = load_task(path, find_task)
    if not isinstance(saved, SentenceEmbedding):
        return kind().started_from(path)
    return kind(**{each.name: getattr(saved, each.name) for each in fields(saved)})


def _check_layer(path: Path, layer: int, num_layers: int) -> None:
    if not -num_layers - 1 <= layer <= num_layers:
        raise SettingsError(
            "layer",
            f"it is {layer}",
            f"{path.name} has the layers 0 (word embeddings) to {num_layers}; -1 is the last.",
        )
