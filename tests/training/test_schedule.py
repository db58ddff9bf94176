from __future__ import annotations

import pytest

from tunewright.training.schedule import Schedule


def factors(name, steps, *, total=110, warmup=10):
    schedule = Schedule(name, total, warmup)
    return [schedule.factor(step) for step in steps]


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "inverse_sqrt", "plateau"])
def test_every_schedule_warms_up_in_a_straight_line_to_its_peak(name):
    assert factors(name, [0, 1, 5, 9]) == [0.0, 0.1, 0.5, 0.9]
    assert factors(name, [10]) == [1.0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [1.0, 0.75, 0.5, 0.01, 0.0]),
        ("cosine", [1.0, 0.8535533905932737, 0.5, 0.000246719817, 0.0]),
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("inverse_sqrt", [1.0, 0.5345224838, 0.4082482905, 0.3028913, 0.3015113446]),
        ("plateau", [1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_the_shape_after_the_warmup(name, expected):
    assert factors(name, [10, 35, 60, 109, 110]) == pytest.approx(expected, abs=1e-7)


def test_without_warmup_the_first_update_has_the_whole_rate():
    for name in ("linear", "cosine", "constant", "inverse_sqrt", "plateau"):
        assert factors(name, [0], warmup=0) == [1.0]


def test_without_warmup_the_inverse_root_falls_from_the_ten_thousandth_update():
    found = factors("inverse_sqrt", [9_999, 10_000, 40_000], warmup=0)
    assert found == pytest.approx([1.0, 1.0, 0.5])


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_run_that_is_all_warmup_ends_without_an_error(name):
    assert factors(name, [0, 5, 10], total=10, warmup=10) == [0.0, 0.5, 0.0]


def test_the_plateau_halves_after_two_evaluations_without_progress():
    schedule, found = Schedule("plateau", 100, 0), []
    for progress in (True, False, False, False, True, False, False):
        schedule.observe(progress)
        found.append(schedule.factor(50))
    assert found == [1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25]


def test_other_schedules_do_not_listen_to_evaluations():
    schedule = Schedule("constant", 100, 0)
    for _ in range(9):
        schedule.observe(False)
    assert schedule.factor(50) == 1.0
