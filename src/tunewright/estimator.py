"""A scikit-learn classifier of texts.

    from tunewright import TextClassifier

    classifier = TextClassifier(num_train_epochs=2).fit(texts, labels)
    classifier.predict(["A fine film."])        # array(['positive'])
    cross_val_score(TextClassifier(), texts, labels)

It is a training run like any other; scikit-learn's tools (`clone`, `Pipeline`, `GridSearchCV`,
`cross_val_score`, joblib) see an estimator whose X is a sequence of strings.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from tunewright.devices import Precision
from tunewright.errors import DataError, SettingsError
from tunewright.run.config import RunConfig, compose, set_key, task_keys
from tunewright.run.loaded import TrainedModel, load
from tunewright.run.train import train

TASK, WHERE = "text-classification", "TextClassifier"
Array = npt.NDArray[Any]

# Settings that the estimator makes itself, and what to do instead.
TAKEN = {
    "model.name": "Pass model= instead.",
    "training.num_train_epochs": "Pass num_train_epochs= instead.",
    "training.learning_rate": "Pass learning_rate= instead.",
    "training.batch_size": "Pass batch_size= instead.",
    "training.seed": "Pass seed= instead.",
    "task.name": "Leave it out.",
    "task.labels": "Leave it out: the labels are those of y.",
    "task.max_length": "Pass max_length= instead.",
    "task.class_weights": "Pass class_weight= instead.",
    "data.columns": "Leave it out: the texts are X and the labels y.",
    "data.split.seed": "Pass seed= instead.",
    "data.split.validation": "Pass validation_fraction= instead.",
    "output.folder": "Pass output= instead.",
}


class TextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Fine-tunes a Transformer to classify texts.

    Parameters
    ----------
    model : "starter", a model folder, or a Hub id.
    num_train_epochs : passes over the data.
    learning_rate : peak step size of AdamW.
    batch_size : rows of one update.
    max_length : tokens of a text; longer ones are cut. None: 256, or the model's limit if less.
    class_weight : None, "balanced", or a weight for each class by its label.
    seed : seeds the head, the order, dropout and the split.
    settings : any other setting by its name, short or full (`{"max_steps": 100}`), or by section
        as in a TOML file (`{"training": {"max_steps": 100}}`).
    output : the folder in which each fit makes a run folder with its report, audit and model.
        None: a temporary folder, removed with the estimator.
    validation_fraction : share of the rows, [0, 1), set aside to pick the best weights and to
        calibrate the probabilities. 0: train on all, and keep the last weights.

    Attributes
    ----------
    classes_ : the labels, sorted, (C,), in the dtype of y.
    run_folder_ : where `output` got the run; None for a temporary one.

    A fitted estimator is pickled with the bytes of its model folder (safetensors and JSON); the
    folder is written out again when the unpickled estimator is first asked.
    """

    def __init__(
        self,
        model: str | PathLike[str] = "starter",
        *,
        num_train_epochs: float = 3.0,
        learning_rate: float = 5e-5,
        batch_size: int = 32,
        max_length: int | None = None,
        class_weight: Literal["balanced"] | Mapping[Any, float] | None = None,
        seed: int = 42,
        settings: Mapping[str, Any] | None = None,
        output: str | PathLike[str] | None = None,
        validation_fraction: float = 0.0,
    ) -> None:
        self.model = model
        self.num_train_epochs = num_train_epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_length = max_length
        self.class_weight = class_weight
        self.seed = seed
        self.settings = settings
        self.output = output
        self.validation_fraction = validation_fraction

    def fit(self, X: Sequence[str], y: Sequence[Any]) -> Self:
        """Trains on texts `X` and their labels `y` (text, whole numbers or booleans), quietly.

        Raises DataError when X is no sequence of texts or y no sequence of as many labels of at
        least two classes, SettingsError for an argument or setting that cannot be used, and what
        `tunewright.train` raises.
        """
        texts, labels = _texts(X), _labels(y)
        if len(texts) != len(labels):
            raise DataError(
                "X and y",
                f"there are {len(texts):,} texts and {len(labels):,} labels",
                "Each text has one label.",
            )
        classes, codes = np.unique(labels, return_inverse=True)
        plain = _plain(classes)
        owned = _TemporaryFolder() if self.output is None else None
        data = {"text": texts, "label": [plain[code] for code in codes]}
        try:
            config = self._config([_name(label) for label in plain], owned)
            run = train({"train": data}, config)
        except BaseException:
            if owned is not None:
                owned.remove()  # now: the error's traceback would keep it
            raise
        self.classes_ = classes
        self.run_folder_ = run.path if owned is None else None
        self._kept = KeptModel(run.folder.model, config.training.precision, owned)
        return self

    def predict(self, X: Sequence[str]) -> Array:
        """Returns the likeliest label of each text, in the dtype of y; a tie goes to the first."""
        probabilities = self.predict_proba(X)
        return np.asarray(self.classes_[probabilities.argmax(1)])

    def predict_proba(self, X: Sequence[str]) -> npt.NDArray[np.float64]:
        """Returns the probabilities of each text's classes, (len(X), C), columns as `classes_`."""
        check_is_fitted(self)
        answers = self.trained_model.predict(_texts(X))
        scores = [list(answer.scores.values()) for answer in answers]
        probabilities = np.array(scores, np.float64).reshape(-1, len(self.classes_))
        return probabilities / probabilities.sum(1, keepdims=True)

    @property
    def trained_model(self) -> TrainedModel:
        """The model behind the estimator, with `predict`, `stream` and `evaluate` of its own.

        Raises NotFittedError before `fit`.
        """
        check_is_fitted(self)
        return self._kept.model

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_kept")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def _config(self, labels: Sequence[str], owned: _TemporaryFolder | None) -> RunConfig:
        """Returns the run that the arguments describe; what nobody could read is not made."""
        weights: Any = self.class_weight
        if isinstance(weights, Mapping):
            weights = {_name(label): weight for label, weight in weights.items()}
        arguments = {
            "model": {"name": fspath(self.model)},
            "training": {
                "num_train_epochs": self.num_train_epochs,
                "learning_rate": self.learning_rate,
                "batch_size": self.batch_size,
                "seed": self.seed,
            },
            "task": {
                "name": TASK,
                "labels": labels,
                "max_length": self.max_length,
                "class_weights": weights,
            },
            "data": {"split": {"validation": self.validation_fraction, "seed": self.seed}},
            "output": {"folder": fspath(self.output or (owned and owned.path) or ".")},
        }
        unread: dict[str, Any] = {}
        if owned is not None:
            unread["training"] = {"track": (), "save_total_limit": 0}
            unread["evaluation"] = {"num_resamples": 0}
        whole = {"data": {"split": {"test": 0.0}}}
        return compose(whole, unread, *_layers(self.settings or {}), arguments, where=WHERE)


