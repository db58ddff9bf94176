"""Looks at the data before a model does: repeats, leaks, contradictions, blanks, cut texts.

    found = audit({"train": train_rows, "test": test_rows}, ["text"], "label", None, AuditConfig())
    found.findings()          # sentences for the screen
    found.check_gates(config) # raises AuditRefused where a limit is crossed

Only 16 bytes and three numbers are kept of each row. Above `max_rows` rows of a split, stretches
evenly spread over it are looked at, and the audit says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from tunewright.data.auditing.findings import (
    Conflicts,
    Finding,
    Overlap,
    Severity,
    SplitAudit,
    UnseenLabel,
    blank_sentence,
    conflict_sentence,
    cut_sentence,
    duplicate_sentence,
    leak_sentence,
    split_findings,
    unseen_sentence,
)
from tunewright.data.auditing.ledger import TruncationLedger
from tunewright.data.auditing.scan import Scan, label_name
from tunewright.errors import AuditRefused
from tunewright.types import Rows

Ints = npt.NDArray[np.int64]

TRAIN = "train"
NUM_EXAMPLES = 20


class AuditConfig(BaseModel):
    """Limits that stop a run before training. All are off unless set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_truncated_fraction: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Largest share of a split's texts that may be cut at max_length, 0 to 1; off "
        "when absent.",
    )
    max_duplicate_fraction: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Largest share of a split's rows that may repeat an earlier text of the same "
        "split, 0 to 1; off when absent.",
    )
    max_leaked_fraction: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Largest share of a split's rows whose text may also stand in another split, "
        "0 to 1; off when absent.",
    )
    max_conflicting_fraction: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Largest share of all rows that may have the text of another row but not its "
        "label, 0 to 1; off when absent.",
    )
    max_blank_fraction: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Largest share of a split's rows that may have a blank text, 0 to 1; off when "
        "absent.",
    )
    allow_unseen_labels: bool | None = Field(
        default=None,
        description="Whether validation and test may hold labels that training does not: false "
        "refuses them, true accepts them without a warning; when absent they are reported only.",
    )
    max_rows: int = Field(
        default=200_000,
        ge=1,
        description="Rows of a split that are looked at, at least 1; of a larger one as many, in "
        "stretches evenly spread over it.",
    )


class _Breach(NamedTuple):
    """A gate that was crossed: what was found, what is allowed, what to do."""

    gate: str
    found: str
    needed: str
    remedy: str


@dataclass(frozen=True)
class Audit:
    """Everything the audit found; the first split is the one that trains."""

    splits: Sequence[SplitAudit]
    overlaps: Sequence[Overlap] = ()
    conflicts: Conflicts = field(default_factory=Conflicts)
    unseen_labels: Sequence[UnseenLabel] = ()
    unseen_allowed: bool = False

    def findings(self) -> list[Finding]:
        """Returns what was found in sentences, errors first, then warnings, then facts."""
        found = [
            *(Finding("error", leak_sentence(each)) for each in self.overlaps),
            *self._unseen_findings(),
            *self._conflict_findings(),
            *(finding for split in self.splits for finding in split_findings(split)),
        ]
        order: list[Severity] = ["error", "warning", "info"]
        return sorted(found, key=lambda finding: order.index(finding.severity))

    def check_gates(self, config: AuditConfig) -> None:
        """Raises AuditRefused when the data cross a limit of `config`; names every such limit."""
        breaches = list(self._breaches(config))
        if not breaches:
            return
        first, *others = breaches
        also = "; ".join(f"{each.gate} ({each.found})" for each in others)
        remedy = f"{first.remedy} Also refused: {also}." if also else first.remedy
        raise AuditRefused(first.gate, first.found, first.needed, remedy)

    def to_json(self) -> dict[str, Any]:
        """Returns the whole audit as plain values, the sentences included."""
        return {
            "splits": {split.name: split.to_json() for split in self.splits},
            "overlaps": [_plain(each) for each in self.overlaps],
            "conflicts": _plain(self.conflicts),
            "unseen_labels": [asdict(each) for each in self.unseen_labels],
            "findings": [finding._asdict() for finding in self.findings()],
        }

    def _unseen_findings(self) -> list[Finding]:
        severity: Severity = "info" if self.unseen_allowed else "error"
        return [Finding(severity, unseen_sentence(each)) for each in self._unseen_by_split()]

    def _unseen_by_split(self) -> list[list[UnseenLabel]]:
        by_split: dict[str, list[UnseenLabel]] = {}
        for each in self.unseen_labels:
            by_split.setdefault(each.split, []).append(each)
        return list(by_split.values())

    def _conflict_findings(self) -> list[Finding]:
        if not self.conflicts.num_rows:
            return []
        return [Finding("warning", conflict_sentence(self.conflicts))]

    def _breaches(self, config: AuditConfig) -> Iterator[_Breach]:
        yield from self._leak_breaches(config.max_leaked_fraction)
        if config.allow_unseen_labels is False:
            yield from self._unseen_breaches()
        yield from self._conflict_breaches(config.max_conflicting_fraction)
        for split in self.splits:
            yield from _split_breaches(split, config)

    def _leak_breaches(self, limit: float | None) -> Iterator[_Breach]:
        for each in self.overlaps:
            if limit is not None and each.num_rows > limit * each.num_scanned:
                gate = "audit.max_leaked_fraction"
                remedy = "Remove these rows from one of the two, or raise the limit."
                yield _Breach(gate, leak_sentence(each), _at_most(limit), remedy)

    def _unseen_breaches(self) -> Iterator[_Breach]:
        for each in self._unseen_by_split():
            yield _Breach(
                "audit.allow_unseen_labels",
                unseen_sentence(each),
                "Every label of validation and test must stand in train.",
                "Add such rows to train, remove these, or pass audit.allow_unseen_labels=true.",
            )

    def _conflict_breaches(self, limit: float | None) -> Iterator[_Breach]:
        found = self.conflicts
        if limit is not None and found.num_rows > limit * found.num_scanned:
            gate = "audit.max_conflicting_fraction"
            remedy = "Decide which labels are right, or raise the limit."
            yield _Breach(gate, conflict_sentence(found), _at_most(limit), remedy)


