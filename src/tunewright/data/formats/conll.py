"""Reads tagged sentences in columns: CoNLL-2003 and its kin (BIO, IOB files), and CoNLL-U.

Ada B-person
met O                   ->  {"tokens": ["Ada", "met"], "tags": ["B-person", "O"]}

One token a line, a blank line after each sentence. The first column is the token and the last its
tag; those between are kept as `column_2`, `column_3` and so on. Sources: Tjong Kim Sang & De
Meulder 2003; https://universaldependencies.org/format.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa

from tunewright.data.formats.delimited import FLUSH_CHARACTERS, FLUSH_ROWS
from tunewright.data.formats.encoding import Lines
from tunewright.data.table import Batch
from tunewright.errors import DataError

DOCUMENT = "-DOCSTART-"
# The columns of CoNLL-U behind the number of the word; the form and the universal part of speech
# go by the names that tasks look for.
UNIVERSAL = ("tokens", "lemma", "tags", "xpos", "feats", "head", "deprel", "deps", "misc")
# Several words written as one ("1-2"), and a word that is meant and not written ("1.1").
_NO_WORD = re.compile(r"\d+[-.]\d+")
_BLANKS = re.compile(r"[ \t]+")
_TEXTS = pa.large_list(pa.large_string())

Entry = tuple[int, list[str]]
"""A line's number and its columns; an entry without columns ends a sentence."""
Sentence = tuple[int, list[list[str]]]
"""The line where a sentence begins, and the columns of each of its tokens."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file's lines are cut into columns, and how many there are; `line` showed it."""

    has_tabs: bool
    num_columns: int
    line: int

    @classmethod
    def of(cls, head: Sequence[str]) -> Layout:
        """Finds the layout in the last of a file's first lines."""
        has_tabs = "\t" in head[-1]
        return cls(has_tabs, len(_columns(head[-1], has_tabs)), len(head))

    @property
    def names(self) -> tuple[str, ...]:
        middle = (f"column_{place}" for place in range(2, self.num_columns))
        return ("tokens", *middle, "tags") if self.num_columns > 1 else ("tokens",)

    def columns(self, line: str) -> list[str]:
        return _columns(line, self.has_tabs)

    def is_comment(self, line: str) -> bool:
        """Says whether a line before a sentence is about it; `# O` is a token with its tag."""
        columns = self.columns(line)
        is_unlike = len(columns) != self.num_columns or "=" in columns or "=" in columns[-1]
        return line.startswith("#") and is_unlike

    def check(self, columns: Sequence[str], where: str) -> None:
        """Raises DataError for a line of other columns, or without a token or tag."""
        if len(columns) != self.num_columns:
            raise DataError(
                where,
                f"the number of columns is {len(columns)}, and in line {self.line} it is "
                f"{self.num_columns}",
                "Every token needs as many columns.",
                "Correct the line; where a token holds a blank, separate columns by tabs.",
            )
        if not columns[0] or not columns[-1]:
            found = "the tag is empty" if columns[0] else "the token is empty"
            raise DataError(where, found, "Every token needs a text and a tag.", "Correct it.")


def read_conll(lines: Lines) -> Iterator[Batch]:
    """Yields one row per sentence: the columns tokens, column_2 and so on, and tags.

    Columns are separated by tabs where the first token's line has one, else by blanks. Lines that
    begin with -DOCSTART- are left out, and so are comments before a sentence: lines that begin
    with #, and have another number of columns than tokens have, a column `=`, or one in the last.

    Raises: DataError, with its line, for a line of other columns than the first, an empty token or
    tag, and a sentence longer than `max_text_bytes`; and for a file without a token.
    """
    walk = iter(lines)
    head = _head(walk)
    if not head:
        raise _without_tokens(lines)
    layout = Layout.of(head)
    entries = _entries(chain(head, walk), layout, lines.name)
    yield from _batches(_sentences(entries, lines), layout.names, lines)


def read_conllu(lines: Lines) -> Iterator[Batch]:
    """Yields one row per sentence of a CoNLL-U file, its words' columns named as in `UNIVERSAL`.

    Raises: DataError as `read_conll` does, also for lines without ten columns.
    """
    entries = _universal_entries(lines)
    yield from _batches(_sentences(entries, lines), UNIVERSAL, lines)


