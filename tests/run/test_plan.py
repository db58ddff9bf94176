"""What a run will take, told before it begins."""

from __future__ import annotations

import json

import pytest

import tunewright as tw
from tunewright.devices.memory import free_bytes, held_bytes, main_memory, peak_bytes
from tunewright.run.config import compose
from tunewright.run.preparing import room
from tunewright.run.preparing.groundwork import Notice
from tunewright.run.preparing.plan import Plan, plan

ROWS = [{"text": f"a {w} film {n}", "label": w} for n in range(30) for w in ("good", "bad")]


@pytest.fixture
def config(tiny_folder, tmp_path):
    def build(**training):
        return compose(
            {
                "model": {"name": str(tiny_folder("bert"))},
                "training": {"batch_size": 8, "precision": "fp32", "track": [], **training},
                "evaluation": {"num_resamples": 0},
                "output": {"folder": str(tmp_path / "runs")},
            }
        )

    return build


def planned(config):
    return plan({"train": ROWS}, config)


def footprint_of(run):
    """Returns what training held beside its passes: weights, gradients, moments and the best."""
    files = run.folder.model.glob("*.safetensors")
    return 5 * sum(file.stat().st_size for file in files)


def losses_of(run):
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return [found["loss"] for found in map(json.loads, lines) if found["event"] == "step"]


def test_a_plan_counts_what_training_will_do_and_writes_nothing(config, tmp_path):
    settings = config(num_train_epochs=2, eval_steps=4)
    found = planned(settings)
    heard = []
    tw.train(ROWS, settings=settings.model_dump(), tell=heard.append)
    steps = [event for event in heard if type(event).__name__ == "Step"]
    evaluations = [event for event in heard if type(event).__name__ == "Evaluation"]
    assert (found.total_steps, found.num_evaluations) == (len(steps), len(evaluations))
    assert found.num_rows == {"train": 48, "validation": 6, "test": 6}
    assert found.route == "packed"
    assert found.seconds > 0
    assert found.fits
    assert not (tmp_path / "runs" / "run-2").exists()


def test_the_disk_of_a_plan_is_what_a_run_leaves(config, tmp_path):
    found = planned(config(save_steps=3, num_train_epochs=2))
    settings = config(save_steps=3, num_train_epochs=2)
    run = tw.train(ROWS, settings=settings.model_dump())
    files = [
        *run.folder.checkpoints.rglob("*.safetensors"),
        *run.folder.model.glob("*.safetensors"),
    ]
    written = sum(file.stat().st_size for file in files)
    assert found.disk_bytes == pytest.approx(written, rel=0.2)


def test_without_checkpoints_and_validation_less_is_needed(config):
    with_all, without = planned(config()), planned(config(save_total_limit=0))
    assert without.disk_bytes < with_all.disk_bytes


@pytest.mark.parametrize(
    ("changed", "fits"),
    [({}, True), ({"free_bytes": 5}, False), ({"free_disk_bytes": 5}, False),
     ({"free_bytes": None}, True)],
)  # fmt: skip
def test_what_needs_more_than_there_is_does_not_fit(changed, fits):
    values = dict.fromkeys(Plan.__annotations__, 10)
    assert Plan(**values | changed).fits is fits


def test_memory_is_known_on_linux():
    assert main_memory() >= free_bytes("cpu")
    assert 0 < held_bytes("cpu") < 1.05 * peak_bytes("cpu")  # Linux counts both in strides
    assert free_bytes("cpu") > 0
    assert free_bytes("mps") is None


def test_a_run_that_will_not_fit_is_told_so_before_it_starts(config, monkeypatch):
    monkeypatch.setattr(room, "free_bytes", lambda kind: 1000)
    heard = []
    tw.train(ROWS, settings=config(max_steps=1).model_dump(), tell=heard.append)
    said = [event.sentence for event in heard if isinstance(event, Notice)]
    assert any(
        sentence.startswith("Gradients and the state of the optimizer need 0.0 GB beside the model")
        and "this run will not fit" in sentence
        for sentence in said
    )


def test_a_machine_with_little_memory_gets_smaller_passes_and_is_told_so(config, monkeypatch):
    settings = config(num_train_epochs=1).model_dump()
    whole = tw.train(ROWS, settings=settings)
    heard = []
    size = footprint_of(whole)
    monkeypatch.setattr(room, "main_memory", lambda: int(size / room.SHARE) + 400_000)
    cut = tw.train(ROWS, settings=settings, tell=heard.append)
    said = [event.sentence for event in heard if isinstance(event, Notice)]
    (sentence,) = [sentence for sentence in said if sentence.startswith("Forward passes have")]
    assert "instead of 8,192: one of 8,192 takes about 0.1 GB" in sentence
    assert sentence.endswith("An update still has 8 rows.")
    assert not any(sentence.startswith("A text of") for sentence in said)
    losses = [losses_of(run) for run in (whole, cut)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_text_that_does_not_fit_alone_is_told(config, monkeypatch):
    heard = []
    monkeypatch.setattr(room, "main_memory", lambda: 1000)
    tw.train(ROWS, settings=config(max_steps=1).model_dump(), tell=heard.append)
    said = [event.sentence for event in heard if isinstance(event, Notice)]
    (sentence,) = [sentence for sentence in said if sentence.startswith("A text of")]
    assert "tokens alone takes about 0.0 GB in training, and there are 0.0 GB for it" in sentence


def test_a_run_that_goes_on_with_less_memory_gets_smaller_passes(config, monkeypatch):
    run = tw.train(ROWS, settings=config(num_train_epochs=1).model_dump())
    heard = []
    monkeypatch.setattr(room, "main_memory", lambda: 1000)
    tw.resume(run.path, data=ROWS, num_train_epochs=2, tell=heard.append)
    said = [event.sentence for event in heard if isinstance(event, Notice)]
    (sentence,) = [sentence for sentence in said if sentence.startswith("Forward passes have")]
    assert sentence.endswith("Its bits are no longer those of the run that was stopped.")


def test_gradient_checkpointing_keeps_its_passes(config, monkeypatch):
    heard = []
    monkeypatch.setattr(room, "main_memory", lambda: 1000)
    settings = config(max_steps=1, gradient_checkpointing=True).model_dump()
    tw.train(ROWS, settings=settings, tell=heard.append)
    said = [event.sentence for event in heard if isinstance(event, Notice)]
    assert not any("Forward passes have" in sentence for sentence in said)


def test_what_several_processes_share_is_told(config):
    said = []
    plan({"train": ROWS}, config(parallel="fsdp"), lambda notice: said.append(notice.sentence))
    (sentence,) = [sentence for sentence in said if "training.parallel=fsdp" in sentence]
    assert sentence == (
        "The plan is of one process. Of its memory 0.00 GB are weights, gradients and the "
        "optimizer's state: several processes hold as many parts of that, and the weights of a "
        "layer, with training.parallel=fsdp."
    )
