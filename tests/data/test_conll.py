from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.data import ReadSettings, read_splits, read_table, stream_tables
from tunewright.data.cells.tags import Scheme, scheme_of, spans_of
from tunewright.errors import DataError

TOKENS = [["Ada", "met", "Bo"], ["#", "好"]]
TAGS = [["B-per", "O", "B-per"], ["O", "O"]]
TWO = "Ada B-per\nmet O\nBo B-per\n\n# O\n好 O\n"
CONLL_2003 = """-DOCSTART- -X- -X- O

Ada NNP B-NP B-per
met VBD B-VP O
Bo NNP B-NP B-per

# SYM O O
好 JJ O O
"""
UNIVERSAL = """# newdoc
# sent_id = 1
# text = Won't go.
1-2\tWon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tWo\twill\tAUX\tMD\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\tSpaceAfter=No
3.1\tthere\t_\t_\t_\t_\t_\t_\t_\t_
4\t.\t.\tPUNCT\t.\t_\t3\tpunct\t_\t_

"""


def written(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8", newline="")
    return name


def refusal(name: str, settings: ReadSettings | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_table(name, settings or ReadSettings())
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.conll", "a.bio", "a.bioes", "a.iob", "a.iob2"])
@pytest.mark.parametrize("separator", [" ", "\t", "  "])
def test_each_sentence_is_a_row_of_tokens_and_tags(folder, name, separator):
    read = read_table(written(name, TWO.replace(" ", separator)))
    assert (read.column("tokens"), read.column("tags")) == (TOKENS, TAGS)
    assert [read.place(row)[1] for row in range(2)] == [1, 5]


@pytest.mark.parametrize(
    ("name", "tags", "scheme"),
    [
        ("a.iob2", "B-per I-per B-per O B-org", "BIO"),
        ("a.iob", "I-per I-per B-per O I-org", "IOB1"),
        ("a.conll", "I-per E-per E-per O E-org", "IOE2"),
        ("a.bioes", "B-per E-per S-per O S-org", "BIOES"),
        ("a.conll", "B-per L-per U-per O U-org", "BILOU"),
        ("a.conll", "B-per E-per S-per O B-org M-org E-org", "BMES"),
    ],
)
def test_files_of_every_scheme_mark_the_same_places(folder, name: str, tags: str, scheme: Scheme):
    lines = [f"word{place} {tag}" for place, tag in enumerate(tags.split())]
    (read,) = read_table(written(name, "\n".join(lines) + "\n")).column("tags")
    assert scheme_of([read]) == scheme
    end = len(lines)
    assert spans_of(read, scheme) == [(0, 2, "per"), (2, 3, "per"), (4, end, "org")]


def test_the_columns_between_token_and_tag_are_kept(folder):
    read = read_table(written("a.conll", CONLL_2003))
    assert read.column_names == ["tokens", "column_2", "column_3", "tags"]
    assert (read.column("tokens"), read.column("tags")) == (TOKENS, TAGS)
    assert read.column("column_2") == [["NNP", "VBD", "NNP"], ["SYM", "JJ"]]


def test_the_words_of_conllu_are_rows_with_their_parts_of_speech(folder):
    read = read_table(written("a.conllu", UNIVERSAL))
    assert read.column("tokens") == [["Wo", "n't", "go", "."]]
    assert read.column("tags") == [["AUX", "PART", "VERB", "PUNCT"]]
    assert read.column("xpos") == [["MD", "RB", "VB", "."]]
    assert read.place(0) == ("a.conllu", 5)


def test_tokens_alone_are_read_to_be_answered(folder):
    read = read_table(written("a.conll", "Ada\nmet\n#\n\nBo\n"))
    assert (read.column_names, read.column("tokens")) == (["tokens"], [["Ada", "met", "#"], ["Bo"]])


@pytest.mark.parametrize(
    "comment", ["# newdoc", "#id 3 domain=en", "# sent_id = 4", "# a long text of many words"]
)
@pytest.mark.parametrize("separator", ["\t", " _ _ "])
def test_comments_before_a_sentence_are_left_out(folder, comment, separator):
    text = f"{comment}\n{comment}\n\n{comment}\n" + TWO.replace(" ", separator)
    assert read_table(written("a.conll", text)).column("tokens") == TOKENS


def test_a_token_may_hold_a_blank_where_tabs_separate(folder):
    read = read_table(written("a.conll", "10 000\tB-num\n\u00a0\tO\n"))
    assert read.column("tokens") == [["10 000", "\u00a0"]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_line_ends_and_encodings_make_no_difference(folder, end, encoding):
    Path("a.conll").write_bytes((TWO.replace("\n", end) + end).encode(encoding))
    assert read_table("a.conll").column("tokens") == TOKENS


def test_packed_files_splits_and_streams_are_read_alike(folder):
    Path("train.conll.gz").write_bytes(gzip.compress(TWO.encode()))
    with zipfile.ZipFile("dev.zip", "w") as archive:
        archive.writestr("ner/dev.bio", TWO)
    written("test.conll", TWO)
    splits = read_splits(".") | {"validation": read_table("dev.zip")}
    streamed = next(stream_tables("test.conll"))
    assert splits.keys() == {"train", "test", "validation"}
    for table in (*splits.values(), streamed):
        assert (table.column("tokens"), table.column("tags")) == (TOKENS, TAGS)


def test_the_files_of_a_treebank_are_its_splits(folder):
    for split in ("train", "dev", "test"):
        written(f"en_ewt-ud-{split}.conllu", UNIVERSAL)
    assert read_splits(".").keys() == {"train", "validation", "test"}


def test_at_most_max_rows_sentences_are_read(folder):
    read = read_table(written("a.conll", TWO), ReadSettings(max_rows=1))
    assert read.column("tokens") == TOKENS[:1]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "the file is empty"),
        ("\n \n\t\n", "there is no token in it"),
        ("-DOCSTART- -X- O\n\n", "there is no token in it"),
    ],
)
def test_a_file_without_a_token_is_refused(folder, text, found):
    assert refusal(written("a.conll", text)) == (
        f"a.conll: {found}. A line for each token and its tag is needed."
    )


