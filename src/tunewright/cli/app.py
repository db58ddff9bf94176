"""The verbs. Each reads its words, calls the Python face, and shows what came of it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import typer

from tunewright import __version__
from tunewright.cli.answer_verbs import chat, predict, serve
from tunewright.cli.search_verbs import embed, index, mine, search
from tunewright.errors import SettingsError
from tunewright.tasks import TASKS

FIRST, DATA, TRAIN, JUDGE, USE = "First steps", "Data", "Train", "Judge", "Use"
SHIP = "Ship"

app = typer.Typer(
    name="tunewright",
    help="Labelled data in; a working, measured, explained Transformer out.",
    epilog="Any setting can be given as key=value, such as learning_rate=1e-4. "
    "`tunewright init` writes them all with their meaning.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Task = Annotated[
    str | None,
    typer.Option("--task", "-t", help=f"What to train: {', '.join(TASKS)}.", metavar="NAME"),
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="starter, smollm2, a folder, or a Hub id.", metavar="NAME"),
]
Text = Annotated[str | None, typer.Option(help="Column of the text.", metavar="COLUMN")]
TextPair = Annotated[
    str | None, typer.Option(help="Column of a second text, for pairs.", metavar="COLUMN")
]
LabelColumn = Annotated[
    str | None, typer.Option("--label", help="Column of the label.", metavar="COLUMN")
]
Validation = Annotated[
    str | None, typer.Option(help="Validation rows; else some are set aside.", metavar="FILE")
]
Test = Annotated[
    str | None, typer.Option(help="Test rows; else some are set aside.", metavar="FILE")
]
Name = Annotated[str | None, typer.Option(help="Name of the run's folder.", metavar="NAME")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        help="The data (a file, folder or Hub id) or a run's TOML file, then key=value settings.",
        metavar="[DATA|RUN.toml] [KEY=VALUE]...",
        show_default=False,
    ),
]
Columns = dict[str, str | None]


def version(show: bool) -> None:
    if show:
        typer.echo(f"tunewright {__version__}")
        raise typer.Exit


@app.callback()
def root(
    _: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=version, is_eager=True),
    ] = False,
) -> None:
    """Labelled data in; a working, measured, explained Transformer out."""


@app.command(rich_help_panel=FIRST)
def demo(
    name: Name = "demo",
    as_json: Json = False,
    words: Annotated[
        list[str] | None, typer.Argument(help="Settings.", metavar="[KEY=VALUE]...")
    ] = None,
) -> None:
    """Fine-tune the starter model on BBC news articles and measure it, in a few minutes."""
    from tunewright.cli.demo import DEMO
    from tunewright.cli.training import train_and_show

    train_and_show(words or [], DEMO, {}, {"name": name}, as_json)


@app.command(rich_help_panel=FIRST)
def init(
    task: Task = None,
    file: Annotated[str, typer.Argument(help="File to write; - prints.", metavar="[FILE]")] = "-",
    as_json: Json = False,
) -> None:
    """Write every setting with its default and its meaning, as a run's TOML file."""
    from tunewright.run.config import template

    text = template(task or "text-classification")
    if as_json:
        from tunewright.cli.show import print_json

        print_json(tomllib.loads(text))
        return
    if file == "-":
        typer.echo(text, nl=False)
        return
    path = Path(file)
    if path.exists():
        raise SettingsError(file, "it exists already", "Nothing is overwritten.", "Name another.")
    if not path.parent.is_dir():
        raise SettingsError(file, "its folder does not exist", "", "Make the folder first.")
    path.write_text(text, encoding="utf-8")
    typer.echo(f"Wrote {file}. Set data.train in it, then: tunewright train {file}")


@app.command(rich_help_panel=FIRST)
def doctor(as_json: Json = False) -> None:
    """Show what this machine has, measure its speed, and say what is missing."""
    from tunewright.cli.doctor import examine

    examine(as_json)


