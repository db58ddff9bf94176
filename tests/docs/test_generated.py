"""Pages that are made from the code say what the code says."""

from __future__ import annotations

import importlib.util

import pytest
import typer

from tests.docs.pages import ROOT
from tunewright.cli.app import app
from tunewright.run.config import known_keys, task_keys
from tunewright.tasks import TASKS

COMMANDS = typer.main.get_command(app).commands


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings.md", "command-line.md"])
def test_a_generated_page_is_up_to_date(generate, name):
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == generate.PAGES[name](), "run: python docs/generate.py"


def test_the_settings_page_names_every_setting():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    keys = [*known_keys(), *(f"task.{key}" for task in TASKS for key in task_keys(task))]
    missing = [key for key in keys if f"`{key.split('.')[-1]}`" not in page]
    assert (missing, len(keys) > 60) == ([], True)


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_command_line_page_names_every_flag_of(verb):
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    section = page.split(f"## tunewright {verb}\n")[1].split("\n## ")[0]
    flags = [option for parameter in COMMANDS[verb].params for option in parameter.opts
             if option.startswith("--")]  # fmt: skip
    assert [flag for flag in flags if f"`{flag}" not in section] == []


def test_every_task_has_a_page_and_a_line_in_both_readmes():
    for task in TASKS:
        assert (ROOT / "docs" / "tasks" / f"{task}.md").is_file()
        for name in ("README.md", "README.zh-CN.md"):
            assert f"docs/tasks/{task}.md" in (ROOT / name).read_text(encoding="utf-8")