class _TemporaryFolder:
    """A folder that is removed with this object, or when Python ends.

    A forked copy of the process that made it leaves it alone.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="tunewright-"))
        self.remove = weakref.finalize(self, _remove, self.path, os.getpid())


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


class KeptModel:
    """A trained model folder, which travels inside a pickle as the bytes of its files.

    `owned` is the temporary folder that it lies in, if it does.
    """

    def __init__(self, folder: Path, precision: Precision, owned: _TemporaryFolder | None) -> None:
        self._folder: Path | None = folder
        self._precision, self._owned = precision, owned
        self._files: dict[str, bytes] = {}
        self._model: TrainedModel | None = None

    @property
    def model(self) -> TrainedModel:
        """The model, loaded when it is first asked for."""
        if self._model is None:
            self._model = load(self._written(), self._precision)
        return self._model

    def _written(self) -> Path:
        """Returns the model folder, written out first where only its bytes are there."""
        if self._folder is None:
            self._owned = _TemporaryFolder()
            for name, data in self._files.items():
                (self._owned.path / name).write_bytes(data)
            self._folder, self._files = self._owned.path, {}
        return self._folder

    def __getstate__(self) -> dict[str, Any]:
        files = self._files
        if self._folder is not None:
            files = {path.name: path.read_bytes() for path in sorted(self._folder.iterdir())}
        return {"precision": self._precision, "files": files}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._precision, self._files = state["precision"], state["files"]
        self._folder, self._model, self._owned = None, None, None


def _layers(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns settings, given by section or by name, as layers of a configuration.

    Raises SettingsError for an unknown name, and for what the estimator sets itself.
    """
    sections: dict[str, Any] = {}
    named: dict[str, Any] = {}
    keys = task_keys(TASK)
    for key, value in settings.items():
        if key in RunConfig.model_fields and isinstance(value, Mapping):
            sections[key] = dict(value)
        else:
            set_key(named, key, value, keys)
    for path in (*_paths(sections), *_paths(named)):
        if path in TAKEN:
            raise SettingsError(
                WHERE, f"settings holds {path}", "The estimator sets it itself.", TAKEN[path]
            )
    return [sections, named]


