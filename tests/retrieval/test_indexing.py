"""An index follows its source: what came, changed and went, and nothing is embedded twice."""

from __future__ import annotations

import sqlite3
import threading

import numpy as np
import pytest

from tests.retrieval.conftest import TEXTS, documents
from tests.retrieval.embedders import Reversed, WordCounts
from tunewright.errors import DataError, ModelError, RunError, SettingsError
from tunewright.retrieval.documents import Document
from tunewright.retrieval.encoder import load_encoder
from tunewright.retrieval.indexing import remove_documents, update_index
from tunewright.retrieval.search_index import load_index
from tunewright.retrieval.store import FILE, opened


def keys_in(folder):
    with opened(folder) as store:
        return [key for (key,) in store.rows("select key from documents order by key")]


def test_the_first_indexing_adds_all(update, tmp_path):
    change = update()

    assert change.to_json() == {
        "num_added": 4, "num_changed": 0, "num_removed": 0, "num_unchanged": 0, "num_blank": 0,
        "num_passages": 4, "num_embedded": 4,
    }  # fmt: skip
    assert keys_in(tmp_path / "index") == sorted(TEXTS)


def test_the_same_again_changes_and_embeds_nothing(update, tmp_path):
    update()
    embedder = WordCounts()
    change = update(embedder=embedder)

    assert (change.num_unchanged, change.num_embedded, embedder.embedded) == (4, 0, [])
    with opened(tmp_path / "index") as store:
        assert store.generation == 1


def test_only_what_is_new_or_changed_is_embedded(update, tmp_path):
    update()
    embedder = WordCounts()
    change = update({**TEXTS, "goal": "The team lost.", "song": "A new song."}, embedder)

    assert embedder.embedded == ["The team lost.", "A new song."]
    assert (change.num_added, change.num_changed, change.num_unchanged) == (1, 1, 3)
    assert keys_in(tmp_path / "index") == sorted([*TEXTS, "song"])


def test_a_text_that_two_documents_share_is_embedded_once(update):
    embedder = WordCounts()
    change = update({"a": "the same", "b": "the same"}, embedder)

    assert embedder.embedded == ["the same"]
    assert (change.num_passages, change.num_embedded) == (2, 1)


def test_a_changed_column_is_a_changed_document_and_needs_no_new_vector(update, tmp_path):
    update(documents(year=2020))
    change = update(documents(year=2021))

    assert (change.num_changed, change.num_embedded) == (4, 0)
    with opened(tmp_path / "index") as store:
        assert set(store.rows("select columns from documents")) == {('{"year": 2021}',)}


def test_what_does_not_come_again_is_removed_with_its_words_and_vectors(update, index, tmp_path):
    update()
    change = update({key: TEXTS[key] for key in ("iron", "bank")})

    assert (change.num_removed, change.num_unchanged, change.num_passages) == (2, 2, 2)
    with opened(tmp_path / "index") as store:
        assert store.one("select count(*) from vectors") == 2
        assert store.one("select count(*) from words where words match 'goal'") == 0


def test_adding_keeps_what_the_source_lacks(update, tmp_path):
    update()
    change = update({"song": "A new song."}, add=True)

    assert (change.num_added, change.num_removed, change.num_unchanged) == (1, 0, 4)
    assert keys_in(tmp_path / "index") == sorted([*TEXTS, "song"])


def test_adding_a_document_that_is_there_takes_its_place(update, tmp_path):
    update()
    change = update({"goal": "The team lost."}, add=True)

    assert (change.num_changed, change.num_unchanged) == (1, 3)
    with opened(tmp_path / "index") as store:
        assert store.one("select body from documents where key = 'goal'") == "The team lost."


def test_a_source_of_other_documents_does_not_empty_the_index(update, tmp_path):
    update()
    with pytest.raises(SettingsError) as caught:
        update({"x": "something else"})

    assert str(caught.value) == (
        f"{tmp_path / 'index' / FILE}: none of its 4 documents is in the source. They would all be "
        "removed. Add to them with --add, or index into a new folder."
    )
    assert keys_in(tmp_path / "index") == sorted(TEXTS)


def test_documents_are_removed_by_their_ids(update, index, tmp_path):
    update()
    change = remove_documents(tmp_path / "index", ["film", "goal", "film"])

    assert (change.num_removed, change.num_unchanged, change.num_passages) == (2, 2, 2)
    assert keys_in(tmp_path / "index") == ["bank", "iron"]
    with load_index(tmp_path / "index", embedder=WordCounts()) as found:
        assert found.search("goal", mode="bm25") == []
        assert [hit.id for hit in found.search("bank", mode="bm25")] == ["bank"]


