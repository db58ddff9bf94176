from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tunewright.data.auditing.audit import Audit, AuditConfig, audit
from tunewright.data.auditing.ledger import TruncationLedger
from tunewright.data.auditing.scan import text_hash
from tunewright.errors import AuditRefused
from tunewright.types import Row


def rows(source: str, *pairs: tuple[str | None, str | None]) -> list[Row]:
    """Returns rows as read from a CSV file with a header."""
    return [
        Row(index, {"text": text, "label": label}, source, index + 2)
        for index, (text, label) in enumerate(pairs)
    ]


def distinct(source: str, number: int, label: str = "a") -> list[Row]:
    return rows(source, *((f"{source} text {index}", label) for index in range(number)))


def audited(splits, config: AuditConfig | None = None, lengths=None) -> Audit:
    return audit(splits, ["text"], "label", lengths, config or AuditConfig())


def sentences(found: Audit, severity: str) -> list[str]:
    return [finding.sentence for finding in found.findings() if finding.severity == severity]


def refusal(found: Audit, **limits) -> str:
    with pytest.raises(AuditRefused) as caught:
        found.check_gates(AuditConfig(**limits))
    assert caught.value.exit_status == 3
    return str(caught.value)


LEAKY = {
    "train": [*distinct("train.csv", 5), *rows("train.csv", ("shared", "a"))],
    "test": [*rows("test.csv", ("new", "a"), ("shared", "a")), *distinct("test.csv", 2)],
}
LEAK = (
    "test: 25.0 % of the texts also stand in train (1 of 4; first: test.csv, line 3 = "
    "train.csv, line 2)"
)
UNSEEN = {
    "train": distinct("train.csv", 9),
    "validation": rows("valid.csv", ("v0", "a"), ("v1", "b")),
    "test": rows("test.csv", ("t0", "c"), ("t1", "b"), ("t2", "c")),
}
BLANK = {
    "train": [*distinct("train.csv", 6), *rows("train.csv", ("", "a"), (" \u200b\ufeff\t", "a"))]
}


def cut() -> Audit:
    ledger = TruncationLedger(max_length=128)
    for row_id, cut_tokens in enumerate([0, 300, 0, 20]):
        ledger.add(row_id, 128 if cut_tokens else 60, cut_tokens)
    return audited({"train": distinct("train.csv", 4)}, lengths={"train": ledger})


CUT = (
    "train: 50.0 % of the texts are cut at 128 tokens (2 of 4; 46.0 % of all tokens; most: "
    "train.csv, line 3 loses 300 of 428)"
)


def test_the_same_text_in_train_and_test_is_an_error():
    assert sentences(audited(LEAKY), "error") == [LEAK]


def test_a_leak_past_its_limit_is_refused():
    assert refusal(audited(LEAKY), max_leaked_fraction=0.2) == (
        f"audit.max_leaked_fraction: {LEAK}. At most 20 % is allowed. Remove these rows from one "
        "of the two, or raise the limit."
    )


def test_leaks_are_looked_for_between_every_two_splits():
    parts = {name: rows(f"{name}.csv", ("same", "a")) for name in ("train", "validation", "test")}
    found = audited(parts)
    assert [(each.split, each.other) for each in found.overlaps] == [
        ("validation", "train"),
        ("test", "train"),
        ("test", "validation"),
    ]


def test_labels_that_training_never_saw_are_an_error_for_each_split():
    assert sentences(audited(UNSEEN), "error") == [
        'validation: 1 label is in no training row and can never be answered ("b"; 1 row; first: '
        "valid.csv, line 3)",
        'test: 2 labels are in no training row and can never be answered ("b", "c"; 3 rows; '
        "first: test.csv, line 3)",
    ]


def test_unseen_labels_are_refused_when_the_user_says_so():
    splits = {"train": UNSEEN["train"], "test": UNSEEN["test"][1:2]}
    assert refusal(audited(splits), allow_unseen_labels=False) == (
        "audit.allow_unseen_labels: test: 1 label is in no training row and can never be answered "
        '("b"; 1 row; first: test.csv, line 3). Every label of validation and test must stand in '
        "train. Add such rows to train, remove these, or pass audit.allow_unseen_labels=true."
    )


def test_unseen_labels_that_the_user_allows_are_only_mentioned():
    found = audited(UNSEEN, AuditConfig(allow_unseen_labels=True))
    assert sentences(found, "error") == []
    assert len(sentences(found, "info")) == 5
    found.check_gates(AuditConfig(allow_unseen_labels=True))


