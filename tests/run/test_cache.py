"""Encoded rows are kept, found again, never stale, and go when they are too many."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

import tunewright as tw
from tests.run.test_train import LABELS, QUICK, TEXTS
from tunewright.data import read_table
from tunewright.errors import SettingsError
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.run.preparing import cache as caching
from tunewright.run.preparing import encoded
from tunewright.run.preparing.cache import ARRAYS, RowCache, key_of
from tunewright.run.preparing.groundwork import Notice
from tunewright.tasks.text_classification import TextClassification

KINDS = {"row_id": "int", "window": "int"}


def arrays_of(num_rows, fill=7):
    column = np.full(num_rows, fill)
    ones = np.ones(num_rows, np.int64)
    return {
        "windows": ones,
        "row_id values": column,
        "row_id lengths": ones,
        "window values": column,
        "window lengths": ones,
    }


def put(cache, key, num_rows=100, fill=7):
    cache.put(key, arrays_of(num_rows, fill), KINDS, {"task": "text-classification"})


@pytest.fixture
def cache(tmp_path):
    return RowCache(tmp_path / "cache", 10**9)


def keys(cache):
    return [entry.key for entry in cache.entries()]


def test_what_was_put_is_found(cache):
    assert cache.find("a") is None
    put(cache, "a", 3)
    found = cache.find("a")
    assert [row[0].row_id for row in found.rows] == [7, 7, 7]
    (entry,) = cache.entries()
    assert (entry.key, entry.num_rows, entry.task) == ("a", 3, "text-classification")
    assert [place.name for place in cache.folder.iterdir()] == ["a"]


def test_the_entries_not_used_for_longest_go_first(tmp_path):
    cache = RowCache(tmp_path, 3 * 5000)
    for number, key in enumerate("abc"):
        put(cache, key)
        stamp = time.time() - 100 + number
        os.utime(tmp_path / key / "manifest.json", (stamp, stamp))
    assert keys(cache) == ["a", "b", "c"]
    cache.find("a")
    put(cache, "d")
    assert keys(cache) == ["c", "a", "d"]


def test_what_is_larger_than_all_of_it_is_not_kept(tmp_path):
    cache = RowCache(tmp_path, 1000)
    put(cache, "a")
    assert keys(cache) == []


def test_a_damaged_entry_is_told_of_and_removed(cache):
    put(cache, "a")
    path = cache.folder / "a" / ARRAYS
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    said = []
    assert cache.find("a", said.append) is None
    assert said == [
        f"An entry of the cache is damaged ({path}: is damaged: its SHA-256 is not the manifest's. "
        "The folder is not as it was saved. Use another copy, or train again.); it is made anew."
    ]
    assert list(cache.folder.iterdir()) == []


@pytest.mark.parametrize("name", [ARRAYS, "manifest.json"])
def test_an_entry_that_lacks_a_file_is_made_anew(cache, name):
    put(cache, "a")
    (cache.folder / "a" / name).unlink()
    assert cache.find("a") is None
    put(cache, "a")
    assert cache.find("a") is not None


def test_of_two_that_write_one_entry_the_second_is_thrown_away(cache):
    put(cache, "a", fill=1)
    put(cache, "a", fill=2)
    assert cache.find("a").rows[0][0].row_id == 1
    assert [place.name for place in cache.folder.iterdir()] == ["a"]


def in_a_loop(folder, number):
    """Puts, finds and clears in a process of its own; fails when it ever finds half an entry."""
    cache = RowCache(folder, 40_000)
    said = []
    for turn in range(40):
        key = f"k{turn % 5}"
        found = cache.find(key, said.append)
        if found is None:
            put(cache, key, 200)
        else:
            assert len(found.rows) == 200
            assert found.rows[199][0].row_id == 7
        if turn % 13 == number:
            cache.clear()
    assert said == []


def test_processes_share_a_cache(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=in_a_loop, args=(tmp_path, n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert not [place for place in tmp_path.iterdir() if place.name.startswith(".")]


def killed_at(folder, point):
    """Kills its own process while it writes an entry: at `seal` or at the rename."""
    if point == "seal":
        caching.seal = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    else:
        caching.Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    put(RowCache(folder, 10**9), "a")


@pytest.mark.parametrize("point", ["seal", "rename"])
def test_a_process_killed_while_it_writes_leaves_no_entry_and_its_rest_is_swept(tmp_path, point):
    process = multiprocessing.get_context("fork").Process(target=killed_at, args=(tmp_path, point))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    cache = RowCache(tmp_path, 10**9)
    assert (cache.find("a"), keys(cache)) == (None, [])
    (rest,) = tmp_path.iterdir()
    put(cache, "a")
    assert rest.is_dir()  # it could be another process's that is still writing
    os.utime(rest, (0, 0))
    put(cache, "b")
    assert not rest.exists()
    assert sorted(keys(cache)) == ["a", "b"]


def test_a_folder_that_cannot_be_written_is_told_of(tmp_path):
    (tmp_path / "file").write_text("")
    said = []
    cache = RowCache(tmp_path / "file" / "cache", 10**9)
    cache.put("a", arrays_of(3), KINDS, {"task": "x"}, said.append)
    assert said == [
        f"The encoded rows could not be kept in {tmp_path}/file/cache (Not a directory)."
    ]


ROWS = [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]


@pytest.fixture
def key(tiny_folder):
    """Returns a function (rows, task, architecture) -> the key of the rows."""

    def build(rows=ROWS, task=None, architecture="bert", columns=None, places=None):
        columns = columns or {"text": "text", "label": "label"}
        made = read_table(rows).rows(columns)
        made = made if places is None else made.select(places)
        task = task or TextClassification(labels=("a", "b"), max_length=32)
        return key_of(made, task, load_tokenizer(tiny_folder(architecture)))

    return build


def test_the_rows_of_a_file_have_one_key_wherever_it_lies(key, tmp_path):
    paths = tmp_path / "rows.jsonl", tmp_path / "copy.jsonl"
    for path in paths:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert key(str(paths[0])) == key(str(paths[1]))


def test_whatever_decides_the_encoding_changes_the_key(key):
    task = TextClassification(labels=("a", "b"), max_length=32)
    found = [
        key(),
        key([{"text": "one", "label": "a"}, {"text": "twO", "label": "b"}]),
        key([{"text": "one", "label": "a"}, {"text": "two", "label": "a"}]),
        key([*ROWS, ROWS[0]]),
        key(places=[1, 0]),
        key(columns={"text": "label", "label": "text"}),
        key(task=replace(task, max_length=31)),
        key(task=replace(task, labels=("b", "a"))),
        key(architecture="roberta"),
    ]
    assert len(set(found)) == len(found)


def test_another_version_of_what_encodes_changes_the_key(key, monkeypatch):
    before = key()
    monkeypatch.setattr(caching, "_version", lambda package: "0.0")
    assert key() != before


@pytest.fixture
def train(tiny_folder, tmp_path, monkeypatch):
    """Returns `tw.train` with a tiny model and a cache of its own, into which all rows go."""
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(encoded, "MIN_SECONDS", 0.0)

    def call(**named):
        named = {"model": tiny_folder("bert"), "folder": str(tmp_path / "runs")} | QUICK | named
        return tw.train((TEXTS, LABELS), **named)

    return call


def test_a_run_from_the_cache_is_the_run_without(train, monkeypatch):
    first = train()
    assert sorted(entry.num_rows for entry in tw.cache().entries) == [4, 4, 32]
    monkeypatch.setattr(encoded, "_lengths", None)  # which every row that is encoded comes by
    second = train()
    for name in ("model/model.safetensors", "audit.json", "begun.json"):
        assert (second.path / name).read_bytes() == (first.path / name).read_bytes()


def test_a_damaged_entry_is_replaced_by_the_next_run(train):
    train()
    folder = tw.cache().folder
    for entry in tw.cache().entries:
        (folder / entry.key / ARRAYS).write_bytes(b"nothing")
    said = []
    train(tell=lambda event: said.append(event.sentence) if isinstance(event, Notice) else None)
    assert sum("An entry of the cache is damaged" in sentence for sentence in said) == 3
    assert all(RowCache.usual().find(entry.key) for entry in tw.cache().entries)


def test_what_is_encoded_at_once_is_not_kept(train, monkeypatch):
    monkeypatch.setattr(encoded, "MIN_SECONDS", 1000.0)
    train()
    assert tw.cache().entries == ()


def test_a_cache_of_no_size_keeps_nothing(train, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE_GB", "0")
    train()
    assert tw.cache().entries == ()


def test_the_cache_is_cleared(train):
    train()
    cleared = tw.cache(clear=True)
    assert (cleared.num_cleared, cleared.entries, cleared.num_bytes) == (3, (), 0)


@pytest.mark.parametrize("size", ["much", "-1", "nan", "inf"])
def test_a_size_that_is_no_number_is_an_error(monkeypatch, size):
    monkeypatch.setenv("TUNEWRIGHT_CACHE_GB", size)
    with pytest.raises(SettingsError) as caught:
        tw.cache()
    assert str(caught.value) == (
        f'TUNEWRIGHT_CACHE_GB: it is "{size}". It has to be a number of gigabytes. Write 10, or 0 '
        "to keep nothing."
    )
