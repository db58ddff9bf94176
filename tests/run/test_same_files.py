"""Large files are those that a run was begun with, or they are refused."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from tunewright.data.formats.sources import FileStamp
from tunewright.errors import SettingsError
from tunewright.run.resuming.same_files import SameFiles

TEXT = b"a good film\n" * 1000


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(TEXT)
    return path


@pytest.fixture
def known(file):
    """What a run has kept of the file."""
    files = SameFiles([FileStamp.of(file)])
    assert files.to_json()[0]["sha256"] is None
    end = time.monotonic() + 60
    while not files.look():
        assert time.monotonic() < end
    assert not files.look()
    return files.to_json()


def touch(file, text=TEXT):
    file.write_bytes(text)
    os.utime(file, ns=(0, 12345))


def test_the_digest_is_that_of_all_bytes(known):
    assert known[0]["sha256"] == hashlib.sha256(TEXT).hexdigest()


def test_a_file_that_nobody_wrote_to_is_taken_for_the_same(file, known):
    files = SameFiles([FileStamp.of(file)], known)
    files.compare("the run", pytest.fail)
    assert files.is_complete
    assert files.to_json() == known


def test_a_file_that_was_written_anew_with_the_same_bytes_is_the_same(file, known):
    touch(file)
    said = []
    files = SameFiles([FileStamp.of(file)], known)
    files.compare("the run", said.append)
    assert said == [
        f"{file}: it was written to since the run began, so all of it is compared first."
    ]
    assert files.to_json()[0] == {**known[0], "changed_ns": 12345}


def test_a_file_with_another_byte_is_refused(file, known):
    touch(file, TEXT.replace(b"good", b"bad!", 1))
    with pytest.raises(SettingsError) as caught:
        SameFiles([FileStamp.of(file)], known).compare("runs/films", lambda _: None)
    assert str(caught.value) == (
        f"runs/films: {file} is not the file that the run was begun with. A sample of its rows is "
        "the same; other bytes differ. Resume it with the file that it was begun with, or train a "
        "new run."
    )


def test_what_cannot_be_known_is_said(file, known):
    touch(file)
    said = []
    files = SameFiles([FileStamp.of(file)], [{**known[0], "sha256": None}])
    files.compare("the run", said.append)
    assert said == [
        f"{file}: it was written to since the run began, which was cut off before it had read all "
        "of it. A sample of its rows is the same."
    ]
    assert not files.is_complete


def test_a_file_that_is_gone_is_left_to_the_training(file):
    files = SameFiles([FileStamp.of(file)])
    file.unlink()
    for _ in range(20):
        assert not files.look()
        time.sleep(0.01)
