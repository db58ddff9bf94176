"""Reliability, tried: runs killed at random moments, files damaged at random places.

    python -m benchmarks.soak --kills 200 --damages 1000

Kills are shared among the tasks, in fp32 and in bf16, in one process and in two, over BBC news
articles, dropout on, and masks drawn anew at every step where the task has any. The model is a
small one made on the spot, so that a kill costs seconds; `--model starter` takes a real one. Each
run is trained once undisturbed, and then killed with SIGKILL until its share of kills is done;
everything that it leaves behind has to be the same. Of two processes one is killed, and the other
has to notice, or both are. Before that the files of a model and its checkpoints are damaged, one at
a time: each damage has to be seen, and another checkpoint found.

Several processes train the whole model each, or hold it in pieces (`--parallel fsdp`). Writes
benchmarks/soak.json and docs/reliability.md, anew after each case; with `--keep` cases that are
not tried again stay there, and so does what was damaged.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from tunewright.data.formats.starter import bbc_news
from tunewright.devices import find_device
from tunewright.models.new_model import is_new, save_new_model, sizes_of
from tunewright.models.text.new_tokenizer import train_tokenizer
from tunewright.run.config import RunConfig, compose
from tunewright.run.record import versions
from tunewright.run.resuming.verify import verify
from tunewright.run.resuming.verify_resume import verify_resume
from tunewright.run.train import train
from tunewright.training.checkpoint import Checkpoints

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "reliability.md"
NUM_ARTICLES, SEED = 400, 7
SMALL = "new:tiny"

Rows = list[dict[str, Any]]


def articles() -> Rows:
    """Returns some articles of every class, the same each time."""
    rows = list(bbc_news().rows({"text": "text", "label": "label"}))
    picked = random.Random(SEED).sample(rows, NUM_ARTICLES)
    return [{"text": row.values["text"][:400], "label": row.values["label"]} for row in picked]


def tagged(rows: Rows) -> Rows:
    """Returns words and tags: numbers and capitalised words stand for entities."""
    tables = []
    for row in rows:
        words = re.findall(r"\w+|[^\w\s]", row["text"])[:60]
        tags = ["B-NUM" if w[0].isdigit() else "B-CAP" if w[0].isupper() else "O" for w in words]
        tables.append({"tokens": words, "tags": tags})
    return tables


def halves(rows: Rows) -> Rows:
    """Returns the beginning of an article beside its continuation."""
    return [{"anchor": row["text"][:150], "positive": row["text"][150:]} for row in rows]


TASKS: dict[str, Callable[[Rows], Rows]] = {
    "text-classification": lambda rows: rows,
    "token-classification": tagged,
    "sentence-embedding": halves,
    "masked-language-modelling": lambda rows: [{"text": row["text"]} for row in rows],
}


def small_model(folder: Path, name: str) -> str:
    """Writes a new model with random weights, whose tokenizer has read the articles."""
    texts = [row["text"] for row in articles()]
    tokenizer = train_tokenizer(texts, "wordpiece", 4000, lowercase=True, max_length=512)
    save_new_model(folder, sizes_of(name), tokenizer, seed=SEED)
    return str(folder)


def config_of(
    task: str, precision: str, data: Path, folder: Path, model: str, parallel: str = "ddp"
) -> RunConfig:
    return compose(
        {
            "task": {"name": task},
            "model": {"name": model},
            "data": {"train": str(data)},
            "training": {
                "precision": precision,
                "parallel": parallel,
                "num_train_epochs": 3,
                "batch_size": 8,
                "logging_steps": 7,
                "eval_steps": 40,
                "track": [],
                "load_best_model_at_end": False,
            },
            "evaluation": {"num_resamples": 20},
            "output": {"folder": str(folder)},
        }
    )


Case = tuple[str, str, int, str]


def case_of(found: dict[str, Any]) -> Case:
    """Returns which case some findings are of."""
    parallel = found.get("parallel", "ddp")
    return found["task"], found["precision"], found["processes"], parallel


def killed(case: Case, num_kills: int, folder: Path, model: str) -> dict[str, Any]:
    """Returns what the kills of one task at one precision hit, and whether all ended the same."""
    task, precision, num_processes, parallel = case
    data = folder / f"{task}.jsonl"
    rows = TASKS[task](articles())
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    started = time.monotonic()
    verdict = verify_resume(
        config_of(task, precision, data, folder / "runs", model, parallel),
        num_kills,
        SEED,
        tell=lambda sentence: print(f"  {sentence}", flush=True),
        num_processes=num_processes,
    )
    hit = Counter(kill.doing for kill in verdict.kills)
    return {
        "task": task,
        "precision": precision,
        "processes": num_processes,
        "parallel": parallel,
        "kills": len(verdict.kills),
        "runs": verdict.num_runs,
        "hit": dict(hit.most_common()),
        "within_save": sum(kill.within_save for kill in verdict.kills),
        "updates": verdict.total_steps,
        "save_steps": verdict.save_steps,
        "most_repeated": max(verdict.repeated, default=0),
        "different": verdict.different,
        "minutes": (time.monotonic() - started) / 60,
    }


@contextmanager
def flipped(file: Path, rng: random.Random) -> Iterator[None]:
    """One bit is another one."""
    place, bit = rng.randrange(file.stat().st_size), 1 << rng.randrange(8)
    _flip(file, place, bit)
    try:
        yield
    finally:
        _flip(file, place, bit)


def _flip(file: Path, place: int, bit: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ bit]))


@contextmanager
def truncated(file: Path, rng: random.Random) -> Iterator[None]:
    """The end of the file is missing."""
    size = file.stat().st_size
    kept = rng.randrange(size)
    with file.open("r+b") as stream:
        stream.seek(kept)
        end = stream.read()
        stream.truncate(kept)
    try:
        yield
    finally:
        with file.open("ab") as stream:
            stream.write(end)


@contextmanager
def swapped(file: Path, rng: random.Random) -> Iterator[None]:
    """The file and another one have changed places."""
    folders = [folder for folder in file.parents[1].rglob("*") if folder.is_dir()]
    others = [other for folder in folders for other in files_of(folder)]
    other = rng.choice([o for o in others if digest_of(o) != digest_of(file)])
    _exchange(file, other)
    try:
        yield
    finally:
        _exchange(file, other)


@cache
def digest_of(file: Path) -> str:
    """Returns the SHA-256 of a file as it was when it was first asked for: undamaged."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _exchange(first: Path, second: Path) -> None:
    aside = first.with_name(".aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


DAMAGES = {"bit flip": flipped, "truncation": truncated, "swap": swapped}


def files_of(folder: Path) -> list[Path]:
    """Returns the files that count: all but the model card, which is there to be edited."""
    return sorted(f for f in folder.iterdir() if f.is_file() and f.name != "README.md")


def damaged(num_damages: int, folder: Path, model: str) -> dict[str, Any]:
    """Damages files of a run one at a time; returns how many of them were seen."""
    data = folder / "damage.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in articles()[:80]), encoding="utf-8")
    config = config_of("text-classification", "fp32", data, folder / "damaged", model)
    short = config.training.model_copy(update={"max_steps": 4, "save_steps": 2})
    run = train({"train": str(data)}, config.model_copy(update={"training": short}))
    store = Checkpoints(run.folder.checkpoints)
    saved = store.folders()
    files = [file for place in (run.folder.model, *saved) for file in files_of(place)]
    assert len({digest_of(file) for file in files}) > 5
    rng, seen, fell_back, kinds = random.Random(SEED), 0, 0, Counter[str]()
    for number in range(num_damages):
        kind = list(DAMAGES)[number % len(DAMAGES)]
        file = rng.choice(files)
        with DAMAGES[kind](file, rng):
            reported = {item.folder for item in verify(run.path) if item.damage}
            seen += file.parent in reported
            left = [path for path in saved if path not in reported]
            fell_back += store.latest() == (left[-1] if left else None)
        kinds[kind] += 1
    assert not [item for item in verify(run.path) if item.damage]  # all is as it was
    return {"damages": dict(kinds), "files": len(files), "seen": seen, "right_one_used": fell_back}


def page(found: dict[str, Any], saving: dict[str, Any] | None) -> str:
    """Returns docs/reliability.md."""
    cases, damages = found["cases"], found["damage"]
    kills, within = (sum(case[name] for case in cases) for name in ("kills", "within_save"))
    same = sum(case["runs"] - len({d.split("/")[0] for d in case["different"]}) for case in cases)
    runs, total = sum(case["runs"] for case in cases), sum(damages["damages"].values())
    lines = [
        "<!-- Made by benchmarks/soak.py; changes here are lost. -->",
        "# Reliability",
        "",
        f"{kills} kills with SIGKILL at random moments, {within} of them within a save: **{same} "
        f"of {runs} runs ended with the same bits** as the undisturbed one, the model's files, its "
        f"figures and its log alike. {total:,} random bit flips, truncations and swaps of files: "
        f"**{damages['seen']:,} were seen**, and {damages['right_one_used']:,} times the newest "
        "checkpoint that was whole was used.",
        "",
        "How it works is told on [the page about resuming](resume.md). `make soak` tries it again "
        "and writes this page.",
        "",
        "## Kills",
        "",
        "| task | precision | processes | kills | within a save | runs | the same "
        "| most updates repeated | updates between saves |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {c['task']} | {c['precision']} | {_shared(c)} | {c['kills']} | "
            f"{c['within_save']} | {c['runs']} | {'all' if not c['different'] else 'NOT ALL'} | "
            f"{c['most_repeated']} | {c['save_steps']} |"
            for c in cases
        ),
        "",
        "What the processes were doing when they were killed: "
        + ", ".join(
            f"{name} {count}"
            for name, count in sum((Counter(c["hit"]) for c in cases), Counter()).most_common()
        )
        + ". (`updated`: in the update after that; `started`: in the first one.)",
        "",
        f"The model is {found['model']}. Dropout is on throughout, and the masks of masked "
        "language modelling are drawn anew for every row and epoch: both come from counters, so "
        "what is done again is the same. Of two "
        "processes one is killed, three times out of four, and else both.",
        "",
        "## Damage",
        "",
        "| damage | files damaged |",
        "|---|---|",
        *(f"| {name} | {count:,} |" for name, count in damages["damages"].items()),
        "",
        f"Over the {damages['files']} files of a model and its checkpoints, without the model "
        "card.",
        "",
        *_saving_lines(saving),
        "## Machine",
        "",
        f"{found['machine']}; " + ", ".join(f"{k} {v}" for k, v in found["versions"].items()) + ".",
        "",
    ]
    return "\n".join(lines)


