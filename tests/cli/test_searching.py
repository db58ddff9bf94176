"""`embed`, `index` and `search` as users call them, and what bad input gets."""

from __future__ import annotations

import csv
import io
import json
import math
import sys

import numpy as np
import pyarrow.parquet as parquet
import pytest

from tunewright.cli import run
from tunewright.models.batch import pack
from tunewright.models.pooling import quantised
from tunewright.retrieval.fusion import fused

ARTICLES = [
    ("a1", "film", "a fine film with good acting", "2020"),
    ("a2", "film", "an awful film, the plot is slow", "2021"),
    ("b1", "bank", "the bank and the stock market", "2021"),
    ("b2", "bank", "shares of the bank", "2022"),
    ("s1", "sport", "the team won the game", "2022"),
]


@pytest.fixture
def articles(tmp_path):
    file = tmp_path / "articles.csv"
    with file.open("w", encoding="utf-8", newline="") as lines:
        csv.writer(lines).writerows([("id", "topic", "text", "year"), *ARTICLES])
    return file


@pytest.fixture
def indexed(command, articles, tiny):
    ended = command("index", articles, "--model", tiny, "--precision", "fp32", "--json")
    assert ended.status == 0, ended.err
    return ended.json


def refused(ended):
    assert (ended.status, ended.out) == (2, ""), ended.err
    assert "Traceback" not in ended.err
    return ended.err.strip().splitlines()[-1]


