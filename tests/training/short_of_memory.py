"""An update that needs more memory than the system gives, in a process of its own.

    python -m tests.training.short_of_memory MODEL_FOLDER MEGABYTES

trains two updates of 400 texts under a limit of its address space and prints, as JSON, the budgets
that were tried, the rows of each update, and why it ended.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from tests.training.loops import build_loop
from tunewright.errors import OutOfMemory
from tunewright.tasks.text_classification import TextClassification
from tunewright.training.events import Shrunk, Step
from tunewright.types import Row

ROWS = [Row(n, {"text": "a good film " * 40, "label": "ab"[n % 2]}) for n in range(400)]


def limit_memory(megabytes: int) -> None:
    """Lets the process have so much more address space than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(folder: Path, megabytes: int) -> None:
    task = TextClassification().within(128).learn(ROWS)
    loop = build_loop(folder, task, ROWS, steps=2, batch_size=400, max_tokens=1_000_000)
    limit_memory(megabytes)
    budgets, updates, reason = [], [], ""
    try:
        for event in loop.run():
            if isinstance(event, Shrunk):
                budgets.append(event.max_tokens)
            elif isinstance(event, Step):
                updates.append(event.num_rows)
    except OutOfMemory as error:
        reason = error.found
    print(json.dumps({"budgets": budgets, "updates": updates, "reason": reason}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