def test_an_unknown_id_removes_nothing(update, tmp_path):
    update()
    with pytest.raises(DataError) as caught:
        remove_documents(tmp_path / "index", ["film", "nothing"])

    assert str(caught.value) == (
        f'{tmp_path / "index" / FILE}: no document has the id "nothing". Nothing was removed.'
    )
    assert keys_in(tmp_path / "index") == sorted(TEXTS)


def test_nothing_can_be_removed_where_there_is_no_index(tmp_path):
    with pytest.raises(DataError, match=r"it holds no index\.db\. It is no index\."):
        remove_documents(tmp_path, ["film"])
    assert list(tmp_path.iterdir()) == []


def test_blank_texts_are_left_out_and_counted(update):
    assert update({**TEXTS, "x": " \n", "y": ""}).num_blank == 2


def test_a_source_of_blank_texts_alone_is_refused(update):
    with pytest.raises(DataError) as caught:
        update({"x": " "})
    assert str(caught.value) == "the source: no row has a text. At least one is needed."


def test_an_id_that_comes_twice_is_refused_with_both_places(update):
    twice = [Document("a", "x", {}, "f.csv, row 2"), Document("a", "y", {}, "f.csv, row 7")]
    with pytest.raises(DataError) as caught:
        update(twice)
    assert str(caught.value) == (
        'f.csv, row 7: the id "a" stands in f.csv, row 2, too. An id names one row. '
        "Remove one of them, or name another column with --id."
    )


def test_another_model_is_refused(update, tmp_path):
    update(model={"name": "first", "settings": {}})
    with pytest.raises(ModelError) as caught:
        update(embedder=Reversed())
    assert str(caught.value) == (
        f"{tmp_path / 'index' / FILE}: it was made by first, and this model gives other vectors. "
        "Vectors of two models cannot be compared. "
        "Use that model, or index the texts into a new folder."
    )


def test_the_same_model_in_bf16_is_not_another(update):
    class Rounded(WordCounts):
        def _vector(self, text):
            rounded = super()._vector(text).view(np.uint32) & 0xFFFF0000
            return rounded.view(np.float32)

    update()
    assert update(embedder=Rounded()).num_unchanged == 4


def test_passages_of_another_length_need_another_folder(update, tmp_path):
    update(passage_tokens=5, stride=1)
    assert update().num_unchanged == 4
    with pytest.raises(SettingsError) as caught:
        update(passage_tokens=6)
    assert str(caught.value) == (
        f"{tmp_path / 'index' / FILE}: it was made with passage_tokens = 5. 6 was asked for. "
        "Leave it out, or index into a new folder."
    )


@pytest.mark.parametrize(("form", "num_bytes"), [("float32", 128), ("int8", 36), ("binary", 4)])
def test_vectors_are_stored_in_the_form_that_is_asked_for(update, tmp_path, form, num_bytes):
    update(vectors=form)
    update({**TEXTS, "song": "A new song."})  # in the form that the index has

    with opened(tmp_path / "index") as store:
        assert store.vector_form == (form, 32)
        assert store.num_passages == 5
        assert {len(raw) for _, _, raw in store.vectors()} == {num_bytes}


def test_another_form_of_vectors_needs_another_folder(update, tmp_path):
    update(vectors="int8")
    assert update(vectors="int8").num_unchanged == 4
    with pytest.raises(SettingsError) as caught:
        update(vectors="binary")
    assert str(caught.value) == (
        f"{tmp_path / 'index' / FILE}: it was made with vectors = int8. binary was asked for. "
        "Leave it out, or index into a new folder."
    )


def test_a_form_that_vectors_are_not_stored_in_is_refused(update, tmp_path):
    with pytest.raises(SettingsError) as caught:
        update(vectors="uint8")
    assert str(caught.value) == (
        'vectors: it is "uint8". It is one of "float32", "int8", "binary".'
    )
    assert not (tmp_path / "index").exists()


def test_an_index_that_does_not_say_how_vectors_are_stored_has_them_in_full(update, tmp_path):
    update()
    connection = sqlite3.connect(tmp_path / "index" / FILE)
    connection.execute("delete from settings where name = 'vectors'")
    connection.commit()
    connection.close()

    assert update({**TEXTS, "song": "A new song."}).num_added == 1
    with load_index(tmp_path / "index", embedder=WordCounts()) as found:
        assert found.search("A new song.", mode="dense")[0].score == pytest.approx(1)


