"""What pretraining is worth: four Chinese tasks from a pretrained model and from random weights.

    python -m benchmarks.chinese_corpus chinese.jsonl.gz
    tunewright pretrain chinese.jsonl.gz --model new:4x256 --name chinese
    python -m benchmarks.quality.pretraining --model runs/chinese [CASE ...]

Both sides have the same tokenizer, sizes, settings and seeds; only the first weights differ, and
those of the other side are random: nothing was counted or learned. The interval is a paired 95 %
bootstrap of the difference over test rows and seeds. Results are added to
`benchmarks/quality/pretraining.json` after every run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.harness import (
    Comparison,
    Results,
    Rows,
    Settings,
    Statistics,
    data_root,
    figures_of,
    parser_of,
    read_rows,
    run_of_ours,
    table,
)
from tunewright.models.files.architecture import load_config
from tunewright.models.files.folder import find_model
from tunewright.models.new_model import Sizes, save_new_model
from tunewright.models.text.tokenizers import load_tokenizer

RESULTS = Path(__file__).with_suffix(".json")
SIDES = ("pretrained", "random")


@dataclass(frozen=True)
class Case:
    """A task on a data set.

    `leaked` names a column that is true for test rows left out; of the training rows every `nth`
    is taken.
    """

    name: str
    folder: str
    test: str
    metric: str
    task: Mapping[str, Any]
    settings: Settings
    leaked: str | None = None
    nth: int = 1


# The settings are those that gave random weights the best figures on validation rows.
CASES = (
    Case(
        "ChnSentiCorp (clean rows)",
        "classification/chnsenticorp",
        "test",
        "accuracy",
        {"name": "text-classification"},
        Settings(4, 3e-4, max_length=256),
        leaked="in_train",
    ),
    Case(
        "THUCNews titles",
        "classification/thucnews_titles",
        "test",
        "accuracy",
        {"name": "text-classification"},
        Settings(6, 3e-4, max_length=64),
    ),
    Case(
        "CLUENER2020",
        "ner/cluener2020",
        "validation",
        "f1",
        {"name": "token-classification"},
        Settings(8, 5e-4, max_length=128),
    ),
    Case(
        "CMRC2018",
        "qa/cmrc2018",
        "validation",
        "f1",
        {"name": "question-answering", "max_answer_length": 50},
        Settings(3, 3e-4, max_length=384),
        nth=3,
    ),
)


def main() -> None:
    parser = parser_of(__doc__ or "", [case.name for case in CASES], SIDES)
    parser.add_argument("--model", required=True, help="a run of tunewright pretrain, or its model")
    given = parser.parse_args()
    results = Results(None if given.rows else given.results or RESULTS)
    with tempfile.TemporaryDirectory() as place:
        models = {
            "pretrained": str(find_model(given.model)),
            "random": str(random_like(find_model(given.model), Path(place) / "random")),
        }
        for case in CASES:
            if any(case.name.startswith(word) for word in given.names):
                splits = splits_of(case, data_root() / case.folder, given.rows)
                results.measure(compared(case, splits, models, given.seeds), given.only)
    print(table(results.found))


def random_like(model: Path, folder: Path) -> Path:
    """Writes a model of the same sizes and tokenizer with random weights."""
    config = load_config(model)
    sizes = Sizes(config.num_hidden_layers, config.hidden_size)
    save_new_model(folder, sizes, load_tokenizer(model), seed=0)
    return folder


def splits_of(case: Case, folder: Path, num_rows: int | None) -> dict[str, Rows]:
    test = read_rows(folder / f"{case.test}.jsonl.gz")
    return {
        "train": read_rows(folder / "train.jsonl.gz")[:: case.nth][:num_rows],
        "test": [row for row in test if case.leaked is None or not row[case.leaked]][:num_rows],
    }


def compared(
    case: Case, splits: Mapping[str, Rows], models: Mapping[str, str], seeds: Sequence[int]
) -> Comparison:
    def trained(side: str) -> Any:
        return lambda seed: {side: statistics_of(case, splits, models[side], seed)}

    return Comparison(
        case.name,
        case.settings,
        (case.metric,),
        {side: trained(side) for side in models},
        (SIDES,),
        num_rows=len(splits["test"]),
        notes={"training rows": len(splits["train"])},
        seeds=seeds,
        **figures_of(case.task["name"], (case.metric,)),
    )


def statistics_of(case: Case, splits: Mapping[str, Rows], model: str, seed: int) -> Statistics:
    with run_of_ours(case.task, case.settings, splits, seed, model=model) as run:
        assert run.result is not None
        return run.result.statistics


if __name__ == "__main__":
    main()