def piped(text, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8"))


def test_vectors_are_written_in_each_form(command, articles, tiny):
    for name in ("v.npy", "v.parquet", "v.jsonl"):
        ended = command("embed", articles, "--model", tiny, "--out", name, "--json")
        assert ended.status == 0, ended.err
        assert ended.json == {
            "texts": 5, "blank_texts": 0, "cut_texts": 0, "cut_tokens": 0, "output": name,
        }  # fmt: skip
    folder = articles.parent
    vectors_RD = np.load(folder / "v.npy")
    assert vectors_RD.shape == (5, 32)
    table = parquet.read_table(folder / "v.parquet")
    assert table["id"].to_pylist() == [row[0] for row in ARTICLES]
    np.testing.assert_array_equal(np.stack(table["vector"].to_numpy()), vectors_RD)
    rows = [json.loads(line) for line in (folder / "v.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([row["vector"] for row in rows], vectors_RD, atol=1e-7)


def test_vectors_are_printed_as_texts_come(command, tiny, monkeypatch):
    piped('{"text": "a film"}\n{"text": ""}\n', monkeypatch)
    ended = command("embed", "-", "--model", tiny, "--layer", 1, "--pooling", "cls")

    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert [len(row["vector"]) for row in rows] == [32, 32]
    assert "1 text without a word answered, too: standard input, line 2." in ended.err
    assert "Embedded 2 texts." in ended.err


def test_tokens_have_a_vector_each(command, articles, tiny):
    ended = command("embed", articles, "--model", tiny, "--pooling", "none", "--out", "v.jsonl")
    assert ended.status == 0, ended.err
    row = json.loads((articles.parent / "v.jsonl").read_text().splitlines()[0])
    assert row["tokens"] == ["a", "fine", "film", "w", "##i", "##t", "##h", "good", "acting"]
    assert len(row["vectors"]) == len(row["starts"]) == 9


def test_tokens_are_one_array_with_the_beginnings_of_texts_beside_it(command, articles, tiny):
    ended = command("embed", articles, "--model", tiny, "--pooling", "none", "--out", "v.npy",
                    "--json")  # fmt: skip
    assert ended.status == 0, ended.err
    assert ended.json["offsets"] == "v.offsets.npy"
    assert "Where each text begins is in v.offsets.npy." in ended.err
    offsets_R1 = np.load(articles.parent / "v.offsets.npy")
    assert len(offsets_R1) == 6
    assert np.load(articles.parent / "v.npy").shape == (offsets_R1[-1], 32)


@pytest.mark.parametrize(
    ("form", "dtype", "size"),
    [("int8", np.int8, 32), ("uint8", np.uint8, 32), ("binary", np.int8, 4),
     ("ubinary", np.uint8, 4)],
)  # fmt: skip
def test_vectors_are_written_in_smaller_forms(command, articles, tiny, form, dtype, size):
    words = ["embed", articles, "--model", tiny, "precision=fp32"]
    assert command(*words, "--out", "full.npy").status == 0
    ended = command(*words, f"vectors={form}", "--out", "v.npy", "--map", "map.png",
                    "--clusters", 2, "--axes", "pca", "--json")  # fmt: skip
    assert ended.status == 0, ended.err
    folder = articles.parent
    codes_RD, full_RD = np.load(folder / "v.npy"), np.load(folder / "full.npy")
    assert (codes_RD.dtype, codes_RD.shape) == (dtype, (5, size))
    np.testing.assert_array_equal(codes_RD, quantised(full_RD, form))
    has_ranges = form in ("int8", "uint8")
    assert ended.json.get("ranges") == ("v.ranges.npy" if has_ranges else None)
    assert ("What the codes stand for is in v.ranges.npy." in ended.err) == has_ranges


def test_codes_are_printed_where_their_ranges_are_known(command, articles, tiny):
    words = ["embed", articles, "--model", tiny, "precision=fp32", "vectors=int8"]
    assert refused(command(*words)) == (
        "tunewright: vectors: int8 is to be printed. The range of each number is known when all "
        "texts were read. Name a file with --out, or the ranges of other vectors: ranges=FILE."
    )
    assert command(*words, "--out", "v.npy").status == 0
    ended = command(*words, "ranges=v.ranges.npy")
    rows = [json.loads(line)["vector"] for line in ended.out.splitlines()]
    assert rows == np.load(articles.parent / "v.npy").tolist()


def test_exact_vectors_do_not_hang_on_their_neighbours(command, articles, tiny, monkeypatch):
    passes = []

    def counting(piece, device):
        passes.append(len(piece))
        return pack(piece, device)

    monkeypatch.setattr("tunewright.prediction.predictor.pack", counting)
    words = ["--model", tiny, "exact=true"]
    assert command("embed", articles, "--out", "v.npy", *words).status == 0
    assert command("index", articles, *words).status == 0
    assert command("search", "index", "--queries", "articles.csv", "-o", "f.jsonl").status == 0
    assert set(passes) == {1}
    command("embed", articles, "--model", tiny, "exact=false", "--out", "v.npy")
    assert passes[-1] == 5
    message = refused(command("index", articles, "--model", tiny, "exact=false"))
    assert message.endswith("Write exact=true, or index into a new folder.")


@pytest.mark.parametrize("form", ["int8", "binary"])
def test_an_index_keeps_smaller_vectors(command, articles, tiny, form):
    words = ["index", articles, "--model", tiny, "--precision", "fp32"]
    ended = command(*words, f"vectors={form}", "--json")
    assert ended.json["num_embedded"] == 5
    assert command(*words, "--json").json["num_unchanged"] == 5
    hits = command("search", "index", "shares of the bank", "--mode", "dense", "--json").json[
        "hits"
    ]
    assert hits[0]["id"] == "b2"
    message = refused(command(*words, "vectors=float32"))
    assert f"it was made with vectors = {form}. float32 was asked for." in message


def test_title_and_text_of_beir_are_indexed_together_and_that_is_said(command, tmp_path, tiny):
    row = {"_id": "d1", "title": "Anaemia", "text": "A lack of iron."}
    (tmp_path / "corpus.jsonl").write_text(json.dumps(row) + "\n")
    ended = command("index", "corpus.jsonl", "--model", tiny)
    assert '"title" and "text" are read together, as in BEIR; --text text reads' in ended.err
    (hit,) = command("search", "index", "anaemia", "--mode", "bm25", "--json").json["hits"]
    assert (hit["id"], hit["text"]) == ("d1", "Anaemia A lack of iron.")


def test_texts_that_are_cut_are_counted(command, tmp_path, tiny):
    (tmp_path / "long.txt").write_text("film " * 300 + "\nshort\n")
    ended = command("embed", tmp_path / "long.txt", "--model", tiny, "--out", "v.npy", "--json")
    assert ended.json["cut_texts"] == 1
    assert ended.json["cut_tokens"] == 300 + 2 - 128
    assert "1 text longer than the model reads: 174 tokens cut." in ended.err


def test_a_map_is_drawn_with_its_clusters(command, articles, tiny):
    ended = command("embed", articles, "--model", tiny, "--out", "v.npy", "--map", "map.png",
                    "--clusters", 2, "--axes", "pca", "--json")  # fmt: skip
    assert ended.status == 0, ended.err
    found = json.loads(ended.out)
    assert found["axes"] == "principal components"
    assert sum(found["clusters"]) == 5
    assert (articles.parent / "map.png").read_bytes().startswith(b"\x89PNG")
    with (articles.parent / found["points"]).open(encoding="utf-8") as lines:
        assert [row["id"] for row in csv.DictReader(lines)] == [row[0] for row in ARTICLES]
    assert "cluster 0, " in ended.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "v.txt"],
         'v.txt: vectors are not written as ".txt". The file has to end in one of .parquet, '
         ".jsonl, .npy."),
        (["--map", "m.gif"],
         'm.gif: a map is not drawn as ".gif". The file has to end in one of .png, .svg, .pdf.'),
        (["--map", "m.png", "--pooling", "none"],
         "--map: tokens were asked for. A map is drawn of whole texts."),
        (["--clusters", "3"], "--clusters: no map is asked for. Name its file: --map map.png"),
        (["--axes", "tsne"], 'axes: it is "tsne". It is one of "auto", "pca", "umap".'),
        (["--pooling", "max"],
         '--pooling: it is "max". It is one of "mean", "cls", "last", "none".'),
        (["--layer", "9"],
         "layer: it is 9. bert-backbone has the layers 0 (word embeddings) to 2; -1 is the last."),
        (["--text", "txt"],
         'articles.csv: there is no column "txt". It has "id", "topic", "text", "year". Did you '
         'mean "text"?'),
        (["other.csv"],
         "command line: 2 sources are named. One is needed. Write, for example: tunewright embed "
         "articles.csv"),
        (["vectors=int4"],
         'vectors: it is "int4". It is one of "float32", "int8", "uint8", "binary", "ubinary".'),
        (["precision=int8"],
         'precision: it is "int8". Here it is how the model computes: "auto", "bf16", "fp32". '
         'Write vectors="int8", or encode(texts, precision="int8").'),
        (["exact=yes"], 'exact: it is "yes". It is true or false.'),
        (["vectors=int8", "ranges=articles.csv", "--out", "v.npy"],
         "articles.csv: it holds no ranges. It is a .ranges.npy that was written beside "
         "vectors."),
        (["vectors=int8", "ranges=r.npy", "--out", "v.npy"],
         "r.npy: it cannot be read (No such file or directory). It is a .ranges.npy that was "
         "written beside vectors."),
        (["learning_rat=1"],
         "settings: learning_rat is not a setting. Did you mean training.learning_rate?"),
    ],
)  # fmt: skip
def test_what_cannot_be_embedded_is_one_sentence(command, articles, tiny, words, message):
    ended = command("embed", "articles.csv", "--model", tiny, *words)
    assert refused(ended) == f"tunewright: {message}"
    assert [entry.name for entry in articles.parent.iterdir()] == ["articles.csv"]


