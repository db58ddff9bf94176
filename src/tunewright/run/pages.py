"""Fills the report and the model card from what a run measured."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunewright import reports
from tunewright.errors import SettingsError
from tunewright.metrics.classification import ClassificationStatistics
from tunewright.metrics.curves import (
    class_figures,
    confusion_matrix,
    pr_curve,
    reliability_bins,
    roc_curve,
    thinned,
)
from tunewright.models.adapting.bases import PEFT_CONFIG, is_adapter_folder, read_base
from tunewright.reports import content
from tunewright.reports.card import OURS
from tunewright.run.config import read_config
from tunewright.run.judging.gallery import Pictured
from tunewright.run.judging.judge import EvaluationResult, lines_of
from tunewright.run.record import RunFolder
from tunewright.tasks import find_task
from tunewright.tasks.base import Statistics, Task, load_task
from tunewright.types import Estimate

# Curves of more classes than this make the picture unreadable; the others are in metrics.json.
MAX_CURVES = 8


def write_report(folder: RunFolder) -> None:
    """Writes `report.html` from what stands in the run folder."""
    reports.write_report(_content(folder, _task(folder)), folder.report)


def write_card(folder: RunFolder) -> None:
    """Writes the model card, `model/README.md`, from what stands in the run folder."""
    task, result = _task(folder), EvaluationResult.read(folder.evaluation)
    started_from = read_config(folder.config)["model"]["name"]
    known = {"starter": "sentence-transformers/all-MiniLM-L6-v2"}
    library, stock_usage, limits = task.library, task.stock_lines(), [*task.limits()]
    if is_adapter_folder(folder.model):
        library, stock_usage, told = _adapter_card(folder, task)
        limits += told
    card = content.CardContent(
        name=folder.path.name,
        task=task.name,
        pipeline_tag=task.pipeline_tag,
        library=library,
        own_usage=task.own_usage,
        stock_usage=stock_usage,
        metrics=result.metrics if result else {},
        labels=getattr(task, "labels", ()),
        base_model=known.get(started_from),
        started_from=started_from,
        split=result.split if result else "",
        num_evaluated=result.num_rows if result else 0,
        data_files=_data_files(folder),
        truncation=_ledger(folder.read_json("audit.json"), task),
        settings=settings_of(folder, task),
        limits=limits,
        versions=folder.read_json("run.json")["versions"],
    )
    folder.write_text("model/README.md", reports.model_card(card))


def _adapter_card(folder: RunFolder, task: Task) -> tuple[str, str, list[str]]:
    """Returns the library that reads an adapter's folder, how, and what it does not know."""
    base = read_base(folder.model)
    if not (folder.model / PEFT_CONFIG).is_file():
        return OURS, "", [
            f"The weights are those of a bottleneck adapter and its head; the model itself is "
            f"{base.name}. No other library knows this adapter."
        ]  # fmt: skip
    kind = task.kind.auto.__name__
    usage = (
        f"from peft import PeftModel\nfrom transformers import AutoConfig, {kind}\n\n"
        'folder = "path/to/this/folder"\n'
        f"base = {kind}.from_pretrained(\n"
        f"    {json.dumps(base.folder)}, config=AutoConfig.from_pretrained(folder)\n)\n"
        "model = PeftModel.from_pretrained(base, folder)"
    )
    limits = [
        "The weights are those of an adapter and its head; the model itself is needed beside it, "
        f"unchanged: {base.name}."
    ]
    if base.quantize is not None:
        limits.append(
            f"It was trained on the model's weights in {base.quantize}, as bitsandbytes keeps "
            "them. On the full weights stock libraries give somewhat other answers."
        )
    return "peft", usage, limits


def _content(folder: RunFolder, task: Task) -> content.ReportContent:
    result = EvaluationResult.read(folder.evaluation)
    found, about = folder.read_json("audit.json"), folder.read_json("run.json")
    events = list(lines_of(folder.metrics)) if folder.metrics.exists() else []
    return content.ReportContent(
        title=folder.path.name,
        task=task.name,
        created=about["created"],
        metrics=result.metrics if result else {},
        num_evaluated=result.num_rows if result else 0,
        baseline=_baseline(task, result),
        steps=[event for event in events if event["event"] == "step"],
        evaluations=[_evaluation(event) for event in events if event["event"] == "evaluation"],
        best_step=about["kept_step"],
        findings=[content.Finding(**finding) for finding in found["findings"]],
        truncation=_ledger(found, task),
        classifications=_classifications(task, result),
        figures=task.figures(result.statistics) if result else (),
        slices=_slices(result),
        mistakes=mistakes_of(result),
        num_mistakes=result.num_mistakes if result else None,
        best_pictures=_pictures(result.best if result else ()),
        worst_pictures=_pictures(result.worst if result else ()),
        data_files=_data_files(folder),
        settings=settings_of(folder, task),
        versions=about["versions"],
        notes=_notes(result, about),
    )


def _task(folder: RunFolder) -> Task:
    task = load_task(folder.model, find_task)
    if task is None:
        raise SettingsError(str(folder.path), "there is no trained model", "Train it first.")
    return task


def settings_of(folder: RunFolder, task: Task) -> dict[str, Any]:
    """Returns every setting as the report shows it; the task's own as they ended up."""
    settings = read_config(folder.config)
    values = task.to_json()
    settings["task"] = {"name": values.pop("task"), **values}
    return settings


def _evaluation(event: Mapping[str, Any]) -> dict[str, Any]:
    prefix = "validation/"
    metrics = {k.removeprefix(prefix): v for k, v in event.items() if k.startswith(prefix)}
    return {"step": event["step"], "metrics": metrics}


