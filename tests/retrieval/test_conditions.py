"""Conditions on columns: what is a number is compared as one."""

from __future__ import annotations

import pytest

from tunewright.errors import SettingsError
from tunewright.retrieval.conditions import Condition


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ("year>=2020", "2020"),
        ("year > 999", 1000),
        ("year<=1e3", "1000"),
        ("price=3.50", "3.5"),
        ("source=NIDDK", "NIDDK"),
        ("date<2024-05-31", "2024-05-30"),
        ("public=true", True),
        ("public!=true", None),
        ("public=True", True),
        ("public = FALSE", False),
        ("public!=True", False),
        ("flags=True", [False, True]),
        ("note=", ""),
        ("a=b=c", "b=c"),
        ("full name = Ann Lee ", "Ann Lee"),
        ("tags=film", ["drama", "film"]),
        ("tags!=book", ["drama", "film"]),
        ("years>2020", [1999, 2021]),
        ("user=9007199254740993", 9007199254740993),
        ("id=00123", "00123"),
        ("name=nan", "nan"),
        ("date>=2024", "2024-05-31"),
        ("version>=2", "2.1.3"),
        ("month=5", "05"),
        ("month>=3", "05"),
    ],
)
def test_these_hold(condition, value):
    assert Condition.read(condition).holds(value)


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ("year>=2020", "2019"),
        ("year>=2020", None),
        ("year=", None),
        ("year>9", "10 or so"),
        ("source=NIDDK", "niddk"),
        ("public=1", True),
        ("public=True", False),
        ("public=True", "true"),
        ("public>=2020", True),
        ("a!=b", "b"),
        ("year>=2020", "n/a"),
        ("year<2020", "n/a"),
        ("tags=film", ["drama"]),
        ("tags!=film", ["drama", "film"]),
        ("user=9007199254740993", 9007199254740992),
        ("id=00123", "123"),
    ],
)
def test_these_do_not(condition, value):
    assert not Condition.read(condition).holds(value)


@pytest.mark.parametrize("text", ["year", "", "=3", "  ", "<>"])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(SettingsError) as caught:
        Condition.read(text)

    assert str(caught.value) == (
        f'--where: "{text}" is no condition. It is a column, one of != >= <= = > <, and a value. '
        'Write, for example, --where "year>=2020".'
    )
