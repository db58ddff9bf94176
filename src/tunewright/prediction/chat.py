"""A conversation with a model, turn by turn, each answer heard as it is written.

chat = Chat(predictor)
chat.say("Hello", hear=lambda piece: print(piece, end=""))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tunewright.answers import Generated
from tunewright.errors import ModelError
from tunewright.models.batch import pack
from tunewright.models.generating.writing import cut_at_stop, write
from tunewright.models.layers.sublayers import kept_weights
from tunewright.models.text.chat_tokens import prompt_length
from tunewright.prediction.predictor import Predictor, replace_generation
from tunewright.tasks.text_generation import NO_LIMIT, TextGeneration
from tunewright.types import Message, Row


@dataclass
class Chat:
    """A model and what has been said so far, `messages`; `system` stands before all of it.

    A conversation that grows longer than the model reads loses its oldest exchanges: `num_cut`
    counts the tokens that the last answer could not see. Raises ModelError for a model that does
    not write.
    """

    predictor: Predictor
    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    num_cut: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.predictor.task, TextGeneration):
            raise ModelError(
                "the model",
                f"it was trained for {self.predictor.task.name}",
                f"Only a model of {TextGeneration.name} can chat.",
            )

    def reset(self) -> None:
        """Forgets all that was said."""
        self.messages.clear()

    def say(self, text: str, hear: Callable[[str], None] = lambda _: None) -> Generated:
        """Says something and returns the answer; `hear` gets its text piece by piece.

        Both are part of the conversation from then on, unless the answer is interrupted.
        """
        asked = [*self.messages, Message("user", text)]
        answer = self._answer(asked, hear)
        self.messages = [*asked, Message("assistant", answer.text)]
        return answer

    def _answer(self, messages: Sequence[Message], hear: Callable[[str], None]) -> Generated:
        asked = ask(self.predictor, messages, self.system)
        self.num_cut = asked.num_cut
        return reply(self.predictor, asked, hear)


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation as a model reads it before it answers; `row_id` seeds what is drawn."""

    token_ids: Sequence[int]
    num_cut: int = 0
    row_id: int = 0


def ask(predictor: Predictor, messages: Sequence[Message], system: str | None = None) -> Asked:
    """Returns a conversation that waits for an answer, through the model's chat template.

    The oldest exchanges of one that is longer than the model reads are cut. Raises DataError for
    turns that the template refuses.
    """
    values: dict[str, Any] = {"messages": [message.to_json() for message in messages]}
    if system:
        values["system"] = system
    row = Row(len(messages), values, "the conversation")
    features = predictor.task.encode(row, predictor.tokenizer)
    stream = pack([features[-1]]).streams["text"]
    assert stream.type_ids_N is not None
    length = prompt_length(stream.type_ids_N.numpy())
    num_cut = sum(item.num_cut for item in features)
    return Asked(stream.token_ids_N[:length].tolist(), num_cut, row.id)


def reply(
    predictor: Predictor, asked: Asked, hear: Callable[[str], None] = lambda _: None
) -> Generated:
    """Returns the answer to a conversation; `hear` gets its text piece by piece.

    Beams are heard when they have ended. What `hear` raises ends the writing, and is raised.
    """
    heard = _Heard(predictor.tokenizer, predictor.generation.stop, hear)
    limit = getattr(predictor.task, "position_limit", None) or NO_LIMIT
    one = replace_generation(predictor, num_return_sequences=1)
    with torch.no_grad(), predictor.device.autocast(), kept_weights(predictor.model):
        ((writing,),) = write(
            predictor.model,
            [list(asked.token_ids)],
            [asked.row_id],
            one.generation,
            predictor.tokenizer,
            limit,
            heard if one.generation.num_beams == 1 else None,
        )
    text = heard.finish(writing.ids)
    stopped = writing.stopped or heard.at_stop
    return Generated(
        text, writing.score, "stop" if stopped else "length", len(writing.ids) + writing.stopped
    )


class _Heard:
    """Turns tokens into text as they come; transformers calls it for each.

    Half a character, a blank at either end, and what may be the beginning of a stop sequence wait.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], hear: Callable[[str], None]) -> None:
        self._tokenizer, self._stop, self._hear = tokenizer, stop, hear
        self._ids: list[int] = []
        self._is_prompt = True
        self._given = 0
        self.at_stop = False

    def put(self, value: torch.Tensor) -> None:
        if self._is_prompt:  # the first call hands over what stands before the answer
            self._is_prompt = False
            return
        self._ids += value.flatten().tolist()
        text = self._text(self._ids)
        waiting = max((len(mark) - 1 for mark in self._stop), default=0)
        ready = text.rstrip("\ufffd").rstrip()
        self._give(ready[: max(len(ready) - waiting, 0)])

    def end(self) -> None:
        """The text is finished; `finish` gives the rest."""

    def finish(self, ids: Sequence[int]) -> str:
        """Gives what is left of the whole text, and returns it."""
        text = self._text(list(ids)).rstrip()
        self._give(text)
        return text

    def _text(self, ids: list[int]) -> str:
        text = str(self._tokenizer.decode(ids, skip_special_tokens=True))
        text, self.at_stop = cut_at_stop(text, self._stop)
        return text.lstrip()

    def _give(self, text: str) -> None:
        if len(text) > self._given:
            self._hear(text[self._given :])
            self._given = len(text)
