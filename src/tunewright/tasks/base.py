"""The task contract: everything the rest of the house knows about a downstream task.

    training    row --encode--> features --vary--> --pack--> batch --forward--> outputs
                    --loss--> Loss
    prediction  row --encode--> features --pack--> batch --generate--> outputs
                    --decode--> parts --join--> answer
    evaluation  answers, rows --statistics, reduce--> metrics, figures
    saving      model --extra_files--> folder --stock, stock_outputs--> the parity gate

A task is a frozen dataclass of plain values. It holds no model and no tokenizer, is saved beside
the weights as `task.json`, and comes back whole wherever the model is used. The same `encode`
serves training, evaluation, prediction and serving.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from tunewright.answers import Answer, LabelValue
from tunewright.errors import SettingsError, listed, nearest
from tunewright.figures import Figure, Mistake
from tunewright.metrics import MetricSpec
from tunewright.models.batch import Batch, PackedStream
from tunewright.models.files.architecture import ENCODER, Kind
from tunewright.models.files.loading import load_stock
from tunewright.models.generating.generation import Generation
from tunewright.models.heads import choose_route
from tunewright.models.text.new_tokenizer import TokenizerStyle
from tunewright.types import Features, PictureStream, ReadsLong, Role, Row, Rows

Outputs = Mapping[str, Tensor]
Statistics = Mapping[str, np.ndarray]
Reducer = Callable[[np.ndarray | None], Mapping[str, float]]
Scope = Literal["row", "document", "batch"]


@dataclass(frozen=True)
class Loss:
    """A sum over `count` units (rows, tokens, or their weights), never a mean.

    Sums and counts of micro-batches, devices and processes add up exactly to those of one large
    batch.
    """

    sum: Tensor
    count: float


class Task(ABC):
    """One downstream task. See the module's head for how the methods follow one another.

    Subclasses are frozen pydantic dataclasses; each field is a setting of `[task]`, with its
    help in the field's metadata.

    `kind` is the library's kind of model and `library` the one that users know for it; `streams`
    names the streams of a batch, and `training_streams` those of them that no answer may look at;
    `pipeline_tag` is the Hub's name of the task; `own_usage` and `stock_usage` are the lines of
    Python that its model card shows. `text_roles` are read as texts, of which `optional_texts` may
    be blank, and `picture_roles` as pictures; a bare text, or picture, without names fills the
    first of `bare_roles`, or of `text_roles` where there are none. A task that `generates` writes
    texts, and the settings of `[generation]` are for it. `tokenizer_style` is that of a model which
    the task can begin from nothing; None where it needs one that exists.

    `scope` says what a loss is summed over, and `scope_of` says it of one update: rows, documents
    (all windows of a row), or a whole update (every row's loss looks at all others). Where that
    does not fit into a forward pass the outputs of several are joined: each output is of rows, of
    windows or of tokens, or stands there once for each pass.
    """

    name: ClassVar[str]
    roles: ClassVar[tuple[Role, ...]]
    metrics: ClassVar[tuple[MetricSpec, ...]]
    kind: ClassVar[Kind] = ENCODER
    streams: ClassVar[tuple[str, ...]] = ("text",)
    training_streams: ClassVar[tuple[str, ...]] = ()
    library: ClassVar[str] = "transformers"
    pipeline_tag: ClassVar[str] = "text-classification"
    own_usage: ClassVar[str] = ""
    stock_usage: ClassVar[str] = ""
    text_roles: ClassVar[tuple[str, ...]] = ("text",)
    picture_roles: ClassVar[tuple[str, ...]] = ()
    bare_roles: ClassVar[tuple[str, ...]] = ()
    optional_texts: ClassVar[tuple[str, ...]] = ()
    label_role: ClassVar[str | None] = None
    generates: ClassVar[bool] = False
    tokenizer_style: ClassVar[TokenizerStyle | None] = None

    @property
    def scope(self) -> Scope:
        return "row"

    @property
    def reads_long(self) -> ReadsLong:
        """What happens to texts of more than `max_length` tokens; mixed: not to all the same."""
        return getattr(self, "long", "truncate")

    def scope_of(self, features: Sequence[Features]) -> Scope:
        """Returns what the loss of an update is summed over, given some of its features."""
        return self.scope

    @abstractmethod
    def learn(self, rows: Iterable[Row]) -> Self:
        """Returns the task with what only training data can tell, such as its label names."""

    def started_from(self, source: Path) -> Self:
        """Returns the task with what the folder of the starting model says, such as its pooling."""
        return self

    @abstractmethod
    def encode(self, row: Row, processor: Any) -> list[Features]:
        """Returns the model inputs of one row; deterministic. Training-only roles may be absent."""

    def remarks(self, split: str, rows: Iterable[Sequence[Features]]) -> Sequence[str]:
        """Returns sentences on what was done to the rows of a split, but for cutting texts."""
        return ()

    def audited(self, rows: Rows) -> Rows:
        """Returns rows in which the audit finds repeats: by default they themselves."""
        return rows

    def unseen_label(self, row: Row) -> LabelValue | None:
        """Returns a label of a row that `learn` has not seen, or None.

        Rows that are read on demand are learned from a sample; each is asked for when it is met.
        """
        return None

    def vary(self, features: Features, rng: np.random.Generator) -> Features:
        """Returns the features as training sees them; `rng` depends on (seed, epoch, row) only."""
        return features

    def texts(self, row: Row) -> list[str]:
        """Returns what a new tokenizer learns from."""
        return [text for role in self.text_roles if isinstance(text := row.values.get(role), str)]

    def units(self, rows: Sequence[Sequence[Features]]) -> Sequence[Sequence[Features]]:
        """Returns what an update counts as its rows in training; by default the encoded rows.

        A task that learns from each window by itself gives each one, so that one long text does
        not make one huge update.
        """
        return rows

    def update_size(self, num_rows: int, batch_size: int) -> int:
        """Returns how many rows an update has: `batch_size`, or fewer to train all of the task."""
        return batch_size

    def updates(
        self, order: np.ndarray, rows: Sequence[Sequence[Features]], batch_size: int
    ) -> Iterator[np.ndarray]:
        """Yields the rows of each update of an epoch, given their random order.

        Every row stands in one update; there are as many as slices of `batch_size` would make.
        """
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]

    @abstractmethod
    def build(
        self, source: Path, processor: Any, *, dropout: float | None, seed: int
    ) -> tuple[Any, tuple[str, ...]]:
        """Returns the library's own model class with this task's head, and notices to show."""

    @abstractmethod
    def forward(self, model: Any, batch: Batch) -> Outputs:
        """Runs the model; the only differentiable call."""

    def generate(self, model: Any, batch: Batch, processor: Any, settings: Generation) -> Outputs:
        """Runs the model to answer; never differentiated. By default that is `forward`.

        A task that `generates` writes texts here, as the settings say. What it puts out for a row
        does not depend on the other rows of the batch.
        """
        return self.forward(model, batch)

    def examine(self, model: Any, batch: Batch, processor: Any, settings: Generation) -> Outputs:
        """Runs the model where its answers are only measured; by default that is `generate`.

        A task that can be measured without writing spares itself the writing here.
        """
        return self.generate(model, batch, processor, settings)

    def route(self, model: Any) -> str:
        """Puts the model on the packed route where this task's outputs are the same there.

        Returns `packed`, or `padded: ` and the reason.
        """

        def outputs(model: Any, stream: PackedStream) -> Tensor:
            row_ids = tuple(range(stream.num_sequences))
            batch = Batch(dict.fromkeys(self.streams, stream), {}, row_ids)
            return torch.cat([values.flatten() for values in self.forward(model, batch).values()])

        return choose_route(model, outputs)

    def stock(self, folder: Path) -> Any:
        """Returns the model that the library which users know reads from a saved folder."""
        return load_stock(folder, self.kind)

    def stock_outputs(self, stock: Any, batch: Batch) -> Outputs:
        """Returns what that model puts out, in the names of `forward`, for the parity gate.

        An output that only we have is left out. By default `forward` runs it the padded way.
        """
        return self.forward(stock, batch)

    def settle(self, model: Any) -> Self:
        """Puts into a trained model what it can carry itself, once, before it is saved.

        Returns the task without that, such as the scale of its targets.
        """
        return self

    def models(self, model: Any) -> Mapping[str, tuple[Task, Any]]:
        """Returns the models to be saved with their tasks, by the folder each gets; "" is here."""
        return {"": (self, model)}

    def stock_lines(self) -> str:
        """Returns the lines of Python that show stock libraries on the model card."""
        return self.stock_usage

    def limits(self) -> Sequence[str]:
        """Returns sentences for the model card on what stock libraries answer in another way."""
        return ()

    def extra_files(self, model: Any) -> Mapping[str, str | bytes]:
        """Returns files to be saved beside the model, by name."""
        return {}

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """Returns the loss of a batch as a sum and a count."""

    @abstractmethod
    def decode(self, outputs: Outputs, features: Sequence[Features], processor: Any) -> list[Any]:
        """Returns one part for each of `features`, in the user's terms."""

    def join(self, parts: Sequence[Any], row: Row) -> Any:
        """Puts together what `encode` cut apart; by default a row has one part."""
        (part,) = parts
        return part

    def calibrate(self, answers: Sequence[Any], rows: Sequence[Row]) -> Self:
        """Returns the task with what validation can fit, such as a temperature."""
        return self

    def fitted_as(self) -> Sequence[str]:
        """Returns sentences on what `calibrate` could not fit."""
        return ()

    @abstractmethod
    def statistics(self, answer: Any, row: Row) -> Mapping[str, Any]:
        """Returns the figures of one row that `reduce` adds up: numbers or small arrays."""

    def stack(self, statistics: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Stacks the statistics of rows along a new first axis."""
        return stack(statistics)

    @abstractmethod
    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        """Returns the metrics of rows whose statistics are stacked along the first axis.

        `counts` (R,) says how often each row counts (a bootstrap draw); None is once each.
        """

    def prepare(self, statistics: Statistics) -> Reducer:
        """Returns `reduce` of these statistics as a function of the counts alone.

        A task whose metrics share work between bootstrap draws does that work here, once.
        """
        return lambda counts: self.reduce(statistics, counts)

    @abstractmethod
    def compared(self, answer: Any, row: Row) -> tuple[Any, Any]:
        """Returns the true and the predicted value, for metrics of the user's own."""

    def part_of(self, row: Row) -> str:
        """Returns the part of a multi-task that a row belongs to; others have none."""
        return ""

    def measured_as(self, statistics: Statistics) -> Sequence[str]:
        """Returns sentences on how the metrics are counted, and what they do not show."""
        return ()

    def shown(self, row: Row) -> str:
        """Returns a row's text as a list of mistakes shows it, and slices by length measure it."""
        values = (row.values.get(role) for role in self.text_roles)
        texts = (each if isinstance(each, list | tuple) else [each] for each in values)
        return "\n".join(text for own in texts for text in own if isinstance(text, str))

    def probe_picture(self, rng: np.random.Generator) -> PictureStream:
        """Returns a random picture, for checks of a model without rows."""
        raise NotImplementedError

    def thumbnail(self, row: Row) -> bytes | None:
        """Returns a row's picture for the report, a small JPEG; None where rows have none."""
        return None

    def severity(self, answer: Any, row: Row) -> float | None:
        """Returns how bad a mistake the answer is, to show the worst first; None for a right one.

        By default the score of a wrong answer: the surer, the worse.
        """
        true, answered = self.compared(answer, row)
        return None if true == answered else float(getattr(answer, "score", 0.0))

    def mistakes(
        self, statistics: Statistics, rows: Rows, limit: int
    ) -> tuple[int, Sequence[Mistake]] | None:
        """Returns how many mistakes there are, and the worst, where only all rows together tell.

        By default None: `severity` says of each row by itself.
        """
        return None

    def figures(self, statistics: Statistics) -> Sequence[Figure]:
        """Returns what the report shows of an evaluation beside its metrics."""
        return ()

    def by_part(self, statistics: Statistics) -> Mapping[str, tuple[Task, Statistics]]:
        """Returns the tasks that this one is made of, with the figures of their rows; "" is it."""
        return {"": (self, statistics)}

    def within(self, limit: int) -> Self:
        """Returns the task with its lengths settled for a model that reads `limit` tokens."""
        return self

    def continued(self, previous: Task) -> Self:
        """Returns the task with what a model trained before already knows, such as its labels."""
        return self

    def to_json(self) -> dict[str, Any]:
        return {"task": self.name, **asdict(self)}  # type: ignore[call-overload]

    def to_json_text(self) -> str:
        """Returns what stands in `task.json`."""
        return json.dumps(self.to_json(), ensure_ascii=False, indent=2) + "\n"


def each_window(rows: Sequence[Sequence[Features]]) -> list[list[Features]]:
    """Returns the windows of encoded rows, each as a row of its own."""
    return [[window] for windows in rows for window in windows]


def build_task(task_class: type[Task], options: Mapping[str, Any], where: str = "[task]") -> Task:
    """Returns a task from its settings; every mistake is a SettingsError that names its key."""
    known = [item.name for item in fields(task_class)]  # type: ignore[arg-type]
    for key in options:
        if key not in known:
            hint = nearest(key, known)
            remedy = f"Did you mean task.{hint}?" if hint else f"It has {listed(known, 20)}."
            raise SettingsError(where, f"task.{key} is not a setting of {task_class.name}", remedy)
    try:
        return TypeAdapter(task_class).validate_python(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        where_in = first["loc"][0]  # what follows are the branches of its type
        raise SettingsError(
            where, f"task.{where_in} is {first['input']!r}", f"{first['msg']}."
        ) from None


def load_task(folder: Path, find: Callable[[str], type[Task]]) -> Task | None:
    """Returns the task saved in a model folder as `task.json`, or None where there is none."""
    file = folder / "task.json"
    if not file.exists():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    return build_task(find(values.pop("task")), values, str(file))


def stack(statistics: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Stacks the statistics of rows along a new first axis."""
    rows = list(statistics)
    return {name: np.asarray([row[name] for row in rows]) for name in rows[0]} if rows else {}


__all__ = ["Answer", "Loss", "Outputs", "Scope", "Statistics", "Task", "build_task", "stack"]
