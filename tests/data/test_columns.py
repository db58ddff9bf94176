from __future__ import annotations

import pyarrow as pa
import pytest

from tunewright.data import ColumnChoice, Table, as_rows, resolve_columns
from tunewright.data.wording import once
from tunewright.errors import DataError, SettingsError
from tunewright.types import Role

ROLES = (
    Role("text", "the text", accepted=("sentence", "review")),
    Role("text_pair", "the second text", accepted=("sentence2",), required=False),
    Role("label", "the class of the text", accepted=("target", "stars"), only_training=True),
)


def choice(names: list[str], training: bool = True, **given: str) -> ColumnChoice:
    return resolve_columns(ROLES, names, given, training=training, source="reviews.csv")


def refusal(names: list[str], **given: str) -> str:
    with pytest.raises(DataError) as caught:
        choice(names, **given)
    return str(caught.value)


def test_columns_are_found_by_their_roles_names():
    found = choice(["id", "text", "label"])
    assert found.mapping == {"text": "text", "label": "label"}
    assert (found.guessed, found.unused) == ((), ("id",))


def test_named_columns_win():
    found = choice(["text", "body", "label"], text="body")
    assert found.mapping == {"text": "body", "label": "label"}
    assert (found.guessed, found.unused) == ((), ("text",))


def test_accepted_names_are_found_in_any_case_and_said():
    found = choice(["Review", "STARS"])
    assert found.mapping == {"text": "Review", "label": "STARS"}
    assert found.notices("a.csv") == (
        'a.csv: the column "Review" is taken as text.',
        'a.csv: the column "STARS" is taken as label.',
    )


def test_of_two_candidates_the_first_accepted_wins_and_the_other_is_said():
    found = choice(["stars", "review", "sentence", "target"])
    assert found.mapping == {"text": "sentence", "label": "target"}
    assert found.notices("a.csv")[0] == (
        'a.csv: the column "sentence" is taken as text. Others: "review"; '
        "data.columns.text names one."
    )


def test_a_column_given_to_one_role_is_not_guessed_for_another():
    found = choice(["review", "sentence", "label"], text_pair="sentence")
    assert found.mapping == {"text": "review", "text_pair": "sentence", "label": "label"}


def test_a_named_column_that_is_missing_gets_the_nearest():
    assert refusal(["text", "label"], label="lable") == (
        'reviews.csv: there is no column "lable". It has "text", "label". Did you mean "label"?'
    )


def test_a_role_without_a_column_gets_the_columns_there_are():
    assert refusal(["text", "grade"]) == (
        'reviews.csv: there is no column "label" (the class of the text). '
        'It has "text", "grade". Name the column with data.columns.label=COLUMN. '
        "If the first line is a row, pass data.header=false."
    )


def test_a_role_without_a_column_gets_the_nearest_name():
    assert refusal(["text", "lable"]) == (
        'reviews.csv: there is no column "label" (the class of the text). '
        'It has "text", "lable". Did you mean "lable"? '
        "Name the column with data.columns.label=COLUMN."
    )


def test_labels_may_be_missing_when_a_model_predicts():
    assert choice(["text"], training=False).mapping == {"text": "text"}


def test_labels_that_are_there_are_found_when_a_model_predicts():
    assert choice(["text", "target"], training=False).mapping["label"] == "target"


def test_a_role_that_the_task_has_not_is_refused():
    with pytest.raises(SettingsError) as caught:
        choice(["text", "label"], txt="text")
    assert str(caught.value) == (
        'data.columns.txt: "txt" is not a role of this task. '
        'It has "text", "text_pair", "label". Did you mean "text"?'
    )


def after_training(names: list[str], before: dict[str, str], **given: str) -> ColumnChoice:
    return resolve_columns(ROLES, names, given, training=False, source="others.csv", before=before)


@pytest.mark.parametrize("name", ["body", "Body"])
def test_the_columns_of_training_come_before_usual_names(name):
    found = after_training(["text", name], {"text": "body"})
    assert (found.mapping, found.guessed, found.unused) == ({"text": name}, (), ("text",))


def test_a_column_of_training_that_is_missing_is_found_by_usual_names():
    found = after_training(["sentence"], {"text": "body", "label": "stars"})
    assert found.mapping == {"text": "sentence"}
    assert found.notices("a.csv") == (
        'a.csv: there is no column "body"; "sentence" is taken as text.',
    )


def test_lines_of_text_miss_no_column():
    before = {"text": "body", "text_pair": "more"}
    found = resolve_columns(
        ROLES, ["text"], {}, training=False, source="lines.txt", before=before, bare_texts=True
    )
    assert (found.mapping, found.notices("lines.txt")) == ({"text": "text"}, ())


def test_a_column_that_played_two_roles_plays_them_again():
    roles = (Role("anchor", "a text"), Role("positive", "a text that means the same"))
    before = {"anchor": "sentence", "positive": "sentence"}
    found = resolve_columns(roles, ["sentence"], {}, training=True, source="a", before=before)
    assert found.mapping == before


def test_where_no_column_can_be_named_the_name_of_training_is_told():
    with pytest.raises(DataError, match='Call it "body"'):
        resolve_columns(ROLES, ["x"], {}, training=False, source="a", before={"text": "body"},
                        can_name=False)  # fmt: skip


def test_a_column_of_training_that_is_given_another_role_leaves_its_own():
    found = after_training(
        ["body", "text"], {"text": "body", "text_pair": "more"}, text_pair="body"
    )
    assert found.mapping == {"text": "text", "text_pair": "body"}


def test_a_table_is_made_rows_and_what_was_guessed_is_said_once():
    table = Table("a.csv", pa.table({"Review": ["fine"]}), notes=("a.csv: it is odd.",))
    said: list[str] = []
    say = once(said.append)
    for _ in range(2):
        rows = as_rows(table, ROLES, {}, training=False, say=say)
    assert [row.values for row in rows] == [{"text": "fine"}]
    assert said == ["a.csv: it is odd.", 'a.csv: the column "Review" is taken as text.']


def test_a_column_never_plays_two_roles():
    before = {"text": "Text", "label": "text"}
    assert after_training(["Text", "text"], before).mapping == before
    assert after_training(["TEXT", "text"], before).mapping == before | {"text": "TEXT"}
    with pytest.raises(DataError, match='there is no column "text"'):
        after_training(["text"], before)
