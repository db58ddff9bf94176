from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from tests.tasks.examples import EXAMPLES, rows_of
from tests.training.loops import CPU
from tunewright.errors import Overloaded
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.prediction.queue import RequestQueue
from tunewright.tasks import find_task

NAME = "text-classification"
ROWS = rows_of(EXAMPLES[NAME])


@pytest.fixture
def predictor(tiny_folder):
    task = find_task(NAME)().within(128).learn(ROWS)
    tokenizer = load_tokenizer(tiny_folder("bert"))
    model, _ = task.build(tiny_folder("bert"), tokenizer, dropout=0.0, seed=0)
    return Predictor(task, model, tokenizer, CPU, exact=True)


def encoded(predictor, rows):
    return [predictor.task.encode(row, predictor.tokenizer) for row in rows]


class Held:
    """Keeps the model busy until it is let go, so that requests have to wait."""

    def __init__(self, queue):
        self._go, self._begun = threading.Event(), threading.Event()
        self.future = queue.run(self._wait)
        assert self._begun.wait(10)

    def _wait(self):
        self._begun.set()
        assert self._go.wait(10)

    def go(self):
        self._go.set()
        self.future.result(10)


def logits(answers):
    return [answer.logits for answer in answers]


def count_passes(monkeypatch, predictor):
    """Returns a list that gets the number of rows of each call of the predictor."""
    passes = []
    original = Predictor.answer_encoded

    def counted(self, rows, features):
        passes.append(len(rows))
        return original(self, rows, features)

    monkeypatch.setattr(Predictor, "answer_encoded", counted)
    return passes


def test_those_who_wait_together_share_a_pass_and_get_their_own_answers(predictor, monkeypatch):
    expected = logits(predictor.answers(ROWS))
    passes = count_passes(monkeypatch, predictor)
    queue = RequestQueue(predictor)
    held = Held(queue)
    futures = [queue.submit([row], encoded(predictor, [row])) for row in ROWS[:3]]
    futures.append(queue.submit(ROWS[3:], encoded(predictor, ROWS[3:])))
    held.go()
    answers = [answer for future in futures for answer in future.result(10)]
    assert logits(answers) == expected
    assert passes == [len(ROWS)]
    queue.close()


def test_a_pass_holds_no_more_than_fits_and_only_what_is_alike(predictor, monkeypatch):
    small = replace(predictor, max_tokens=1)
    passes = count_passes(monkeypatch, predictor)
    queue = RequestQueue(small)
    held = Held(queue)
    futures = [queue.submit([row], encoded(predictor, [row])) for row in ROWS[:3]]
    held.go()
    [future.result(10) for future in futures]
    assert passes == [1, 1, 1]
    queue.close()

    passes.clear()
    queue = RequestQueue(predictor)
    held = Held(queue)
    other = replace(predictor, task=replace(predictor.task, temperature=2.0))
    order = (predictor, predictor, other, predictor)
    futures = [
        queue.submit([row], encoded(predictor, [row]), each)
        for row, each in zip(ROWS, order, strict=False)
    ]
    held.go()
    found = [future.result(10)[0] for future in futures]
    assert passes == [2, 1, 1]
    plain = next(predictor.answers([ROWS[2]]))
    assert found[2].logits == plain.logits
    assert found[2].score != plain.score
    queue.close()


def test_a_row_that_fails_fails_alone(predictor, monkeypatch):
    expected = logits(predictor.answers(ROWS))
    original = Predictor.answer_encoded

    def poisoned(self, rows, features):
        if any(row is ROWS[2] for row in rows):
            raise RuntimeError("poison")
        return original(self, rows, features)

    monkeypatch.setattr(Predictor, "answer_encoded", poisoned)
    queue = RequestQueue(predictor)
    held = Held(queue)
    futures = [queue.submit([row], encoded(predictor, [row])) for row in ROWS]
    held.go()
    for place, future in enumerate(futures):
        if place == 2:
            with pytest.raises(RuntimeError, match="poison"):
                future.result(10)
        else:
            assert logits(future.result(10)) == [expected[place]]
    queue.close()


def test_too_many_are_refused_at_once_and_room_comes_back(predictor):
    queue = RequestQueue(predictor, max_rows=4)
    with queue.room(3):
        assert queue.num_rows == 3
        with pytest.raises(Overloaded, match="3 rows are being answered"), queue.room(2):
            pass
        with queue.room(1):
            assert queue.num_rows == 4
    with pytest.raises(KeyError), queue.room(4):
        raise KeyError
    assert queue.num_rows == 0
    queue.close()
    with pytest.raises(Overloaded, match="about to stop"), queue.room(1):
        pass


def test_an_end_that_takes_too_long_is_told(predictor):
    queue = RequestQueue(predictor)
    held = Held(queue)
    assert not queue.close(0.01)
    held.go()
    assert queue.close(10)


def test_what_is_cancelled_in_time_is_not_answered(predictor, monkeypatch):
    passes = count_passes(monkeypatch, predictor)
    queue = RequestQueue(predictor)
    held = Held(queue)
    features = encoded(predictor, ROWS)
    left = queue.submit(ROWS[:1], features[:1])
    kept = queue.submit(ROWS[1:2], features[1:2])
    assert left.cancel()
    held.go()
    assert len(kept.result(10)) == 1
    assert passes == [1]
    queue.close()


def test_closing_answers_those_who_wait_and_takes_no_more(predictor):
    queue = RequestQueue(predictor)
    held = Held(queue)
    future = queue.submit(ROWS, encoded(predictor, ROWS))
    closing = threading.Thread(target=queue.close)
    closing.start()
    held.go()
    closing.join(10)
    assert not closing.is_alive()
    assert len(future.result(0)) == len(ROWS)
    with pytest.raises(Overloaded, match="about to stop"):
        queue.submit(ROWS, encoded(predictor, ROWS))
