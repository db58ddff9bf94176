"""From a row to the turns of a conversation, or to the plain text that it is.

{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
{"instruction": "Translate.", "input": "Hallo", "output": "Hello"}
{"prompt": "Hi", "completion": "Hello!"}
{"text": "Once upon a time ..."}
"""

from __future__ import annotations

from typing import Any

from tunewright.data.cells.chats import read_messages
from tunewright.data.checks import is_blank
from tunewright.errors import DataError, SettingsError
from tunewright.types import Message, Row

PROMPT, INPUT = "{prompt}", "{input}"
NEEDED = "A row has messages, a prompt, or a text."


def check_prompt_template(template: str | None) -> None:
    """Raises SettingsError for a template of prompts without a place for the prompt."""
    if template is not None and PROMPT not in template:
        raise SettingsError(
            "[task]",
            f"task.prompt_template is {template!r:.60}",
            f"The prompt stands where it says {PROMPT}, and an input where it says {INPUT}.",
        )


def is_plain_text(row: Row) -> bool:
    """Says whether a row is a text and no conversation."""
    return is_blank(row.values.get("messages")) and is_blank(row.values.get("prompt"))


def messages_of(row: Row, template: str | None, system: str | None) -> tuple[Message, ...]:
    """Returns the turns of a row; the last one is the known answer, where there is one.

    `template` puts prompt and input into the user's turn, and `system` stands before a conversation
    that has no such turn.

    Raises DataError for a row that holds no conversation.
    """
    where = row.where
    if not is_blank(row.values.get("messages")):
        messages = read_messages(row.values["messages"], f'{where}, column "messages"')
        completion = row.values.get("completion")
        if messages[-1].role != "assistant" and not is_blank(completion):
            messages = (*messages, Message("assistant", _text(completion, "completion", where)))
    else:
        messages = _asked(row, template)
    told = row.values.get("system")
    told = system if is_blank(told) else _text(told, "system", where)
    if told and messages[0].role != "system":
        messages = (Message("system", told), *messages)
    return messages


def _asked(row: Row, template: str | None) -> tuple[Message, ...]:
    """Returns the turns of a prompt and its completion."""
    prompt, given = row.values.get("prompt"), row.values.get("input")
    if isinstance(prompt, list | tuple):  # conversations can stand in both columns
        messages = read_messages(prompt, f'{row.where}, column "prompt"')
    else:
        messages = (Message("user", _user_turn(prompt, given, template, row.where)),)
    completion = row.values.get("completion")
    if is_blank(completion):
        return messages
    if isinstance(completion, list | tuple):
        return messages + read_messages(completion, f'{row.where}, column "completion"')
    return (*messages, Message("assistant", _text(completion, "completion", row.where)))


def _user_turn(prompt: Any, given: Any, template: str | None, where: str) -> str:
    asked = _text(prompt, "prompt", where)
    about = "" if is_blank(given) else _text(given, "input", where)
    if template is None:
        return f"{asked}\n\n{about}" if about else asked
    # in one pass, so that a prompt which itself says {input} stays as it is
    before, _, after = template.partition(PROMPT)
    return before.replace(INPUT, about) + asked + after.replace(INPUT, about)


def _text(value: Any, role: str, where: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not is_blank(value):
        return str(value)
    found = "it is empty" if is_blank(value) else f"it is {value!r:.60}"
    raise DataError(f"{where}, {role}", found, f"A text is needed here. {NEEDED}")
