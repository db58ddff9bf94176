from __future__ import annotations

import json

import pytest

from tunewright.data.cells.chats import read_messages
from tunewright.errors import DataError
from tunewright.types import Message

HELLO = (Message("user", "Hello"), Message("assistant", "Hi!"))


@pytest.mark.parametrize(
    "value",
    [
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}],
        [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}],
        [
            {"role": " User ", "content": [{"type": "text", "text": "Hel"}, {"text": "lo"}]},
            {"role": "model", "content": "Hi!"},
        ],
        '[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]',
        "[{'role': 'user', 'content': 'Hello'}, {'role': 'assistant', 'content': 'Hi!'}]",
        "[{'role': 'user', 'content': 'Hello'}\n {'role': 'assistant', 'content': 'Hi!'}]",
        # a column of parquet or Arrow has all keys in every turn
        [
            {"role": "user", "content": "Hello", "from": None, "value": None},
            {"role": None, "content": None, "from": "gpt", "value": "Hi!"},
        ],
    ],
    ids=["messages", "sharegpt", "parts", "json", "python", "pandas", "missing keys"],
)
def test_every_form_gives_the_same_turns(value):
    assert read_messages(value, "here") == HELLO


def test_half_a_character_in_json_is_mended():
    turns = read_messages('[{"role": "user", "content": "a\\ud800b"}]', "here")
    assert turns == (Message("user", "a\ufffdb"),)


def test_what_a_tool_was_called_with_may_be_deep():
    deep = "[" * 50 + "]" * 50
    turns = f'{{"role": "user", "content": "Hello", "tool_calls": {deep}}}'
    assert read_messages(f"[{turns}]", "here") == HELLO[:1]


def test_an_empty_answer_is_read_as_it_is():
    turns = read_messages([{"role": "assistant", "content": ""}], "here")
    assert turns == (Message("assistant", ""),)


NEEDED = 'A conversation is a list of turns such as {"role": "user", "content": "Hello"}.'


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], f"here: it is empty. {NEEDED}"),
        (None, f"here: it is empty. {NEEDED}"),
        (7, f"here: it is 7. {NEEDED}"),
        ({"role": "user"}, f"here: it is {{'role': 'user'}}. {NEEDED}"),
        ("Hello", f"here: it is 'Hello'. {NEEDED}"),
        (["Hello"], f"here, turn 1: it is 'Hello'. {NEEDED}"),
        ([{"content": "Hello"}], f"here, turn 1: it does not say who speaks. {NEEDED}"),
        (
            [{"role": "usr", "content": "Hello"}],
            "here, turn 1: its role is 'usr'. A role is one of "
            '"system", "developer", "user", "human", "prompter", "assistant", "gpt", "bot", '
            '"chatgpt", "model", "tool", "function", "observation". Did you mean "user"?',
        ),
        (
            [{"role": {"role": "user"}, "content": "Hello"}],
            "here, turn 1: its role is {'role': 'user'}. A role is one of "
            '"system", "developer", "user", "human", "prompter", "assistant", "gpt", "bot", '
            '"chatgpt", "model", "tool", "function", "observation". Rename it.',
        ),
        (
            [{"role": "user", "content": None}],
            "here, turn 1: it has no content. Only text is read. Leave out what is not text.",
        ),
        (
            [{"role": "user", "content": [{"type": "image", "url": "a.png"}]}],
            "here, turn 1: its content is [{'type': 'image', 'url': 'a.png'}]. Only text is read. "
            "Leave out what is not text.",
        ),
    ],
    ids=str,
)
def test_anything_else_is_refused_with_its_place(value, message):
    with pytest.raises(DataError) as caught:
        read_messages(value, "here")
    assert str(caught.value) == message


def test_a_conversation_nested_without_end_is_refused():
    with pytest.raises(DataError, match=r"^here: it is '\[\[\["):
        read_messages("[" * 100_000, "here")


def test_a_conversation_of_too_many_turns_is_refused():
    turns = json.dumps([{"role": "user", "content": ""}] * 10_001)
    with pytest.raises(DataError) as caught:
        read_messages(turns, "here")
    assert str(caught.value) == "here: it has 10,001 turns. At most 10,000 are read."