def test_an_exact_index_has_the_same_vectors_however_it_came_about(tiny_folder, tmp_path):
    texts = {f"d{n}": f"a film {n} of the {'old ' * (n % 7)}book" for n in range(40)}
    encoder = load_encoder(tiny_folder("bert"), precision="fp32", exact=True)
    model = encoder.reference
    update_index(tmp_path / "whole", documents(texts), encoder, model=model)
    for key in reversed(texts):
        one = documents({key: texts[key]})
        update_index(tmp_path / "grown", one, encoder, model=model, add=True)

    found = []
    for name in ("whole", "grown"):
        with opened(tmp_path / name) as store:
            keys = dict(store.rows("select id, key from documents"))
            found.append({keys[document]: raw for _, document, raw in store.vectors()})
    assert found[0] == found[1]
    assert len(found[0]) == 40
    with load_index(tmp_path / "whole", precision="fp32") as index:
        assert index.embedder.predictor.exact


@pytest.mark.parametrize("made", [True, False])
def test_an_index_is_exact_as_a_whole_or_not_at_all(tiny_folder, tmp_path, made):
    first, second = (
        load_encoder(tiny_folder("bert"), precision="fp32", exact=exact)
        for exact in (made, not made)
    )
    folder = tmp_path / "index"
    update_index(folder, documents(), first, model=first.reference)
    assert update_index(folder, documents(), first, model=first.reference).num_unchanged == 4
    with pytest.raises(SettingsError) as caught:
        update_index(folder, documents(), second, model=second.reference)
    was = str(made).lower()
    assert str(caught.value) == (
        f"{folder / FILE}: it was made with exact = {was}. All its vectors are made in one way. "
        f"Write exact={was}, or index into a new folder."
    )


def test_several_threads_cut_texts_into_passages_that_are_the_same(
    tiny_folder, tmp_path, monkeypatch
):
    texts = {f"d{n}": f"A film {n}. " + "The old book is good. " * (n % 5) for n in range(150)}
    encoder = load_encoder(tiny_folder("bert"), precision="fp32")
    cut_by, token_places = [], type(encoder).token_places

    def watching(encoder, text):
        cut_by.append(threading.current_thread().name.split("_")[0])
        return token_places(encoder, text)

    monkeypatch.setattr(type(encoder), "token_places", watching)
    found = []
    for num_threads in (1, 4):
        monkeypatch.setattr("torch.get_num_threads", lambda number=num_threads: number)
        folder = tmp_path / f"{num_threads}"
        update_index(folder, documents(texts), encoder, passage_tokens=8, stride=2)
        with opened(folder) as store:
            found.append(list(store.rows("select document, start, stop from passages order by id")))
    assert found[0] == found[1]
    assert len(found[0]) > 150
    assert cut_by == ["MainThread"] * 150 + ["spread"] * 150


def test_long_texts_become_passages_that_overlap(update, tmp_path):
    update({"long": "one two three four five six seven"}, passage_tokens=4, stride=2)

    with opened(tmp_path / "index") as store:
        numbers = [row[0] for row in store.rows("select id from passages order by id")]
        found = [store.passage(number).text for number in numbers]
    assert found == ["one two three four", "three four five six", "five six seven"]


