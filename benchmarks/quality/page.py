"""Writes `docs/quality.md` from the results: `python -m benchmarks.quality.page`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.harness import table
from benchmarks.quality.question_answering import NONE, told_apart

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "quality.md"

WRITTEN = ("rouge1", "rouge2", "rougeL", "perplexity")
REPLIED = ("rouge1", "rouge2", "rougeL", "chrf", "perplexity")
TRANSLATED = ("bleu", "chrf", "bleu_lowercase", "rouge1", "rouge2", "rougeL", "lead_rouge1",
              "lead_rouge2", "lead_rougeL")  # fmt: skip
TRANSLATION_TOLD = ("vocab_size", "num_train_epochs", "batch_size", "learning_rate", "dropout",
                    "num_beams")  # fmt: skip
CAPTION_TOLD = ("num_train_epochs", "batch_size", "learning_rate", "dropout", "weight_decay")
TOLD = ("max_length", "max_new_tokens", "num_train_epochs", "learning_rate", "batch_size")

HEAD = """# Quality

A table of sides has the mean over all seeds of each side. A difference is of the seeds that both
sides have had on one kind of machine, and the means beside it are over these seeds alone.
"""

CLASSIFICATION = """## Text classification

Test accuracy of the starter model (all-MiniLM-L6-v2) after fine-tuning, in per cent, the mean over
seeds. The peer is `transformers.Trainer` with the same model, rows, settings and seeds, in bf16
with batches grouped by length. The interval is a paired 95 % bootstrap of the difference over test
rows and seeds. No test row was used to choose a setting.

| data set | test rows | asked for | ours | peer | difference | 95 % interval | seconds |
|---|---:|---:|---:|---:|---:|---:|---:|
"""

TAIL = """
Seconds are those of a whole run of one seed, ours and the peer's (the median). They are not a speed
benchmark: nothing keeps the machine quiet meanwhile, and ours include the audit, the parity check
and the report.

{settings}

Reproduce with `make bench-quality`; the data sets are found through `TUNEWRIGHT_BENCHMARK_DATA`.
"""


SEARCH = """## Vectors and search

The starter model before and after fine-tuning, in points (hundredths of each metric). A `peer`,
where there is one, is sentence-transformers with the same model, rows, settings and seeds. Every
difference has a paired 95 % interval over test rows and seeds. No test row chose a setting.

On MedQuAD the 1,412 distinct questions of the test rows look for their answers among the 1,537
distinct answers of those rows, by one vector of each text. `words` is BM25 alone; `hybrid` is a
search by words and by the same vectors. A question counts once, and all of its answers are right;
vectors are of the first 128 tokens on all sides (before training that is better than 256), and BM25
is that of SQLite's FTS5 over the words of whole answers, without stemming: counted in other ways,
the figures differ.

{table}

{settings}

Reproduce with `python -m benchmarks.quality.embedding`.
"""


SCORERS = """## A pair scorer for STS-B

Spearman's correlation times 100, the mean over seeds, of ways to make a pair scorer of the starter.
`taught` ([why](decisions/2026-11-26-a-scorer-taught-by-an-encoder.md)) has learnt the cosines of a
sentence encoder before, tuned on the same training rows, for 17,585 pairs of their sentences. `both
orders` reads each pair both ways (`symmetric=true`). The validation rows say which is best.

| way | seeds | validation | test | test, each seed |
|---|---:|---:|---:|---|
{lines}

On one {device}, in {precision}. Reproduce with `python -m benchmarks.quality.pair_scorer`.
"""


WRITING = """## Headlines and summaries

SmolLM2-135M-Instruct (4 bits, `smollm2`) before and after tuning, and the lead: the first sentence
of each text. ROUGE is F1 from 0 to 100, without stemming, with 95 % bootstrap intervals over the
test rows. Before tuning, the model answers by its own chat template with the best of three prompts,
which ROUGE-L on validation chose; tuning and test have the same prompt, texts cut to the same
length, and the same limit of new tokens.

| data set | side | ROUGE-1 | ROUGE-2 | ROUGE-L | perplexity |
|---|---|---:|---:|---:|---:|
{lines}

{settings}

Reproduce with `python -m benchmarks.quality.summaries`.
"""


TRANSLATIONS = """## Translations and titles from nothing