def audit(
    splits: Mapping[str, Rows],
    text_roles: Sequence[str],
    label_role: str | None,
    lengths: Mapping[str, TruncationLedger] | None,
    config: AuditConfig,
    num_rows: Mapping[str, int] | None = None,
    may_be_blank: Collection[str] = (),
    unseen: Sequence[UnseenLabel] = (),
) -> Audit:
    """Reads every split once and returns what is wrong with it, alone and beside the others.

    `splits` come in order, training first; overlaps are looked for between each split and those
    before it. `lengths` are the ledgers of the splits that were tokenised, by the same names. Two
    texts are the same when they differ only in Unicode composition or in white space. `num_rows`
    says how many rows a split has of which a sample is given; a row may do without the texts of
    roles that `may_be_blank`. Where no role holds a single label, `unseen` are the labels that
    training has not seen. Never raises for what it finds: `Audit.check_gates` does.
    """
    codes: dict[str, int] = {}
    totals = num_rows or {}
    scans = {name: Scan(rows, config.max_rows, totals.get(name)) for name, rows in splits.items()}
    for scan in scans.values():
        scan.read(text_roles, label_role, codes, may_be_blank)
    texts = _numbered_texts(list(scans.values()))
    numbered = dict(zip(scans, texts, strict=True))
    ledgers = lengths or {}
    return Audit(
        [
            _split_audit(name, scan, numbered[name], ledgers.get(name))
            for name, scan in scans.items()
        ],
        _overlaps(scans, numbered),
        _conflicts(list(scans.values()), texts, list(codes)),
        unseen if label_role is None else _unseen_labels(scans, label_role),
        bool(config.allow_unseen_labels),
    )


def _numbered_texts(scans: Sequence[Scan]) -> list[Ints]:
    """Returns a number for each row's text, the same for the same text in all splits."""
    words = np.concatenate([scan.hashes for scan in scans]) if scans else np.zeros((0, 2))
    order = np.lexsort((words[:, 0], words[:, 1]))
    in_order = words[order]
    is_new = np.append(False, (in_order[1:] != in_order[:-1]).any(axis=1))[: len(words)]
    numbers = np.empty(len(words), dtype=np.int64)
    numbers[order] = np.cumsum(is_new)
    starts = np.cumsum([0] + [len(scan.hashes) for scan in scans])
    return [numbers[start:end] for start, end in pairwise(starts.tolist())]


def _split_audit(
    name: str, scan: Scan, text_R: Ints, ledger: TruncationLedger | None
) -> SplitAudit:
    _, first_T, text_R = np.unique(text_R, return_index=True, return_inverse=True)
    is_repeat_R = first_T[text_R] != np.arange(len(text_R))
    repeats = np.flatnonzero(is_repeat_R)
    return SplitAudit(
        name=name,
        num_rows=scan.num_rows,
        num_scanned=scan.num_scanned,
        classes=dict(sorted(scan.label_counts.items(), key=lambda item: (-item[1], item[0]))),
        num_unlabelled=scan.num_unlabelled,
        first_unlabelled=scan.first_unlabelled,
        num_blank=scan.num_blank,
        first_blank=scan.first_blank,
        num_duplicates=len(repeats),
        duplicates=[
            (scan.where(row), scan.where(first_T[text_R[row]])) for row in repeats[:NUM_EXAMPLES]
        ],
        characters=_length_figures(scan.num_characters),
        lengths=ledger,
        cut_rows=_named(scan.rows, [row.row_id for row in ledger.worst]) if ledger else [],
    )


def _named(rows: Rows, ids: Sequence[int]) -> list[str]:
    """Names rows by their ids, which are their places unless the rows are a part of others."""
    if all(0 <= row_id < len(rows) and rows[row_id].id == row_id for row_id in ids):
        return [rows[row_id].where for row_id in ids]
    wanted = set(ids)
    found = {row.id: row.where for row in rows if row.id in wanted}
    return [found.get(row_id, f"row {row_id}") for row_id in ids]