def test_a_folder_with_other_things_is_not_written_to(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear")
    with pytest.raises(SettingsError) as caught:
        update_index(folder, documents(), WordCounts())
    assert str(caught.value) == (
        f'{folder}: it holds "letter.txt" and no index. Nothing is overwritten. '
        "Name a folder that is empty or new."
    )
    assert [entry.name for entry in folder.iterdir()] == ["letter.txt"]


def test_a_file_is_no_folder_of_an_index(tmp_path):
    (tmp_path / "mine").write_text("dear")
    with pytest.raises(SettingsError, match=r"it is a file\. An index is a folder\."):
        update_index(tmp_path / "mine", documents(), WordCounts())


def test_two_cannot_index_into_one_folder(tmp_path):
    inside, finish = threading.Event(), threading.Event()

    def slow():
        inside.set()
        finish.wait(30)
        yield from documents()

    thread = threading.Thread(target=update_index, args=(tmp_path / "i", slow(), WordCounts()))
    thread.start()
    inside.wait(30)
    try:
        with pytest.raises(SettingsError) as caught:
            update_index(tmp_path / "i", documents(), WordCounts())
    finally:
        finish.set()
        thread.join()
    assert str(caught.value) == (
        f"{tmp_path / 'i'}: another process is indexing into it. Wait until it ends, or stop it "
        "first."
    )
    assert keys_in(tmp_path / "i") == sorted(TEXTS)


def test_a_reader_sees_the_index_as_it_was_when_it_was_opened(index, update):
    found = index()
    update({"iron": TEXTS["iron"], "song": "A new song."})

    assert len(found) == 4
    assert [hit.id for hit in found.search("goal", mode="bm25")] == ["goal"]
    assert found.search("song", mode="bm25") == []


def test_a_fault_while_reading_changes_nothing(update, tmp_path):
    update()

    def breaking():
        yield Document("iron", "changed")
        raise DataError("f.csv, row 3", "it is broken")

    with pytest.raises(DataError, match="it is broken"):
        update(breaking())
    with opened(tmp_path / "index") as store:
        assert store.one("select body from documents where key = 'iron'") == TEXTS["iron"]


def test_a_full_disk_leaves_the_index_as_it_was(update, tmp_path, monkeypatch):
    import tunewright.retrieval.store as stores

    update()
    connect = stores._connected

    def small(path, uri):
        connection = connect(path, uri)
        pages = connection.execute("pragma page_count").fetchone()[0]
        connection.execute(f"pragma max_page_count = {pages + 1}")
        return connection

    monkeypatch.setattr(stores, "_connected", small)
    with pytest.raises(RunError) as caught:
        update({**TEXTS, **{f"n{n}": f"word{n} " * 3000 for n in range(9)}})
    assert str(caught.value) == (
        f"{tmp_path / 'index' / FILE}: it could not be read or written (database or disk is full). "
        "What was finished before is as it was. Free some space or mend the disk, and run the same "
        "again: it goes on where it stopped."
    )
    monkeypatch.undo()
    assert keys_in(tmp_path / "index") == sorted(TEXTS)


def test_a_flipped_bit_in_a_vector_is_found(index, tmp_path):
    index().close()
    connection = sqlite3.connect(tmp_path / "index" / FILE)
    (raw,) = connection.execute("select numbers from vectors where id = 1").fetchone()
    flipped = bytes([raw[0] ^ 1]) + raw[1:]
    connection.execute("update vectors set numbers = ? where id = 1", (flipped,))
    connection.commit()
    connection.close()

    with (
        load_index(tmp_path / "index", embedder=WordCounts()) as found,
        pytest.raises(RunError) as caught,
    ):
        found.search("iron", mode="dense")
    assert str(caught.value) == (
        f"{tmp_path / 'index' / FILE}: the vector of passage 1 is not as it was written. "
        "The index is damaged. Index the texts into a new folder."
    )


def test_a_truncated_file_is_damaged(update, tmp_path):
    update({f"n{n}": f"word{n} " * 300 for n in range(99)})
    path = tmp_path / "index" / FILE
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with (
        pytest.raises(RunError, match=r"The index is damaged\."),
        load_index(tmp_path / "index", embedder=WordCounts()) as found,
    ):
        found.search("word1")


def test_another_file_is_no_index(tmp_path):
    (tmp_path / FILE).write_text("dear " * 1000)
    with pytest.raises(RunError, match=r"file is not a database\. The index is damaged\."):
        load_index(tmp_path)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        load_index(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: it holds no {FILE}. It is no index. "
        "Make one with: tunewright index SOURCE --out FOLDER"
    )


def test_an_index_of_another_format_is_refused(update, tmp_path):
    update()
    connection = sqlite3.connect(tmp_path / "index" / FILE)
    connection.execute("update settings set value = '99' where name = 'format'")
    connection.commit()
    connection.close()

    with pytest.raises(DataError, match=r"another version of Tunewright wrote it\. Index the"):
        load_index(tmp_path / "index")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda texts: np.ones((1, 3)), "for 4 texts it gave an array of the shape (1, 3)"),
        (lambda texts: np.full((len(texts), 3), np.nan), "it gave a vector that is not finite"),
    ],
)
def test_an_embedder_that_gives_something_else_is_refused(answer, message, update):
    class Odd:
        def encode(self, texts):
            return answer(texts)

    with pytest.raises(ModelError) as caught:
        update(embedder=Odd())
    assert message in str(caught.value)


def test_progress_is_told_phase_by_phase(update):
    told = []
    update({f"n{n}": f"word{n}" for n in range(1001)}, tell=told.append)

    assert [(p.phase, p.done) for p in told if p.phase == "read"] == [("read", 1000)]
    embedded = [(p.done, p.total) for p in told if p.phase == "embed"]
    assert embedded == [(256, 1001), (512, 1001), (768, 1001), (1001, 1001)]
    assert told[-1].phase == "write"
