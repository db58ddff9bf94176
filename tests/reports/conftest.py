import pytest

from tests.reports.contents import (
    CHINESE,
    INTENTS,
    make_card,
    make_figures,
    make_report,
    make_slices,
)
from tunewright.reports.content import Baseline, Mistake


@pytest.fixture
def news_report():
    return make_report()


@pytest.fixture
def intents_report():
    return make_report(
        INTENTS, title="banking77", classifications={"": make_figures(INTENTS, 40, 0.92, seed=3)}
    )


@pytest.fixture
def chinese_report():
    text = "房间很干净，早餐也不错，但是隔音太差了，晚上根本睡不好。"
    return make_report(
        CHINESE,
        title="酒店评论情感分类",
        baseline=Baseline("正面", {"accuracy": 0.52}),
        slices=make_slices("城市", ("北京", "上海", "广州", "成都"), 0.9),
        mistakes=[Mistake("评论.csv, line 12", text * n, *CHINESE, 0.98) for n in (1, 12)],
    )


@pytest.fixture
def news_card():
    return make_card()
