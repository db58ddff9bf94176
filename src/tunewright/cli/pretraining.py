"""`pretrain`: plain text in, a masked language model out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.cli import show
from tunewright.cli.training import show_run
from tunewright.cli.watching import Watcher
from tunewright.cli.words import config_of, sources_of
from tunewright.errors import SettingsError


def pretrain_and_show(
    words: Sequence[str],
    columns: Mapping[str, str | None],
    named: Mapping[str, str | None],
    tokenizer: Mapping[str, Any],
    as_json: bool,
) -> None:
    """Pretrains, showing how it goes, and prints the figures and where everything is.

    `tokenizer` holds what was said of a new model's: its kind, vocab_size and lowercase.
    """
    show.say("Reading the data ...")
    started = time.monotonic()
    from tunewright.models.new_model import is_new
    from tunewright.run.pretrain import ADAPTING, FROM_NOTHING, NewTokenizer, pretrain

    config = config_of(words, ADAPTING, columns, named)
    given = {name: value for name, value in tokenizer.items() if value}
    if is_new(config.model.name):
        config = config_of(words, FROM_NOTHING, columns, named)
    elif given:
        flags = {"kind": "--tokenizer", "vocab_size": "--vocab-size", "lowercase": "--lowercase"}
        raise SettingsError(
            flags[next(iter(given))],
            f'the model "{config.model.name}" has a tokenizer already',
            "Only a new model gets a new one.",
            "Leave the flag out, or begin from nothing with --model new:mini.",
        )
    sources = sources_of(config)
    with Watcher() as watcher:
        run = pretrain(sources, config, NewTokenizer(**given), tell=watcher.hear)
    seconds = time.monotonic() - started
    show_run(run, seconds, as_json, f"tunewright train DATA --model {run.path}")
