"""The architecture: who may import whom, what is public, what stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tunewright
from tunewright.tasks import TASKS

PACKAGE = Path(tunewright.__file__).parent

# A part imports only from floors below its own; parts on one floor do not import each other.
FLOORS = {
    "errors": 0,
    "types": 0,
    "answers": 0,
    "figures": 0,
    "caches": 1,
    "native": 2,
    "data": 3,
    "models": 3,
    "devices": 3,
    "metrics": 3,
    "tasks": 4,
    "prediction": 5,
    "training": 6,
    "retrieval": 7,
    "reports": 8,
    "run": 9,
    "api": 10,
    "estimator": 10,
    "label_errors": 10,
    "mining": 10,
    "server": 12,
    "cli": 13,
    "__main__": 14,
}


def imported_parts(file: Path) -> list[str]:
    """Returns the parts of the package that a file imports, at any depth of its code."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and node.module == "tunewright":
            names = [f"tunewright.{alias.name}" for alias in node.names]
        found += [name.split(".")[1] for name in names if name.startswith("tunewright.")]
    return found


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_parts_import_only_from_floors_below():
    num_imports = 0
    for file in sorted(PACKAGE.rglob("*.py")):
        here = part_of(file)
        if here == "__init__":
            continue
        for other in imported_parts(file):
            if other in (here, "__version__"):
                continue
            num_imports += 1
            assert FLOORS[other] < FLOORS[here], f"{file} imports {other}"
    assert num_imports > 150


def test_the_page_shows_the_floors():
    page = (PACKAGE.parents[1] / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([`\w ]+) \|", page, re.MULTILINE)
    shown = {part: int(floor) for floor, parts in rows for part in re.findall(r"\w+", parts)}
    assert shown == {part: floor for part, floor in FLOORS.items() if part != "__main__"}


def test_every_part_has_a_floor():
    parts = {part_of(file) for file in PACKAGE.rglob("*.py")} - {"__init__"}

    assert parts == set(FLOORS)


def test_public_names_are_these():
    assert tunewright.__all__ == [
        "Estimate",
        "FinishedRun",
        "Label",
        "TextClassifier",
        "TunewrightError",
        "TunewrightWarning",
        "audit",
        "cache",
        "compare",
        "embed",
        "export",
        "index",
        "load",
        "load_adapters",
        "load_index",
        "pretrain",
        "resume",
        "serve",
        "train",
    ]
    for name in tunewright.__all__:
        assert getattr(tunewright, name).__doc__


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'tunewright' has no attribute 'nothing'"):
        tunewright.nothing  # noqa: B018


def modules_after(code: str) -> set[str]:
    """Returns the names of the top-level modules that a new process has loaded after `code`."""
    script = f"import sys\n{code}\nprint(' '.join(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "from tunewright.cli import run; run(['--help'])",
        "from tunewright.cli import run; run(['train', '--help'])",
        "from tunewright.cli import run; run(['embed', '--help'])",
        "from tunewright.cli import run; run(['search', '--help'])",
        "import tunewright; from tunewright.tasks import TASKS",
        "from tunewright.run.config import RunConfig",
        "import tunewright.metrics, tunewright.data, tunewright.reports",
    ],
)
def test_light_things_do_not_import_torch(code):
    loaded = modules_after(code)

    assert "tunewright" in loaded
    assert not loaded & {"torch", "transformers", "datasets"}


def test_tasks_in_the_table_are_the_classes_that_they_name():
    for name, entry in TASKS.items():
        task = entry.load()
        assert task.name == name
        assert task.roles == entry.roles
    assert len(TASKS) >= 6


def test_no_file_of_a_model_folder_is_ever_unpickled():
    forbidden = {
        "pickle.",
        "import pickle",
        "torch.load",
        "joblib.load",
        "trust_remote_code=True",
        "weights_only",
    }
    files = sorted(PACKAGE.rglob("*.py"))
    for file in files:
        code = "\n".join(
            ast.unparse(node) for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call | ast.Import | ast.ImportFrom)
        )  # fmt: skip
        assert not [word for word in forbidden if word in code], file
    assert len(files) > 60
