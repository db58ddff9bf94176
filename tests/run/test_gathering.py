from __future__ import annotations

import numpy as np
import pytest

from tests.training.processes import started
from tunewright.devices.processes import ALONE
from tunewright.run.judging.gathering import gather_statistics, in_order

GATHERED = """
import numpy as np
from tunewright.devices.processes import join_processes
from tunewright.run.judging.gathering import gather_statistics
processes = join_processes()
rows = [
    {"number": 3, "share": 0.1 + 0.2, "right": True, "texts": [5, 2**62],
     "vector": np.arange(4, dtype=np.float32) / 3, "count": np.int64(7),
     "none": np.zeros((0, 2)), "flags": np.array([True, False])},
    {"number": 4, "share": 1e-300, "right": False, "texts": [],
     "vector": np.ones((2, 3), np.float16), "count": np.int64(-1),
     "none": np.zeros((0, 2)), "flags": np.array([[True]])},
]
own = [] if processes.rank == 2 else rows[processes.rank :]
found = gather_statistics(own, processes)
assert [len(part) for part in found] == [2, 1, 0]
for part, expected in zip(found, (rows, rows[1:], [])):
    for row, true in zip(part, expected):
        assert row.keys() == true.keys()
        for name, value in true.items():
            assert type(row[name]) is type(value), name
            np.testing.assert_array_equal(row[name], value)
            assert getattr(row[name], "dtype", None) == getattr(value, "dtype", None)
"""


TALLIED = """
import numpy as np
from tunewright.answers import Label
from tunewright.devices.processes import join_processes
from tunewright.run.judging.judge import Tally
from tunewright.tasks.text_classification import TextClassification
from tunewright.types import Row
processes = join_processes()
labels = [["a", "b"], ["c", "a", "c"], []][processes.rank]
tally = Tally(TextClassification(labels=("a", "b")), num_mistakes=9)
for place, label in enumerate(labels):
    row = Row(10 * processes.rank + place, {"text": "x" * place, "label": label})
    tally.add(row, Label("a", 0.6, {"a": 0.6, "b": 0.4}))
    tally.cuts.add(place)
tally.gather(processes)
assert len(tally.statistics) == 5 and tally.lengths == [0, 1, 0, 1, 2]
assert (tally.cuts.num_texts, tally.cuts.num_tokens) == (5, 4)
assert dict(tally.num_rows) == {"": 5} and dict(tally.num_unseen) == {"": 2}
assert tally.num_mistakes == len(tally.mistakes) == 3
"""


@pytest.mark.parametrize("code", [GATHERED, TALLIED], ids=["statistics", "tally"])
def test_figures_of_several_processes_come_through_to_the_bit(code):
    processes = started(3, "-c", code)
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said


def test_one_process_has_its_own_figures_as_they_are():
    own = [{"number": 1, "vector": np.ones(2)}]
    assert gather_statistics(own, ALONE)[0] is own


def test_parts_are_put_together_in_the_order_of_the_whole():
    assert in_order(["bd", "ac"], [[1, 3], [0, 2]]) == list("abcd")
    assert in_order([[], []], [[], []]) == []
    with pytest.raises(ValueError, match="shorter"):
        in_order(["a"], [[0, 1]])