def test_texts_that_show_nothing_are_a_warning():
    assert sentences(audited(BLANK), "warning") == [
        "train: 25.0 % of the texts are blank (2 of 8; first: train.csv, line 2)"
    ]


def test_blank_texts_past_their_limit_are_refused():
    assert refusal(audited(BLANK), max_blank_fraction=0.0) == (
        "audit.max_blank_fraction: train: 25.0 % of the texts are blank (2 of 8; first: "
        "train.csv, line 2). At most 0 % is allowed. Remove these rows, or raise the limit."
    )


def test_blank_texts_are_neither_repeats_nor_leaks():
    found = audited({"train": rows("a.csv", ("", "a"), (" ", "b")), "test": rows("b", ("", "a"))})
    assert found.overlaps == []
    assert found.conflicts.num_rows == found.splits[0].num_duplicates == 0


def test_texts_past_the_models_length_are_a_warning_with_the_row_that_loses_most():
    assert CUT in sentences(cut(), "warning")


def test_truncation_past_its_limit_is_refused():
    assert refusal(cut(), max_truncated_fraction=0.055) == (
        f"audit.max_truncated_fraction: {CUT}. At most 5.5 % is allowed. Raise task.max_length, "
        "shorten the texts, or raise the limit."
    )


def test_a_split_whose_texts_all_fit_says_so():
    ledger = TruncationLedger(max_length=1024)
    ledger.add(0, 900, 0)
    found = audited({"train": distinct("train.csv", 1)}, lengths={"train": ledger})
    assert "train: no text is longer than 1,024 tokens" in sentences(found, "info")


def test_texts_that_are_read_in_windows_are_told_of():
    ledger = TruncationLedger(max_length=128, reads_long="window")
    for row_id, num_tokens in enumerate([90, 128, 129, 700]):
        ledger.add(row_id, num_tokens, 0)
    found = audited({"train": distinct("train.csv", 4)}, lengths={"train": ledger})
    assert sentences(found, "info")[0] == (
        "train: 50.0 % of the texts are longer than 128 tokens and read in windows (2 of 4)"
    )


def test_rows_of_several_texts_that_fit_are_not_said_to_be_read_in_windows():
    ledger = TruncationLedger(max_length=128)
    ledger.add(0, 100 + 100, 0)
    found = audited({"train": distinct("train.csv", 1)}, lengths={"train": ledger})
    assert sentences(found, "info")[0] == "train: no text is longer than 128 tokens"


def test_repeats_inside_a_split_are_counted_after_the_first():
    repeated = rows("train.csv", *[("same", "a")] * 3, *((f"t{n}", "a") for n in range(5)))
    found = audited({"train": repeated})
    assert sentences(found, "warning") == [
        "train: 25.0 % of the rows repeat an earlier text (2 of 8; first: train.csv, line 3 = "
        "train.csv, line 2)"
    ]
    assert refusal(found, max_duplicate_fraction=0.1) == (
        "audit.max_duplicate_fraction: train: 25.0 % of the rows repeat an earlier text (2 of 8; "
        "first: train.csv, line 3 = train.csv, line 2). At most 10 % is allowed. Keep one row of "
        "each, or raise the limit."
    )


def test_one_text_with_two_labels_is_a_conflict():
    train = [*rows("train.csv", ("same", "a"), ("same", "b")), *distinct("train.csv", 6)]
    found = audited({"train": train})
    expected = (
        "25.0 % of the rows have the text of another row but not its label (2 of 8; first: "
        'train.csv, line 2 is "a", train.csv, line 3 is "b")'
    )
    assert expected in sentences(found, "warning")
    assert refusal(found, max_conflicting_fraction=0.01) == (
        f"audit.max_conflicting_fraction: {expected}. At most 1 % is allowed. Decide which labels "
        "are right, or raise the limit."
    )


def test_conflicts_are_found_across_splits():
    found = audited(
        {"train": distinct("train.csv", 2), "test": rows("test.csv", ("train.csv text 1", "b"))}
    )
    assert found.conflicts.examples == [("train.csv, line 3", "a", "test.csv, line 2", "b")]


def test_every_gate_that_fails_is_named():
    splits = {"train": BLANK["train"], "test": rows("test.csv", ("train.csv text 0", "a"))}
    message = refusal(audited(splits), max_leaked_fraction=0.5, max_blank_fraction=0.1)
    assert message == (
        "audit.max_leaked_fraction: test: 100.0 % of the texts also stand in train (1 of 1; "
        "first: test.csv, line 2 = train.csv, line 2). At most 50 % is allowed. Remove these rows "
        "from one of the two, or raise the limit. Also refused: audit.max_blank_fraction (train: "
        "25.0 % of the texts are blank (2 of 8; first: train.csv, line 2))."
    )


