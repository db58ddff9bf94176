"""The words and flags of `mine`, `embed`, `index` and `search`.

What they do is in `mining` and `searching`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SOURCE = (
    "The texts: a file, a folder or a Hub id, - for JSON lines on standard input; then settings "
    "such as encoding=latin-1, exact=true (same bits whatever stands beside a text; takes longer) "
)
FORMS = (
    "or vectors=int8 (or uint8, binary, ubinary: smaller vectors), or long=window (or error: what "
    "becomes of texts longer than the model reads; else they are cut)."
)
STORED = "or vectors=int8 (or binary: a smaller index)."
Model = Annotated[str, typer.Option("--model", "-m", help="starter, a folder, a run, or a Hub id.")]
Text = Annotated[
    list[str] | None,
    typer.Option(help="Column of the text; given again, columns are joined.", metavar="COLUMN"),
]
Precision = Annotated[str, typer.Option(help="auto, bf16 or fp32.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def mine(
    words: Annotated[
        list[str],
        typer.Argument(
            help="Pairs of a query and its answer: a file, a folder or a Hub id; then settings "
            "such as encoding=latin-1, precision=fp32 or data.columns.anchor=COLUMN.",
            metavar="SOURCE [KEY=VALUE]...",
        ),
    ],
    model: Model = "starter",
    output: Annotated[
        str, typer.Option("--output", "--out", "-o", help="A .jsonl or .csv file; - prints.")
    ] = "-",
    documents: Annotated[
        str | None,
        typer.Option(help="More texts to choose from than the answers.", metavar="SOURCE"),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Their column; given again, columns are joined.", metavar="COLUMN"),
    ] = None,
    num_negatives: Annotated[
        int, typer.Option("--negatives", "-n", help="How many for each query.", min=1)
    ] = 3,
    skip: Annotated[int, typer.Option(help="Leave out so many of the nearest.", min=0)] = 0,
    depth: Annotated[int, typer.Option(help="How many of the nearest count.", min=1)] = 100,
    max_share: Annotated[
        float, typer.Option(help="Pass over what is nearer than this share of the answer.")
    ] = 0.95,
    seed: Annotated[
        int | None, typer.Option(help="Draw among those left; else the nearest are taken.", min=0)
    ] = None,
    as_json: Json = False,
) -> None:
    """Find texts that look like a query's answer and are not, for embeddings and rerankers."""
    from tunewright.cli.mining import mine_and_write

    mine_and_write(
        words, model, output, as_json, documents=documents, text=text or (), skip=skip,
        num_negatives=num_negatives, depth=depth, max_share=max_share, seed=seed,
    )  # fmt: skip


def embed(
    words: Annotated[
        list[str], typer.Argument(help=SOURCE + FORMS, metavar="SOURCE [KEY=VALUE]...")
    ],
    model: Model = "starter",
    output: Annotated[
        str,
        typer.Option("--output", "--out", "-o", help="A .parquet, .npy or .jsonl file; - prints."),
    ] = "-",
    text: Text = None,
    pooling: Annotated[
        str | None,
        typer.Option(help="mean, cls, last, or none (a vector a token); else as the model says."),
    ] = None,
    layer: Annotated[int, typer.Option(help="-1 is the last, 0 the word embeddings.")] = -1,
    normalize: Annotated[
        bool | None, typer.Option(help="Vectors of length 1; else as the model says.")
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option("--map", help="Cluster the texts and draw them here (.png).", metavar="FILE"),
    ] = None,
    clusters: Annotated[
        int | None, typer.Option(help="How many; else as many as lie most apart.", min=1)
    ] = None,
    axes: Annotated[
        str, typer.Option(help="Of the map: pca, umap, or auto (umap where it is installed).")
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Turn texts into vectors, one a text or one a token, and draw a map of them."""
    from tunewright.cli.searching import Drawing, embed_and_write

    settings = {"model": model, "pooling": pooling, "layer": layer, "normalize": normalize}
    drawing = Drawing(None if picture is None else Path(picture), clusters, axes)
    embed_and_write(words, output, text or [], settings, drawing, as_json)


def index(
    words: Annotated[
        list[str] | None,
        typer.Argument(help=SOURCE + STORED, metavar="[SOURCE] [KEY=VALUE]..."),
    ] = None,
    folder: Annotated[
        str, typer.Option("--output", "--out", "-o", help="The index's folder.", metavar="FOLDER")
    ] = "index",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="starter, a folder, a run, or a Hub id; else the index's own, or starter.",
        ),
    ] = None,
    text: Text = None,
    id_column: Annotated[
        str | None, typer.Option("--id", help="Column of what names a document.", metavar="COLUMN")
    ] = None,
    passage_tokens: Annotated[
        int | None,
        typer.Option(help="The longest passage; else as much as the model reads.", min=1),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(help="Tokens that neighbouring passages share; else 32.", min=0),
    ] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Keep documents that the source lacks.")
    ] = False,
    remove: Annotated[
        list[str] | None,
        typer.Option(help="Remove this document instead; may be given again.", metavar="ID"),
    ] = None,
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Make an index of texts, or bring it up to date: only what is new is embedded.

    It may be killed at any moment; the same command goes on where it stopped.
    """
    from tunewright.cli.searching import index_and_show, remove_and_show

    if remove:
        remove_and_show(words or [], folder, remove, as_json)
        return
    index_and_show(
        words or [], folder, model, precision, as_json, text=text or [], id_column=id_column,
        passage_tokens=passage_tokens, stride=stride, add=add,
    )  # fmt: skip


def search(
    folder: Annotated[str, typer.Argument(help="The folder of an index.", metavar="FOLDER")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="What to look for; with --queries how the file is read, such as "
            "data.columns.query=COLUMN.",
            metavar="QUERY",
        ),
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(help="A file of queries, - for JSON lines on standard input.", metavar="FILE"),
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", help="How many documents.", min=1)] = 10,
    mode: Annotated[str, typer.Option(help="hybrid, dense (meaning) or bm25 (words).")] = "hybrid",
    where: Annotated[
        list[str] | None,
        typer.Option(help='Only documents such as "year>=2020".', metavar="CONDITION"),
    ] = None,
    weight: Annotated[
        float, typer.Option(help="Share of meaning in a hybrid search, 0 to 1.")
    ] = 0.8,
    rerank: Annotated[
        str | None,
        typer.Option(
            help="A cross-encoder that reads the best 50; with =0.5 beside the score so far.",
            metavar="MODEL[=SHARE]",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Measure on queries.jsonl and qrels/test.tsv; with =dev on qrels/dev.tsv.",
            metavar="FOLDER[=SPLIT]",
        ),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "--out", "-o", help="A .jsonl file; - prints.")
    ] = "-",
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Find texts by meaning, by words, or by both."""
    from tunewright.cli.searching import search_and_show

    asked = {"top": top, "mode": mode, "where": tuple(where or ()), "weight": weight}
    search_and_show(folder, words or [], queries, judge, output, asked, rerank, precision, as_json)
