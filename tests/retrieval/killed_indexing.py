"""Indexings that are killed: a process of its own, since it forks, and a child for each kill.

    python -m tests.retrieval.killed_indexing FOLDER

An undisturbed indexing is watched first: which phases it has, and how often each comes. A phase is
an SQL statement that is about to run (a commit is one, too), a step inside one, or an operation on
the file of the clusters. Then, phase after phase, a child indexes, says on a pipe that it has come
there, stops, and gets SIGKILL. Everything found is printed as lines of JSON.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import tunewright.retrieval.indexing as indexing
import tunewright.retrieval.nearest as nearest
import tunewright.retrieval.store as stores
from tests.retrieval.embedders import WordCounts
from tunewright.errors import DataError
from tunewright.retrieval.documents import Document
from tunewright.retrieval.store import opened

indexing.BATCH_PASSAGES = 4  # so that there is much to be killed in
indexing.write_clusters = functools.partial(nearest.write_clusters, exact_up_to=8)
NUM_DOCUMENTS = 40
STEPS_OF_SQLITE = 400  # of its machine, between two phases within a statement


def documents(version):
    """Some stay, some change, some go, some come."""
    for number in range(NUM_DOCUMENTS):
        changing = f"version {version}" if number % 2 else "for good"
        yield Document(f"{number + version * 10}", f"text {number + version * 10} {changing}")


def index(folder, version):
    return indexing.update_index(folder, documents(version), WordCounts(), passage_tokens=100)


def found_in(folder):
    """Everything that a reader sees: documents, the words that find them, the neighbours."""
    with opened(folder) as store:
        found = dict(store.rows("select key, body from documents order by key"))
        by_word = "select d.body from words w join passages p on p.id = w.rowid"
        by_word += " join documents d on d.id = p.document where words match 'text' order by d.body"
        passages_P, vectors_PD = next(nearest._read(store))
        neighbours = nearest.open_neighbours(store, exact_up_to=8)
        return {
            "generation": store.generation,
            "documents": found,
            "found_by_word": [body for (body,) in store.rows(by_word)],
            "found_by_meaning": [neighbours.nearest(v_D, 1)[0][1] > 0.999 for v_D in vectors_PD],
            "num_passages": len(passages_P),
            "integrity": store.one("pragma integrity_check"),
        }


def left_in(folder):
    """Vectors that no passage has, and files that are not of the index."""
    with opened(folder) as store:
        unused = "select count(*) from vectors where id not in (select vector from passages)"
        current = f"clusters-{store.generation}.faiss"
        known = {current, ".lock", stores.FILE, f"{stores.FILE}-wal", f"{stores.FILE}-shm"}
        return {
            "unused": store.one(unused),
            "files": sorted(entry.name for entry in folder.iterdir() if entry.name not in known),
        }


def watched(tell):
    """Has `tell` called with the name of each phase as it begins."""
    connect = stores._connected

    def connected(path, uri):
        connection = connect(path, uri)
        if "mode=ro" not in uri:
            connection.set_trace_callback(lambda sql: tell(" ".join(sql.split())[:24]))
            connection.set_progress_handler(lambda: tell("a step"), STEPS_OF_SQLITE)
        return connection

    stores._connected = connected
    flush, replace = nearest.flush, Path.replace
    nearest.flush = lambda path: (tell(f"flush {path.suffix}"), flush(path))[1]
    Path.replace = lambda self, to: (tell("before renaming"), replace(self, to), tell("renamed"))[1]


def phases(folder):
    """Returns how often each phase comes in an undisturbed indexing, which a child does."""
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        seen = Counter()
        watched(lambda name: seen.update([name]))
        index(folder, 2)
        os.write(write_end, json.dumps(seen).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as stream:
        found = json.load(stream)
    os.wait()
    return found


def killed_in(folder, name, time_of_it):
    """Kills an indexing when the phase comes for the n-th time; returns how the child ended."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        seen = Counter()

        def tell(phase):
            seen.update([phase])
            if phase == name and seen[phase] == time_of_it:
                os.write(write_end, b".")
                while True:
                    time.sleep(60)

        watched(tell)
        index(folder, 2)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb", buffering=0) as stream:
        came = stream.read(1)  # empty where the child ended before
    if came:
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def say(**found):
    print(json.dumps(found), flush=True)


def main():
    root = Path(sys.argv[1])
    before, after = root / "before", root / "after"
    index(before, 1)
    index(after, 1)
    counts = phases(after)
    say(phases=counts, before=found_in(before), after=found_in(after))
    for name, count in counts.items():
        places = range(1, count + 1) if name == "commit" else sorted({1, 1 + count // 2, count})
        for place in places:
            kill_and_go_on(root / f"{name} {place}".replace("/", ""), name, place)
        kill_and_go_on(root / f"{name} new".replace("/", ""), name, 1, is_new=True)


def kill_and_go_on(folder, name, place, is_new=False):
    """Kills the indexing of version 2 over version 1, or over nothing, and does it again."""
    if not is_new:
        index(folder, 1)
    ended = killed_in(folder, name, place)
    found = found_in_any(folder)
    change = index(folder, 2)
    say(phase=name, place=place, is_new=is_new, ended=ended, found=found,
        finished=found_in(folder), embedded=change.num_embedded, left=left_in(folder))  # fmt: skip


def found_in_any(folder):
    """What a reader sees, or None where it is told that no indexing has been finished."""
    try:
        return found_in(folder)
    except DataError:
        return None


if __name__ == "__main__":
    main()
