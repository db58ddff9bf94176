"""`embed`, `index` and `search`: texts become vectors, an index, and what is found in it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from rich.markup import escape

from tunewright.cli import show
from tunewright.cli.words import Asked, divided, own_settings, source_of
from tunewright.data import ReadSettings, as_rows, stream_tables, write_rows
from tunewright.data.readers import DEFAULTS
from tunewright.data.wording import counted, once
from tunewright.errors import SettingsError
from tunewright.types import Role

# Settings of these verbs that are given as key=value, beside those of reading.
OF_EMBED = ("vectors", "ranges", "exact", "precision", "long", "stride")
OF_INDEX = ("vectors", "exact")
QUERY = Role("query", "what is looked for", ("text", "question", "anchor"))
QUERIES_AT_ONCE = 32
SHOWN_CHARACTERS, OF_CLUSTERS = 300, 100
TOKENS = "none"  # the pooling that leaves a vector for each token
TABLE = ("ndcg@10", "mrr@10", "recall@1", "recall@5", "recall@10", "map@100")


@dataclass(frozen=True)
class Drawing:
    """The map that is asked for: where, of how many clusters, on which axes."""

    picture: Path | None
    clusters: int | None
    axes: str

    def check(self, tokens: bool) -> None:
        from tunewright.retrieval.mapping import check_axes, check_picture

        check_axes(self.axes)
        if self.picture is None:
            if self.clusters is not None:
                raise SettingsError(
                    "--clusters", "no map is asked for", "", "Name its file: --map map.png"
                )
            return
        check_picture(self.picture)
        if tokens:
            raise SettingsError("--map", "tokens were asked for", "A map is drawn of whole texts.")


def embed_and_write(
    words: Sequence[str], output: str, text: Sequence[str], settings: Mapping[str, Any],
    drawing: Drawing, as_json: bool,
) -> None:  # fmt: skip
    """Embeds every text of a source, and draws the map where one is asked for."""
    from tunewright.retrieval import mapping
    from tunewright.retrieval.documents import read_documents
    from tunewright.retrieval.embedding import embedded, odd_documents
    from tunewright.retrieval.vector_files import at_least_one, in_form, write_vectors

    words, given = own_settings(words, OF_EMBED)
    source, reading = _source(words, "embed")
    form, ranges_2D = _form(output, given)
    tokens = settings.get("pooling") == TOKENS
    drawing.check(tokens)
    encoder = _encoder({**settings, **given})
    odd = odd_documents()
    with _counting("texts") as count:
        documents = odd.watch(read_documents(source, text=text, settings=reading, say=show.say))
        rows = count(embedded(documents, encoder, odd.cuts.add))
        sample = mapping.Sample()
        rows = sample.watch(rows) if drawing.picture else rows
        if output == "-":
            rows = in_form(at_least_one(rows), form, ranges_2D)
            num_texts = write_rows(({"id": d.key, **a.to_json()} for d, a in rows), "-")
        else:
            num_texts = write_vectors(rows, Path(output), form, ranges_2D)
    for sentence in odd.notices():
        show.say(sentence)
    about = {"texts": num_texts, "blank_texts": odd.num_blank, "cut_texts": odd.cuts.num_texts,
             "cut_tokens": odd.cuts.num_tokens, "output": output}  # fmt: skip
    about |= _arrays_beside(output, form, tokens)
    if drawing.picture is not None:
        about |= _draw(sample, drawing)
    if as_json and output != "-":
        show.print_json(about)
    else:
        show.say(f"Embedded {counted(num_texts, 'text')}.")


def _form(output: str, given: dict[str, Any]) -> tuple[Any, Any]:
    """Takes the form of the vectors and their ranges out of the settings, and checks the output."""
    from tunewright.models.pooling import RANGED, VectorForm
    from tunewright.retrieval.encoder import check_choice
    from tunewright.retrieval.vector_files import check_target, read_ranges

    form, ranges = given.pop("vectors", "float32"), given.pop("ranges", None)
    check_choice("vectors", form, get_args(VectorForm))
    if output != "-":
        check_target(Path(output))
    elif form in RANGED and ranges is None:
        raise SettingsError(
            "vectors", f"{form} is to be printed",
            "The range of each number is known when all texts were read.",
            "Name a file with --out, or the ranges of other vectors: ranges=FILE.",
        )  # fmt: skip
    return form, None if ranges is None else read_ranges(ranges)


def _arrays_beside(output: str, form: str, tokens: bool) -> dict[str, str]:
    """Says which arrays stand beside the vectors."""
    from tunewright.models.pooling import RANGED
    from tunewright.retrieval.vector_files import beside

    found = {}
    if output != "-" and form in RANGED:
        found["ranges"] = str(beside(Path(output), "ranges"))
        show.say(f"  What the codes stand for is in {found['ranges']}.")
    if tokens and output.endswith(".npy"):
        found["offsets"] = str(beside(Path(output), "offsets"))
        show.say(f"  Where each text begins is in {found['offsets']}.")
    return found


def _encoder(settings: Mapping[str, Any]) -> Any:
    """Returns a model of whole texts, or of tokens where they are not pooled."""
    from tunewright.models.pooling import Pooling
    from tunewright.retrieval.encoder import check_choice, load_encoder, load_token_encoder

    given = {name: value for name, value in settings.items() if value is not None}
    check_choice("--pooling", given.get("pooling", TOKENS), (*get_args(Pooling), TOKENS))
    if given.get("pooling") == TOKENS:
        del given["pooling"]
        if given.pop("long", "truncate") != "truncate":
            found = "it is asked for, and so is a vector for each token"
            raise SettingsError("long", found, "Only the vectors of whole texts are put together.")
        given.pop("stride", None)
        return load_token_encoder(**given)
    return load_encoder(**given)


def _draw(sample: Any, drawing: Drawing) -> dict[str, Any]:
    """Draws the map and shows a typical text of each cluster."""
    import numpy as np

    from tunewright.retrieval.mapping import map_of, write_map

    documents = [document for document, _ in sample.rows]
    vectors_RD = np.stack([answer.values for _, answer in sample.rows])
    found = map_of(documents, vectors_RD, drawing.clusters, drawing.axes)  # type: ignore[arg-type]
    picture = drawing.picture
    assert picture is not None
    points = write_map(found, picture)
    if sample.num_seen > len(documents):
        show.say(f"  The map shows {len(documents):,} of {sample.num_seen:,} texts, by chance.")
    for cluster, (size, place) in enumerate(zip(found.sizes, found.typical, strict=True)):
        of = counted(size, "text")
        show.say(f"  cluster {cluster}, {of}: {_shown(documents[place].text, OF_CLUSTERS)}")
    show.say(f"The map is {picture}, its points are in {points}.")
    return {
        "map": str(picture),
        "axes": found.method,
        "points": str(points),
        "clusters": found.sizes,
    }


def index_and_show(
    words: Sequence[str], folder: str, model: str | None, precision: str, as_json: bool,
    **named: Any,
) -> None:  # fmt: skip
    """Brings an index up to date and says what changed."""
    words, given = own_settings(words, OF_INDEX)
    source, reading = _source(words, "index")
    from tunewright.retrieval.making import encoder_for, make_index

    encoder = encoder_for(Path(folder), model, precision, given.get("exact"))  # type: ignore[arg-type]
    with show.err.status("Reading ...") as status:

        def tell(progress: Any) -> None:
            of = f" of {progress.total:,}" if progress.total else ""
            status.update(f"{progress.phase}: {progress.done:,}{of} documents")

        change = make_index(
            source, Path(folder), encoder, settings=reading, say=show.say, tell=tell,
            vectors=given.get("vectors"), **named,
        )  # fmt: skip
    _show_change(folder, change, as_json)


def remove_and_show(words: Sequence[str], folder: str, keys: Sequence[str], as_json: bool) -> None:
    """Removes documents by their ids and says what the index holds now."""
    if words:
        raise SettingsError(
            "--remove", f'the source "{words[0]}" is named, too', "One of them is needed."
        )
    from tunewright.retrieval.indexing import remove_documents

    _show_change(folder, remove_documents(Path(folder), keys), as_json)


def _show_change(folder: str, change: Any, as_json: bool) -> None:
    if as_json:
        show.print_json({"index": folder, **change.to_json()})
        return
    show.out.print(
        f"{folder}: {counted(change.num_added, 'document')} added, {change.num_changed:,} changed, "
        f"{change.num_removed:,} removed, {change.num_unchanged:,} as they were; "
        f"{counted(change.num_passages, 'passage')}, {change.num_embedded:,} embedded now.",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    if change.num_blank:
        show.out.print(f"Left out: {counted(change.num_blank, 'row')} without a text.")
    show.out.print(f'Next: tunewright search {folder} "a question"', markup=False, soft_wrap=True)


def search_and_show(
    folder: str, words: Sequence[str], queries: str | None, judge: str | None, output: str,
    asked: Mapping[str, Any], rerank: str | None, precision: str, as_json: bool,
) -> None:  # fmt: skip
    """Answers one query, or many as they come, or measures the search on judged ones."""
    texts, settings = (words, ()) if queries is None else divided(words)
    asked_by = {"a query": texts, "--queries": queries, "--judge": judge}
    given = [name for name, value in asked_by.items() if value]
    if len(given) > 1:
        raise SettingsError(
            "search", f"{' and '.join(given)} are given", "One of them can be answered."
        )
    if not given:
        raise SettingsError(
            "search", "it needs one of a query, --queries and --judge", "",
            'Write, for example: tunewright search index "a question"',
        )  # fmt: skip
    from tunewright.retrieval.reranker import load_reranker
    from tunewright.retrieval.search_index import Question, load_index

    if len(texts) > 1:
        raise _several_words(folder, texts)
    reading, share = _named_with_share(rerank)
    of_file = Asked.of(settings, example=f"encoding=latin-1 data.columns.{QUERY.name}=COLUMN")
    question = Question(**asked, rerank_weight=share)
    with load_index(folder, precision=precision) as index:  # type: ignore[arg-type]
        reranker = load_reranker(reading, precision) if reading else None  # type: ignore[arg-type]
        question = replace(question, reranker=reranker)
        if judge is not None:
            beir, split = _divided(judge)
            _show_quality(index.evaluate(beir, question, split or "test"), as_json)
        elif queries is not None:
            rows = _queries(sys.stdin.buffer if queries == "-" else queries, of_file)
            write_rows(_answered(index, rows, question), output)
        else:
            _show_hits(texts[0], index.answers(list(texts), question)[0], output, as_json)


def _several_words(folder: str, words: Sequence[str]) -> SettingsError:
    plain, settings = divided(words)
    if len(plain) == 1 and settings:
        return SettingsError(
            "search", f'"{settings[0]}" is given beside a query',
            "How queries are read is said of a file of them, --queries.",
        )  # fmt: skip
    return SettingsError(
        "search", f"the query has {len(words)} words on the command line", "It is one text.",
        f'Put it into quotes: tunewright search {folder} "{" ".join(words)}"',
    )  # fmt: skip


def _named_with_share(rerank: str | None) -> tuple[str | None, float]:
    """Returns a model and its share of the score, from MODEL or MODEL=SHARE."""
    name, share = _divided(rerank or "")
    if share is None:
        return rerank, 1.0
    try:
        found = float(share)
    except ValueError:
        found = math.nan
    if not name or not 0 <= found <= 1:
        raise SettingsError(
            "--rerank", f'it is "{rerank}"', "It is a model, or MODEL=SHARE from 0 to 1.",
            "Write, for example: --rerank runs/order=0.5",
        )  # fmt: skip
    return name, found


def _divided(word: str) -> tuple[str, str | None]:
    """Returns the two sides of NAME=WORD; of a file that is called so, and without one, None."""
    name, equals, more = word.rpartition("=")
    return (name, more) if equals and not Path(word).exists() else (word, None)


def _answered(
    index: Any, rows: Iterator[tuple[str, dict[str, Any]]], question: Any
) -> Iterator[dict[str, Any]]:
    """Yields queries with their columns and hits, as they come."""
    while part := list(islice(rows, QUERIES_AT_ONCE)):
        found = index.answers([query for query, _ in part], question)
        for (_, cells), hits in zip(part, found, strict=True):
            yield {**cells, "hits": [hit.to_json() for hit in hits]}


def _queries(source: Any, asked: Asked) -> Iterator[tuple[str, dict[str, Any]]]:
    say = once(show.say)
    for table in stream_tables(source, replace(DEFAULTS, **asked.reading)):
        rows = as_rows(table, (QUERY,), asked.columns, training=False, say=say)
        for row in rows:
            query = str(row.values["query"] or "")
            yield query, {rows.columns["query"]: query, **row.extras}


def _show_hits(query: str, hits: Sequence[Any], output: str, as_json: bool) -> None:
    found = {"query": query, "hits": [hit.to_json() for hit in hits]}
    if output != "-":
        write_rows([found], output)
        return
    if as_json:
        show.print_json(found)
        return
    if not hits:
        show.out.print("Nothing was found.")
    for place, hit in enumerate(hits, 1):
        head = f"{place}. {hit.id}"
        show.out.print(f"[bold]{escape(head)}[/]  {hit.score:.3f}", soft_wrap=True)
        show.out.print(f"   {_shown(hit.text)}", markup=False, soft_wrap=True)


def _show_quality(quality: Any, as_json: bool) -> None:
    for notice in quality.notices:
        show.say(f"  {notice}")
    if as_json:
        show.print_json(quality.to_json())
        return
    show.out.print(show.metrics_table(f"{quality.num_queries:,} queries", quality.metrics, TABLE))


def _shown(text: str, most: int = SHOWN_CHARACTERS) -> str:
    """Returns the beginning of a text on one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[:most]} ..."


def _source(words: Sequence[str], verb: str) -> tuple[Any, ReadSettings]:
    """Returns the source that a command names, and how it is read."""
    source, asked = source_of(words, f"{verb} articles.csv")
    if asked.columns:
        raise SettingsError(
            "command line", f"data.columns.{next(iter(asked.columns))} is given", "",
            "Name the column of the texts with --text COLUMN.",
        )  # fmt: skip
    reading = replace(DEFAULTS, **asked.reading)
    return sys.stdin.buffer if source == "-" else source, reading


@contextmanager
def _counting(what: str) -> Iterator[Callable[[Iterator[Any]], Iterator[Any]]]:
    """Shows, on a terminal, how many have passed."""
    with show.err.status("Reading ...") as status:

        def count(rows: Iterator[Any]) -> Iterator[Any]:
            for number, row in enumerate(rows, 1):
                if number % 100 == 0:
                    status.update(f"{number:,} {what}")
                yield row

        yield count
