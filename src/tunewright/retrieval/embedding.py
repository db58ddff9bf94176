"""Texts in, vectors out: from any source, with memory that does not grow.

    encoder = load_encoder("starter")
    write_vectors(embedded(read_documents("reviews.csv"), encoder), Path("vectors.parquet"))

Shape letters: R texts, D numbers of a vector, W bytes of packed bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from typing import Any, get_args

import numpy as np

from tunewright.data import is_blank
from tunewright.devices import Precision
from tunewright.errors import warned
from tunewright.models.pooling import Codes, Floats, Pooling, VectorForm, quantised
from tunewright.models.text.tokens import Long
from tunewright.prediction.oddities import Oddities
from tunewright.retrieval.documents import Document, read_documents
from tunewright.retrieval.encoder import Encoder, check_choice, load_encoder
from tunewright.retrieval.vector_files import Embedded, at_least_one, read_ranges


def embed(
    source: Any,
    *,
    model: str | PathLike[str] = "starter",
    text: str | Sequence[str] = (),
    pooling: Pooling | None = None,
    layer: int = -1,
    normalize: bool | None = None,
    long: Long | None = None,
    stride: int | None = None,
    precision: Precision = "auto",
    exact: bool = False,
    vectors: VectorForm = "float32",
    ranges: Floats | str | PathLike[str] | None = None,
    say: Callable[[str], None] = warned,
) -> Codes:
    """Returns the vectors of the texts of `source`, float32 (R, D), in their order.

    `source` is a list of texts or dicts, a frame, or a path; `text` names the column, or columns
    that are joined. The model is `starter`, a folder, a run or a Hub id. What it says of `pooling`
    (mean, cls, last) and `normalize` can be chosen otherwise, and any `layer` taken: -1 is the
    last, 0 the word embeddings. Texts longer than the model reads are cut, which `say` hears,
    unless `long` is "window" (the mean of windows that share `stride` tokens) or "error". When
    `exact`, a vector has the same bits whatever texts are beside it, which takes longer.

    `vectors` are "float32", codes of each number's range ("int8", "uint8"), or the signs as packed
    bits, (R, W) ("binary", "ubinary"), under the names of sentence-transformers. The `ranges`,
    (2, D) or the file that `tunewright embed` writes, are those of these texts unless given.
    """
    check_choice("vectors", vectors, get_args(VectorForm))
    ranges_2D = read_ranges(ranges) if isinstance(ranges, str | PathLike) else ranges
    encoder = load_encoder(
        model, pooling=pooling, layer=layer, normalize=normalize, long=long, stride=stride,
        precision=precision, exact=exact,
    )  # fmt: skip
    columns, odd = [text] if isinstance(text, str) else text, odd_documents()
    documents = odd.watch(read_documents(source, text=columns, say=say))
    rows = at_least_one(embedded(documents, encoder, odd.cuts.add))
    vectors_RD = np.stack([answer.values for _, answer in rows])
    for sentence in odd.notices():
        say(sentence)
    return quantised(vectors_RD, vectors, ranges_2D)


def odd_documents() -> Oddities[Document]:
    """Returns a count of documents without a word, and of those that are cut."""
    return Oddities(lambda document: is_blank(document.text), "text")


def embedded(
    documents: Iterable[Document], encoder: Encoder, cut: Callable[[int], None] = lambda _: None
) -> Iterator[Embedded]:
    """Yields each document with its Vector (or TokenVectors), in order, as they are read.

    `cut` hears how many tokens were cut of a text that is longer than the model reads.
    """
    waiting: deque[Document] = deque()

    def texts() -> Iterator[str]:
        for document in documents:
            waiting.append(document)
            yield document.text

    for answer in encoder.stream(texts(), cut=cut):
        yield waiting.popleft(), answer