@pytest.mark.parametrize("verb", ["embed", "index"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.csv: the file is empty. A header line and at least one row are needed."),
        (b"id,text\n1,a\n1\n", "x.csv, line 3"),
        (b"id,text\n1,caf\xe9\n", "x.csv"),
        (b'id,text\n1,"open\n', "x.csv, line 2"),
        (b"id,text\n1,a\x00b\n", "x.csv"),
        (b"id,text,text\n1,a,b\n", "x.csv"),
    ],
)
def test_bad_files_are_refused_and_leave_nothing(command, tmp_path, tiny, verb, content, message):
    (tmp_path / "x.csv").write_bytes(content)
    ended = command(verb, "x.csv", "--model", tiny, "--out", "made.npy")
    assert refused(ended).startswith(f"tunewright: {message}")
    assert not (tmp_path / "made.npy").is_file()


@pytest.mark.parametrize("verb", ["embed", "index"])
def test_a_header_alone_is_no_text(command, tmp_path, tiny, verb):
    (tmp_path / "x.csv").write_text("id,text\n")
    ended = command(verb, "x.csv", "--model", tiny, "--out", "made.npy")
    assert "At least one" in refused(ended)
    assert not (tmp_path / "made.npy").is_file()


def test_a_file_is_indexed_and_searched(command, indexed):
    assert indexed == {
        "index": "index", "num_added": 5, "num_changed": 0, "num_removed": 0, "num_unchanged": 0,
        "num_blank": 0, "num_passages": 5, "num_embedded": 5,
    }  # fmt: skip
    ended = command("search", "index", "the bank", "--mode", "bm25", "--top", 2, "--json")
    assert {hit["id"] for hit in ended.json["hits"]} == {"b1", "b2"}
    assert ended.json["hits"][0]["columns"].keys() == {"topic", "year"}


