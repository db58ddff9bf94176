import dataclasses
import itertools
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reports.contents import NEWS, estimate, make_figures, make_report
from tunewright.errors import RunError
from tunewright.reports import ReportContent, render_report, write_report
from tunewright.reports.content import (
    ClassificationFigures,
    DataFile,
    Finding,
    Mistake,
    TruncationLedger,
)
from tunewright.types import Estimate

VOID = {"meta", "br", "link", "img", "input", "hr"}
ATTACK = "</title></style><script>alert(1)</script><img src=x \"onload=alert(1) 'onerror=x>"
TITLES = (
    *("Metrics", "What the audit found", "Learning", "Classes", "Curves", "Calibration"),
    *("Slices", "The most confident mistakes", "Length and truncation", "Data", "Settings"),
    *("Versions", "Notes"),
)


class Page(HTMLParser):
    """Reads a page strictly: a tag that is not closed in order raises."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes = [], [], []
        self.words, self.headings = [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_every_section_is_present(news_report):
    assert tuple(Page(render_report(news_report)).headings) == TITLES


def test_a_run_without_measurements_still_has_a_page():
    page = Page(render_report(ReportContent("empty", "text-classification", "today")))
    assert page.headings == []
    assert "empty" in page.text


def test_same_content_gives_the_same_page(news_report):
    assert render_report(news_report) == render_report(make_report())


def test_many_classes_and_chinese_make_well_formed_pages(intents_report, chinese_report):
    intents, chinese = Page(render_report(intents_report)), Page(render_report(chinese_report))
    assert "20 of 166 confused pairs are shown." in intents.text
    assert "酒店评论情感分类" in chinese.text
    assert "隔音太差了" in chinese.text


def test_nothing_is_loaded_from_elsewhere(news_report):
    html = render_report(news_report)
    links = [value for name, value in Page(html).attributes if name in ("src", "href")]
    assert links
    assert all(link.startswith("#") for link in links)
    assert re.findall(r"@import|url\(|https?://", html) == []
    assert "default-src 'none'" in html


def test_every_link_leads_to_a_section(news_report):
    attributes = Page(render_report(news_report)).attributes
    targets = {value for name, value in attributes if name == "id"}
    links = {value[1:] for name, value in attributes if name == "href"}
    assert len(links) == len(TITLES) + 1
    assert links <= targets


def test_ids_are_given_once(news_report):
    ids = [value for name, value in Page(render_report(news_report)).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_every_picture_has_words_or_is_hidden(news_report):
    html = render_report(news_report)
    pictures = re.findall(r"<svg[^>]*>", html)
    assert len(pictures) > 20
    assert all("aria-label=" in each or "aria-hidden" in each for each in pictures)


def test_headings_do_not_skip_a_level(news_report):
    levels = [
        int(tag[1]) for tag in Page(render_report(news_report)).tags if tag in ("h1", "h2", "h3")
    ]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_whatever_comes_from_data_is_escaped():
    labels = (ATTACK, *NEWS[1:])
    page = Page(render_report(hostile_report(labels, ATTACK)))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert [name for name, _ in page.attributes if name.startswith("on")] == []
    assert page.text.count("<script>alert(1)</script>") > 15


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_no_text_changes_the_shape_of_the_page(words):
    plain = Page(render_report(hostile_report(NEWS, "plain")))
    page = Page(render_report(hostile_report((words, *NEWS[1:]), words)))
    assert page.tags == plain.tags


def hostile_report(labels, words):
    return make_report(
        labels,
        title=words,
        task=words,
        created=words,
        findings=[Finding("error", words)],
        mistakes=[Mistake(words, words, labels[0], words, 0.9)],
        data_files=[DataFile(words, words, 1, words)],
        settings={words.replace(".", "") or "a": {"b": words}, "c": words},
        versions={words or "a": words},
        notes=[words],
    )


def test_lone_surrogates_and_control_characters_are_replaced(tmp_path):
    page = write_report(make_report(title="a\ud800b\x00c\x1bd"), tmp_path / "report.html")
    assert "a\ufffdb\ufffdc\ufffdd" in page.read_text(encoding="utf-8")


def test_long_lists_are_cut_and_the_count_is_stated():
    mistakes = [Mistake(f"row {i}", "x" * 100_000, *NEWS[:2], 0.9) for i in range(500)]
    findings = [Finding("info", "y" * 10_000)] * 1000
    html = render_report(make_report(mistakes=mistakes, num_mistakes=700, findings=findings))
    assert len(html) < 400_000
    assert "50 of 700 wrong answers" in html
    assert "50 of 1,000 findings are shown." in html
    assert "(98,000 more characters)" in html


def test_hundreds_of_classes_make_a_page_of_bounded_size():
    labels = [f"class {i}" for i in range(300)]
    html = render_report(make_report(classifications={"": make_figures(labels, 3, 0.5)}))
    assert len(html) < 400_000
    assert "With 300 classes the confusion matrix is too large to be seen" in html
    assert "200 of 300 classes are shown." in html


def test_ten_thousand_steps_stay_small():
    steps = [{"step": i, "loss": 1 / (i + 1), "learning_rate": 1e-5} for i in range(10_000)]
    html = render_report(make_report(steps=steps))
    assert len(html) < 150_000
    assert "Each point is the mean of 34 logged steps." in html


def test_undefined_values_are_written_as_a_dash():
    nothing = Estimate(math.nan, math.nan, math.nan)
    page = Page(render_report(make_report(metrics={"roc_auc": nothing}, baseline=None)))
    assert "ROC AUC – 95 % interval –" in page.text
    assert "nan" not in page.text


def test_steps_and_evaluations_may_lack_values():
    steps = [{"step": 1, "loss": None}, {"step": 2, "loss": math.inf, "mfu": None}]
    page = Page(render_report(make_report(steps=steps, evaluations=[{"step": 2, "metrics": {}}])))
    assert "Learning" not in page.headings


def test_a_long_text_is_folded_and_a_short_one_is_not():
    texts = [
        Mistake("row 1", "short", *NEWS[:2], 0.9),
        Mistake("row 2", "好" * 300, *NEWS[:2], 0.8),
    ]
    html = render_report(make_report(mistakes=texts, truncation=None))
    assert html.count("<details>") == 1
    assert f'<summary dir="auto">{"好" * 109}…</summary>' in html


def test_mistakes_of_which_nobody_is_sure_stand_by_how_bad_they_are():
    page = Page(render_report(make_report(mistakes=[Mistake("row 1", "short", *NEWS[:2], None)])))
    assert "The worst mistakes" in page.headings
    assert "wrong answers, the worst first" in page.text
    assert "% sure" not in page.text


def test_an_empty_truncation_ledger_divides_by_nothing():
    page = Page(render_report(make_report(truncation=TruncationLedger(128, 0, 0, 0, 0))))
    assert "Texts cut 0 of 0" in page.text


def test_slices_show_their_rows_and_warn_when_few(news_report):
    text = Page(render_report(news_report)).text
    assert "1 to 127 tokens 210" in text
    assert "博客 few rows 12" in text


def test_slices_without_the_headline_metric_plot_their_own(news_report):
    slices = [
        dataclasses.replace(each, metrics={"f1_macro": estimate(0.9)})
        for each in news_report.slices
    ]
    page = Page(render_report(make_report(slices=slices)))
    assert "F1 macro over parts of the evaluated rows, each on the same scale." in page.text
    assert "The tick marks the value over all rows." not in page.text


def test_a_model_that_never_errs_has_no_table_of_confusions():
    figures = ClassificationFigures(("a", "b"), ((3, 0), (0, 4)))
    page = Page(render_report(make_report(classifications={"": figures})))
    assert "Most often confused" not in page.text
    assert "7 of 7 rows lie on the diagonal" in page.text
    assert "Not fitted: probabilities are the model's own." in page.text


def test_a_report_is_written_with_its_folder(tmp_path, news_report):
    path = write_report(news_report, tmp_path / "runs" / "bbc" / "report.html")
    assert path.read_text(encoding="utf-8") == render_report(news_report)
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_written_says_so(tmp_path, news_report):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError) as raised:
        write_report(news_report, tmp_path / "report.html")
    assert str(raised.value) == (
        f"{tmp_path}/report.html: the report cannot be written (Is a directory). "
        "It needs a folder that can be written to and some free space. "
        "Free space or choose another folder, then run tunewright report."
    )
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_the_tiles_leave_out_averages_that_are_close_to_the_headline():
    names = ("accuracy", "f1_macro", "f1_micro", "f1_weighted", "mcc")
    html = render_report(make_report(metrics={name: estimate(0.9) for name in names}))
    assert re.findall(r"<div><dt>(.*?)</dt>", html)[:2] == ["F1 macro", "Matthews correlation"]
