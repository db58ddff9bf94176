"""The words and flags of `predict`, `chat` and `serve`; what they do is in modules of their own."""

from __future__ import annotations

from typing import Annotated

import typer

Text = Annotated[str | None, typer.Option(help="Column of the text.", metavar="COLUMN")]
TextPair = Annotated[
    str | None, typer.Option(help="Column of a second text, for pairs.", metavar="COLUMN")
]
Precision = Annotated[str, typer.Option(help="auto, bf16 or fp32.")]


def predict(
    model: Annotated[str, typer.Argument(help="A run or model folder.", metavar="MODEL")],
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files of rows, - or none for standard input; then settings such as "
            "encoding=latin-1.",
            metavar="[FILE]... [KEY=VALUE]...",
        ),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", help="A .jsonl or .csv file; - prints.")
    ] = "-",
    kind: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Of standard input: lines (the default), jsonl, csv, tsv.",
            metavar="KIND",
        ),
    ] = None,
    text: Text = None,
    text_pair: TextPair = None,
    precision: Precision = "auto",
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Same bits whatever stands beside a row; takes longer."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines (the default), even for errors.")
    ] = False,
) -> None:
    """Answer texts: files or standard input in, JSON lines or CSV out, as they come.

    Rows keep their columns; where one of any file is called like a field of the answer, all fields
    begin with predicted_.
    """
    from tunewright.cli.predicting import predict_and_write

    columns: dict[str, str | None] = {"text": text, "text_pair": text_pair}
    predict_and_write(model, files or ["-"], output, kind, columns, precision, exact)


def chat(
    model: Annotated[
        str,
        typer.Argument(
            help="smollm2, a run or model folder, a .gguf file, or a Hub id.", metavar="MODEL"
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings of [generation], such as do_sample=true.", metavar="[KEY=VALUE]..."
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="What the model is told beforehand.", metavar="TEXT")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each answer as a line of JSON.")
    ] = False,
) -> None:
    """Talk to a model: a line is a turn, and the answer comes as it is written.

    /reset forgets the conversation, /quit ends it.
    """
    from tunewright.cli.chatting import chat_and_show

    chat_and_show(model, words or [], system, as_json)


def serve(
    model: Annotated[
        str, typer.Argument(help="A run or model folder, starter, or smollm2.", metavar="MODEL")
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings of [generation], such as max_new_tokens=256.", metavar="[KEY=VALUE]..."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; other machines reach 0.0.0.0.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Its port; 0 takes a free one.", min=0)] = 8080,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            help="What clients have to send as a bearer token.",
            envvar="TUNEWRIGHT_API_KEY",
            metavar="KEY",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model; else as its run.")
    ] = None,
    precision: Precision = "auto",
    exact: Annotated[
        bool, typer.Option("--exact", help="Same bits whatever is asked beside; takes longer.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the address as a line of JSON.")
    ] = False,
) -> None:
    """Answer over HTTP, with the routes of text-embeddings-inference and OpenAI.

    SIGTERM and Ctrl-C end it when the requests in flight are answered.
    """
    from tunewright.cli.serving import serve_and_show

    serve_and_show(
        model, words or [], host=host, port=port, api_key=api_key, name=name,
        precision=precision, exact=exact, as_json=as_json,
    )  # fmt: skip