def _head(walk: Iterator[str]) -> list[str]:
    """Returns a file's lines up to the first that is a token for certain."""
    head: list[str] = []
    for line in walk:
        head.append(line)
        if not _is_blank(line) and not line.startswith(("#", DOCUMENT)):
            break
    while head and (_is_blank(head[-1]) or head[-1].startswith(DOCUMENT)):
        head.pop()
    return head


def _is_blank(line: str) -> bool:
    return not line.strip(" \t\r\n")


def _columns(line: str, has_tabs: bool) -> list[str]:
    if has_tabs:
        return [column.strip(" ") for column in line.rstrip("\r\n").split("\t")]
    return _BLANKS.split(line.strip(" \t\r\n"))


def _entries(walk: Iterator[str], layout: Layout, name: str) -> Iterator[Entry]:
    is_inside = False
    for number, line in enumerate(walk, 1):
        if _is_blank(line) or line.startswith(DOCUMENT):
            is_inside = False
            yield number, []
        elif is_inside or not layout.is_comment(line):
            columns = layout.columns(line)
            layout.check(columns, f"{name}, line {number}")
            is_inside = True
            yield number, columns


def _universal_entries(lines: Lines) -> Iterator[Entry]:
    layout = Layout(has_tabs=True, num_columns=len(UNIVERSAL) + 1, line=0)
    for number, line in enumerate(lines, 1):
        if _is_blank(line):
            yield number, []
        elif not line.startswith("#"):
            columns = layout.columns(line)
            _check_universal(columns, f"{lines.name}, line {number}")
            if not _NO_WORD.fullmatch(columns[0]):
                yield number, columns[1:]


def _check_universal(columns: Sequence[str], where: str) -> None:
    needed = len(UNIVERSAL) + 1
    if len(columns) != needed or not all(columns[:4]):
        found = f"the number of columns is {len(columns)}"
        if len(columns) == needed:
            found = "the number, form, lemma or part of speech is empty"
        raise DataError(
            where,
            found,
            f"A word of CoNLL-U has {needed} columns, separated by tabs; _ is nothing.",
            "Correct it, or call the file .conll if it is none.",
        )


def _sentences(entries: Iterator[Entry], lines: Lines) -> Iterator[Sentence]:
    tokens: list[list[str]] = []
    start = num_characters = 0
    for number, columns in entries:
        if not columns:
            if tokens:
                yield start, tokens
            tokens, num_characters = [], 0
            continue
        start = start if tokens else number
        tokens.append(columns)
        num_characters += sum(map(len, columns))
        if num_characters > lines.max_text_bytes:
            raise _endless(f"{lines.name}, line {start}", lines.max_text_bytes)
    if tokens:
        yield start, tokens


def _endless(where: str, max_text_bytes: int) -> DataError:
    return DataError(
        where,
        f"the sentence that begins here is longer than {max_text_bytes:,} bytes",
        "A blank line ends a sentence.",
        "If it is one sentence, raise data.max_text_bytes.",
    )


def _batches(sentences: Iterator[Sentence], names: Sequence[str], lines: Lines) -> Iterator[Batch]:
    found: list[Sentence] = []
    has_rows, mark = False, lines.num_characters
    for sentence in sentences:
        found.append(sentence)
        has_rows = True
        if len(found) >= FLUSH_ROWS or lines.num_characters - mark >= FLUSH_CHARACTERS:
            yield _batch(found, names)
            found, mark = [], lines.num_characters
    if not has_rows:
        raise _without_tokens(lines)
    yield _batch(found, names)


def _batch(sentences: Sequence[Sentence], names: Sequence[str]) -> Batch:
    by_row = [list(zip(*tokens, strict=True)) for _, tokens in sentences]
    arrays = [
        pa.array([columns[place] for columns in by_row], _TEXTS) for place in range(len(names))
    ]
    starts = np.array([start for start, _ in sentences], np.int64)
    return Batch(pa.RecordBatch.from_arrays(arrays, names=list(names)), starts)


def _without_tokens(lines: Lines) -> DataError:
    found = "there is no token in it" if lines.num_characters else "the file is empty"
    return DataError(lines.name, found, "A line for each token and its tag is needed.")