Our own Transformer and a tokenizer of its own, from the training pairs alone. Figures go from 0 to
100, with 95 % bootstrap intervals over the test rows; BLEU and chrF are sacreBLEU's. `lead` is the
first sentence of each abstract.

| data set | test rows | figures |
|---|---:|---|
{lines}

{settings}

Reproduce with `python -m benchmarks.quality.translation`.
"""


REPLIES = """## Replies

SmolLM2-135M-Instruct (4 bits, `smollm2`) on MultiWOZ 2.1, before and after it has learnt from
{train:,} whole conversations. A test row is one of {test:,} conversations up to one of its
replies. In tuning and test the model is told what it is in the best of three ways, by ROUGE-L on
validation rows: "{system}" ROUGE and chrF from 0 to 100, with 95 % bootstrap intervals.

| side | ROUGE-1 | ROUGE-2 | ROUGE-L | chrF | perplexity |
|---|---:|---:|---:|---:|---:|
{lines}

{settings}, one seed; on one {device}, in {precision}.

Reproduce with `python -m benchmarks.quality.replies`.
"""


CAPTIONS = """## Captions

A captioner from nothing, of {parameters}, on 1,275 emoji and their names, beside one
caption for every picture, that which does best on the training rows, and that which would on the
test rows themselves. chrF and BLEU from 0 to 100 on {rows} test pictures, none of whose captions
stands in training, with 95 % bootstrap intervals over them. The last line answers with the caption
of the training picture that looks most alike: many emoji are variants of one another, and of so few
pictures a model from nothing does not learn what that knows.

| side | chrF | BLEU | right word for word |
|---|---:|---:|---:|
| the model | {chrf} | {bleu} | {exact} |
| "{constant}" | {constant_chrf} | | |
| "{best}" | {best_chrf:.1f} | | |
| the most alike picture's caption | {alike_chrf} | {alike_bleu} | {alike_exact} |

{settings}, one seed; {seconds:,} seconds ({core_seconds:,} core-seconds) on one {device}, in
  {precision}, beside much else.

Reproduce with `python -m benchmarks.quality.captioning`.
"""


COMPARISONS = {
    "precision": """## The fast path beside fp32

The starter model, tuned in the machine's own precision (`fast`) and in fp32 throughout, with the
same rows, settings, seeds and minibatches.
""",
    "reranking": """## Reading again

On MedQuAD a cross-encoder orders anew the 20 documents that the tuned starter finds nearest
(`vectors`), by its own scores or by half of its and half of the cosine (`and vectors`). It begins
with the weights of the tuned starter and learns the same rows, all 9,000 or the first 640, with
five negatives drawn from the 20 nearest of each question. The `peer` is the CrossEncoder of
sentence-transformers with its ListNetLoss on the same lists.
""",
    "long_texts": """## Texts longer than a model reads

The starter reads 128 tokens at once: longer texts are cut, or [read in windows](long-texts.md) that
share 32. Film reviews have about 300 tokens. The answers of MedQuAD are longer than 128 tokens in
most rows; their questions look for them by the vectors of the starter as it is.
""",
    "sequence_level": """## Labels, pairs, scores and choices

The starter model. The peer is `transformers.Trainer` with the same model, rows, settings and seeds,
in bf16 with batches grouped by length; both sides' outputs are measured by the same task.
Thresholds of several labels are fitted on validation rows on both sides. The choices of MedQuAD are
the right answer and the three others that are nearest to the question by their words. `three times`
is the same training with a wider test: each of its 1,538 questions stands there with the three
nearest wrong answers, with the next three, and with the three after them, and an interval draws all
rows of a question or none. It was added, for the same seven seeds, because 1,000 questions asked
once left open whether ours is more than a point behind.
""",
    "token_classification": """## Entities

