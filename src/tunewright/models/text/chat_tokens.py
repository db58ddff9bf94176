"""From a conversation to the tokens that a decoder reads, each marked by what it is.

    sequences = chat_sequences(tokenizer, messages, where="chats.jsonl, line 1")
    sequences[0].marks_N     # 0 given, 1 of an answer: what is learnt

A conversation is tokenised piece by piece: what stands before an answer by itself, and the answer
by itself. So the tokens before an answer are the same in training, where it follows, and where a
model is asked for it.

Shape letters: N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunewright.errors import DataError
from tunewright.models.text.chat_template import PLAIN_TEMPLATE, render
from tunewright.models.text.tokens import bare_ids, first_places
from tunewright.types import Message

GIVEN, ANSWER, TEXT = 0, 1, 2  # TEXT is learnt, too, and never asked for


@dataclass(frozen=True)
class Marked:
    """The token ids of one sequence and their marks, both int32 (N,)."""

    ids_N: np.ndarray
    marks_N: np.ndarray

    def __len__(self) -> int:
        return len(self.ids_N)

    def first(self, length: int) -> Marked:
        """Returns the first tokens."""
        return Marked(self.ids_N[:length], self.marks_N[:length])


# A turn with so many characters for each token of the room is not read whole more than once.
FAR_TOO_LONG = 50

Piece = tuple[str, bool]  # a stretch of a rendered conversation; is it an answer?


def template_of(tokenizer: Any) -> str:
    """Returns the template of a tokenizer, a plain one where it has none."""
    return tokenizer.chat_template or PLAIN_TEMPLATE


def rendered(tokenizer: Any, messages: Sequence[Message], where: str, prompt: bool) -> str:
    """Returns the text of a conversation, with the beginning of an answer where `prompt`."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return render(
        template_of(tokenizer),
        messages,
        add_generation_prompt=prompt,
        where=where,
        special=special,
    )


def chat_sequences(
    tokenizer: Any, messages: Sequence[Message], where: str, only_last: bool = False
) -> list[Marked]:
    """Returns a conversation as one sequence in which each answer is marked.

    Where a template shows an answer in another way once the conversation has gone on, such as
    without its reasoning, each answer is a sequence of its own, with what stood before it then.
    With `only_last` only the last answer is marked. A last turn that is no answer is followed by
    the beginning of one.
    """
    places = [index for index, turn in enumerate(messages) if index and turn.role == "assistant"]
    open_end = messages[-1].role != "assistant"
    whole = _one_text(tokenizer, messages, places, where, open_end)
    if whole is not None:
        return [_tokens(tokenizer, whole, only_last and not open_end)]
    texts = [_own_text(tokenizer, messages, place, where) for place in places]
    if open_end:
        texts.append([(rendered(tokenizer, messages, where, True), False)])
    return [_tokens(tokenizer, text, False) for text in (texts[-1:] if only_last else texts)]


def _one_text(
    tokenizer: Any, messages: Sequence[Message], places: Sequence[int], where: str, open_end: bool
) -> list[Piece] | None:
    """Returns the pieces of a conversation whose answers stay as they were; None for another."""
    final = rendered(tokenizer, messages, where, open_end)
    pieces: list[Piece] = []
    done = 0
    for place in places:
        before = rendered(tokenizer, messages[:place], where, True)
        after = rendered(tokenizer, messages[: place + 1], where, False)
        if not (
            len(before) >= done
            and after.startswith(before)
            and final.startswith(after.rstrip())
            and final.startswith(before)
        ):
            return None
        end = len(after) if final.startswith(after) else len(after.rstrip())
        pieces += [(final[done : len(before)], False), (final[len(before) : end], True)]
        done = end
    if done < len(final):
        pieces.append((final[done:], False))
    return pieces


def _own_text(tokenizer: Any, messages: Sequence[Message], place: int, where: str) -> list[Piece]:
    """Returns what stands before one answer, and the answer."""
    before = rendered(tokenizer, messages[:place], where, True)
    after = rendered(tokenizer, messages[: place + 1], where, False)
    if after.startswith(before):
        return [(before, False), (after[len(before) :], True)]
    content = messages[place].content
    start = after.rfind(content)  # the template begins answers in another way than it shows them
    return [(before, False), (after[start:] if start >= 0 else content, True)]


def _tokens(tokenizer: Any, pieces: Sequence[Piece], only_last: bool) -> Marked:
    """Tokenises piece by piece; an answer ends with its last special token, or gets an end."""
    special_ids = np.array(tokenizer.all_special_ids + _added_special(tokenizer))
    last = max((index for index, (_, is_answer) in enumerate(pieces) if is_answer), default=-1)
    ids, marks = [], []
    for index, (text, is_answer) in enumerate(pieces):
        if index > last >= 0 and index == len(pieces) - 1 and not text.strip():
            break  # the blank after the last answer
        ids_N = bare_ids(tokenizer, text)
        marks_N = np.zeros(len(ids_N), np.int32)
        if is_answer:
            ends = np.flatnonzero(np.isin(ids_N, special_ids))
            if not len(ends) and tokenizer.eos_token_id is not None:
                ids_N = np.append(ids_N, np.int32(tokenizer.eos_token_id))
                marks_N, ends = np.zeros(len(ids_N), np.int32), np.array([len(ids_N) - 1])
            end = int(ends[-1]) + 1 if len(ends) else len(ids_N)
            if index == last and index == len(pieces) - 1:
                ids_N, marks_N = ids_N[:end], marks_N[:end]
            if index == last or not only_last:
                marks_N[:end] = ANSWER
        ids.append(ids_N)
        marks.append(marks_N)
    return Marked(np.concatenate(ids), np.concatenate(marks))


