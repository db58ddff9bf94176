"""What comes before the first step: settings checked, data read, tokenised and audited."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.data import is_dropped
from tunewright.data.auditing.audit import Audit, audit
from tunewright.data.auditing.findings import UnseenLabel
from tunewright.data.auditing.ledger import TruncationLedger
from tunewright.data.large.blocks import BlockRows
from tunewright.devices import find_device, settle_allocator, settle_kernels
from tunewright.devices.processes import join_processes
from tunewright.models.adapting.adapter_config import prompt_length
from tunewright.models.files.architecture import load_config
from tunewright.models.files.folder import check_model_folder, find_model
from tunewright.models.text.tokenizers import load_tokenizer, max_length_of
from tunewright.run.config import RunConfig
from tunewright.run.judging.judge import Judge, OwnMetric
from tunewright.run.preparing.cache import RowCache
from tunewright.run.preparing.encoded import Encoder
from tunewright.run.preparing.prepare import check_column, prepare
from tunewright.run.preparing.streamed import (
    decide_streaming,
    few_of,
    in_memory,
    learned_from,
    unseen_label_error,
)
from tunewright.run.resuming.begun import digest_of_blocks
from tunewright.tasks import find_task
from tunewright.tasks.base import Task, build_task, load_task
from tunewright.training.course import check_metric
from tunewright.training.on_demand import EncodedOnce, EncodedOnDemand
from tunewright.training.order import EncodedRow
from tunewright.training.sharding import check_can_be_sharded
from tunewright.types import Row, Rows


@dataclass(frozen=True)
class Notice:
    """A sentence that the user should read."""

    sentence: str


@dataclass(frozen=True)
class Audited:
    """An audit, what was said on the way to it, and the training rows that it looked at."""

    audit: Audit
    notices: Sequence[str]
    rows: Rows


def audit_only(sources: Mapping[str, Any], config: RunConfig) -> Audited:
    """Reads and tokenises the data as training does, and trains nothing.

    The gates are left to the caller. Raises UserError for data that cannot be read whole.
    """
    ground = Groundwork(sources, config, (), lambda _: None)
    _, found = ground.look()
    return Audited(found, ground.notices, in_memory(ground.prepared.splits["train"]))


class Groundwork:
    """The settings, the task, the tokenizer and the rows of a run, checked against one another.

    What is wrong is raised here, before anything is written or a model is built.
    """

    def __init__(
        self,
        sources: Mapping[str, Any],
        config: RunConfig,
        own_metrics: Sequence[OwnMetric],
        tell: Callable[[Notice], None],
    ) -> None:
        self.config, self._tell = config, tell
        self.notices: list[str] = []
        self.digests: dict[str, str] = {}
        settle_allocator()
        self.processes = join_processes()
        self.device = find_device(config.training.precision, self.processes.local_rank)
        settle_kernels(self.device.kind)
        task = build_task(find_task(config.task.name), config.task.options)
        evaluation = config.evaluation
        self.judge = Judge(
            evaluation.num_resamples,
            evaluation.slices,
            evaluation.num_mistakes,
            own_metrics,
            self.processes,
        )
        self.judge.check_own(task)
        self.directions = {spec.name: spec.higher_is_better for spec in task.metrics} | {
            metric.__name__: bool(getattr(metric, "higher_is_better", True))
            for metric in own_metrics
        }
        wanted = config.training.metric_for_best_model
        if wanted is not None:
            check_metric(wanted, self.directions)
        if self.is_sharded:
            check_can_be_sharded(config.adapter)
        self.source = find_model(config.model.name)
        self.note(*check_model_folder(self.source, task.kind))
        if config.data.streaming == "auto":  # by the memory of one process, for all
            decided = self.processes.led(lambda: decide_streaming(sources["train"], config.data))
            data = config.data.model_copy(update={"streaming": decided})
            self.config = config = config.model_copy(update={"data": data})
        self.prepared = prepare(sources, task.roles, task.label_role, config.data)
        self.note(*self.prepared.notices)
        for column in config.evaluation.slices:
            for rows in self.prepared.splits.values():
                check_column(rows, column)
        self.tokenizer = load_tokenizer(self.source)
        self.task = self._learned(task)
        self.best_metric = wanted or self.task.metrics[0].name  # what is learned may rule some out

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a share of the weights."""
        return self.config.training.parallel == "fsdp" and not self.processes.is_alone

    def note(self, *sentences: str) -> None:
        """Tells the user, once, and keeps what was told for the run folder."""
        for sentence in sentences:
            self.notices.append(sentence)
            if self.processes.leads:
                self._tell(Notice(sentence))

    def _learned(self, task: Task) -> Task:
        """Returns the task with what the training rows and the starting model have to tell."""
        rows = self.prepared.splits["train"]
        if isinstance(rows, BlockRows):
            task, sentence = learned_from(task, rows)
            self.note(sentence)
        else:
            task = task.learn(rows)
        learned = task.started_from(self.source)
        previous = load_task(self.source, find_task)
        if previous is not None:
            learned = learned.continued(previous)
        limit = max_length_of(load_config(self.source), self.tokenizer)
        return learned.within(limit - prompt_length(self.config.adapter))

    def look(self) -> tuple[dict[str, Sequence[EncodedRow]], Audit]:
        """Encodes every split, counting what is cut, and audits the data.

        Rows that stay on the disk are looked at in a sample, and encoded as they are needed.
        Returns the encoded rows of training and validation, and the audit; the digest of each
        split is then in `digests`.
        """
        encoded: dict[str, Sequence[EncodedRow]] = {}
        ledgers: dict[str, TruncationLedger] = {}
        encoder = Encoder(self.task, self.tokenizer, RowCache.usual(), self.note)
        splits = self.prepared.splits
        looked_at = {name: in_memory(rows) for name, rows in splits.items()}
        on_disk = splits["train"] if isinstance(splits["train"], BlockRows) else None
        for name, rows in looked_at.items():
            limit = getattr(self.task, "max_length", None)
            ledger = ledgers[name] = TruncationLedger(limit, self.task.reads_long)
            if on_disk is not None:
                self.digests[name] = encoder.digest(few_of(rows), ledger)
                continue
            made, self.digests[name] = encoder.all(rows, ledger)
            self.note(*self.task.remarks(name, made))
            if name != "test":  # judged later, streaming
                encoded[name] = made
        if on_disk is not None:
            encoded["train"] = EncodedOnDemand(
                on_disk, lambda row: self._met(row, on_disk.columns, encoder)
            )
            self.digests["train"] = digest_of_blocks(on_disk, self.digests["train"])
            if "validation" in splits:
                encoded["validation"] = EncodedOnce(splits["validation"], encoder.row)
        found = audit(
            {name: self.task.audited(rows) for name, rows in looked_at.items()},
            (*self.task.text_roles, *self.task.picture_roles),
            self.task.label_role,
            ledgers,
            self.config.audit,
            {name: len(rows) for name, rows in splits.items()},
            self.task.optional_texts,
            unseen_labels(self.task, looked_at, self.config.audit.max_rows),
        )
        return encoded, found

    def _met(self, row: Row, columns: Mapping[str, str], encoder: Encoder) -> EncodedRow | None:
        """Encodes a row that was not looked at before; None for one that is dropped."""
        data = self.config.data
        drops = {"drop_unlabelled": data.drop_unlabelled, "drop_blank": data.drop_blank}
        if is_dropped(row, columns, self.task.roles, **drops):
            return None
        unseen = self.task.unseen_label(row)
        if unseen is not None:
            raise unseen_label_error(row, unseen, getattr(self.task, "labels", ()))
        return encoder.row(row)


def unseen_labels(task: Task, splits: Mapping[str, Rows], max_rows: int) -> list[UnseenLabel]:
    """Returns labels that training has not seen, one of a row at most, of so many rows a split.

    None of a task with a role of single labels: there the audit looks for itself.
    """
    if task.label_role is not None or type(task).unseen_label is Task.unseen_label:
        return []
    found: dict[tuple[str, str], list[str]] = {}
    for name, rows in splits.items():
        step = max(1, -(-len(rows) // max_rows))
        for row in (rows[place] for place in range(0, len(rows) if name != "train" else 0, step)):
            label = task.unseen_label(row)
            if label is not None:
                found.setdefault((name, str(label)), []).append(row.where)
    return [
        UnseenLabel(split, label, len(places), places[0])
        for (split, label), places in found.items()
    ]
