"""The scikit-learn estimator, and the tools of scikit-learn around it."""

from __future__ import annotations

import copy
import io
import pickle
import pickletools
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks, get_tags

from tests.conftest import TinyFolder
from tunewright import TextClassifier
from tunewright.errors import DataError, SettingsError

TEXTS = ["a good film", "an awful film", "great food", "bad food", "fine music", "poor music"] * 3
NAMES = ["good", "bad"] * 9


class Mood(StrEnum):
    GOOD = "good"
    BAD = "bad"


STEPS = {"precision": "fp32", "max_steps": 2}

Make = Callable[..., TextClassifier]


def lowered(texts: list[str]) -> list[str]:
    return [text.lower() for text in texts]


@pytest.fixture(scope="session")
def make(tiny_folder: TinyFolder) -> Make:
    """Returns a function that makes an estimator of a tiny model and few steps."""
    folder = tiny_folder("bert")

    def made(**arguments: Any) -> TextClassifier:
        return TextClassifier(folder, **{"settings": STEPS} | arguments)

    return made


@pytest.fixture(scope="session")
def fitted(make: Make) -> TextClassifier:
    return make(batch_size=8).fit(TEXTS, NAMES)


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimator_tags_renamed,
        estimator_checks.check_valid_tag_types,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
        estimator_checks.check_mixin_order,
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
    ],
    ids=lambda check: check.__name__,
)
def test_it_passes_the_checks_of_scikit_learn_that_need_no_table(check: Any) -> None:
    check("TextClassifier", TextClassifier())


def test_its_tags_say_that_it_reads_texts_and_not_tables() -> None:
    tags = get_tags(TextClassifier())
    assert tags.estimator_type == "classifier"
    assert tags.target_tags.required
    assert (tags.input_tags.string, tags.input_tags.one_d_array) == (True, True)
    assert not tags.input_tags.two_d_array


def test_probabilities_stand_in_the_order_of_the_sorted_classes(fitted: TextClassifier) -> None:
    probabilities = fitted.predict_proba(TEXTS[:4])
    assert fitted.classes_.tolist() == ["bad", "good"]
    assert probabilities.shape == (4, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)
    assert fitted.predict(TEXTS[:4]).tolist() == fitted.classes_[probabilities.argmax(1)].tolist()


def test_it_learns_what_the_words_say(make: Make) -> None:
    settings = {"precision": "fp32", "max_steps": 40, "dropout": 0.0}
    learned = make(learning_rate=1e-2, settings=settings).fit(TEXTS, NAMES)
    assert learned.score(TEXTS, NAMES) == 1.0


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        ([3, -1] * 9, np.int64),
        ([True, False] * 9, np.bool_),
        ([1.0, 2.0] * 9, np.float64),
        (np.array(NAMES), np.dtype("<U4")),
        (pd.Series(NAMES), np.object_),
        (np.array([2, 7] * 9, dtype=object), np.int64),
        ([np.int64(2), 7] * 9, np.int64),
        ([1, 2.0] * 9, np.float64),
    ],
)
def test_labels_come_back_in_their_own_type(make: Make, labels: Any, dtype: Any) -> None:
    predicted = make().fit(TEXTS, labels).predict(TEXTS)
    assert predicted.dtype == dtype
    assert set(predicted) <= set(labels)


@pytest.mark.parametrize("kind", [tuple, np.array, pd.Series])
def test_texts_may_be_any_sequence(fitted: TextClassifier, kind: Any) -> None:
    expected = fitted.predict_proba(TEXTS)
    np.testing.assert_array_equal(fitted.predict_proba(kind(TEXTS)), expected)


def test_no_texts_have_no_labels(fitted: TextClassifier) -> None:
    assert fitted.predict([]).tolist() == []
    assert fitted.predict_proba([]).shape == (0, 2)


