from __future__ import annotations

import math

import pytest
import torch

from tests.tasks.examples import EXAMPLES, rows_of
from tests.training.loops import build_loop, weights
from tunewright.errors import NonFiniteLoss, SettingsError
from tunewright.tasks.text_classification import TextClassification
from tunewright.training.checkpoint import Checkpoints
from tunewright.training.course import Best, Course, total_steps
from tunewright.training.events import Evaluation, Finished, Step
from tunewright.training.saving import Saver

ROWS = rows_of(EXAMPLES["text-classification"])


class Scripted:
    """Judges by a list of values, and remembers the weights that it saw."""

    def __init__(self, values):
        self.values, self.seen = list(values), []

    def __call__(self):
        self.seen.append(weights(self.model)["classifier.weight"])
        return {"accuracy": self.values[len(self.seen) - 1]}


@pytest.fixture
def course(tiny_folder):
    """Returns a function (values, settings) -> course whose evaluations give the values."""

    def build(values, steps=6, ema_decay=None, patience=None, **settings):
        task = TextClassification().within(128).learn(ROWS)
        loop = build_loop(
            tiny_folder("bert"), task, ROWS, steps=steps, batch_size=4, ema_decay=ema_decay
        )
        judge = None
        if values is not None:
            judge = Scripted(values)
            judge.model = loop.model
        best = Best("accuracy", higher_is_better=True)
        return Course(loop, judge, best, patience=patience, **settings)

    return build


def finished(course):
    return list(course.run())[-1]


def evaluations(events):
    return [event.step for event in events if isinstance(event, Evaluation)]


def test_the_weights_of_the_best_evaluation_are_brought_back(course):
    one = course([0.5, 0.9, 0.7])
    found = finished(one)
    assert (found.step, found.kept_step, found.reason) == (6, 4, "all updates done")
    assert torch.equal(weights(one.loop.model)["classifier.weight"], one.judge.seen[1])
    assert not one.loop.model.training


def test_the_last_weights_are_kept_when_the_best_are_not_wanted(course):
    one = course([0.9, 0.5, 0.7], load_best=False)
    assert finished(one).kept_step == 6
    assert torch.equal(weights(one.loop.model)["classifier.weight"], one.judge.seen[2])


def test_without_validation_the_last_weights_are_kept(course):
    one = course(None)
    events = list(one.run())
    assert [type(event) for event in events] == [Step] * 6 + [Finished]
    assert events[-1].kept_step == 6


def test_the_run_stops_after_so_many_evaluations_without_progress(course):
    one = course([0.5, 0.9, 0.9, 0.8, 1.0], steps=10, patience=2)
    found = finished(one)
    assert (found.step, found.kept_step) == (8, 4)
    assert found.reason == "no progress in 2 evaluations"


def test_an_evaluation_comes_each_epoch_or_at_its_interval_and_at_the_end(course):
    assert evaluations(course([0.1] * 9, steps=5).run()) == [2, 4, 5]
    assert evaluations(course([0.1] * 9, steps=7, eval_steps=3).run()) == [3, 6, 7]


def test_the_moving_average_is_judged_and_kept_and_training_goes_on_from_the_weights(course):
    one = course([0.5, 0.6], steps=4, ema_decay=0.99)
    plain = course([0.5, 0.6], steps=4)
    last, plain_last = finished(one), finished(plain)
    assert last.kept_step == plain_last.kept_step == 4
    kept = weights(one.loop.model)["classifier.weight"]
    assert torch.equal(kept, one.judge.seen[1])
    one.loop.average.swap()  # what is left aside are the weights that were trained
    assert not torch.equal(kept, plain.judge.seen[1])


def test_without_validation_the_moving_average_is_what_is_left(course):
    one = course(None, steps=2, ema_decay=0.5)
    finished(one)
    kept = weights(one.loop.model)["classifier.weight"]
    one.loop.average.swap()
    assert not torch.equal(weights(one.loop.model)["classifier.weight"], kept)


def test_a_plateau_hears_of_evaluations(course):
    one = course([0.5] * 6, steps=12)
    one.loop.schedule.name = "plateau"
    rates = [event.learning_rate for event in one.run() if isinstance(event, Step)]
    assert rates[-1] < rates[0]


