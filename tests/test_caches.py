from __future__ import annotations

import stat
import sys

import pytest

import tunewright as tw
from tunewright import caches
from tunewright.caches import cache_folder
from tunewright.errors import RunError


def nobody():
    raise RuntimeError("Could not determine home directory.")


@pytest.fixture
def no_home(monkeypatch, tmp_path):
    monkeypatch.setattr(caches.Path, "home", nobody)
    monkeypatch.setattr(caches.tempfile, "tempdir", str(tmp_path))
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "TUNEWRIGHT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "HOME", ".cache/tunewright/native"),
        ("darwin", "HOME", "Library/Caches/tunewright/native"),
        ("win32", "LOCALAPPDATA", "tunewright/cache/native"),
    ],
)
def test_caches_lie_where_the_system_keeps_them(
    monkeypatch, tmp_path, platform, variable, expected
):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    assert cache_folder("native") == tmp_path / expected


@pytest.mark.parametrize("platform", ["linux", "win32", "darwin"])
def test_a_folder_that_is_named_comes_first_on_every_system(monkeypatch, tmp_path, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("gguf") == tmp_path / "tunewright" / "gguf"


def test_who_keeps_nothing_needs_no_folder(no_home, monkeypatch):
    caches.temporary_folder().symlink_to(no_home)
    monkeypatch.setenv("TUNEWRIGHT_CACHE_GB", "0")
    assert tw.cache().max_bytes == 0


def test_a_user_without_a_home_has_them_in_a_folder_of_their_own(no_home):
    folder = tw.cache().folder
    assert folder == caches.temporary_folder() / "encoded"
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert cache_folder("gguf") == folder.parent / "gguf"


@pytest.mark.parametrize("what", ["open to others", "a link"])
def test_what_others_may_write_to_is_not_taken(no_home, what):
    folder = caches.temporary_folder()
    if what == "a link":
        folder.symlink_to(no_home)
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(RunError) as caught:
        cache_folder("encoded")
    assert str(caught.value) == (
        f"{folder}: it cannot be made, or others may write to it. A user without a home has the "
        "caches there. Name a folder in XDG_CACHE_HOME."
    )