def _paths(layer: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields the dotted path of every section and setting of a layer."""
    for key, value in layer.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")


def _texts(X: Any) -> list[str]:
    """Returns X as a list of strings. Raises DataError when it is anything else."""
    shape = getattr(X, "shape", (0,))
    if len(shape) != 1:
        raise DataError(
            "X",
            f"it has the shape {tuple(shape)}",
            "One text a row is needed.",
            'Pass one column, such as X["text"].',
        )
    if isinstance(X, str | Mapping) or not hasattr(X, "__iter__"):
        raise DataError("X", f'it is a "{type(X).__name__}"', "A sequence of texts is needed.")
    texts = X.tolist() if hasattr(X, "tolist") else list(X)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"X, row {place}", f"it holds {text!r:.60}", "A text is needed.")
    return texts


def _labels(y: Any) -> Array:
    """Returns y as an array (R,). Raises DataError when it holds anything but plain labels."""
    if isinstance(y, list | tuple):  # an array made of a list would turn one type into another
        _check_alike(y)
    labels = np.asarray(y)
    if labels.ndim != 1:
        raise DataError("y", f"it has the shape {labels.shape}", "One label a text is needed.")
    values = labels.tolist()
    if labels.dtype == object and not all(type(value) is str for value in values):
        _check_alike(values)
        labels = np.array(values)
        if labels.dtype == object:
            raise _no_labels("it holds whole numbers beyond 64 bits")
    if labels.dtype.kind not in "OUTbiuf":
        raise _no_labels(f"it is of the type {labels.dtype}")
    if labels.dtype.kind == "f" and not (labels == np.floor(labels)).all():
        raise _no_labels("it holds missing values or fractions")
    return labels


def _check_alike(values: Sequence[Any]) -> None:
    """Raises DataError for values that are no labels, and for labels of several kinds."""
    kinds = set(map(_kind, values))
    if len(kinds) > 1 or not kinds <= {"bool", "number", "str"}:
        raise _no_labels(f"it holds values of the types {', '.join(sorted(kinds))}")


def _kind(value: Any) -> str:
    """Returns what a label is; a boolean is no number here, and a text enumeration no text."""
    if type(value) is bool or isinstance(value, np.bool_):
        return "bool"
    if type(value) in (int, float) or isinstance(value, np.number):
        return "number"
    return "str" if type(value) in (str, np.str_) else type(value).__name__


def _no_labels(found: str) -> DataError:
    return DataError("y", found, "Labels are texts, whole numbers or booleans, all of one type.")


def _plain(classes: Array) -> list[str | int | bool]:
    """Returns the classes as label values; whole numbers stored as floats become texts."""
    return [str(value) if isinstance(value, float) else value for value in classes.tolist()]


def _name(label: Any) -> str:
    """Returns a label as it is named in the task's settings."""
    return str(label).lower() if isinstance(label, bool | np.bool_) else str(label)