def test_no_gate_is_on_by_default():
    for found in (audited(LEAKY), audited(UNSEEN), audited(BLANK), cut()):
        found.check_gates(AuditConfig())


def test_a_share_at_its_limit_passes():
    audited(LEAKY).check_gates(AuditConfig(max_leaked_fraction=0.25))


def test_clean_data_show_their_classes_only():
    train = [*distinct("train.csv", 1200), *distinct("more.csv", 5, "b")]
    assert audited({"train": train}).findings() == [
        ("info", "train: 1,205 rows in 2 classes (a 1,200, b 5)")
    ]


def test_classes_with_few_training_rows_are_a_warning():
    train = [*distinct("train.csv", 9), *distinct("more.csv", 4, "rare")]
    assert sentences(audited({"train": train}), "warning") == [
        'train: 1 class has fewer than 5 rows ("rare")'
    ]


def test_classes_that_look_like_one_are_a_warning():
    names = ("pos", "Pos", "caf\u00e9", "cafe\u0301", "neg")
    train = [row for number, name in enumerate(names) for row in distinct(f"{number}.csv", 6, name)]
    assert sentences(audited({"train": train}), "warning") == [
        'train: these classes look like one: "Pos" in 6 rows, "pos" in 6 rows',
        'train: these classes look like one: "cafe\u0301" in 6 rows, "caf\u00e9" in 6 rows',
    ]


def test_rows_without_a_label_are_counted():
    train = [*distinct("train.csv", 5), *rows("more.csv", ("x", None), ("y", None))]
    assert "train: 2 rows without a label (first: more.csv, line 2)" in sentences(
        audited({"train": train}), "warning"
    )


def test_tasks_without_labels_are_audited_for_their_texts():
    found = audit(LEAKY, ["text"], None, None, AuditConfig())
    assert [finding.sentence for finding in found.findings()] == [LEAK]


def test_pairs_are_the_same_only_when_both_texts_are():
    pairs = [("a", "b"), ("a", "c"), ("ab", ""), ("a", "b")]
    train = [
        Row(index, {"text": first, "text_pair": second}, "train.csv", index + 2)
        for index, (first, second) in enumerate(pairs)
    ]
    found = audit({"train": train}, ["text", "text_pair"], None, None, AuditConfig())
    assert found.splits[0].duplicates == [("train.csv, line 5", "train.csv, line 2")]
    assert found.splits[0].num_blank == 1


def test_boolean_labels_read_as_in_the_model():
    train = [Row(index, {"text": str(index), "label": index > 1}) for index in range(5)]
    assert audited({"train": train}).splits[0].classes == {"true": 3, "false": 2}


def test_of_large_data_stretches_are_looked_at_and_that_is_said():
    found = audited({"train": distinct("train.csv", 5000)}, AuditConfig(max_rows=2500))
    assert found.splits[0].num_scanned == sum(found.splits[0].classes.values()) == 2500
    assert sentences(found, "info")[-1] == (
        "train: 2,500 of 5,000 rows were looked at, evenly spread; there may be more repeated "
        "texts than were found"
    )


def test_a_label_missing_from_the_sample_is_looked_for_in_all_of_train():
    train = [*distinct("train.csv", 50), *rows("train.csv", ("x", "rare"))]
    test = rows("test.csv", ("t0", "rare"), ("t1", "odd"))
    found = audited({"train": train, "test": test}, AuditConfig(max_rows=10))
    assert [each.label for each in found.unseen_labels] == ["odd"]


def test_rows_that_are_part_of_others_are_named_by_their_ids():
    part = distinct("train.csv", 8)[4:]
    ledger = TruncationLedger(max_length=8)
    ledger.add(6, 8, 5)
    found = audited({"train": part}, lengths={"train": ledger})
    assert found.splits[0].cut_rows == ["train.csv, line 8"]


@pytest.mark.parametrize("splits", [{}, {"train": []}, {"train": [], "test": []}], ids=str)
def test_nothing_to_audit_is_no_error(splits):
    found = audited(splits)
    assert found.findings() == []
    json.dumps(found.to_json())


