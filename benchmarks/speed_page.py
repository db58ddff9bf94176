"""Writes `docs/performance.md` from the results: `python -m benchmarks.speed_page`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.losses import told

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PAGE = DOCS / "performance.md"
IMAGES = DOCS / "images"

CASES = {
    "sentences": ("MiniLM-L6", "sentences of SST-2, about 20 tokens"),
    "news": ("MiniLM-L6", "paragraphs of AG News, at most 128 tokens"),
    "reviews, 256": ("MiniLM-L6", "reviews of IMDB, at most 256 tokens"),
    "reviews, 512": ("MiniLM-L6", "reviews of IMDB, at most 512 tokens"),
    "news, base": ("BERT-base", "paragraphs of AG News, at most 128 tokens"),
    "reviews, base": ("BERT-base", "reviews of IMDB, at most 512 tokens"),
    "reviews, large": ("BERT-large", "reviews of IMDB, at most 512 tokens"),
    "reviews, base, 64 rows": ("BERT-base", "the same, updates of 64 rows"),
    "reviews, large, 64 rows": ("BERT-large", "the same, updates of 64 rows"),
}
TEXT = (HERE / "speed_page.md").read_text(encoding="utf-8")
TOGETHER = """ Of several tasks in one model,
the peer has a model each, tuned one after another on the same rows."""
COMPILED, AS_INSTALLED = ", compiled", "Trainer, as installed"
AXES = {
    "length": "tokens of a text",
    "rows": "rows of an update",
    "width": "width of the model",
    "data": "rows of the data",
}
SHARED = {
    "pairs": "pairs of an update with in-batch negatives, of 16 and 64 tokens",
    "windows": "windows of one text, of 128 tokens",
}


def main() -> None:
    speed, tasks, answering, scaling, memory, written, chat, losses = (
        _read(name)
        for name in (
            "speed", "task_speed", "answering", "scaling", "memory", "seq2seq_speed",
            "chat_tuning", "losses",
        )
    )  # fmt: skip
    IMAGES.mkdir(exist_ok=True)
    if scaling:
        draw(scaling, IMAGES / "scaling.png")
    parts = {
        "tuning": "\n\n".join(_tuning(device, speed) for device in _devices(speed)),
        "compiled": _not_compiled(speed),
        "tasks": _tasks(tasks),
        "together": TOGETHER if _has_task("multi-task", tasks) else "",
        "answering": _answering(answering),
        "texts": _num_texts(answering),
        "scaling": _scaling(scaling),
        "memory": _memory(memory),
        "generating": _generating(written, chat),
        "losses": "\n".join(f"- {told(device, found)}" for device, found in losses.items()),
    }
    PAGE.write_text(TEXT.format(**parts), encoding="utf-8")
    print(f"wrote {PAGE}")


def _read(name: str) -> dict[str, Any]:
    file = HERE / f"{name}.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def _devices(results: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(entry["device"] for entry in results.values()))


def _tuning(device: str, results: Mapping[str, Any]) -> str:
    """Returns the table of one device."""
    own = {name: results.get(f"{name} ({device})") for name in CASES}
    entries = {name: entry for name, entry in own.items() if entry}
    any_entry = next(iter(entries.values()))
    # The highest one: neighbours may have lowered the others.
    roof = max(entry["roof"] for entry in entries.values())
    usual = _usual(any_entry)
    rounds = " or ".join(map(str, sorted({entry["rounds"] for entry in entries.values()})))
    lines = [
        f"**{device}**, {any_entry['threads']} threads, {roof / 1e12:.2f} TFLOP/s, "
        f"{rounds} rounds:\n",
        "| model | texts | ours, tokens/s | MFU | GB | fastest peer, tokens/s | MFU | GB "
        f"| times faster | than {usual} | as installed |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, entry in entries.items():
        model, texts = CASES[name]
        sides = entry["sides"]
        peers = {name: side for name, side in sides.items() if not name.startswith("ours")}
        best = max(peers, key=lambda name: peers[name]["tokens_per_second"])
        lines.append(
            f"| {model} | {texts} | {_measured('ours', entry, roof)} "
            f"| {_measured(best, entry, roof, told=f' ({best})')} "
            f"| {_times(sides['ours'], peers[best])} "
            f"| {' | '.join(_times_over(name, sides) for name in (usual, AS_INSTALLED))} |"
        )
    lines += _first_rounds(entries)
    return "\n".join(lines)


def _usual(entry: Mapping[str, Any]) -> str:
    """Returns the peer as it is used without a thought of speed: on a GPU that is bf16."""
    kind = entry.get("kind") or ("cpu" if "CPU" in entry["device"] else "cuda")
    return "Trainer, fp32" if kind == "cpu" else "Trainer, bf16"


def _measured(name: str, entry: Mapping[str, Any], roof: float, told: str = "") -> str:
    """Returns the cells of a side: its speed, its share of the peak, and its most memory."""
    side, memory = entry["sides"][name], entry.get("memory", {}).get(name)
    share = f"{side['mfu'] * entry['roof'] / roof:.1%}" if "mfu" in side else "-"
    return f"{_with_range(side)}{told} | {share} | {f'{memory / 1e9:.1f}' if memory else '-'}"


def _not_compiled(results: Mapping[str, Any]) -> str:
    """Returns where peers have not compiled, a sentence, "" where they have everywhere."""
    compiled = {
        name for name, entry in results.items() if any(s.endswith(COMPILED) for s in entry["sides"])
    }
    if compiled == set(results):
        return ""
    return f" Peers that compile{''.join(f', but for {name}' for name in sorted(compiled))}."


def _first_rounds(entries: Mapping[str, Any]) -> list[str]:
    """Returns what a user waits for first, where a side compiles."""
    lines = []
    for name, entry in entries.items():
        seconds = entry.get("first_round_seconds", {})
        if any(side.endswith(COMPILED) for side in seconds):
            told = ", ".join(f"{side} {taken:,.0f} s" for side, taken in seconds.items())
            lines.append(f"\nThe first round, which does not count ({name}): {told}.")
    return lines


def _with_range(side: Mapping[str, Any]) -> str:
    low, high = side["range"]
    return f"{side['tokens_per_second']:,.0f} [{low:,.0f}, {high:,.0f}]"


def _times(ours: Mapping[str, Any], peer: Mapping[str, Any]) -> str:
    return f"{ours['tokens_per_second'] / peer['tokens_per_second']:.2f}"


def _times_over(name: str, sides: Mapping[str, Mapping[str, Any]]) -> str:
    return _times(sides["ours"], sides[name]) if name in sides else "-"


def _tasks(results: Mapping[str, Any]) -> str:
    if not results:
        return "Not measured on a quiet machine."
    return "\n\n".join(_tasks_on(device, results) for device in _devices(results))


def _has_task(name: str, results: Mapping[str, Any]) -> bool:
    return any(entry["task"] == name for entry in results.values())


def _tasks_on(device: str, results: Mapping[str, Any]) -> str:
    """Returns the table of one device."""
    own = {name: entry for name, entry in results.items() if entry["device"] == device}
    threads = max(entry["threads"] for entry in own.values())
    roof = max(entry["roof"] for entry in own.values())
    lines = [f"**{device}**, {threads} threads, {roof / 1e12:.2f} TFLOP/s:\n",
             "| task | rows | ours, tokens/s | MFU | peer as it comes | at its fastest "
             "| times faster |",
             "|---|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for name, entry in own.items():
        ours, *peers = (statistics.median(each) for each in entry["tokens_per_second"].values())
        link = f"[{entry['task']}](tasks/{entry['task']}.md)"
        told = " | ".join(f"{speed:,.0f}" for speed in peers)
        times = " / ".join(f"{ours / speed:.2f}" for speed in peers)
        data = name.split(" (")[0]
        rows = f"{data}, {entry['batch_rows']} of at most {entry['max_length']} tokens"
        share = f"{entry['mfu'] * entry['roof'] / roof:.0%}"
        lines.append(f"| {link} | {rows} | {ours:,.0f} | {share} | {told} | {times} |")
    return "\n".join(lines)


def _answering(results: Mapping[str, Any]) -> str:
    lines = ["| job | machine | side | texts/s, median of rounds | ours is times faster | cosine |",
             "|---|---|---|---:|---:|---:|"]  # fmt: skip
    for name, entry in results.items():
        seconds = {side: statistics.median(each) for side, each in entry["seconds"].items()}
        for side, taken in seconds.items():
            cosine = entry.get("cosine", {}).get(side)
            lines.append(
                f"| {name.split(' (')[0]} | {entry['device']} | {side} "
                f"| {entry['texts'] / taken:,.0f} "
                f"| {'' if side.startswith('ours') else f'{taken / seconds[_ours(seconds)]:.2f}'} "
                f"| {'' if cosine is None else f'{min(cosine, 1.0):.5f}'} |"
            )
    return "\n".join(lines)


def _num_texts(results: Mapping[str, Any]) -> str:
    """Returns how many texts each machine was given."""
    counts = {entry["device"]: entry["texts"] for entry in results.values()}
    return "; ".join(f"{count:,} on {device}" for device, count in counts.items())


def _ours(sides: Mapping[str, Any]) -> str:
    return next(name for name in sides if name.startswith("ours"))


def _scaling(results: Mapping[str, Any]) -> str:
    lines = []
    for device, entry in results.items():
        for name, label in AXES.items():
            if name not in entry:
                continue
            told = ", ".join(
                f"{point['value']:,}: {point['tokens_per_second']:,.0f} "
                f"({_share(point, entry['roof'])}{point['mb']:,} MB)"
                for point in entry[name]
            )
            lines.append(f"- {label} ({device}): {told}")
    return "\n".join(lines)


def _memory(results: Mapping[str, Any]) -> str:
    lines = []
    for device, entry in results.items():
        for kind, found in entry.items():
            told = ", ".join(f"{int(n):,}: {x['bytes'] / 1e6:,.0f} MB" for n, x in found.items())
            lines.append(f"- {SHARED[kind]} ({device}): {told}")
    return "\n".join(lines)


def _share(point: Mapping[str, Any], roof: float) -> str:
    return f"{point['flop_per_second'] / roof:.0%}, " if "flop_per_second" in point else ""


def _generating(written: Mapping[str, Any], chat: Mapping[str, Any]) -> str:
    lines = []
    for part in ("training", "writing"):
        if part in written:
            found = written[part]["seconds"].items()
            told = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found)
            ratios = written[part]["times_faster"].items()
            faster = ", ".join(f"{times:.2f} times as fast as {peer}" for peer, times in ratios)
            lines.append(f"- {part}, an encoder-decoder on Multi30k: {told}; {faster}")
    if chat:
        told = ", ".join(
            f"{name} {side['tokens_per_second']:,.0f} tokens/s, {side['peak_mb'] / 1e3:.1f} GB"
            for name, side in chat["median"].items()
        )
        lines.append(f"- SmolLM2-135M on DialogSum: {told}")
    return "\n".join(lines) or "Not measured on a quiet machine."


def draw(results: Mapping[str, Any], file: Path) -> None:
    """Draws tokens a second, and the share of the peak or the memory, against what changes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(AXES), figsize=(14, 3.2))
    for panel, (name, label) in zip(panels, AXES.items(), strict=True):
        beside = panel.twinx()
        for mark, (device, entry) in zip("ov^s", results.items(), strict=False):
            points: Sequence[Mapping[str, Any]] = entry.get(name, ())
            values = [point["value"] for point in points]
            speeds = [point["tokens_per_second"] for point in points]
            panel.plot(values, speeds, f"{mark}-", color="#1f5fa8", label=device)
            if name == "data":
                others = [p["mb"] for p in points]
            else:
                others = [100 * p["flop_per_second"] / entry["roof"] for p in points]
            beside.plot(values, others, f"{mark}--", color="#c2571a", markersize=4)
        panel.set_xscale("log", base=10 if name == "data" else 2)
        panel.set_xlabel(label)
        panel.margins(y=0.15)
        panel.set_ylim(bottom=0)
        beside.set_ylim(0, None if name == "data" else 100)
        panel.set_ylabel("tokens/s", color="#1f5fa8")
        beside.set_ylabel("MB" if name == "data" else "% of the peak", color="#c2571a")
    panels[2].legend(fontsize=7, frameon=False, loc="upper right")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