def observed(values, **settings):
    best = Best("loss", **({"higher_is_better": True} | settings))
    return [best.observe({"loss": value}, step) for step, value in enumerate(values)], best


def test_equal_is_no_progress_and_the_first_best_stays():
    found, best = observed([0.5, 0.5, 0.6])
    assert (found, best.step, best.stale) == ([True, False, True], 2, 0)


def test_lower_is_better_where_the_metric_says_so():
    assert observed([0.5, 0.6, 0.4], higher_is_better=False)[0] == [True, False, True]


def test_a_gain_within_the_threshold_is_the_best_but_no_progress():
    found, best = observed([0.5, 0.55, 0.58], threshold=0.1)
    assert (found, best.step, best.stale) == ([True, True, True], 2, 2)


def test_small_gains_that_add_up_are_progress():
    assert observed([0.5, 0.55, 0.65], threshold=0.1)[1].stale == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_is_never_the_best(value):
    for higher in (True, False):
        found, best = observed([value, 0.5, value], higher_is_better=higher)
        assert (found, best.value) == ([False, True, False], 0.5)


def test_an_unknown_metric_is_refused_with_the_nearest_name():
    with pytest.raises(SettingsError) as caught:
        Best("acuracy", True).observe({"accuracy": 1.0, "mcc": 0.5}, 1)
    assert str(caught.value) == (
        'training.metric_for_best_model: there is no metric "acuracy". The task has "accuracy", '
        '"mcc". Did you mean "accuracy"?'
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((10, 4, 1.0, None), 3),
        ((10, 4, 2.5, None), 8),
        ((10, 4, 3.0, 5), 5),
        ((1, 32, 0.1, None), 1),
    ],
)
def test_the_number_of_updates(arguments, expected):
    assert total_steps(*arguments) == expected


@pytest.mark.parametrize("step", [1, 2, 3, 5, 6])
def test_a_course_goes_on_from_a_checkpoint_to_the_same_bits(course, tmp_path, step):
    values = [0.5, 0.9, 0.7]
    settings = {"ema_decay": 0.9, "steps": 6, "load_best": False}
    whole = course(values, **settings)
    expected = [event.loss for event in whole.run() if isinstance(event, Step)]
    first = course(values, **settings)
    for event in first.run():
        if isinstance(event, Step) and event.step == step:
            break
    store = Checkpoints(tmp_path)
    second = course(values[len(first.judge.seen) :], **settings)
    second.take_up(store.read(store.save(first.checkpoint())))
    losses = [event.loss for event in second.run() if isinstance(event, Step)]
    assert losses == expected[step:]
    for name, tensor in weights(whole.loop.model).items():
        assert torch.equal(weights(second.loop.model)[name], tensor), name
    assert second.best == whole.best or step in (2, 6)  # the evaluation of the step itself is due


def test_the_best_weights_come_back_with_the_checkpoint(course, tmp_path):
    first = course([0.9, 0.5])
    for event in first.run():
        if isinstance(event, Step) and event.step == 5:
            break
    store = Checkpoints(tmp_path)
    second = course([0.5])
    second.take_up(store.read(store.save(first.checkpoint())))
    assert finished(second).kept_step == 2
    assert torch.equal(weights(second.loop.model)["classifier.weight"], first.judge.seen[0])


def test_a_course_that_had_ended_only_settles(course, tmp_path):
    first = course([0.5, 0.9, 0.9, 0.8], steps=10, patience=2)
    finished(first)
    second = course([], steps=10, patience=2)
    store = Checkpoints(tmp_path)
    second.take_up(store.read(store.save(first.checkpoint())))
    (event,) = second.run()
    assert (event.step, event.kept_step) == (8, 4)
    assert event.reason == "no progress in 2 evaluations"


def test_what_the_loop_cannot_do_is_raised_after_its_last_good_state_is_saved(course, tmp_path):
    one = course(None, steps=10)
    one.saver = Saver(Checkpoints(tmp_path))

    def train():
        for event in one.run():
            if event.step == 3:
                one.loop.model.classifier.bias.data.fill_(math.nan)

    with pytest.raises(NonFiniteLoss):
        train()
    store = one.saver.store
    assert store.read(store.latest()).step == 3
