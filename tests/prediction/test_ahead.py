from __future__ import annotations

import threading

import pytest
import torch

from tunewright.prediction.ahead import made_ahead, spread


def test_items_come_in_their_order_and_one_is_made_meanwhile():
    made, used = [], threading.Event()

    def items():
        for number in range(5):
            made.append(number)
            yield number
        used.set()

    coming = made_ahead(items())
    assert next(coming) == 0
    assert list(coming) == [1, 2, 3, 4]
    assert used.wait(5)
    assert made == [0, 1, 2, 3, 4]


def test_no_more_than_one_waits_beside_the_one_in_the_making():
    made = []
    third = threading.Event()

    def items():
        for number in range(100):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    coming = made_ahead(items())
    next(coming)
    assert third.wait(5)
    assert not threading.Event().wait(0.3)
    assert len(made) == 3  # one used, one waiting, one made that finds no place
    coming.close()


def test_what_is_raised_comes_in_its_turn():
    def items():
        yield "a"
        raise KeyError("b")

    coming = made_ahead(items())
    assert next(coming) == "a"
    with pytest.raises(KeyError, match="b"):
        next(coming)


def test_the_thread_ends_with_the_generator():
    coming = made_ahead(iter(range(1000)))
    next(coming)
    coming.close()
    for thread in threading.enumerate():
        if thread.name == "one ahead":
            thread.join(5)
            assert not thread.is_alive()


@pytest.mark.parametrize("threads", [1, 3])
def test_what_threads_make_of_a_list_is_in_its_order(threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert spread(lambda n: n * n, range(1000)) == [n * n for n in range(1000)]
        with pytest.raises(ZeroDivisionError):
            spread(lambda n: 1 / (n - 700), range(1000))
        assert spread(lambda n: n, []) == []
    finally:
        torch.set_num_threads(before)