def test_two_fits_with_one_seed_give_the_same_bits(make: Make, fitted: TextClassifier) -> None:
    again = make(batch_size=8).fit(TEXTS, NAMES)
    np.testing.assert_array_equal(again.predict_proba(TEXTS), fitted.predict_proba(TEXTS))


def test_another_seed_gives_another_model(make: Make, fitted: TextClassifier) -> None:
    other = make(batch_size=8, seed=1).fit(TEXTS, NAMES)
    assert np.abs(other.predict_proba(TEXTS) - fitted.predict_proba(TEXTS)).max() > 1e-4


def test_a_clone_has_the_arguments_and_not_the_model(fitted: TextClassifier) -> None:
    cloned = clone(fitted)
    assert cloned.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError, match="This TextClassifier instance is not fitted yet"):
        cloned.predict(TEXTS)


def test_probabilities_before_a_fit_are_refused() -> None:
    with pytest.raises(NotFittedError, match="This TextClassifier instance is not fitted yet"):
        TextClassifier().predict_proba(TEXTS)


def test_an_unpickled_estimator_gives_the_same_bits(fitted: TextClassifier) -> None:
    thawed = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(thawed.predict_proba(TEXTS), fitted.predict_proba(TEXTS))


def test_an_unpickled_estimator_pickles_again_before_and_after_its_use(
    fitted: TextClassifier,
) -> None:
    thawed = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(fitted))))
    thawed.predict(TEXTS)
    again = pickle.loads(pickle.dumps(thawed))
    np.testing.assert_array_equal(again.predict_proba(TEXTS), fitted.predict_proba(TEXTS))


def test_a_pickle_holds_no_torch_object(fitted: TextClassifier) -> None:
    operations = pickletools.genops(pickle.dumps(fitted))
    words = {argument for _, argument, _ in operations if isinstance(argument, str)}
    assert "tunewright.estimator" in words
    assert not [word for word in words if word.startswith(("torch", "transformers"))]


def test_joblib_stores_a_fitted_estimator(fitted: TextClassifier) -> None:
    file = io.BytesIO()
    joblib.dump(fitted, file)
    file.seek(0)
    np.testing.assert_array_equal(joblib.load(file).predict(TEXTS), fitted.predict(TEXTS))


def test_a_deep_copy_outlives_the_original(make: Make) -> None:
    original = make().fit(TEXTS, NAMES)
    expected, copied = original.predict_proba(TEXTS), copy.deepcopy(original)
    del original
    np.testing.assert_array_equal(copied.predict_proba(TEXTS), expected)