def test_the_source_again_brings_the_index_up_to_date(command, articles, indexed, tiny):
    lines = articles.read_text().splitlines()
    articles.write_text("\n".join([*lines[:-1], "n1,news,something new,2023"]) + "\n")
    ended = command("index", articles, "--model", tiny, "--precision", "fp32")
    assert ended.out.splitlines() == [
        "index: 1 document added, 0 changed, 1 removed, 4 as they were; 5 passages, 1 embedded "
        "now.",
        'Next: tunewright search index "a question"',
    ]


def test_documents_are_removed_by_their_ids(command, indexed):
    ended = command("index", "--remove", "b1", "--remove", "s1", "--json")
    assert (ended.json["num_removed"], ended.json["num_passages"]) == (2, 3)
    hits = command("search", "index", "the bank", "--mode", "bm25", "--json").json["hits"]
    assert [hit["id"] for hit in hits] == ["b2"]

    message = refused(command("index", "--remove", "b1"))
    assert message.endswith('no document has the id "b1". Nothing was removed.')
    message = refused(command("index", "articles.csv", "--remove", "b2"))
    assert message == (
        'tunewright: --remove: the source "articles.csv" is named, too. One of them is needed.'
    )


def test_a_search_is_shown_with_the_best_first(command, indexed):
    ended = command("search", "index", "shares", "--where", "topic=bank", "--where", "year>=2022")
    assert ended.out.splitlines() == ["1. b2  1.000", "   shares of the bank"]
    ended = command("search", "index", "shares", "--where", "year>2030")
    assert ended.out == "Nothing was found.\n"


def test_queries_of_a_file_keep_their_columns(command, indexed, tmp_path):
    (tmp_path / "asked.jsonl").write_text('{"question": "bank", "n": 1}\n{"question": "", "n": 2}')
    ended = command(
        "search", "index", "--queries", "asked.jsonl", "--mode", "bm25", "-o", "f.jsonl"
    )
    assert ended.status == 0, ended.err
    rows = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert [(row["question"], row["n"], len(row["hits"])) for row in rows] == [
        ("bank", 1, 2), ("", 2, 0),
    ]  # fmt: skip


def test_the_column_of_queries_may_be_named(command, indexed, tmp_path):
    (tmp_path / "asked.csv").write_text("text,wording\nno,shares of the bank\n")
    told = command("search", "index", "--queries", "asked.csv", "--mode", "bm25",
                   "data.columns.query=wording")  # fmt: skip
    (row,) = (json.loads(line) for line in told.out.splitlines())
    assert (row["text"], row["wording"], row["hits"][0]["id"]) == ("no", "shares of the bank", "b2")
    assert (
        'the column "text" is taken as query'
        in command("search", "index", "--queries", "asked.csv").err
    )