def test_the_audit_is_plain_json_with_its_sentences():
    written = json.loads(json.dumps(audited(LEAKY).to_json()))
    assert list(written) == ["splits", "overlaps", "conflicts", "unseen_labels", "findings"]
    assert written["overlaps"] == [
        {
            "split": "test",
            "other": "train",
            "num_rows": 1,
            "num_scanned": 4,
            "examples": [["test.csv, line 3", "train.csv, line 2"]],
        }
    ]
    assert written["findings"][0] == {"severity": "error", "sentence": LEAK}


def test_the_ledger_in_json_names_the_rows_that_lose_most():
    written = json.loads(json.dumps(cut().to_json()))["splits"]["train"]["lengths"]
    assert written["worst"] == [
        {"where": "train.csv, line 3", "num_tokens": 428, "num_cut": 300},
        {"where": "train.csv, line 5", "num_tokens": 148, "num_cut": 20},
    ]
    assert (written["cut_texts"], written["cut_tokens"], written["max_tokens"]) == (2, 320, 428)


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1))
def test_a_text_is_the_same_in_any_composition_and_spacing(text):
    spaced = unicodedata.normalize("NFD", f"\n {text}\u3000")
    assert text_hash([spaced]) == text_hash([unicodedata.normalize("NFC", text)])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=40), st.lists(st.sampled_from("abcd")))
def test_counts_are_those_of_sets(train, test):
    found = audited(
        {
            "train": rows("train.csv", *((text, "x") for text in train)),
            "test": rows("test.csv", *((text, "x") for text in test)),
        }
    )
    assert found.splits[0].num_duplicates == len(train) - len(set(train))
    leaked = sum(text in set(train) for text in test)
    assert sum(each.num_rows for each in found.overlaps) == leaked


@pytest.mark.parametrize(
    "text", ["\ud800", "\u202eabc", "a" + "\u0301\u0316" * 50_000, "x" * 5_000_000], ids=len
)
def test_odd_texts_are_hashed(text):
    assert text_hash([text]) == text_hash([text + " "]) != text_hash(["other"])


@pytest.mark.parametrize(
    "values", [{"max_rows": 0}, {"max_leaked_fraction": 1.5}, {"max_leaks": 1}], ids=str
)
def test_limits_out_of_range_are_refused(values):
    with pytest.raises(ValidationError):
        AuditConfig.model_validate(values)


def filled(lengths: list[int], max_length: int | None) -> TruncationLedger:
    ledger = TruncationLedger(max_length)
    for row_id, length in enumerate(lengths):
        read = length if max_length is None else min(length, max_length)
        ledger.add(row_id, read, length - read)
    return ledger


lists_of_lengths = st.lists(st.integers(0, 3000), min_size=1, max_size=80)


@settings(max_examples=80, deadline=None)
@given(lists_of_lengths, st.none() | st.integers(1, 1024))
def test_the_histogram_holds_every_text_in_bins_without_gaps(lengths, max_length):
    bins = filled(lengths, max_length).histogram(num_bins=20)
    assert sum(each.count for each in bins) == len(lengths)
    assert len(bins) <= 20
    assert [each.high for each in bins[:-1]] == [each.low for each in bins[1:]]
    assert bins[-1].high > max(lengths)
    if max_length is not None and max_length < max(lengths):
        assert max_length + 1 in {each.low for each in bins}


@settings(max_examples=80, deadline=None)
@given(lists_of_lengths, st.floats(0.01, 1))
def test_lengths_at_a_share_are_those_of_numpy(lengths, fraction):
    expected = np.quantile(lengths, fraction, method="inverted_cdf")
    assert filled(lengths, None).length_at(fraction) == expected


def test_one_bin_of_the_histogram_ends_at_the_limit():
    bins = filled([*range(1, 400)], max_length=128).histogram()
    cut_texts = sum(each.count for each in bins if each.low > 128)
    assert cut_texts == 399 - 128
    assert 129 in {each.low for each in bins}


def test_the_ledger_keeps_the_ten_rows_that_lose_most():
    ledger = filled([100 + row for row in range(50)], max_length=100)
    assert [row.row_id for row in ledger.worst] == list(range(49, 39, -1))
    assert (ledger.worst[0].num_tokens, ledger.worst[0].num_cut) == (149, 49)


def test_an_empty_ledger_divides_by_nothing():
    ledger = TruncationLedger(max_length=8)
    assert (ledger.cut_fraction, ledger.cut_token_fraction, ledger.length_at(0.5)) == (0, 0, 0)
    assert ledger.histogram() == []