def _length_figures(lengths_R: Ints) -> dict[str, int]:
    """Returns the shortest, median, 95 % and longest length in characters; none of no rows."""
    if not len(lengths_R):
        return {}
    points = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {
        name: int(np.quantile(lengths_R, point, method="lower")) for name, point in points.items()
    }


def _overlaps(scans: Mapping[str, Scan], numbered: Mapping[str, Ints]) -> list[Overlap]:
    names = list(scans)
    return [
        overlap
        for index, later in enumerate(names)
        for earlier in names[:index]
        if (overlap := _overlap(later, earlier, scans, numbered)).num_rows
    ]


def _overlap(
    split: str, other: str, scans: Mapping[str, Scan], numbered: Mapping[str, Ints]
) -> Overlap:
    there, first_there = np.unique(numbered[other], return_index=True)
    here = np.flatnonzero(np.isin(numbered[split], there))
    places = np.searchsorted(there, numbered[split][here[:NUM_EXAMPLES]])
    examples = [
        (scans[split].where(row), scans[other].where(first_there[place]))
        for row, place in zip(here[:NUM_EXAMPLES], places, strict=True)
    ]
    return Overlap(split, other, len(here), scans[split].num_scanned, examples)


def _conflicts(scans: Sequence[Scan], texts: Sequence[Ints], names: Sequence[str]) -> Conflicts:
    """Finds texts with several labels over all splits."""
    num_scanned = sum(scan.num_scanned for scan in scans)
    label_R = np.concatenate([*(scan.labels for scan in scans), np.zeros(0, np.int64)])
    text_R = np.concatenate([*texts, np.zeros(0, np.int64)])
    labelled = np.flatnonzero(label_R >= 0)
    if not len(labelled):
        return Conflicts(num_scanned=num_scanned)
    label_R, text_R = label_R[labelled], text_R[labelled]
    pair_P = np.unique(text_R * len(names) + label_R)
    is_torn_T = np.bincount(pair_P // len(names)) > 1
    torn = np.flatnonzero(is_torn_T[text_R])
    starts = np.cumsum([0] + [len(scan.labels) for scan in scans])
    examples: list[tuple[str, str, str, str]] = []
    for text in dict.fromkeys(text_R[torn].tolist()):
        if len(examples) == NUM_EXAMPLES:
            break
        rows = torn[text_R[torn] == text]
        other = rows[label_R[rows] != label_R[rows[0]]][0]
        (where, other_where) = (_where(scans, starts, int(labelled[r])) for r in (rows[0], other))
        examples.append((where, names[label_R[rows[0]]], other_where, names[label_R[other]]))
    return Conflicts(int(is_torn_T.sum()), len(torn), num_scanned, examples)


def _where(scans: Sequence[Scan], starts: Ints, row: int) -> str:
    """Names a row by its place among the rows of all splits one after another."""
    index = int(np.searchsorted(starts, row, side="right")) - 1
    return scans[index].where(row - int(starts[index]))


def _unseen_labels(scans: Mapping[str, Scan], label_role: str) -> list[UnseenLabel]:
    """Finds labels outside train; one missing in a sample of train is looked for in all of it."""
    if TRAIN not in scans:
        return []
    train = scans[TRAIN]
    others = {name: scan for name, scan in scans.items() if name != TRAIN}
    missing = {label for scan in others.values() for label in scan.label_counts}
    missing -= train.label_counts.keys()
    if missing and not train.is_whole:
        missing -= _found_in(train.rows, label_role, missing)
    return [
        UnseenLabel(name, label, scan.label_counts[label], scan.first_with(label))
        for name, scan in others.items()
        for label in sorted(missing & scan.label_counts.keys())
    ]


def _found_in(rows: Rows, label_role: str, wanted: set[str]) -> set[str]:
    found: set[str] = set()
    for row in rows:
        value = row.values.get(label_role)
        if value is not None and label_name(value) in wanted:
            found.add(label_name(value))
            if found == wanted:
                break
    return found


def _split_breaches(split: SplitAudit, config: AuditConfig) -> Iterator[_Breach]:
    limit = config.max_blank_fraction
    if limit is not None and split.num_blank > limit * split.num_scanned:
        remedy = "Remove these rows, or raise the limit."
        yield _Breach("audit.max_blank_fraction", blank_sentence(split), _at_most(limit), remedy)
    limit = config.max_duplicate_fraction
    if limit is not None and split.num_duplicates > limit * split.num_scanned:
        gate, remedy = "audit.max_duplicate_fraction", "Keep one row of each, or raise the limit."
        yield _Breach(gate, duplicate_sentence(split), _at_most(limit), remedy)
    limit, ledger = config.max_truncated_fraction, split.lengths
    if limit is not None and ledger is not None and ledger.cut_fraction > limit:
        gate = "audit.max_truncated_fraction"
        remedy = "Raise task.max_length, shorten the texts, or raise the limit."
        yield _Breach(gate, cut_sentence(split), _at_most(limit), remedy)


def _at_most(limit: float) -> str:
    return f"At most {100 * limit:g} % is allowed."


def _plain(found: Overlap | Conflicts) -> dict[str, Any]:
    return {**asdict(found), "examples": [list(example) for example in found.examples]}