def test_queries_are_read_in_their_encoding(command, indexed, tmp_path):
    (tmp_path / "asked.csv").write_bytes("query\ncafé\nthé\n".encode("latin-1"))
    asked = ("search", "index", "--queries", "asked.csv", "--mode", "bm25")
    assert "name its encoding" in command(*asked).err
    told = command(*asked, "encoding=latin-1")
    assert [json.loads(line)["query"] for line in told.out.splitlines()] == ["café", "thé"]
    assert told.err.count("asked.csv: the text is read as ISO8859-1.") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shares", "of", "banks"],
         "search: the query has 3 words on the command line. It is one text. "
         'Put it into quotes: tunewright search my-index "shares of banks"'),
        (["bank", "encoding=latin-1"],
         'search: "encoding=latin-1" is given beside a query. '
         "How queries are read is said of a file of them, --queries."),
        (["what", "is", "x=1"], 'tunewright search my-index "what is x=1"'),
        (["bank", "--queries", "asked.csv"],
         "search: a query and --queries are given. One of them can be answered."),
        (["--queries", "asked.csv", "task=x"],
         "Write, for example: encoding=latin-1 data.columns.query=COLUMN"),
    ],
)  # fmt: skip
def test_words_of_a_search_that_make_no_query_are_named(command, words, message):
    told = command("search", "my-index", *words)
    assert (told.status, message in told.err) == (2, True), told.err


def test_queries_come_from_standard_input(command, indexed, monkeypatch):
    piped('{"query": "bank"}\n', monkeypatch)
    ended = command("search", "index", "--queries", "-", "--top", 1)
    assert len(json.loads(ended.out)["hits"]) == 1


def test_a_search_is_measured_on_judged_queries(command, indexed, tmp_path):
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    (beir / "queries.jsonl").write_text('{"_id": "q1", "text": "team"}\n{"_id": "q2", "text": "x"}')
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\ts1\t1\nq2\tgone\t1\n")
    ended = command("search", "index", "--judge", "beir", "--mode", "bm25", "--json")
    assert ended.json["queries"] == 2
    assert ended.json["missing_documents"] == 1
    assert ended.json["metrics"]["mrr@10"]["value"] == 0.5
    shown = command("search", "index", "--judge", "beir", "--mode", "bm25")
    assert "1 relevant document is not in the index, and counts as not found." in shown.err
    assert "ndcg@10" in shown.out


