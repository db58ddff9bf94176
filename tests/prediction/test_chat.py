from __future__ import annotations

import pytest

from tests.training.loops import CPU
from tunewright.errors import ModelError
from tunewright.models.generating.generation import Generation
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.chat import Chat
from tunewright.prediction.predictor import Predictor
from tunewright.tasks import find_task
from tunewright.tasks.text_generation import TextGeneration
from tunewright.types import Message, Row


@pytest.fixture
def predictor(tiny_folder):
    folder = tiny_folder("llama")
    tokenizer = load_tokenizer(folder)
    task = TextGeneration().within(128)
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
    task.route(model)
    return Predictor(task, model, tokenizer, CPU, generation=Generation(max_new_tokens=12))


def predicted(predictor, messages, system=None):
    values = {"messages": [message.to_json() for message in messages], "system": system}
    (answer,) = predictor.answers([Row(len(messages), values)])
    return answer


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_beams": 2}, {"do_sample": True, "temperature": 3.0}, {"stop": "e"}],
    ids=["greedy", "beams", "sampled", "stop"],
)
def test_what_is_heard_piece_by_piece_is_what_is_predicted(predictor, settings):
    from tunewright.prediction.predictor import replace_generation

    ours = replace_generation(predictor, **settings)
    pieces = []
    chat = Chat(ours, "be good")
    answer = chat.say("a film?", pieces.append)
    expected = predicted(ours, [Message("user", "a film?")], "be good")
    assert "".join(pieces) == answer.text == expected.text
    assert answer.score == pytest.approx(expected.score, abs=1e-5)
    assert answer.finish_reason == expected.finish_reason
    if not settings:
        assert len(pieces) > 1


def test_a_conversation_is_remembered_and_can_be_forgotten(predictor):
    chat = Chat(predictor)
    first = chat.say("a film?")
    chat.say("a book?")
    assert [turn.role for turn in chat.messages] == ["user", "assistant"] * 2
    assert chat.messages[1].content == first.text
    expected = predicted(predictor, chat.messages[:3])
    assert chat.messages[3].content == expected.text
    chat.reset()
    assert chat.messages == []
    assert chat.say("a film?").text == first.text


def test_an_interrupted_answer_is_no_part_of_the_conversation(predictor):
    def interrupt(_):
        raise KeyboardInterrupt

    chat = Chat(predictor)
    with pytest.raises(KeyboardInterrupt):
        chat.say("a film?", interrupt)
    assert chat.messages == []
    assert chat.say("a film?").text


def test_a_long_conversation_loses_its_oldest_exchanges(predictor):
    chat = Chat(predictor)
    for _ in range(6):
        chat.say("a good film, and a very good story of a film?")
    assert chat.num_cut > 0
    assert len(chat.messages) == 12


def test_only_a_model_that_writes_can_chat(predictor):
    other = Predictor(find_task("regression")(), predictor.model, predictor.tokenizer, CPU)
    with pytest.raises(ModelError) as caught:
        Chat(other)
    assert str(caught.value) == (
        "the model: it was trained for regression. Only a model of text-generation can chat."
    )
