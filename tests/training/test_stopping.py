from __future__ import annotations

import os
import signal
import threading

import pytest

from tunewright.errors import Interrupted, Stopped
from tunewright.training.stopping import StopSignals


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGTERM, Stopped), (signal.SIGINT, Interrupted)]
)
def test_a_signal_is_a_wish(number, kind):
    with StopSignals("runs/a") as stop:
        assert not stop.is_wished
        os.kill(os.getpid(), number)
        assert stop.is_wished
        error = stop.error(1200)
    assert type(error) is kind
    assert str(error) == (
        f"runs/a: {number.name} came, and the run stopped after update 1,200, which is saved. Go "
        "on with: tunewright resume runs/a"
    )


def test_the_second_one_acts_at_once():
    with StopSignals("runs/a"):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_afterwards_signals_do_what_they_did():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopSignals("runs/a"):
        assert signal.getsignal(signal.SIGINT) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_in_another_thread_nothing_is_taken():
    found = []

    def run():
        with StopSignals("runs/a") as stop:
            found.append(stop.is_wished)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]