F1 of entities as seqeval counts them; the peer is `transformers.Trainer`, as above. CLUENER2020
begins from a Chinese encoder as in [pretraining](pretraining.md#what-it-is-worth), of four passes
instead of twelve. From the one of twelve, when packed attention had no dropout of probabilities
yet, ours had 55.56 and the peer 57.36 (two seeds, -3.50 to -0.22); that was not run again. From the
one of four, seed 1 of ours has 58.52 without that dropout and 58.60 with it.
""",
    "question_answering": f"""## Answers in texts

Windows of 384 tokens that share 128. The peer is `transformers.Trainer`, as above, with the usual
preparation and search for the best span. SQuAD v1 learns from 3,545 of its own questions and 7,938
of new articles, and is measured on the whole official development set; of SQuAD v2 half of the
articles are learnt. No threshold for "no answer" was fitted on either side. There `{NONE}`
is never to answer, `f1_has_answer` is F1 of the questions that have an answer, and
`accuracy_no_answer` the share of the others that get none. CMRC2018 begins from the Chinese encoder
of four passes that the entities begin from, and learns from every sixth question: so small a model
has hardly begun to answer there. SQuAD's figures are older than the rule that an update counts
windows, of which a context there has hardly more than one.
""",
    "multi_task": """## Several tasks in one model

The three tasks over one backbone (`together`), and each in a model of its own (`alone`), from the
starter with the same settings and the same number of updates for each row.
""",
    "pretraining": """## What pretraining is worth

A Chinese encoder of 4 layers of width 256, pretrained for three quarters of an hour on two cores
with the Chinese texts at hand, without any text of a test set
([more](pretraining.md#what-it-is-worth)), beside the same model with random weights. Both learn
from the same rows with the same settings, of CMRC2018 from every third question. The encoder of
THUCNews was made anew with the same settings, with attention dropout and AVX-512 BF16 (perplexity
109 beside 110); the other rows are still of the older one.
""",
}


def write_page() -> None:
    """Writes `docs/quality.md` from the files of results that are there."""
    parts = [HEAD, classification(_read("results"))]
    if found := _read("embedding"):
        parts.append(search(found))
    for name, head in COMPARISONS.items():
        if found := _read(name):
            parts.append(compared(name, head, found))
    if found := _read("pair_scorer"):
        parts.append(scorers(found))
    if found := _read("summaries"):
        parts.append(writing(found))
    if found := _read("replies"):
        parts.append(replies(found["MultiWOZ"]))
    if found := _read("translation"):
        parts.append(translations(found))
    if found := _read("captioning"):
        parts.append(captions(found))
    PAGE.write_text("\n".join(parts), encoding="utf-8")


def _read(name: str) -> dict[str, Any]:
    file = HERE / f"{name}.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def classification(results: dict[str, Any]) -> str:
    lines = "".join(_line(name, found) + "\n" for name, found in results.items())
    settings = "\n".join(_settings(name, found) for name, found in results.items())
    return CLASSIFICATION + lines + TAIL.format(settings=settings)


def search(results: dict[str, Any]) -> str:
    return SEARCH.format(table=table(results), settings=_told_settings(results))


def compared(name: str, head: str, results: dict[str, Any]) -> str:
    """Returns the section of a file of comparisons."""
    if name == "question_answering":
        results = told_apart(results)
    return (
        f"{head}\n{table(results)}\n\n{_told_settings(results)}\n\n"
        f"Reproduce with `python -m benchmarks.quality.{name}`.\n"
    )


def _told_settings(results: dict[str, Any]) -> str:
    return "\n".join(
        f"- {name}: " + ", ".join(f"{key} {_told(each)}" for key, each in found["settings"].items())
        + f"; {_told_places(found)}."
        for name, found in results.items()
    )  # fmt: skip


def _told(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _told_places(found: dict[str, Any]) -> str:
    """Returns the kinds of machine that ran, the seeds of each where there are several."""
    seeds: dict[str, set[int]] = {}
    for runs in found["places"].values():
        for seed, place in runs.items():
            seeds.setdefault(place, set()).add(int(seed))
    if len(seeds) < 2:
        return f"on one {next(iter(seeds))}" if seeds else "nothing is learned"
    return "on " + ", ".join(
        f"one {place} (seeds {', '.join(map(str, sorted(numbers)))})"
        for place, numbers in seeds.items()
    )


def scorers(results: dict[str, Any]) -> str:
    """Returns the section of the ways to a pair scorer."""
    lines = []
    for name, found in results["ways"].items():
        seeds = found["seeds"].values()
        if seeds:
            means = [100 * float(np.mean([one[split] for one in seeds]))
                     for split in ("validation", "test")]  # fmt: skip
            each = ", ".join(f"{100 * one['test']:.2f}" for one in seeds)
            lines.append(f"| {name} | {len(seeds)} | {means[0]:.2f} | {means[1]:.2f} | {each} |")
    return SCORERS.format(
        lines="\n".join(lines), device=results["device"], precision=results["precision"]
    )


def writing(results: dict[str, Any]) -> str:
    lines = [
        f"| {name} | {side} | " + " | ".join(_interval(found[side], metric) for metric in WRITTEN)
        for name, found in results.items()
        for side in ("lead", "before", "after")
    ]
    settings = [
        f"- {name}: {found['rows']['train']:,} training and {found['rows']['test']:,} test rows, "
        + ", ".join(f"{key} {found['case'][key]:g}" for key in TOLD)
        + ", one seed."
        for name, found in results.items()
    ]
    return WRITING.format(lines="\n".join(lines), settings="\n".join(settings))


def translations(results: dict[str, Any]) -> str:
    """Returns the section of models that began from nothing."""
    lines, settings = [], []
    for name, found in results.items():
        figures = ", ".join(
            f"{metric.replace('_', ' ')} {_interval(found, metric)}"
            for metric in TRANSLATED
            if metric in found["metrics"]
        )
        lines.append(f"| {name} | {found['rows']:,} | {figures} |")
        told = found["settings"]
        chosen = {**told["model"]["new"], **told["training"], **told["generation"]}
        settings.append(
            f"- {name}: {told['model']['name']}, "
            + ", ".join(f"{key} {chosen[key]:g}" for key in TRANSLATION_TOLD)
            + f", one seed; {found['core_seconds']:,} core-seconds."
        )
    return TRANSLATIONS.format(lines="\n".join(lines), settings="\n".join(settings))


def replies(found: dict[str, Any]) -> str:
    lines = [
        f"| {side} | " + " | ".join(_interval(found[side], metric) for metric in REPLIED)
        for side in ("before", "after")
    ]
    settings = "- " + ", ".join(f"{key} {found['settings'][key]:g}" for key in TOLD)
    told = {name: found[name] for name in ("system", "device", "precision")}
    return REPLIES.format(
        lines="\n".join(lines),
        settings=settings,
        train=found["rows"]["train"],
        test=found["rows"]["test"],
        **told,
    )


def captions(found: dict[str, Any]) -> str:
    alike = {"metrics": found["most_alike"]}
    told = {
        name: _interval(found, name).removesuffix(" |")
        for name in ("chrf", "bleu", "exact", "constant_chrf")
    }
    told |= {f"alike_{name}": _interval(alike, name) for name in ("chrf", "bleu", "exact")}
    training, new = found["settings"]["training"], found["settings"]["model"]["new"]
    chosen = {name: training[name] for name in CAPTION_TOLD} | {
        name: new[name] for name in ("vocab_size", "image_size", "patch_size")
    }
    return CAPTIONS.format(
        **told,
        rows=found["rows"],
        parameters=f"{found['parameters'] / 1e6:.1f} million parameters",
        constant=found["constant"],
        best=found["best_constant_of_all"]["caption"],
        best_chrf=found["best_constant_of_all"]["chrf"],
        settings="- " + ", ".join(f"{name} {value:g}" for name, value in chosen.items()),
        seconds=found["seconds"],
        core_seconds=found["core_seconds"],
        device=found["device"]["description"],
        precision=found["device"]["precision"],
    )


def _interval(side: dict[str, Any], metric: str) -> str:
    found = side["metrics"].get(metric)
    tail = " |" if metric == WRITTEN[-1] else ""
    if found is None:
        return tail
    return f"{found['value']:.1f} ({found['low']:.1f} to {found['high']:.1f}){tail}"


def _settings(name: str, found: dict[str, Any]) -> str:
    told = ", ".join(f"{key} {value:g}" for key, value in found["settings"].items())
    seeds = ", ".join(map(str, found["seeds"]))
    return f"- {name}: {told}, seeds {seeds}; on one {found['device']}, in {found['precision']}."


def _line(name: str, found: dict[str, Any]) -> str:
    mine = 100 * float(np.mean(found["ours"]))
    cells = [name, f"{found['rows']:,}", f"{100 * found['target']:.1f}", f"{mine:.2f}"]
    times = f"{np.median(found['seconds']['ours']):.0f}"
    if found["peer"]:
        theirs = 100 * float(np.mean(found["peer"]))
        low, high = found["interval"]
        times += f" / {np.median(found['seconds']['peer']):.0f}"
        cells += [f"{theirs:.2f}", f"{mine - theirs:+.2f}", f"{low:+.2f} to {high:+.2f}", times]
    else:
        cells += ["", "", "", times]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    write_page()
