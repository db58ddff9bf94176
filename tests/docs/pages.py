"""The commands and snippets of the pages, in the order in which a reader meets them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
# A command that ends otherwise than with 0 says so in a comment: `tunewright ... # exit status 3`.
STATUS = "# exit status "


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text, and the line it begins at."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}, line {self.line}"


@dataclass(frozen=True)
class Command:
    """One line of a bash block: its words, where its streams go, and how it ends."""

    line: str
    words: tuple[str, ...]
    reads: str | None
    writes: str | None
    status: int

    @property
    def is_ours(self) -> bool:
        return self.words[0] == "tunewright"


def pages() -> list[Path]:
    """Every page that a reader sees, the two READMEs first."""
    own = [ROOT / name for name in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md")]
    return [*own, *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, at any depth of lists and notes."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    return [
        Block(page, token.map[0] + 1, token.info.strip(), token.content)
        for token in tokens
        if token.type == "fence" and token.map
    ]


def commands(block: Block) -> Iterator[Command]:
    """The commands of a bash block, each on a line of its own or continued with a backslash."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield _command(" ".join(line.split()))


def _command(line: str) -> Command:
    words = shlex.split(line, comments=True)
    streams = {}
    for mark in ("<", ">"):
        if mark in words:
            place = words.index(mark)
            streams[mark] = words[place + 1]
            words = words[:place] + words[place + 2 :]
    status = int(line.split(STATUS)[1]) if STATUS in line else 0
    printed = line.split(" #")[0].rstrip()
    return Command(printed, tuple(words), streams.get("<"), streams.get(">"), status)
