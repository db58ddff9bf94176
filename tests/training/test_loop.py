from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tests.tasks.examples import EXAMPLES, rows_of
from tests.training.loops import CPU, build_loop, gradients, weights
from tunewright.devices import seed_kernels
from tunewright.errors import NonFiniteLoss
from tunewright.models.heads import HEADS
from tunewright.models.layers import embedding
from tunewright.tasks.base import Loss
from tunewright.tasks.masked_language_modelling import NOT_HIDDEN, MaskedLanguageModelling
from tunewright.tasks.text_classification import TextClassification
from tunewright.training.events import Step
from tunewright.training.optimizer import build_optimizer
from tunewright.training.order import order_of_epoch

ROWS = rows_of(EXAMPLES["text-classification"])


@pytest.fixture
def loop(tiny_folder):
    """Returns a function (settings) -> loop of a tiny BERT over the eight rows."""

    def build(architecture="bert", task=None, rows=ROWS, **settings):
        task = (task or TextClassification()).within(128).learn(rows)
        return build_loop(tiny_folder(architecture), task, rows, **settings)

    return build


def run(loop):
    return list(loop.run())


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    differing = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert differing == []


@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_the_order_is_a_permutation_that_depends_on_seed_and_epoch_alone(num_rows, seed, epoch):
    order = order_of_epoch(num_rows, seed, epoch)
    assert sorted(order) == list(range(num_rows))
    np.random.seed(epoch)
    assert order_of_epoch(num_rows, seed, epoch).tolist() == order.tolist()


def test_another_epoch_or_seed_is_another_order():
    orders = [order_of_epoch(50, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "mpnet"])
def test_two_runs_with_dropout_give_the_same_bits(loop, architecture):
    runs = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        one = loop(architecture, steps=3, batch_size=3, dropout=0.3, max_tokens=30)
        losses = [event.loss for event in run(one)]
        runs.append((losses, weights(one.model)))
    assert runs[0][0] == runs[1][0]
    assert_same(runs[0][1], runs[1][1])


def test_another_seed_gives_other_weights(loop):
    first, second = (loop(steps=1, dropout=0.3, seed=seed) for seed in (0, 1))
    run(first), run(second)
    assert not torch.equal(first.model.classifier.weight, second.model.classifier.weight)


def test_every_row_is_seen_once_an_epoch_and_the_last_update_may_be_smaller(loop):
    events = run(loop(steps=6, batch_size=3))
    assert [event.num_rows for event in events] == [3, 3, 2, 3, 3, 2]
    lengths = sum(item.num_tokens for row in loop().rows for item in row)
    assert sum(event.num_tokens for event in events) == 2 * lengths


def test_an_event_says_where_the_run_is(loop):
    event = run(loop(steps=4, batch_size=4, learning_rate=0.25))[2]
    assert (event.step, event.total_steps, event.epoch) == (3, 4, 1.5)
    assert event.learning_rate == 0.25
    assert event.flop > 0
    assert event.gradient_norm > 0


def test_the_operations_of_an_update_count_the_tokens_that_a_vocabulary_is_scored_for(loop):
    task = MaskedLanguageModelling(mask_fraction=0.5)
    made = loop(task=task, steps=1, max_tokens=60)
    items = [item for index in range(len(made.rows)) for item in made._varied(index, epoch=0)]
    num_hidden = sum(int((item.targets["label"] != NOT_HIDDEN).sum()) for item in items)
    lengths = [item.num_tokens for item in items]
    assert 0 < num_hidden < sum(lengths)
    assert (
        run(made)[0].flop == made.flop.training(lengths, num_hidden) > made.flop.training(lengths)
    )


def test_the_loss_of_an_event_is_the_mean_over_its_rows(loop):
    one, many = (run(loop(steps=1, max_tokens=size))[0] for size in (8192, 20))
    assert one.loss == pytest.approx(many.loss, rel=1e-6)
    assert one.loss == pytest.approx(np.log(4), abs=0.7)


def test_the_number_of_updates_ends_the_run_in_the_middle_of_an_epoch(loop):
    assert len(run(loop(steps=2, batch_size=3))) == 2


def norm(gradient):
    return float(torch.stack([g.norm() for g in gradient.values()]).norm())


def test_clipping_scales_the_gradient_to_the_limit_and_reports_the_norm_before(loop):
    free = gradients(loop())
    clipped = gradients(loop(max_grad_norm=0.01))
    assert norm(clipped) == pytest.approx(0.01, rel=1e-3)
    scale = 0.01 / norm(free)
    for name, gradient in free.items():
        torch.testing.assert_close(clipped[name], gradient * scale, rtol=1e-3, atol=1e-7)
    (event,) = run(loop(steps=1, max_grad_norm=0.01))
    assert event.gradient_norm == pytest.approx(norm(free), rel=1e-5)


