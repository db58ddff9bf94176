"""An index in one call: a source of texts and a model in, an index that can be searched out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from tunewright.data import ReadSettings
from tunewright.data.readers import DEFAULTS
from tunewright.devices import Precision
from tunewright.errors import warned
from tunewright.retrieval.documents import read_documents
from tunewright.retrieval.embedder import Embedder
from tunewright.retrieval.encoder import Encoder, load_encoder
from tunewright.retrieval.indexing import IndexChange, Progress, update_index
from tunewright.retrieval.search_index import SearchIndex, load_index
from tunewright.retrieval.store import made_by
from tunewright.retrieval.stored import StoredForm


def index(
    source: Any,
    folder: str | PathLike[str],
    *,
    model: str | PathLike[str] | None = None,
    embedder: Embedder | None = None,
    text: str | Sequence[str] = (),
    id_column: str | None = None,
    passage_tokens: int | None = None,
    stride: int | None = None,
    add: bool = False,
    precision: Precision = "auto",
    exact: bool | None = None,
    vectors: StoredForm | None = None,
    say: Callable[[str], None] = warned,
    tell: Callable[[Progress], None] = lambda _: None,
) -> SearchIndex:
    """Makes `folder` an index of the texts of `source`, or brings it up to date; returns it.

    `source` is a path, a frame, or a list of texts or dicts; `text` names the column, or columns
    that are joined, and `id_column` what names a document. All other columns are kept. Only what is
    new or has changed is embedded; what does not come again is removed, unless `add`. Long texts
    become passages of at most `passage_tokens` (as many as the model reads) that share `stride`
    (32). Without a `model` it is the one that the index was made by, or the starter. `embedder`
    takes its place: anything with `encode(texts) -> float32 (B, D)`. When `exact`, a vector has the
    same bits whatever is embedded beside it, which takes longer; without it, as the index was made.
    `vectors` are stored as "float32", "int8" (a quarter) or "binary" (a 32nd of the bytes). `say`
    hears which columns were guessed.

    Raises DataError for texts and ids that cannot be read, ModelError when the index was made by
    another model.
    """
    found = embedder
    if found is None:
        found = encoder_for(Path(folder), model, precision, exact)
    make_index(
        source, Path(folder), found, text=[text] if isinstance(text, str) else text,
        id_column=id_column, passage_tokens=passage_tokens, stride=stride, add=add,
        vectors=vectors, say=say, tell=tell,
    )  # fmt: skip
    return load_index(folder, embedder=found)


def encoder_for(
    folder: Path,
    model: str | PathLike[str] | None = None,
    precision: Precision = "auto",
    exact: bool | None = None,
) -> Encoder:
    """Returns a model for an index: what is asked for, else as the index was made before."""
    about = made_by(folder) or {"name": "starter", "settings": {}}
    settings = dict(about["settings"])
    if model is not None:  # which pools in its own way
        settings = {name: settings[name] for name in ("exact",) if name in settings}
    if exact is not None:
        settings["exact"] = exact
    return load_encoder(about["name"] if model is None else model, **settings, precision=precision)


def make_index(
    source: Any,
    folder: Path,
    embedder: Embedder,
    *,
    text: Sequence[str] = (),
    id_column: str | None = None,
    passage_tokens: int | None = None,
    stride: int | None = None,
    add: bool = False,
    vectors: StoredForm | None = None,
    settings: ReadSettings = DEFAULTS,
    say: Callable[[str], None] = warned,
    tell: Callable[[Progress], None] = lambda _: None,
) -> IndexChange:
    """Reads a source into an index; returns what changed in it. See `index` and `update_index`."""
    documents = read_documents(source, text=text, id_column=id_column, settings=settings, say=say)
    return update_index(
        folder, documents, embedder, passage_tokens=passage_tokens, stride=stride, add=add,
        vectors=vectors, tell=tell,
        model=embedder.reference if isinstance(embedder, Encoder) else None,
    )  # fmt: skip
