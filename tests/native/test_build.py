"""How native code is made: once for a machine, whole, and never needed."""

from __future__ import annotations

import os
import platform
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tunewright import caches
from tunewright.native import build, native, why_not

HASTY = """#!/bin/sh
exec cc "$@" -O0
"""


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of this test's own, no memory of what was found before it, and a hasty compiler."""
    compiler = tmp_path / "hasty-cc"
    compiler.write_text(HASTY)
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(caches.tempfile, "tempdir", str(tmp_path))
    build._made.cache_clear()
    yield tmp_path / "tunewright" / "native"
    build._made.cache_clear()


def test_it_is_compiled_once_and_put_into_the_cache_whole(own_cache):
    assert why_not() is None
    (made,) = own_cache.iterdir()
    before = made.stat().st_mtime_ns
    build._made.cache_clear()

    assert native() is not None
    assert [file.stat().st_mtime_ns for file in own_cache.iterdir()] == [before]


def test_processes_that_start_together_make_one_library(own_cache):
    code = "from tunewright.native import why_not; assert why_not() is None, why_not()"
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]

    assert [process.wait() for process in started] == [0, 0, 0]
    assert len(list(own_cache.iterdir())) == 1


def test_another_processor_gets_another_library(own_cache, monkeypatch):
    assert why_not() is None
    target = native().target
    (first,) = own_cache.iterdir()
    monkeypatch.setattr(build, "_processor", lambda: "another")
    build._made.cache_clear()

    assert why_not() is None
    assert target == "native"
    assert len({first, *own_cache.iterdir()}) == 2


def test_it_shares_torch_s_threads():
    before = torch.get_num_threads()
    try:
        for number in (3, 5):
            torch.set_num_threads(number)
            assert native().library.threads() == number
    finally:
        torch.set_num_threads(before)


def test_it_can_be_turned_off(monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_NATIVE", "0")

    assert native() is None
    assert why_not() == "TUNEWRIGHT_NATIVE=0"


def test_a_machine_without_a_compiler_does_without(own_cache, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")

    assert native() is None
    assert why_not() == "there is no compiler (no-such-compiler)"


def test_a_machine_without_a_compiler_takes_what_one_has_made_there(own_cache, monkeypatch):
    assert why_not() is None
    monkeypatch.setenv("CC", "no-such-compiler")
    assert why_not() is None
    build._made.cache_clear()
    (made,) = own_cache.iterdir()
    made.write_bytes(made.read_bytes()[:5000])
    assert why_not() == "there is no compiler (no-such-compiler)"


def test_a_compiler_that_fails_is_no_reason_to_stop(own_cache, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_MARCH", "no-such-processor")
    monkeypatch.setenv("CC", "cc")

    assert native() is None
    assert why_not().startswith("cc could not compile it: ")
    assert list(own_cache.iterdir()) == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the target is an x86-64's")
def test_what_was_compiled_for_another_processor_is_not_run(monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_MARCH", "x86-64-v4")
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []

    told = "this processor cannot run what was compiled for x86-64-v4"
    assert why_not() == (None if "avx512bw" in flags else told)


def private_folder(tmp_path):
    (folder,) = tmp_path.glob("tunewright-*")
    return folder


def test_where_the_cache_cannot_be_written_a_private_folder_takes_its_place(
    own_cache, monkeypatch, tmp_path
):
    blocked = tmp_path / "a file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))

    assert why_not() is None
    folder = private_folder(tmp_path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (made,) = (folder / "native").iterdir()
    before = made.stat().st_mtime_ns
    build._made.cache_clear()
    assert why_not() is None
    assert [file.stat().st_mtime_ns for file in (folder / "native").iterdir()] == [before]


def test_a_user_without_a_home_has_native_code(own_cache, monkeypatch, tmp_path):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(caches.Path, "home", nobody)
    assert why_not() is None
    assert (private_folder(tmp_path) / "native").is_dir()


def test_a_private_folder_that_others_may_write_to_is_not_taken(own_cache, monkeypatch, tmp_path):
    folder = tmp_path / f"tunewright-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert why_not() == f"no cache can be written, and {folder} is not ours alone"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build._made.cache_clear()
    assert why_not() is None
    assert list(folder.iterdir()) == []


def test_a_damaged_library_is_made_again(own_cache):
    code = "from tunewright.native import why_not; assert why_not() is None, why_not()"
    subprocess.run([sys.executable, "-c", code], check=True)
    (made,) = own_cache.iterdir()
    whole = made.read_bytes()
    made.write_bytes(whole[:5000])

    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(made.read_bytes()) == len(whole)