def _baseline(task: Task, result: EvaluationResult | None) -> content.Baseline | None:
    """What always answering the commonest class of the judged rows would score, or the caption
    that does best as the answer to every picture.
    """
    constant = result.metrics.get("constant_chrf") if result is not None else None
    if constant is not None:
        return content.Baseline(getattr(task, "constant", ""), {"chrf": constant.value})
    if result is None or "probabilities" not in result.statistics:
        return None
    counts = Counter(int(index) for index in result.statistics["true"] if index >= 0)
    if not counts:
        return None
    index, count = counts.most_common(1)[0]
    labels: Sequence[str] = getattr(task, "labels", ())
    return content.Baseline(labels[index], {"accuracy": count / result.num_rows})


def _ledger(found: Mapping[str, Any], task: Task) -> content.TruncationLedger | None:
    """Returns what was cut; None where nothing was, because rows have no length to cut at."""
    lengths = found["splits"]["train"]["lengths"]
    if lengths is None or lengths["max_length"] is None:
        return None
    return content.TruncationLedger(
        max_length=lengths["max_length"],
        num_texts=lengths["num_texts"],
        num_tokens=lengths["num_tokens"],
        cut_texts=lengths["cut_texts"],
        cut_tokens=lengths["cut_tokens"],
        histogram=[content.LengthBin(*band) for band in lengths["histogram"]],
        worst=[content.CutText(**cut) for cut in lengths["worst"]],
        reads_long=task.reads_long,
    )


def _classifications(
    task: Task, result: EvaluationResult | None
) -> dict[str, content.ClassificationFigures]:
    parts = task.by_part(result.statistics) if result is not None else {}
    return {
        name: _classification(part, own)
        for name, (part, own) in parts.items()
        if "probabilities" in own
    }


def _classification(task: Task, figures: Statistics) -> content.ClassificationFigures:
    labels: list[str] = list(getattr(task, "labels", ()))
    known = figures["true"] >= 0
    statistics = ClassificationStatistics.of(
        {name: values[known] for name, values in figures.items()}
    )
    scores = class_figures(statistics)
    shown = range(len(labels)) if len(labels) > 2 else [1]
    if len(labels) > MAX_CURVES:
        by_rows = sorted(shown, key=lambda index: -scores[index].num_rows)
        shown = sorted(by_rows[:MAX_CURVES])
    return content.ClassificationFigures(
        labels=labels,
        confusion=confusion_matrix(statistics).tolist(),
        class_scores=[
            content.ClassScore(labels[s.index], s.precision, s.recall, s.f1, s.num_rows)
            for s in scores
        ],
        roc=[_curve(roc_curve, statistics, i, labels, scores[i].roc_auc) for i in shown],
        precision_recall=[_curve(pr_curve, statistics, i, labels, scores[i].pr_auc) for i in shown],
        reliability=[
            content.ReliabilityBin(bin_.confidence, bin_.accuracy, bin_.num_rows)
            for bin_ in reliability_bins(statistics)
            if bin_.num_rows
        ],
        temperature=getattr(task, "temperature", None),
        abstain_threshold=getattr(task, "abstain_below", None) or None,
    )


def _curve(
    draw: Any, statistics: ClassificationStatistics, index: int, labels: Sequence[str], area: float
) -> content.Curve:
    curve = thinned(draw(statistics.true_R == index, statistics.probabilities_RC[:, index]))
    x, y = (np.nan_to_num(values).tolist() for values in (curve.x_P, curve.y_P))
    return content.Curve(labels[index], x, y, area)


def _slices(result: EvaluationResult | None) -> list[content.SliceScore]:
    if result is None:
        return []
    return [
        content.SliceScore(
            column, part.name, part.num_rows, _headlines(part.metrics), part.is_small
        )
        for column, parts in result.slices.items()
        for part in parts
    ]


def _headlines(metrics: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """The first metric and macro F1 say enough about a slice on a page; metrics.json has all."""
    first = next(iter(metrics), None)
    return {name: value for name, value in metrics.items() if name in (first, "f1_macro")}


def mistakes_of(result: EvaluationResult | None) -> list[content.Mistake]:
    """Returns the mistakes as the report writes them: six digits of a number say enough."""
    return [
        content.Mistake(m.where, m.text, _written(m.true), _written(m.predicted), m.score)
        for m in (result.mistakes if result else ())
    ]


def _written(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _pictures(pictures: Sequence[Pictured]) -> list[content.Picture]:
    return [
        content.Picture(each.where, each.picture, each.true, each.predicted, 1 - each.severity)
        for each in pictures
    ]


def _data_files(folder: RunFolder) -> list[content.DataFile]:
    return [
        content.DataFile(
            file["path"] or "in memory",
            file["sha256"] or "not taken",  # of all bytes of what stays on the disk
            file["rows"],
            file["split"],
        )
        for file in folder.read_json("data.json")
    ]


def _notes(result: EvaluationResult | None, about: Mapping[str, Any]) -> list[str]:
    measured = []
    if result is not None:
        measured.append(
            f"Metrics are measured on the {result.split} rows; intervals are 95 % percentile "
            "bootstraps over rows and say nothing about another training seed or other data."
        )
    device = about["device"]
    trained = (
        f"Trained in {about['seconds']:.0f} seconds on {device['description']} in "
        f"{device['precision']}; it ended because: {about['finished']}."
    )
    return [*measured, trained, *about["notices"]]