def test_another_split_of_the_judged_queries_is_chosen(command, indexed, tmp_path):
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    (beir / "queries.jsonl").write_text('{"_id": "q1", "text": "team"}\n')
    (beir / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq1\ts1\t1\n")
    words = ["search", "index", "--mode", "bm25", "--json"]
    ended = command(*words, "--judge", "beir=dev")
    assert ended.status == 0, ended.err
    assert ended.json["metrics"]["mrr@10"]["value"] == 1
    assert "test.tsv: there is no such file" in command(*words, "--judge", "beir").err


def test_adding_standard_input_keeps_what_came_before(command, indexed, tiny, monkeypatch):
    for text, num_added in (("a goal", 1), ("a song", 1), ("a song", 0)):
        piped(json.dumps({"text": text}) + "\n", monkeypatch)
        ended = command("index", "-", "--add", "--precision", "fp32", "--json")
        assert (ended.json["num_added"], ended.json["num_changed"]) == (num_added, 0), ended.err
    assert ended.json["num_passages"] == 7


def test_a_text_that_became_blank_is_said_to_be_removed(command, articles, indexed):
    lines = "\n".join(["id,topic,text,year", "b1,bank,,2021", "n1,news,something new,2023"])
    (articles.parent / "more.csv").write_text(lines + "\n")
    ended = command("index", "more.csv", "--add", "--precision", "fp32")
    assert ended.out.startswith("index: 1 document added, 0 changed, 1 removed, 4 as they were;")
    assert "Left out: 1 row without a text." in ended.out


@pytest.mark.parametrize("value", ["True", "true"])
def test_a_truth_value_is_asked_for_in_either_spelling(command, tmp_path, tiny, value):
    rows = [{"id": str(n), "text": "a film", "ok": n == 1} for n in range(2)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command("index", "rows.jsonl", "--model", tiny)
    ended = command("search", "index", "film", "--where", f"ok={value}", "--json")
    assert [hit["id"] for hit in ended.json["hits"]] == ["1"]


def test_indexing_again_takes_the_index_s_own_model(command, articles, tiny, tmp_path):
    first = command("index", articles, "--model", tiny, "--precision", "fp32", "exact=true")
    assert first.status == 0, first.err
    again = ["index", articles, "--precision", "fp32", "--add", "--json"]
    ended = command(*again)
    assert ended.status == 0, ended.err
    assert (ended.json["num_embedded"], ended.json["num_unchanged"]) == (0, 5)


def test_a_cross_encoder_orders_the_hits_anew(command, indexed, tiny_folder):
    words = ["search", "index", "the bank", "--json", "--precision", "fp32"]
    plain = command(*words).json["hits"]
    ended = command(*words, "--rerank", tiny_folder("bert", 1))
    assert ended.status == 0, ended.err
    hits = ended.json["hits"]
    assert {hit["id"] for hit in hits} == {hit["id"] for hit in plain}
    assert [hit["score"] for hit in hits] == sorted((h["score"] for h in hits), reverse=True)
    assert all(0 < hit["score"] < 1 for hit in hits)

    both = command(*words, "--rerank", f"{tiny_folder('bert', 1)}=0.25").json
    read = [(hit["id"], math.log(hit["score"] / (1 - hit["score"]))) for hit in hits]
    expected = dict(fused(read, [(hit["id"], hit["score"]) for hit in plain], 0.25))
    scores = [hit["score"] for hit in both["hits"]]
    assert scores == sorted(scores, reverse=True)
    found = {hit["id"]: hit["score"] for hit in both["hits"]}
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["index"], 'search: it needs one of a query, --queries and --judge. Write, for example: '
                    'tunewright search index "a question"'),
        (["index", "bank", "--mode", "fuzzy"],
         'mode: it is "fuzzy". It is one of "hybrid", "dense", "bm25".'),
        (["index", "bank", "--weight", "2"], "weight: it is 2.0. It is from 0 to 1."),
        *[(["index", "bank", "--rerank", word],
           f'--rerank: it is "{word}". It is a model, or MODEL=SHARE from 0 to 1. Write, for '
           "example: --rerank runs/order=0.5") for word in ("order=2", "order=half", "=0.5")],
        (["index", "bank", "--where", "year"],
         '--where: "year" is no condition. It is a column, one of != >= <= = > <, and a value. '
         'Write, for example, --where "year>=2020".'),
        (["index", "bank", "--where", "yaer=2020"],
         '--where: the documents have no column "yaer". They have "topic", "year". Did you mean '
         '"year"?'),
        (["nothing", "bank"], "nothing: it holds no index.db. It is no index. Make one with: "
                              "tunewright index SOURCE --out FOLDER"),
        (["index", "--queries", "none.jsonl"],
         'none.jsonl: there is no such file. The folder holds "articles.csv", "index".'),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_one_sentence(command, indexed, words, message):
    assert refused(command("search", *words)) == f"tunewright: {message}"


def test_a_model_that_is_no_cross_encoder_does_not_rerank(command, indexed, tiny):
    message = refused(command("search", "index", "bank", "--rerank", tiny))
    assert "it has no trained head of one output. A reranker gives one score." in message


def test_an_error_is_json_where_json_was_asked_for(capsys, tmp_path):
    assert run(["search", str(tmp_path), "x", "--json"]) == 2
    assert "it holds no index.db" in json.loads(capsys.readouterr().out)["error"]
