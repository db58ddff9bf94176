from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tasks.examples import EXAMPLES, rows_of
from tunewright.errors import ParityRefused
from tunewright.models.files.folder import save_model
from tunewright.models.files.loading import load_classifier
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.run.judging import parity as parity_module
from tunewright.run.judging.parity import (
    Parity,
    compare_logits,
    compare_with_stock,
    stock_outputs,
    task_outputs,
)
from tunewright.tasks.text_classification import TextClassification
from tunewright.tasks.token_classification import TokenClassification
from tunewright.types import Row

ROWS = rows_of(EXAMPLES["text-classification"])
OURS = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [0.5, 0.0]])


def test_the_largest_difference_and_the_share_of_flipped_answers_are_measured():
    theirs = OURS.copy()
    theirs[0, 0] += 0.25
    theirs[3] = [0.0, 0.125]
    found = compare_logits("a copy", OURS, theirs)
    assert found == Parity("a copy", 4, 0.5, 0.25, 2e-4)  # the largest logit is 2


@pytest.mark.parametrize("parity", [Parity("it", 4, 1e-4, 0.0, 1e-4), Parity("it", 1, 0, 0, 0)])
def test_a_difference_up_to_the_tolerance_passes(parity):
    assert parity.check("model") is None


@pytest.mark.parametrize(
    ("parity", "message"),
    [
        (
            Parity("stock transformers", 4, 0.5, 0.25, 1e-4),
            "runs/a/model: its outputs differ from stock transformers by 0.5, and 25.0% of the "
            "answers change. At most 0.0001 is allowed. The artefact must not be used.",
        ),
        (
            Parity("stock transformers", 4, 0.0, 0.5, 1e-4),
            "runs/a/model: its outputs differ from stock transformers by 0, and 50.0% of the "
            "answers change. At most 0.0001 is allowed. The artefact must not be used.",
        ),
        (
            Parity("stock transformers", 4, float("nan"), 0.0, 1e-4),
            "runs/a/model: its outputs differ from stock transformers by nan, and 0.0% of the "
            "answers change. At most 0.0001 is allowed. The artefact must not be used.",
        ),
    ],
)
def test_a_larger_one_is_refused(parity, message):
    with pytest.raises(ParityRefused) as caught:
        parity.check("runs/a/model")
    assert str(caught.value) == message
    assert caught.value.exit_status == 3


@pytest.fixture(params=["bert", "qwen2", "mpnet", "xlnet"])
def saved(request, tiny_folder, tmp_path):
    """A model, the features of eight rows, and the folder that the model was saved to."""
    source = tiny_folder(request.param)
    tokenizer = load_tokenizer(source)
    task = TextClassification().within(64).learn(ROWS)
    model, _ = task.build(source, tokenizer, dropout=None, seed=0)
    task.route(model)
    save_model(model, tokenizer, tmp_path / "model")
    features = [item for row in ROWS for item in task.encode(row, tokenizer)]
    return task, model, features, tmp_path / "model"


def test_a_saved_folder_answers_in_stock_transformers_as_the_model_does(saved):
    task, model, features, folder = saved
    compare_with_stock(task, model, folder, features).check(str(folder))


def test_a_folder_with_one_other_weight_is_caught(saved):
    task, model, features, folder = saved
    stock = task.stock(folder)
    with torch.no_grad():
        stock.get_input_embeddings().weight[:, 0].add_(0.1)
    ours, theirs = task_outputs(task, model, features), stock_outputs(task, stock, features)
    found = compare_logits("stock", ours["logits"], theirs["logits"])
    with pytest.raises(ParityRefused):
        found.check(str(folder))


def test_the_stock_library_sees_several_texts_at_once_and_few_enough_for_its_memory(
    saved, monkeypatch
):
    task, _, features, folder = saved
    whole = stock_outputs(task, task.stock(folder), features)["logits"]
    stock_of, sizes = task.stock_outputs, []

    def noted(_task, stock, batch):
        lengths = np.diff(batch.streams["text"].boundaries)
        sizes.append((len(lengths), len(lengths) * max(lengths)))
        return stock_of(stock, batch)

    monkeypatch.setattr(TextClassification, "stock_outputs", noted)
    monkeypatch.setattr(parity_module, "PROBE_TOKENS", 40)
    in_pieces = stock_outputs(task, task.stock(folder), features)["logits"]
    np.testing.assert_allclose(in_pieces, whole, atol=1e-5)
    assert sum(count for count, _ in sizes) == len(features)
    assert max(count for count, _ in sizes) > 1
    assert max(tokens for _, tokens in sizes) <= 40


def test_windows_of_a_row_need_not_share_a_batch_of_the_stock_library(tiny_folder, monkeypatch):
    folder = tiny_folder("bert")
    rows = [Row(0, {"tokens": ["good"] * 60, "tags": ["B-X"] * 60})]
    settings = {"max_length": 16, "long": "window", "stride": 4}
    task = TokenClassification(**settings).within(64).learn(rows)
    tokenizer, sizes = load_tokenizer(folder), []
    features = task.encode(rows[0], tokenizer)

    def noted(_task, _stock, batch):
        sizes.append(batch.streams["text"].num_tokens)
        return {"logits": torch.zeros(sizes[-1], 3)}

    monkeypatch.setattr(TokenClassification, "stock_outputs", noted)
    monkeypatch.setattr(parity_module, "PROBE_TOKENS", 32)
    stock_outputs(task, task.build(folder, tokenizer, dropout=None, seed=0)[0], features)
    assert sum(sizes) == sum(item.num_tokens for item in features)
    assert max(sizes) <= 32


def test_new_heads_of_one_seed_are_equal(tiny_folder):
    folder = tiny_folder("bert")
    heads = [load_classifier(folder, ["a", "b"], seed=seed).model.classifier for seed in (1, 1, 2)]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