@pytest.mark.parametrize("text", ["", "# sent_id = 1\n\n"])
def test_a_treebank_without_a_word_is_refused(folder, text):
    assert refusal(written("a.conllu", text)).endswith("for each token and its tag is needed.")


@pytest.mark.parametrize("line", ["met", "met O O", "# a b"])
def test_a_line_of_other_columns_is_named(folder, line):
    assert refusal(written("a.conll", f"\nAda B-per\n{line}\nBo B-per\n")) == (
        f"a.conll, line 3: the number of columns is {len(line.split())}, and in line 2 it is 2. "
        "Every token needs as many columns. Correct the line; where a token holds a blank, "
        "separate columns by tabs."
    )


@pytest.mark.parametrize(("line", "found"), [("\tO", "token"), ("Ada\t", "tag"), (" \tO", "token")])
def test_an_empty_token_or_tag_is_named(folder, line, found):
    assert refusal(written("a.conll", f"met\tO\n{line}\n")) == (
        f"a.conll, line 2: the {found} is empty. Every token needs a text and a tag. Correct it."
    )


def test_a_word_of_conllu_with_too_few_columns_is_named(folder):
    assert refusal(written("a.conllu", "1\tAda\tPROPN\n")) == (
        "a.conllu, line 1: the number of columns is 3. A word of CoNLL-U has 10 columns, "
        "separated by tabs; _ is nothing. Correct it, or call the file .conll if it is none."
    )


def test_a_byte_of_no_encoding_is_named_with_its_line(folder):
    Path("a.conll").write_bytes(b"Ada B-per\ncaf\xe9 O\n")
    assert refusal("a.conll").startswith("a.conll, line 2: the byte 0xe9 at offset 13 is not UTF-8")


def test_a_sentence_of_a_million_tokens_is_read(folder):
    read = read_table(written("a.conll", "a O\n" * 1_000_000))
    assert read.columns["tokens"].combine_chunks().value_lengths().to_pylist() == [1_000_000]


def test_a_sentence_that_never_ends_is_refused(folder):
    message = refusal(written("a.conll", "\n" + "a O\n" * 1000), ReadSettings(max_text_bytes=100))
    assert message == (
        "a.conll, line 2: the sentence that begins here is longer than 100 bytes. A blank line "
        "ends a sentence. If it is one sentence, raise data.max_text_bytes."
    )


WORD = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs")), min_size=1, max_size=5)
TOKEN = st.tuples(WORD.filter(lambda word: not word.startswith(("#", "-DOC", "\ufeff"))), WORD)


@given(st.lists(st.lists(TOKEN, min_size=1), min_size=1), st.sampled_from(["\t", " "]))
def test_what_is_written_is_read_again(tmp_path_factory, sentences, separator):
    path = tmp_path_factory.getbasetemp() / "hypothesis.conll"
    blocks = ["".join(f"{a}{separator}{b}\n" for a, b in sentence) for sentence in sentences]
    path.write_text("\n".join(blocks), encoding="utf-8", newline="")
    tokens = [[token for token, _ in sentence] for sentence in sentences]
    assert read_table(path).column("tokens") == tokens
