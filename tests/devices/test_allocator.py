"""Large blocks of memory are kept for the tensors to come; every process here is one of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap

import pytest

from tunewright.native import keeper

SWITCHES = ("TUNEWRIGHT_ALLOCATOR", "TUNEWRIGHT_NATIVE")
on_linux = pytest.mark.skipif(
    platform.system() != "Linux" or any(name in os.environ for name in SWITCHES),
    reason="it is for Linux, and can be turned off",
)

BEGIN = """
import torch
from tunewright.devices.allocator import *
from tunewright.devices.allocator import kept_memory, return_large_blocks
from tunewright.devices import release_memory
MB = 1 << 18  # numbers
assert settle_allocator() == "own"
"""


def ran(code, **environment):
    """Runs code in a process of its own that has our allocator; returns what it printed."""
    code = BEGIN + textwrap.dedent(code) if not environment else textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@on_linux
def test_it_can_be_compiled_here():
    assert not isinstance(keeper(), str), keeper()


@on_linux
def test_a_freed_block_serves_the_next_tensor_of_its_size_or_a_little_less():
    ran("""
    first = torch.empty(10 * MB)
    place = first.data_ptr()
    del first
    assert kept_memory().kept > 10e6
    for size in (10 * MB, 7 * MB):
        again = torch.empty(size)
        assert again.data_ptr() == place
        del again
    small = torch.empty(2 * MB)  # such a block is too large for it
    assert small.data_ptr() != place
    """)


@on_linux
def test_what_is_kept_and_used_is_never_much_more_than_what_was_used_at_once():
    ran("""
    import random
    rng = random.Random(3)
    held = {}
    for step in range(3000):
        place = rng.randrange(12)
        held.pop(place, None)
        if rng.random() < 0.7:
            size = int(2 ** rng.uniform(8, 23))
            held[place] = torch.full((size,), float(place))
        now = kept_memory()
        assert now.used + now.kept <= now.most * 9 / 8
        assert now.used >= sum(t.numel() * 4 for t in held.values() if t.numel() > MB)
    for place, tensor in held.items():  # nobody wrote into another's block
        assert bool((tensor == place).all())
        assert tensor.data_ptr() % 64 == 0
    held.clear()
    assert kept_memory().used == 0
    """)


@on_linux
def test_memory_goes_back_when_it_is_asked_for():
    ran("""
    from tunewright.devices.memory import held_bytes
    tensor = torch.ones(100 * MB)
    del tensor
    before = held_bytes("cpu")
    release_memory("cpu")
    assert kept_memory() == (0, 0, 0)
    assert before - held_bytes("cpu") > 100e6
    return_large_blocks()
    tensor = torch.ones(100 * MB)
    del tensor
    assert kept_memory().kept == 0
    """)


@on_linux
def test_threads_share_it():
    ran("""
    from concurrent.futures import ThreadPoolExecutor

    def work(number):
        generator = torch.Generator().manual_seed(number)
        for _ in range(40):
            size = int(torch.randint(1, 4 * MB, (1,), generator=generator))
            tensor = torch.full((size,), float(number))
            assert bool((tensor == number).all())

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: settle_allocator(), range(32))) == {"own"}
        list(pool.map(work, range(16)))
    assert kept_memory().used == 0
    """)


@on_linux
def test_a_forked_process_goes_on_with_it():
    ran("""
    import os
    from tunewright.native import keeper
    keeper().keep_memory()  # as two threads may that begin at once
    kept = torch.ones(MB)
    del kept
    tensor = torch.ones(2 * MB)
    child = os.fork()
    if not child:
        mine = torch.full((MB,), 3.0)
        del mine
        os._exit(0 if float(tensor.sum()) == 2 * MB else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert float(tensor.sum()) == 2 * MB
    """)


@on_linux
def test_tensors_of_before_and_those_that_outlive_the_interpreter_are_safe():
    ran("""
    import ctypes, sys
    kept_for_ever = torch.ones(5 * MB)
    sys.kept = [kept_for_ever, kept_for_ever.numpy()]
    array = torch.arange(2 * MB).numpy()
    assert int(array.sum()) == MB * (2 * MB - 1)
    """)
    ran(
        """
        import torch
        before = torch.ones(1 << 20)
        from tunewright.devices import settle_allocator
        assert settle_allocator() == "own"
        before.resize_(1 << 21)
        del before
        """,
        TUNEWRIGHT_NATIVE="1",
    )


@on_linux
def test_what_there_is_no_memory_for_is_refused_as_by_torch():
    ran("""
    from tunewright.training.guards import is_out_of_memory
    for size in (2**62, 2**50):
        try:
            torch.empty(size, dtype=torch.uint8)
        except RuntimeError as error:
            assert is_out_of_memory(error), error
        else:
            raise AssertionError(size)
    assert torch.empty(0).numel() == 0
    """)


@pytest.mark.parametrize(
    "environment",
    [{"CXX": "no-such-compiler"}, {"TUNEWRIGHT_ALLOCATOR": "torch"}, {"TUNEWRIGHT_NATIVE": "0"}],
)
def test_without_it_the_c_library_does(environment):
    told = ran(
        """
        from tunewright.devices import release_memory, settle_allocator
        from tunewright.devices.allocator import kept_memory
        print(settle_allocator())
        release_memory("cpu")
        assert kept_memory() is None
        """,
        **environment,
    )
    assert told in ("glibc", "system")