def test_a_gradient_under_the_limit_is_left_alone(loop):
    assert norm(gradients(loop(max_grad_norm=1e6))) == pytest.approx(norm(gradients(loop())))


def test_l1_adds_its_weight_times_the_sign_of_each_matrix(loop):
    free, penalised = gradients(loop()), loop(l1=0.01)
    found = gradients(penalised)
    for name, parameter in penalised.model.named_parameters():
        if name in free:
            weight = 0.01 if parameter.ndim > 1 else 0.0
            expected = free[name] + weight * parameter.detach().sign()
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-7)


def test_l1_of_a_table_that_keeps_its_gradient_is_that_of_any_other(loop, monkeypatch):
    settings = {"l1": 0.01, "steps": 4, "batch_size": 2, "learning_rate": 1e-2}
    plain, kept = loop(**settings), loop(**settings)
    monkeypatch.setattr(embedding, "LEAST_ELEMENTS", 1)
    embedding.keep_row_gradients(kept.model)
    kept.optimizer = build_optimizer(kept.model, learning_rate=1e-2, weight_decay=0.0)
    kept.__post_init__()
    assert kept.optimizer.tables
    run(plain), run(kept)
    expected = weights(plain.model)
    for name, weight in weights(kept.model).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "llama"])
def test_recomputing_activations_gives_the_same_gradient(loop, architecture):
    stored, recomputed = (gradients(loop(architecture, recompute=x)) for x in (False, True))
    assert stored.keys() == recomputed.keys()
    for name, gradient in stored.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-7)


def test_recomputing_with_dropout_replays_its_masks(loop):
    first, second = (gradients(loop(recompute=True, dropout=0.3)) for _ in range(2))
    assert_same(first, second)


POISON = {
    "infinite weight": lambda model: model.classifier.weight.data.fill_(float("inf")),
    "nan weight": lambda model: model.classifier.bias.data.fill_(float("nan")),
    "overflow": lambda model: model.classifier.weight.data.fill_(3e38),
}


@pytest.mark.parametrize("poison", sorted(POISON))
def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_rows(loop, poison):
    one = loop(batch_size=3)
    POISON[poison](one.model)
    before = weights(one.model)
    with pytest.raises(NonFiniteLoss) as caught:
        run(one)
    rows = ", ".join(f'"{row}"' for row in sorted(order_of_epoch(8, 0, 0)[:3]))
    assert str(caught.value) == (
        "training: the loss or its gradient is not finite. It happened in an update of the rows "
        f"{rows}; nothing was changed. "
        "Try a smaller training.learning_rate, or training.precision=fp32."
    )
    after = weights(one.model)
    assert all(torch.equal(after[k].nan_to_num(), before[k].nan_to_num()) for k in before)
    assert one.optimizer.state == {}


def test_a_learning_rate_far_too_high_ends_in_the_same_way(loop):
    one, events = loop("gpt2", steps=50, learning_rate=1e30), []
    with pytest.raises(NonFiniteLoss):
        events.extend(one.run())
    assert one.optimizer.state[one.model.score.weight]["step"] >= 1


def test_frozen_weights_do_not_move(loop):
    one = loop(steps=2)
    frozen = one.model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    before = frozen.clone()
    run(one)
    assert torch.equal(frozen, before)


def test_the_moving_average_trails_the_weights(loop):
    one = loop(steps=3, ema_decay=0.9)
    first = one.model.classifier.weight.detach().clone()
    run(one)
    last = one.model.classifier.weight.detach().clone()
    one.average.swap()
    middle = one.model.classifier.weight.detach()
    assert float((middle - last).norm()) < float((first - last).norm())
    assert not torch.equal(middle, last)


@pytest.mark.parametrize("architecture", sorted(HEADS))
def test_the_gradient_in_bf16_points_where_that_in_fp32_does(loop, architecture):
    wide, narrow = loop(architecture), loop(architecture)
    narrow.device = replace(CPU, precision="bf16")
    first, second = (joined(gradients(one)) for one in (wide, narrow))
    assert float(torch.cosine_similarity(first, second, dim=0)) > 0.999
    assert float(second.norm() / first.norm()) == pytest.approx(1, abs=0.02)


def joined(gradient):
    return torch.cat([gradient[name].flatten() for name in sorted(gradient)])


@pytest.mark.parametrize(
    "task",
    [
        TextClassification(class_weights={"film": 3.0, "bank": 0.2}),
        TextClassification(label_smoothing=0.2),
        TextClassification(focal_gamma=2.0),
    ],
    ids=["class weights", "smoothing", "focal"],
)
def test_every_kind_of_loss_adds_up_over_any_cut(loop, task):
    whole, pieces = (gradients(loop(task=task, max_tokens=size)) for size in (8192, 1))
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=1e-5, atol=1e-5 * largest)