@app.command(rich_help_panel=DATA)
def audit(
    words: Words = None,
    task: Task = None,
    model: Model = None,
    text: Text = None,
    text_pair: TextPair = None,
    label: LabelColumn = None,
    validation: Validation = None,
    test: Test = None,
    label_errors: Annotated[
        bool, typer.Option("--label-errors", help="Also look for wrong labels (cleanlab).")
    ] = False,
    output: Annotated[
        str, typer.Option("--output", "-o", help="File for all that was found; - for none.")
    ] = "audit.json",
    as_json: Json = False,
) -> None:
    """Look at the data: classes, lengths and cuts, duplicates, leaks, contradictions."""
    from tunewright.cli.auditing import audit_and_show

    columns = {"text": text, "text_pair": text_pair, "label": label}
    named = {"task": task, "model": model, "validation": validation, "test": test}
    audit_and_show(words or [], columns, named, label_errors, output, as_json)


@app.command(rich_help_panel=DATA)
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all of it.")] = False,
    as_json: Json = False,
) -> None:
    """Show the encoded rows that are kept between runs, and how much room they take."""
    from tunewright.cli.caching import cache_and_show

    cache_and_show(clear, as_json)


@app.command(rich_help_panel=TRAIN)
def train(
    words: Words = None,
    task: Task = None,
    model: Model = None,
    text: Text = None,
    text_pair: TextPair = None,
    label: LabelColumn = None,
    validation: Validation = None,
    test: Test = None,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Train a model on labelled data; measure it; write model, report and card to a run folder."""
    from tunewright.cli.training import train_and_show

    columns = {"text": text, "text_pair": text_pair, "label": label}
    named = {"task": task, "model": model, "validation": validation, "test": test, "name": name}
    train_and_show(words or [], {}, columns, named, as_json)


@app.command(rich_help_panel=TRAIN)
def plan(
    words: Words = None,
    task: Task = None,
    model: Model = None,
    text: Text = None,
    text_pair: TextPair = None,
    label: LabelColumn = None,
    validation: Validation = None,
    test: Test = None,
    as_json: Json = False,
) -> None:
    """Estimate time, memory and disk of a training from a short probe; exit with 1 if too much."""
    from tunewright.cli.planning import plan_and_show

    columns = {"text": text, "text_pair": text_pair, "label": label}
    named = {"task": task, "model": model, "validation": validation, "test": test}
    plan_and_show(words or [], columns, named, as_json)


Run = Annotated[str, typer.Argument(help="A run folder, such as runs/reviews.", metavar="RUN")]


@app.command(rich_help_panel=TRAIN)
def pretrain(
    words: Words = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="What to adapt: starter, a folder, or a Hub id; or new:SIZE, which begins from "
            "nothing: tiny, mini, small, medium, base, or LAYERSxWIDTH.",
            metavar="NAME",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Of a new model: wordpiece, bpe or unigram.", metavar="KIND"),
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="Of a new model: its tokens; else 8000.", metavar="NUMBER")
    ] = None,
    lowercase: Annotated[
        bool, typer.Option("--lowercase", help="Of a new model: no upper case.")
    ] = False,
    text: Text = None,
    validation: Validation = None,
    test: Test = None,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Let a model learn from plain text, before it is trained for a task."""
    from tunewright.cli.pretraining import pretrain_and_show

    named = {"model": model, "validation": validation, "test": test, "name": name}
    new = {"kind": tokenizer, "vocab_size": vocab_size, "lowercase": lowercase}
    pretrain_and_show(words or [], {"text": text}, named, new, as_json)


@app.command(rich_help_panel=TRAIN)
def resume(
    run: Run,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings that do not change the weights, or make the run longer, such as "
            "num_train_epochs=6.",
            metavar="[KEY=VALUE]...",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Go on with a run that was killed or stopped, to the same bits; or make a finished one longer.

    It needs the data, the labels and the settings that the run was begun with.
    """
    from tunewright.cli.training import resume_and_show

    resume_and_show(run, words or [], as_json)


@app.command(
    rich_help_panel=TRAIN,
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
)
def launch(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="train, pretrain or resume, with its own words.",
            metavar="VERB [WORDS]...",
            show_default=False,
        ),
    ] = None,
    nproc: Annotated[
        int, typer.Option("--nproc", help="Processes on each machine; one a GPU.", min=1)
    ] = 2,
    nnodes: Annotated[int, typer.Option("--nnodes", help="Machines.", min=1)] = 1,
    max_restarts: Annotated[
        int,
        typer.Option("--max-restarts", help="How often lost processes are started again.", min=0),
    ] = 3,
    target: Annotated[
        str,
        typer.Option(help="local starts them here; slurm and kubernetes write a job's file."),
    ] = "local",
    output: Annotated[
        str, typer.Option("--output", "-o", help="The job's file; - prints it.")
    ] = "-",
) -> None:
    """Train in several processes, which share each update; one that is lost is started again."""
    from tunewright.cli.launching import launch_and_show

    launch_and_show(words or [], nproc, nnodes, max_restarts, target, output)


@app.command(rich_help_panel=JUDGE)
def evaluate(
    run: Run,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="Labelled rows; else the stored figures. Then settings such as encoding=latin-1 "
            "or data.columns.label=COLUMN.",
            metavar="[DATA] [KEY=VALUE]...",
            show_default=False,
        ),
    ] = None,
    text: Text = None,
    text_pair: TextPair = None,
    label: LabelColumn = None,
    slices: Annotated[
        list[str] | None,
        typer.Option("--slice", help="Also by this column's values.", metavar="COLUMN"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a trained model on labelled rows, with 95 % intervals."""
    from tunewright.cli.judging import evaluate_and_show

    columns = {"text": text, "text_pair": text_pair, "label": label}
    evaluate_and_show(run, words or [], columns, slices or [], as_json)


@app.command(rich_help_panel=JUDGE)
def compare(
    a: Annotated[str, typer.Argument(help="A run folder.", metavar="A")],
    b: Annotated[str, typer.Argument(help="Another run folder.", metavar="B")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="Rows to compare on; else the stored ones. Then settings, as for evaluate.",
            metavar="[DATA] [KEY=VALUE]...",
            show_default=False,
        ),
    ] = None,
    text: Text = None,
    text_pair: TextPair = None,
    label: LabelColumn = None,
    as_json: Json = False,
) -> None:
    """Compare two runs on the same rows: paired bootstrap, McNemar, and where they differ."""
    from tunewright.cli.judging import compare_and_show

    columns = {"text": text, "text_pair": text_pair, "label": label}
    compare_and_show(a, b, words or [], columns, as_json)


@app.command(rich_help_panel=JUDGE)
def report(run: Run, as_json: Json = False) -> None:
    """Write the report of a run anew, and say where it is."""
    from tunewright.cli.judging import report_and_show

    report_and_show(run, as_json)


@app.command(rich_help_panel=JUDGE)
def verify(
    folder: Annotated[
        str, typer.Argument(help="A run, a model or a checkpoint folder.", metavar="FOLDER")
    ],
    as_json: Json = False,
) -> None:
    """Compare models and checkpoints with what was saved; exit with 1 when one is damaged."""
    from tunewright.cli.verifying import verify_and_show

    verify_and_show(folder, as_json)


@app.command("verify-resume", rich_help_panel=JUDGE)
def verify_resume(
    words: Words = None,
    kills: Annotated[
        int, typer.Option(help="How often the process is killed.", min=1, metavar="NUMBER")
    ] = 20,
    nproc: Annotated[
        int, typer.Option("--nproc", help="Processes that train together.", min=1, metavar="NUMBER")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Train undisturbed and killed at random moments, and compare; exit with 1 on a difference."""
    from tunewright.cli.verifying import verify_resume_and_show

    verify_resume_and_show(words or [], kills, nproc, as_json)


app.command(rich_help_panel=DATA)(mine)
for verb in (predict, chat, serve, embed, index, search):
    app.command(rich_help_panel=USE)(verb)


@app.command(rich_help_panel=SHIP)
def export(
    run: Run,
    folder: Annotated[
        str, typer.Argument(help="The folder to write; it must not exist.", metavar="FOLDER")
    ],
    as_json: Json = False,
) -> None:
    """Write a model with an adapter as one plain folder: the adapter becomes part of it."""
    from tunewright.cli.exporting import export_and_show

    export_and_show(run, folder, as_json)
