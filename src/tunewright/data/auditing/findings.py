"""What an audit finds, and how it says so in one sentence each."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tunewright.data.auditing.ledger import TruncationLedger
from tunewright.errors import listed

Severity = Literal["error", "warning", "info"]

FEW_ROWS = 5  # a class with fewer training rows is seldom learned


@dataclass(frozen=True, slots=True)
class SplitAudit:
    """What was found inside one split. Counts are of the `num_scanned` rows that were read.

    `num_duplicates` counts rows whose text an earlier row of the split has; `duplicates` are the
    first of them beside that earlier row. `classes` are in order of size.
    """

    name: str
    num_rows: int
    num_scanned: int
    classes: Mapping[str, int]
    num_unlabelled: int
    first_unlabelled: str
    num_blank: int
    first_blank: str
    num_duplicates: int
    duplicates: Sequence[tuple[str, str]]
    characters: Mapping[str, int]
    lengths: TruncationLedger | None = None
    cut_rows: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        plain = {key: getattr(self, key) for key in self.__slots__ if key not in _NOT_PLAIN}
        plain["duplicates"] = [list(pair) for pair in self.duplicates]
        plain["lengths"] = None if self.lengths is None else self._lengths_json(self.lengths)
        return plain

    def _lengths_json(self, ledger: TruncationLedger) -> dict[str, Any]:
        worst = [
            {"where": where, "num_tokens": row.num_tokens, "num_cut": row.num_cut}
            for where, row in zip(self.cut_rows, ledger.worst, strict=True)
        ]
        return {**ledger.to_json(), "worst": worst}


_NOT_PLAIN = ("lengths", "cut_rows", "duplicates")


@dataclass(frozen=True, slots=True)
class Overlap:
    """Rows of `split` whose text also stands in `other`, with the first places of both."""

    split: str
    other: str
    num_rows: int
    num_scanned: int
    examples: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Conflicts:
    """Texts that stand with more than one label, in any split, and how many rows they make.

    An example is (where, label, where, label).
    """

    num_texts: int = 0
    num_rows: int = 0
    num_scanned: int = 0
    examples: Sequence[tuple[str, str, str, str]] = ()


@dataclass(frozen=True, slots=True)
class UnseenLabel:
    """A label of `split` that no training row has."""

    split: str
    label: str
    num_rows: int
    first: str


class Finding(NamedTuple):
    """One thing to know, as a whole sentence without its full stop."""

    severity: Severity
    sentence: str


def split_findings(split: SplitAudit) -> Iterator[Finding]:
    if split.num_unlabelled:
        yield Finding("warning", unlabelled_sentence(split))
    if split.num_blank:
        yield Finding("warning", blank_sentence(split))
    if split.num_duplicates:
        yield Finding("warning", duplicate_sentence(split))
    few = [name for name, rows in split.classes.items() if rows < FEW_ROWS]
    if few and split.name == "train":
        yield Finding("warning", few_sentence(split.name, few))
    for alike in alike_classes(split.classes) if split.name == "train" else ():
        yield Finding("warning", alike_sentence(split, alike))
    if split.lengths is not None and split.lengths.cut_texts:
        yield Finding("warning", cut_sentence(split))
    elif split.lengths is not None and split.lengths.max_length is not None:
        yield Finding("info", whole_sentence(split.name, split.lengths, split.lengths.max_length))
    if split.classes:
        yield Finding("info", classes_sentence(split))
    if split.num_scanned < split.num_rows:
        yield Finding("info", sample_sentence(split))


def leak_sentence(each: Overlap) -> str:
    here, there = each.examples[0]
    return (
        f"{each.split}: {_percent(each.num_rows, each.num_scanned)} of the texts also stand in "
        f"{each.other} ({each.num_rows:,} of {each.num_scanned:,}; first: {here} = {there})"
    )


def unseen_sentence(labels: Sequence[UnseenLabel]) -> str:
    """Says which labels of one split are unseen, however many they are."""
    number = f"{len(labels):,} label{'s are' if len(labels) > 1 else ' is'}"
    num_rows = sum(each.num_rows for each in labels)
    return (
        f"{labels[0].split}: {number} in no training row and can never be answered "
        f"({listed(each.label for each in labels)}; {_rows(num_rows)}; first: {labels[0].first})"
    )


def conflict_sentence(found: Conflicts) -> str:
    here, label, there, other = found.examples[0]
    return (
        f"{_percent(found.num_rows, found.num_scanned)} of the rows have the text of another row "
        f"but not its label ({found.num_rows:,} of {found.num_scanned:,}; first: {here} is "
        f'"{label}", {there} is "{other}")'
    )


def unlabelled_sentence(split: SplitAudit) -> str:
    return (
        f"{split.name}: {_rows(split.num_unlabelled)} without a label "
        f"(first: {split.first_unlabelled})"
    )


def blank_sentence(split: SplitAudit) -> str:
    return (
        f"{split.name}: {_percent(split.num_blank, split.num_scanned)} of the texts are blank "
        f"({split.num_blank:,} of {split.num_scanned:,}; first: {split.first_blank})"
    )


def duplicate_sentence(split: SplitAudit) -> str:
    here, there = split.duplicates[0]
    return (
        f"{split.name}: {_percent(split.num_duplicates, split.num_scanned)} of the rows repeat an "
        f"earlier text ({split.num_duplicates:,} of {split.num_scanned:,}; first: {here} = {there})"
    )


def alike_classes(classes: Iterable[str]) -> list[list[str]]:
    """Returns the labels that differ only in letter case, blanks, or how accents are written."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        folded = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        groups.setdefault(folded, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def alike_sentence(split: SplitAudit, names: Sequence[str]) -> str:
    shown = ", ".join(f'"{name}" in {_rows(split.classes[name])}' for name in names)
    return f"{split.name}: these classes look like one: {shown}"


