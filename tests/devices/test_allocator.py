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


def ran(code, first="", **environment):
    """Runs code in a process of its own that has our allocator; returns what it printed."""
    code = textwrap.dedent(code)
    code = code if environment else f"{first}\n{BEGIN}{code}"
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
    from tunewright.devices.memory import held_bytes
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
    assert torch.empty(0).numel() == 0

    # it goes back when it is asked for
    tensor = torch.ones(100 * MB)
    del tensor, small
    before = held_bytes("cpu")
    release_memory("cpu")
    assert kept_memory() == (0, 0, 0)
    assert before - held_bytes("cpu") > 100e6

    # what there is no memory for is refused as by torch
    from tunewright.training.guards import is_out_of_memory
    for size in (2**62, 2**50):
        try:
            torch.empty(size, dtype=torch.uint8)
        except RuntimeError as error:
            assert is_out_of_memory(error), error
        else:
            raise AssertionError(size)

    # a process that is to hold little does, until it is settled anew
    return_large_blocks()
    for kept in (False, True):
        tensor = torch.ones(100 * MB)
        del tensor
        assert (kept_memory().kept > 0) == kept
        settle_allocator()
    """)


@on_linux
def test_what_is_kept_and_used_is_never_much_more_than_what_was_used_at_once():
    ran("""
    import random
    rng = random.Random(3)
    held = {}
    for step in range(2000):
        place = rng.randrange(12)
        held.pop(place, None)
        if rng.random() < 0.7:
            size = int(2 ** rng.uniform(8, 24))
            held[place] = torch.full((size,), float(place))
        now = kept_memory()
        assert now.used + now.kept <= now.most + max(now.most // 8, 64 << 20)
        assert now.used >= sum(t.numel() * 4 for t in held.values() if t.numel() > MB)
    assert now.most > 100e6
    for place, tensor in held.items():  # nobody wrote into another's block
        assert bool((tensor == place).all())
        assert tensor.data_ptr() % 64 == 0
    held.clear()
    del tensor
    assert kept_memory().used == 0
    """)


@on_linux
def test_threads_and_forks_share_it_and_tensors_outlive_the_interpreter():
    before = "import torch; before = torch.ones(1 << 20)"
    ran(
        """
    import os, sys
    from concurrent.futures import ThreadPoolExecutor
    from tunewright.native import keeper

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

    keeper().keep_memory()  # as if two threads had begun at once
    tensor = torch.ones(2 * MB)
    child = os.fork()
    if not child:
        mine = torch.full((MB,), 3.0)
        del mine
        os._exit(0 if float(tensor.sum()) == 2 * MB else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    before.resize_(1 << 21)  # torch's own gave it out
    del before
    sys.kept = [tensor, tensor.numpy()]
    """,
        first=before,
    )


@pytest.mark.parametrize(
    "environment",
    [{"CXX": "no-such-compiler"}, {"TUNEWRIGHT_ALLOCATOR": "torch"}],
)
def test_without_it_the_c_library_does(environment, tmp_path):
    empty = {"XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    told = ran(
        """
        from tunewright.devices import release_memory, settle_allocator
        from tunewright.devices.allocator import kept_memory
        print(settle_allocator())
        release_memory("cpu")
        assert kept_memory() is None
        """,
        **environment,
        **empty,
    )
    assert told in ("glibc", "system")
