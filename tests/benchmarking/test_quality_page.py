"""The tables of docs/quality.md, from results that are made up, and from those that are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.quality import page
from benchmarks.quality.harness import gaps, means_of, summary, table
from benchmarks.quality.question_answering import NONE, told_apart

from tunewright.tasks import find_task

A_CPU, A_GPU = "a CPU, bf16", "a GPU, bf16"


def entry(sides, places, metrics, before=(), task="question-answering"):
    """Returns results as a run leaves them, of sides with the statistics of every seed."""
    found = {"before": dict(before), "sides": sides, "places": places}
    reducer = find_task(task)().prepare
    pairs = [("ours", "peer"), ("ours", "before")]
    return {
        **found,
        "metrics": summary(found, metrics, reducer),
        "gaps": gaps(found, pairs, metrics, reducer),
    }


def answered(*f1, has_answer=(1, 1, 0, 0)):
    return {"exact": [int(each == 1) for each in f1], "f1": [*f1], "has_answer": [*has_answer]}


def questions(metrics=("f1", "exact_match")):
    """Returns a case where one side has three seeds and the other has two, one elsewhere."""
    return entry(
        {
            "ours": {"1": answered(0.5, 0, 1, 1), "2": answered(1, 1, 1, 1),
                     "10": answered(0, 0, 0, 1)},
            "peer": {"10": answered(0, 0.5, 1, 1), "1": answered(0, 0, 1, 1),
                     "2": answered(0, 0, 0, 0)},
        },
        {"ours": {"1": A_CPU, "2": A_CPU, "10": A_CPU},
         "peer": {"10": A_CPU, "1": A_CPU, "2": A_GPU}},
        metrics,
    )  # fmt: skip


def lines(told):
    return [line for line in told.splitlines() if line.startswith("| cards")]


def test_beside_a_difference_stand_the_means_over_its_own_seeds():
    told = lines(table({"cards": questions(("f1",))}))
    assert told[:2] == ["| cards | ours | 3 | f1 62.50 |", "| cards | peer | 3 | f1 37.50 |"]
    difference = "| cards | ours over peer | f1 | 2 | 43.75 over 56.25 | -12.50 | "
    assert len(told) == 3
    assert told[2].startswith(difference)


def test_a_side_without_another_has_its_row_and_no_difference():
    own = entry({"ours": {"1": answered(1, 1, 1, 0)}}, {"ours": {"1": A_CPU}}, ("f1",))
    assert lines(table({"cards": own})) == ["| cards | ours | 1 | f1 75.00 |"]


def test_what_was_there_before_training_has_one_mean_whatever_the_seeds():
    seeds = {"1": answered(1, 1, 1, 0), "2": answered(1, 1, 1, 1)}
    own = entry(
        {"ours": seeds}, {"ours": dict.fromkeys(seeds, A_CPU)}, ("f1",),
        before={"before": answered(0, 0, 1, 1)},
    )  # fmt: skip
    assert lines(table({"cards": own}))[-1].startswith(
        "| cards | ours over before | f1 | 2 | 87.50 over 50.00 | +37.50 | "
    )


@pytest.mark.parametrize("stored", [("f1", "exact_match"), ("f1", "exact_match", "f1_has_answer")])
def test_questions_that_may_lack_an_answer_stand_beside_a_side_that_never_answers(stored):
    """Whichever metrics a run has written down: its figures of every test row are enough."""
    before = questions(stored)
    written = json.dumps(before)
    told = lines(table(told_apart({"cards": before})))
    never = "f1 50.00, exact_match 50.00, f1_has_answer 0.00, accuracy_no_answer 100.00"
    assert told[0] == f"| cards | {NONE} |  | {never} |"
    assert told[1].endswith("f1_has_answer 41.67, accuracy_no_answer 83.33 |")
    differences = [line.split(" | ")[1:5] for line in told[3:]]
    assert differences == [
        ["ours over peer", "f1", "2", "43.75 over 56.25"],
        ["ours over peer", "exact_match", "2", "37.50 over 50.00"],
        ["ours over peer", "f1_has_answer", "2", "12.50 over 12.50"],
        ["ours over peer", "accuracy_no_answer", "2", "75.00 over 100.00"],
        [f"ours over {NONE}", "f1", "3", "62.50 over 50.00"],
        [f"peer over {NONE}", "f1", "3", "37.50 over 50.00"],
    ]
    assert json.dumps(before) == written


def test_questions_that_all_have_an_answer_are_told_as_they_are():
    seeds = {"1": answered(1, 0.5, has_answer=(1, 1))}
    own = entry({"ours": seeds}, {"ours": {"1": A_CPU}}, ("f1", "exact_match"))
    begun = entry({}, {}, ("f1", "exact_match"))
    assert told_apart({"cards": own, "begun": begun}) == {"cards": own, "begun": begun}


def test_every_difference_on_the_page_is_that_of_the_means_beside_it():
    num_found = 0
    for file in Path(page.__file__).parent.glob("*.json"):
        for found in json.loads(file.read_text(encoding="utf-8")).values():
            for gap in found.get("gaps", ()) if isinstance(found, dict) else ():
                first, second = means_of(found, gap)
                assert first - second == pytest.approx(gap["gap"], abs=1e-9)
                num_found += 1
    assert num_found > 100
