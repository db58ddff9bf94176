from __future__ import annotations

import pytest
import torch
from torch import nn

from tunewright.errors import SettingsError
from tunewright.models.depths import depths
from tunewright.models.files.loading import load_classifier
from tunewright.training.optimizer import (
    MovingAverage,
    build_optimizer,
    freeze,
    set_factor,
)

# A parameter of the embeddings, of each layer, and of the head, for each way of naming them.
PLACES = {
    "bert": [
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.0.output.dense.weight",
        "bert.encoder.layer.1.output.dense.weight",
        "classifier.weight",
    ],
    "deberta-v2": [
        "deberta.embeddings.word_embeddings.weight",
        "deberta.encoder.layer.0.output.dense.weight",
        "deberta.encoder.layer.1.output.dense.weight",
        "classifier.weight",
    ],
    "distilbert": [
        "distilbert.embeddings.word_embeddings.weight",
        "distilbert.transformer.layer.0.ffn.lin1.weight",
        "distilbert.transformer.layer.1.ffn.lin1.weight",
        "pre_classifier.weight",
    ],
    "electra": [
        "electra.embeddings_project.weight",
        "electra.encoder.layer.0.output.dense.weight",
        "electra.encoder.layer.1.output.dense.weight",
        "classifier.out_proj.weight",
    ],
    "gpt2": [
        "transformer.wpe.weight",
        "transformer.h.0.mlp.c_fc.weight",
        "transformer.h.1.mlp.c_fc.weight",
        "score.weight",
    ],
    "llama": [
        "model.embed_tokens.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
        "score.weight",
    ],
    "modernbert": [
        "model.embeddings.tok_embeddings.weight",
        "model.layers.0.mlp.Wi.weight",
        "model.layers.1.mlp.Wi.weight",
        "classifier.weight",
    ],
    "mpnet": [
        "mpnet.embeddings.word_embeddings.weight",
        "mpnet.encoder.layer.0.output.dense.weight",
        "mpnet.encoder.layer.1.output.dense.weight",
        "classifier.out_proj.weight",
    ],
    "roberta": [
        "roberta.embeddings.word_embeddings.weight",
        "roberta.encoder.layer.0.output.dense.weight",
        "roberta.encoder.layer.1.output.dense.weight",
        "classifier.dense.weight",
    ],
    "xlnet": [
        "transformer.word_embedding.weight",
        "transformer.layer.0.ff.layer_1.weight",
        "transformer.layer.1.ff.layer_1.weight",
        "logits_proj.weight",
    ],
}


@pytest.fixture(params=sorted(PLACES))
def architecture(request):
    return request.param


@pytest.fixture
def model(tiny_folder, architecture):
    return load_classifier(tiny_folder(architecture), ["a", "b"]).model


def test_depths_count_from_the_embeddings_to_the_head(model, architecture):
    found = depths(model)
    assert [found[name] for name in PLACES[architecture]] == [0, 1, 2, 3]
    assert set(found.values()) == {0, 1, 2, 3}


def test_a_final_norm_belongs_to_the_highest_layer(tiny_folder):
    model = load_classifier(tiny_folder("llama"), ["a", "b"]).model
    assert depths(model)["model.norm.weight"] == 2


def test_albert_s_shared_layers_are_one_layer(tiny_folder):
    found = depths(load_classifier(tiny_folder("albert"), ["a", "b"]).model)
    assert sorted(set(found.values())) == [0, 1, 2]


def test_the_rate_falls_by_the_decay_from_each_layer_to_the_one_below(model, architecture):
    optimizer = build_optimizer(
        model, learning_rate=1.0, head_learning_rate=5.0, layer_lr_decay=0.5
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    peaks = {names[p]: g["peak"] for g in optimizer.param_groups for p in g["params"]}
    assert [peaks[name] for name in PLACES[architecture]] == [0.125, 0.25, 0.5, 5.0]


@pytest.mark.parametrize(("num_layers", "learning"), [(0, 4), (1, 2), (2, 1), (-1, 1)])
def test_freezing_leaves_the_upper_part_learning(model, architecture, num_layers, learning):
    left = freeze(model, num_layers)
    parameters = dict(model.named_parameters())
    found = [parameters[name].requires_grad for name in PLACES[architecture]]
    assert found == [False] * (4 - learning) + [True] * learning
    assert left == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_freezing_more_layers_than_there_are_is_refused(model):
    with pytest.raises(SettingsError) as caught:
        freeze(model, 3)
    assert str(caught.value) == (
        "training.freeze_layers: it is 3. The model has 2 layers. Use -1 to train the head alone."
    )


def test_every_learning_parameter_is_in_one_group_and_vectors_do_not_decay(model):
    freeze(model, 1)
    optimizer = build_optimizer(model, learning_rate=1e-3, weight_decay=0.1, layer_lr_decay=0.9)
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(grouped) == len({id(p) for p in grouped})
    for group in optimizer.param_groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}


def test_the_factor_scales_every_group_s_peak(tiny_folder):
    model = load_classifier(tiny_folder("bert"), ["a", "b"]).model
    optimizer = build_optimizer(model, learning_rate=0.4, layer_lr_decay=0.5)
    set_factor(optimizer, 0.25)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.0125, 0.025, 0.05, 0.1]


def test_weight_decay_is_decoupled(tiny_folder):
    model = load_classifier(tiny_folder("bert"), ["a", "b"]).model
    before = model.classifier.weight.detach().clone()
    optimizer = build_optimizer(model, learning_rate=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.classifier.weight.detach(), before * (1 - 0.1 * 0.5))


def test_the_moving_average_follows_its_formula():
    weight = nn.Parameter(torch.zeros(1))
    average, expected = MovingAverage([weight], decay=0.25), 0.0
    for step, value in enumerate([1.0, 5.0, 2.0, 8.0], start=1):
        weight.data.fill_(value)
        average.update()
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    average.swap()
    assert float(weight.detach()) == pytest.approx(expected)


def test_swapping_twice_changes_nothing():
    weight = nn.Parameter(torch.ones(2))
    average = MovingAverage([weight], decay=0.9)
    weight.data.fill_(3.0)
    average.swap()
    assert weight.tolist() == [1.0, 1.0]
    average.swap()
    assert weight.tolist() == [3.0, 3.0]