def _shared(case: dict[str, Any]) -> str:
    in_pieces = case.get("parallel", "ddp") == "fsdp"
    return f"{case['processes']}{', in pieces' if in_pieces else ''}"


def _saving_lines(saving: dict[str, Any] | None) -> list[str]:
    if saving is None:
        return []
    return [
        "## What saving costs",
        "",
        "| parameters | checkpoint | one save | share of a run at the default interval |",
        "|---|---|---|---|",
        *(
            f"| {s['size']} | {s['megabytes']:,.0f} MB | {s['seconds_per_save']:.2f} s | "
            f"{s['share_at_default']:.1%} |"
            for s in saving["sizes"]
        ),
        "",
        "Measured by `benchmarks/saving.py` as the time that the same updates take longer, with "
        "flushing to the disk and reading back included. Where saves are so slow that they would "
        "take more than 2 % of a run, they come less often.",
        "",
    ]


def write(found: dict[str, Any]) -> None:
    (HERE / "soak.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    saving = HERE / "saving.json"
    costs = json.loads(saving.read_text(encoding="utf-8")) if saving.exists() else None
    PAGE.write_text(page(found, costs), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--damages", type=int, default=1000)
    parser.add_argument("--model", default=SMALL)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--processes", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--parallel", nargs="*", default=["ddp", "fsdp"])
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    cases: list[Case] = [
        case
        for case in product(given.tasks, given.precisions, given.processes, given.parallel)
        if case[2] > 1 or case[3] == "ddp"
    ]
    share = -(-given.kills // len(cases))
    found: dict[str, Any] = {"machine": find_device().description, "versions": versions()}
    before = json.loads((HERE / "soak.json").read_text(encoding="utf-8")) if given.keep else {}
    kept = [case for case in before.get("cases", []) if case_of(case) not in cases]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = small_model(folder / "small", given.model) if is_new(given.model) else given.model
        found["model"] = given.model
        found["damage"] = before.get("damage") or damaged(given.damages, folder, model)
        print(json.dumps(found["damage"]), flush=True)
        found["cases"] = kept
        for case in cases:
            print(*case, flush=True)
            found["cases"].append(killed(case, share, folder, model))
            write(found)
    unlike = [case for case in found["cases"] if case["different"]]
    total = sum(found["damage"]["damages"].values())
    if unlike or found["damage"]["seen"] < total or found["damage"]["right_one_used"] < total:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