class Ranked(TextClassification):
    """Every text is told from all others of its update by its logits: a loss over the whole."""

    scope = "batch"

    def loss(self, outputs, batch):
        logits_BC = outputs["logits"].float()
        true_B = torch.arange(len(logits_BC))
        return Loss(functional.cross_entropy(logits_BC @ logits_BC.T, true_B, reduction="sum"),
                    len(true_B))  # fmt: skip


@pytest.mark.parametrize("max_tokens", [1, 25, 60])
@pytest.mark.parametrize("architecture", ["bert", "qwen2", "mpnet"])
def test_a_cached_gradient_is_that_of_one_large_batch(loop, architecture, max_tokens):
    whole = gradients(loop(architecture, Ranked()))
    cached = gradients(loop(architecture, Ranked(), max_tokens=max_tokens))
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    assert whole.keys() == cached.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(cached[name], gradient, rtol=1e-5, atol=1e-5 * largest, msg=name)


class Apart(Ranked):
    """The same loss, each forward pass for itself."""

    scope = "row"


def test_pieces_of_their_own_would_not_give_the_gradient_of_a_loss_over_the_whole(loop):
    whole = gradients(loop(task=Ranked()))["classifier.weight"]
    found = gradients(loop(task=Apart(), max_tokens=25))["classifier.weight"]
    assert not torch.allclose(found, whole, rtol=1e-2)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_both_passes_of_a_cached_gradient_see_the_same_dropout(loop, dropout, monkeypatch):
    one = loop(task=Ranked(), max_tokens=25, dropout=dropout)
    one.model.train()
    seen = []
    forward = one._forward
    monkeypatch.setattr(
        one,
        "_forward",
        lambda *given: seen.append(forward(*given)["logits"]) or {"logits": seen[-1]},
    )
    one._accumulate(0, [[item for row in one.rows for item in row]])
    half = len(seen) // 2
    assert half > 1
    for first, second in zip(seen[:half], seen[half:], strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_dropout_is_the_same_however_an_update_is_cut(loop, architecture):
    whole, cut = (
        gradients(loop(architecture, dropout=0.3, max_tokens=tokens)) for tokens in (8192, 20)
    )
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_loop_goes_on_from_its_step(loop, step):
    whole, later = (loop(steps=6, batch_size=3) for _ in range(2))
    later.step = step
    rows = [[event.num_rows, event.num_tokens, event.epoch] for event in run(whole)]
    assert [[event.num_rows, event.num_tokens, event.epoch] for event in run(later)] == rows[step:]
    assert (later.step, run(later)) == (6, [])


@pytest.fixture
def looks_ahead(loop, monkeypatch):
    """Returns a function (settings) -> loop that takes the CPU for a GPU."""

    def seed_cpu(device, seed):
        seed_kernels(CPU, seed)

    monkeypatch.setattr("tunewright.training.loop.seed_kernels", seed_cpu)
    monkeypatch.setattr("tunewright.training.loop.release_memory", lambda kind: None)

    def build(**settings):
        one = loop(**settings)
        one.device = replace(CPU, kind="cuda")
        return one

    return build


SETTINGS = {"steps": 7, "batch_size": 3, "dropout": 0.2, "max_tokens": 30}


def test_rows_that_were_packed_ahead_are_learnt_to_the_same_bits(loop, looks_ahead):
    one, plain = looks_ahead(**SETTINGS), loop(**SETTINGS)
    losses = [event.loss for event in one.run()]
    assert losses == [event.loss for event in plain.run()]
    assert_same(weights(one.model), weights(plain.model))
    assert one._next is None


def test_rows_that_cannot_be_read_are_met_in_their_turn(loop, looks_ahead):
    class Broken(list):
        def __getitem__(self, place):
            if place == broken:
                raise ValueError("not to be read")
            return super().__getitem__(place)

    one, plain = looks_ahead(**SETTINGS), loop(**SETTINGS)
    ((_, _), (later, _), *_) = one._updates(0)
    broken = later[0]
    one.rows = Broken(one.rows)
    running = one.run()
    assert next(running).loss == next(plain.run()).loss
    assert one.step == 1
    assert_same(weights(one.model), weights(plain.model))
    with pytest.raises(ValueError, match="not to be read"):
        next(running)


def test_of_a_pass_that_does_not_fit_nothing_that_was_packed_is_kept(looks_ahead, monkeypatch):
    one = looks_ahead(**SETTINGS)
    forward, sizes = one._forward, []

    def short(step, batch):
        sizes.append(batch.num_tokens)
        if batch.num_tokens > 20:
            raise MemoryError
        return forward(step, batch)

    monkeypatch.setattr(one, "_forward", short)
    assert len([event for event in one.run() if isinstance(event, Step)]) == 7
    assert one.max_tokens <= 20 < max(sizes)
