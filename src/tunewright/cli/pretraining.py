"""`pretrain`: plain text in, a masked language model out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.cli import show
from tunewright.cli.training import show_run
from tunewright.cli.watching import Watcher
from tunewright.cli.words import config_of, sources_of


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
    from tunewright.run.pretrain import ADAPTING, NewTokenizer, base_for, pretrain

    config = config_of(words, ADAPTING, columns, named)
    config = config_of(words, base_for(config.model.name), columns, named)
    sources = sources_of(config)
    given = {name: value for name, value in tokenizer.items() if value}
    new = NewTokenizer(**given) if given else None
    with Watcher() as watcher:
        run = pretrain(sources, config, new, tell=watcher.hear)
    seconds = time.monotonic() - started
    show_run(run, seconds, as_json, f"tunewright train DATA --model {run.path}")