def few_sentence(name: str, few: Sequence[str]) -> str:
    subject = "1 class has" if len(few) == 1 else f"{len(few):,} classes have"
    return f"{name}: {subject} fewer than {FEW_ROWS} rows ({listed(few)})"


def cut_sentence(split: SplitAudit) -> str:
    ledger = split.lengths
    if ledger is None:
        raise ValueError(f"{split.name} has no ledger")
    worst = ledger.worst[0]
    limit = "" if ledger.max_length is None else f" at {ledger.max_length:,} tokens"
    return (
        f"{split.name}: {_percent(ledger.cut_texts, ledger.num_texts)} of the texts are cut{limit} "
        f"({ledger.cut_texts:,} of {ledger.num_texts:,}; "
        f"{_percent(ledger.cut_tokens, ledger.num_tokens)} of all tokens; most: "
        f"{split.cut_rows[0]} loses {worst.num_cut:,} of {worst.num_tokens:,})"
    )


def whole_sentence(name: str, lengths: TruncationLedger, limit: int) -> str:
    """Says how texts are read of which none is cut."""
    longer = lengths.num_longer(limit)
    in_windows = lengths.reads_long in ("window", "mixed")  # or a row of several texts has more
    if not longer or not in_windows:
        return f"{name}: no text is longer than {limit:,} tokens"
    return (
        f"{name}: {_percent(longer, lengths.num_texts)} of the texts are longer than {limit:,} "
        f"tokens and read in windows ({longer:,} of {lengths.num_texts:,})"
    )


def classes_sentence(split: SplitAudit) -> str:
    shown = [f"{name} {rows:,}" for name, rows in list(split.classes.items())[:8]]
    more = len(split.classes) - len(shown)
    tail = f" and {more:,} more" if more else ""
    noun = "class" if len(split.classes) == 1 else "classes"
    return (
        f"{split.name}: {_rows(split.num_scanned)} in {len(split.classes):,} {noun} "
        f"({', '.join(shown)}{tail})"
    )


def sample_sentence(split: SplitAudit) -> str:
    return (
        f"{split.name}: {split.num_scanned:,} of {split.num_rows:,} rows were looked at, "
        "evenly spread; there may be more repeated texts than were found"
    )


def _rows(number: int) -> str:
    return f"{number:,} row" + "s" * (number != 1)


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole if whole else 0.0
    return "under 0.1 %" if 0 < share < 0.05 else f"{share:.1f} %"