def test_a_temporary_run_is_removed_with_its_estimator(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    estimator = make().fit(TEXTS, NAMES)
    assert len(list(tmp_path.glob("tunewright-*/*/report.html"))) == 1
    thawed = pickle.loads(pickle.dumps(estimator))
    thawed.predict(TEXTS)
    assert estimator.run_folder_ is None
    del estimator, thawed
    assert list(tmp_path.iterdir()) == []


def test_a_fit_that_fails_leaves_nothing_behind(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(DataError) as caught:
        make().fit(TEXTS, ["one"] * len(TEXTS))
    assert caught.tb is not None  # which holds the frames of the fit
    assert list(tmp_path.iterdir()) == []


def test_runs_go_to_output_where_it_is_given(make: Make, tmp_path: Path) -> None:
    first = make(output=tmp_path).fit(TEXTS, NAMES)
    second = make(output=str(tmp_path)).fit(TEXTS, NAMES)
    assert first.run_folder_ is not None
    assert {first.run_folder_, second.run_folder_} == set(tmp_path.iterdir())
    assert (first.run_folder_ / "report.html").is_file()


def test_validation_rows_calibrate_the_probabilities(make: Make) -> None:
    fitted = make(validation_fraction=0.25).fit(TEXTS, NAMES)
    assert fitted.trained_model.predictor.task.temperature != 1.0


def test_class_weights_are_given_by_label(make: Make) -> None:
    fitted = make(class_weight={1: 2.0, 0: 0.5}).fit(TEXTS, [1, 0] * 9)
    assert fitted.trained_model.predictor.task.weights == (0.5, 2.0)


def test_settings_are_named_shortly_or_by_section(make: Make, tmp_path: Path) -> None:
    settings = {"task": {"label_smoothing": 0.1}, "training": {"precision": "fp32"}, "max_steps": 1}
    fitted = make(settings=settings, output=tmp_path).fit(TEXTS, NAMES)
    assert fitted.trained_model.predictor.task.label_smoothing == 0.1
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 1


def test_it_is_quiet(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    make().fit(TEXTS, NAMES).predict(TEXTS)
    assert capfd.readouterr() == ("", "")


def test_it_ends_a_pipeline(make: Make) -> None:
    steps = [("lower", FunctionTransformer(lowered)), ("classify", make())]
    pipeline = Pipeline(steps).set_params(classify__learning_rate=1e-3).fit(TEXTS, NAMES)
    assert pipeline.predict_proba(["A GOOD FILM"]).shape == (1, 2)
    assert pipeline.classes_.tolist() == ["bad", "good"]


def test_cross_validation_scores_it(make: Make) -> None:
    scores = cross_val_score(make(), TEXTS, NAMES, cv=3, scoring="roc_auc")
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()


def test_a_grid_is_searched_by_two_processes_in_silence(
    make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    grid = {"learning_rate": [1e-5, 1e-3]}
    search = GridSearchCV(make(), grid, cv=2, n_jobs=2, error_score="raise").fit(TEXTS, NAMES)
    assert len(search.cv_results_["params"]) == 2
    assert search.predict(TEXTS).shape == (len(TEXTS),)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a good film", 'X: it is a "str". A sequence of texts is needed.'),
        (["a", None], "X, row 1: it holds None. A text is needed."),
        (
            pd.DataFrame({"text": TEXTS}),
            "X: it has the shape (18, 1). One text a row is needed. "
            'Pass one column, such as X["text"].',
        ),
        (TEXTS[:5], "X and y: there are 5 texts and 18 labels. Each text has one label."),
    ],
)
def test_anything_but_texts_is_refused(make: Make, texts: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        make().fit(texts, NAMES)
    assert str(caught.value) == message


LABELS = "Labels are texts, whole numbers or booleans, all of one type."


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([["a"], ["b"]] * 9), "y: it has the shape (18, 1). One label a text is needed."),
        ([0.5, 1.0] * 9, f"y: it holds missing values or fractions. {LABELS}"),
        ([["a"], ["a", "b"]] * 9, f"y: it holds values of the types list. {LABELS}"),
        ([Mood.GOOD, Mood.BAD] * 9, f"y: it holds values of the types Mood. {LABELS}"),
        ([float("nan"), "a"] * 9, f"y: it holds values of the types number, str. {LABELS}"),
        ([True, 2] * 9, f"y: it holds values of the types bool, number. {LABELS}"),
        ([None, "a"] * 9, f"y: it holds values of the types NoneType, str. {LABELS}"),
        (np.array(["2020-01-01"] * 18, "M8[D]"), f"y: it is of the type datetime64[D]. {LABELS}"),
    ],
)
def test_anything_but_plain_labels_is_refused(make: Make, labels: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        make().fit(TEXTS, labels)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"learning_rate": 1e-3},
            "TextClassifier: settings holds training.learning_rate. The estimator sets it itself. "
            "Pass learning_rate= instead.",
        ),
        (
            {"task": {"class_weights": {"good": 2.0}}},
            "TextClassifier: settings holds task.class_weights. The estimator sets it itself. "
            "Pass class_weight= instead.",
        ),
        (
            {"max_step": 3},
            "settings: max_step is not a setting. Did you mean training.max_steps?",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(make: Make, settings: Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        make(settings=settings).fit(TEXTS, NAMES)
    assert str(caught.value) == message
