"""`chat`: a conversation with a model in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from tunewright.cli import show
from tunewright.cli.words import as_asked
from tunewright.errors import UserError, listed

COMMANDS = {"/reset": "forget the conversation", "/quit": "end", "/help": "show this"}


def chat_and_show(folder: str, pairs: Sequence[str], system: str | None, as_json: bool) -> None:
    """Reads a line at a time from standard input and writes the answers as they come."""
    from tunewright.prediction.chat import Chat
    from tunewright.run.loaded import load

    model = load(folder)
    chat = Chat(as_asked(model.predictor, pairs), system)
    is_terminal = sys.stdin.isatty() and not as_json
    if is_terminal:
        show.say(f"{folder}. A line is a turn; {_help()}.")
    while (line := _read(is_terminal)) is not None:
        if line.startswith("/"):
            if line == "/quit":
                return
            _command(chat, line)
        elif line.strip():
            _answer(chat, line, as_json)


def _help() -> str:
    return ", ".join(f"{name} {what}" for name, what in COMMANDS.items())


def _read(is_terminal: bool) -> str | None:
    """Returns the next line; None at the end of the input, and where it is interrupted."""
    if is_terminal:
        print("> ", end="", flush=True)
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        print()
        return None
    return line.rstrip("\r\n") if line else None


def _command(chat: Any, line: str) -> None:
    if line == "/reset":
        chat.reset()
        show.say("The conversation is forgotten.")
    elif line == "/help":
        show.say(f"{_help()[:1].upper()}{_help()[1:]}.")
    else:
        show.say(f'There is no command "{line.split()[0]}". There is {listed(COMMANDS)}.')


def _answer(chat: Any, line: str, as_json: bool) -> None:
    """Shows one answer; an interruption ends it and not the conversation."""
    try:
        answer = chat.say(line, _ignore if as_json else _print)
    except KeyboardInterrupt:
        print()
        show.say("The answer was interrupted, and is forgotten.")
        return
    except UserError as error:  # the template refuses this turn, not the whole conversation
        show.say(str(error))
        return
    if as_json:
        show.print_json({"role": "assistant", "content": answer.text, **answer.to_json()})
        sys.stdout.flush()
    else:
        print(flush=True)
    if chat.num_cut:
        show.say(f"The {chat.num_cut:,} oldest tokens of the conversation were left out.")


def _print(piece: str) -> None:
    print(piece, end="", flush=True)


def _ignore(_: str) -> None:
    """JSON is printed whole."""