def _added_special(tokenizer: Any) -> list[int]:
    return [index for index, token in tokenizer.added_tokens_decoder.items() if token.special]


def end_ids(tokenizer: Any) -> tuple[int, ...]:
    """Returns the tokens at which an answer ends: the end token, and the template's own."""
    turns = (Message("user", "a"), Message("assistant", "a"))
    sequence = chat_sequences(tokenizer, turns, "the model's chat template")[-1]
    last = int(sequence.ids_N[-1])
    special = {*tokenizer.all_special_ids, *_added_special(tokenizer)}
    found = [last] if last in special and sequence.marks_N[-1] == ANSWER else []
    eos = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    return tuple(dict.fromkeys(eos + found))


def prompt_length(marks_N: np.ndarray) -> int:
    """Returns how many tokens stand before the last answer; all where no answer ends a sequence."""
    if not len(marks_N) or marks_N[-1] != ANSWER:
        return len(marks_N)
    given = np.flatnonzero(marks_N != ANSWER)
    return int(given[-1]) + 1 if len(given) else 0


def whole_length(tokenizer: Any, messages: Sequence[Message], where: str) -> int:
    """Returns about how many tokens a conversation takes before its next answer, at little cost.

    They are those of the whole text; cut at the borders of answers it has some more at times.
    """
    return len(bare_ids(tokenizer, rendered(tokenizer, messages, where, True)))


def fitted_prompt(
    tokenizer: Any, messages: Sequence[Message], room: int, where: str
) -> tuple[tuple[Message, ...], int]:
    """Returns the turns before an answer cut to `room` tokens, and how many tokens were cut.

    The oldest exchanges go first, but for the system's turn and the last exchange; then the end of
    the longest turn. Raises DataError where the template alone does not fit.
    """
    each = [_sensible(tokenizer, turn, room) for turn in messages]
    turns, num_gone = [turn for turn, _ in each], sum(gone for _, gone in each)
    length = needed = _num_tokens(tokenizer, turns, where)
    if length > room:
        turns, length = _without_oldest(tokenizer, turns, room, where)
    while length > room:
        longest = max(range(len(turns)), key=lambda index: len(turns[index].content))
        content = turns[longest].content
        places_N2, num_tokens = first_places(tokenizer, content, room + 1)
        keep = min(num_tokens - (length - room), len(places_N2) - 1)
        if keep <= 0 or not content:
            raise DataError(
                where,
                f"its chat template and turns take {length:,} tokens",
                f"There is room for {room:,}.",
                "Raise task.max_length, or shorten the turns.",
            )
        cut = content[: int(places_N2[keep][0])].rstrip()
        turns[longest] = Message(turns[longest].role, cut)
        length = _num_tokens(tokenizer, turns, where)
    return tuple(turns), num_gone + needed - length


def _sensible(tokenizer: Any, turn: Message, room: int) -> tuple[Message, int]:
    """Returns a turn of sensible size, and how many tokens were cut.

    One that is far longer than the room is cut to it at once, so that memory stays flat.
    """
    if len(turn.content) <= FAR_TOO_LONG * room:
        return turn, 0
    places_N2, num_tokens = first_places(tokenizer, turn.content, room + 1)
    if num_tokens <= room:
        return turn, 0
    return Message(turn.role, turn.content[: int(places_N2[room][0])]), num_tokens - room


def _num_tokens(tokenizer: Any, turns: Sequence[Message], where: str) -> int:
    return sum(len(sequence) for sequence in _prompt(tokenizer, turns, where))


def _prompt(tokenizer: Any, turns: Sequence[Message], where: str) -> list[Marked]:
    """Returns the turns before an answer as they are tokenised where it follows."""
    return chat_sequences(tokenizer, turns, where)[-1:]


def _without_oldest(
    tokenizer: Any, turns: Sequence[Message], room: int, where: str
) -> tuple[list[Message], int]:
    """Returns the turns without the fewest oldest exchanges that make room, and their tokens.

    An exchange goes from the first turn that is no system's to the user's next; the last one stays.
    The number is found by halving, since each try renders the whole conversation.
    """
    first = next((i for i, turn in enumerate(turns) if turn.role != "system"), len(turns))
    starts = [i for i, turn in enumerate(turns) if i > first and turn.role == "user"]

    def kept(number: int) -> list[Message]:
        return [*turns[:first], *turns[starts[number] :]]

    few, many = 0, len(starts)
    while few < many:
        middle = (few + many) // 2
        if _num_tokens(tokenizer, kept(middle), where) <= room:
            many = middle
        else:
            few = middle + 1
    left = kept(min(few, len(starts) - 1)) if starts else list(turns)
    return left, _num_tokens(tokenizer, left, where)
