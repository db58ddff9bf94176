from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.test_chat_template import CHATML
from tunewright.errors import DataError
from tunewright.models.text.chat_tokens import (
    ANSWER,
    chat_sequences,
    end_ids,
    fitted_prompt,
    prompt_length,
)
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.types import Message

# Shows the reasoning of the last answer only, as Qwen 3 does.
FORGETFUL = (
    "{% for m in messages %}{% if m.role == 'assistant' %}Bot: "
    "{% if loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}{{ eos_token }}\n"
    "{% else %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Bot: {% endif %}"
)
TURNS = (
    Message("user", "a good film?"),
    Message("assistant", "the film was good"),
    Message("user", "and the book?"),
    Message("assistant", "bad"),
)


@pytest.fixture
def tokenizer(tiny_folder):
    return load_tokenizer(tiny_folder("llama"))


def answers(tokenizer, sequence):
    """The text of each run of answer tokens."""
    marked = np.flatnonzero(sequence.marks_N == ANSWER)
    runs = np.split(marked, np.flatnonzero(np.diff(marked) > 1) + 1)
    return [tokenizer.decode(sequence.ids_N[run]) for run in runs]


def test_the_answers_and_their_ends_are_marked_and_nothing_else(tokenizer):
    (sequence,) = chat_sequences(tokenizer, TURNS, "here")
    assert tokenizer.decode(sequence.ids_N) == (
        "User: a good film?\n\nAssistant: the film was good<|endoftext|>\n\n"
        "User: and the book?\n\nAssistant: bad<|endoftext|>"
    )
    assert answers(tokenizer, sequence) == [" the film was good<|endoftext|>", " bad<|endoftext|>"]


def test_only_the_last_answer_is_marked_where_that_is_asked_for(tokenizer):
    (sequence,) = chat_sequences(tokenizer, TURNS, "here", only_last=True)
    assert answers(tokenizer, sequence) == [" bad<|endoftext|>"]


def test_a_template_without_an_end_gets_one_after_each_answer(tokenizer):
    tokenizer.chat_template = CHATML.replace("<|im_end|>", "")
    (sequence,) = chat_sequences(tokenizer, TURNS, "here")
    assert answers(tokenizer, sequence) == [
        "the film was good\n<|endoftext|>",
        "bad\n<|endoftext|>",
    ]
    assert end_ids(tokenizer) == (tokenizer.eos_token_id,)


def test_an_end_of_the_template_s_own_ends_answers_too(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    tokenizer.chat_template = CHATML
    (sequence,) = chat_sequences(tokenizer, TURNS, "here")
    assert answers(tokenizer, sequence) == ["the film was good<|im_end|>", "bad<|im_end|>"]
    ends = [tokenizer.convert_ids_to_tokens(end) for end in end_ids(tokenizer)]
    assert ends == ["<|endoftext|>", "<|im_end|>"]


def test_answers_that_are_shown_otherwise_later_are_sequences_of_their_own(tokenizer):
    tokenizer.chat_template = FORGETFUL
    sequences = chat_sequences(tokenizer, TURNS, "here")
    assert [answers(tokenizer, sequence) for sequence in sequences] == [
        ["<think>\n\n</think>\n\nthe film was good<|endoftext|>"],
        ["<think>\n\n</think>\n\nbad<|endoftext|>"],
    ]
    assert tokenizer.decode(sequences[1].ids_N).startswith(
        "user: a good film?\nBot: the film was good<|endoftext|>\nuser: and"
    )


TEXTS = st.text("ab 1\n.{}<>|é好", max_size=12)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), st.sampled_from(["plain", "ml"]))
def test_what_stands_before_an_answer_is_the_same_in_training_and_in_use(
    tiny_folder, exchanges, template
):
    tokenizer = load_tokenizer(tiny_folder("llama"))
    tokenizer.chat_template = CHATML if template == "ml" else None
    turns = [
        turn
        for asked, answer in exchanges
        for turn in (Message("user", asked), Message("assistant", answer))
    ]
    trained = chat_sequences(tokenizer, turns, "here")[-1]
    (used,) = chat_sequences(tokenizer, turns[:-1], "here")[-1:]
    length = prompt_length(trained.marks_N)
    assert trained.ids_N[:length].tolist() == used.ids_N.tolist()
    assert prompt_length(used.marks_N) == len(used)


def test_a_prompt_that_fits_is_left_alone(tokenizer):
    assert fitted_prompt(tokenizer, TURNS[:3], 128, "here") == (TURNS[:3], 0)


def test_the_oldest_exchanges_go_first_and_the_system_s_turn_stays(tokenizer):
    told = (Message("system", "be good"), *TURNS[:3])
    whole = len(chat_sequences(tokenizer, told, "here")[-1])
    kept, num_cut = fitted_prompt(tokenizer, told, whole - 1, "here")
    assert kept == (told[0], told[3])
    assert num_cut == whole - len(chat_sequences(tokenizer, kept, "here")[-1])


def test_then_the_end_of_the_longest_turn_is_cut(tokenizer):
    long = (Message("user", "the film " * 50),)
    kept, num_cut = fitted_prompt(tokenizer, long, 40, "here")
    length = len(chat_sequences(tokenizer, kept, "here")[-1])
    assert kept[0].content.startswith("the film the film")
    assert length <= 40
    assert num_cut == len(chat_sequences(tokenizer, long, "here")[-1]) - length


def test_a_huge_turn_is_cut_as_a_long_one_is(tokenizer, monkeypatch):
    turns = (Message("user", "the film " * 500),)
    at_once = fitted_prompt(tokenizer, turns, 40, "here")
    monkeypatch.setattr("tunewright.models.text.chat_tokens.FAR_TOO_LONG", 10_000)
    assert at_once == fitted_prompt(tokenizer, turns, 40, "here")


def test_a_template_that_leaves_no_room_is_refused(tokenizer):
    with pytest.raises(DataError) as caught:
        fitted_prompt(tokenizer, (Message("user", "a"),), 5, "here")
    length = len(chat_sequences(tokenizer, (Message("user", "a"),), "here")[-1])
    assert str(caught.value) == (
        f"here: its chat template and turns take {length} tokens. There is room for 5. Raise "
        "task.max_length, or shorten the turns."
    )
