"""A file read ahead is the file, whichever way its bytes come."""

from __future__ import annotations

import os
import random

import pytest

from tunewright.data.large import read_ahead
from tunewright.data.large.read_ahead import ReadAhead


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A file of several chunks and a bit, which counts as large."""
    monkeypatch.setattr(read_ahead, "CHUNK_BYTES", 8192)
    monkeypatch.setattr(read_ahead, "LEAST_BYTES", 0)
    path = tmp_path / "large"
    path.write_bytes(random.Random(0).randbytes(9 * 8192 + 123))
    return path


def contents(path, size):
    found, view = bytearray(), memoryview(bytearray(size))
    with ReadAhead(path) as stream:
        while num_read := stream.readinto(view):
            found += view[:num_read]
    return bytes(found)


@pytest.mark.parametrize("size", [100, 8192, 20_000])
@pytest.mark.parametrize("cached", [True, False])
def test_every_byte_comes_once_and_in_order(path, monkeypatch, size, cached):
    monkeypatch.setattr(ReadAhead, "_is_cached", lambda self: cached)
    assert contents(path, size) == path.read_bytes()


def test_a_disk_that_cannot_be_read_past_the_cache_is_read_through_it(path, monkeypatch):
    monkeypatch.setattr(ReadAhead, "_is_cached", lambda self: False)

    def refused(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "preadv", refused, raising=False)
    monkeypatch.setattr(ReadAhead, "_go_past_the_cache", lambda self: True)
    assert contents(path, 5000) == path.read_bytes()


def test_an_empty_file_has_no_bytes(tmp_path):
    (tmp_path / "empty").touch()
    assert contents(tmp_path / "empty", 10) == b""


def test_a_file_that_shrinks_ends_early(path):
    with ReadAhead(path) as stream:
        view = memoryview(bytearray(8192))
        assert stream.readinto(view) == 8192
        os.truncate(path, 8192 * 2)
        rest = sum(iter(lambda: stream.readinto(view), 0))
    assert rest <= 8 * 8192 + 123
