"""The flags of every command: few, and these."""

from __future__ import annotations

import typer

from tunewright.cli.app import app

FLAGS = {
    "audit": ["json", "label", "label-errors", "model", "output", "task", "test", "text",
              "text-pair", "validation"],
    "cache": ["clear", "json"],
    "chat": ["json", "system"],
    "compare": ["json", "label", "text", "text-pair"],
    "demo": ["json", "name"],
    "doctor": ["json"],
    "embed": ["axes", "clusters", "json", "layer", "map", "model", "normalize", "output", "pooling",
              "text"],
    "evaluate": ["json", "label", "slice", "text", "text-pair"],
    "export": ["json"],
    "index": ["add", "id", "json", "model", "output", "passage-tokens", "precision", "remove",
              "stride", "text"],
    "init": ["json", "task"],
    "launch": ["max-restarts", "nnodes", "nproc", "output", "target"],
    "mine": ["depth", "documents", "json", "max-share", "model", "negatives", "output", "seed",
             "skip", "text"],
    "plan": ["json", "label", "model", "task", "test", "text", "text-pair", "validation"],
    "predict": ["exact", "format", "json", "output", "precision", "text", "text-pair"],
    "pretrain": ["json", "lowercase", "model", "name", "test", "text", "tokenizer", "validation",
                 "vocab-size"],
    "report": ["json"],
    "resume": ["json"],
    "search": ["json", "judge", "mode", "output", "precision", "queries", "rerank", "top", "weight",
               "where"],
    "serve": ["api-key", "exact", "host", "json", "name", "port", "precision"],
    "train": ["json", "label", "model", "name", "task", "test", "text", "text-pair", "validation"],
    "verify": ["json"],
    "verify-resume": ["json", "kills", "nproc"],
}  # fmt: skip


def flags_of(command):
    options = [p.opts for p in command.params if p.opts[0].startswith("-")]
    return sorted(
        next(o for o in opts if o.startswith("--")).removeprefix("--") for opts in options
    )


def test_commands_have_these_flags_and_at_most_ten():
    commands = typer.main.get_command(app).commands

    assert {name: flags_of(command) for name, command in commands.items()} == FLAGS
    assert max(map(len, FLAGS.values())) <= 10
