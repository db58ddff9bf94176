import math
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load
from markdown_it import MarkdownIt

from tests.reports.contents import make_card, make_metrics
from tunewright.reports import CardContent, model_card
from tunewright.reports.content import LengthBin, TruncationLedger
from tunewright.types import Estimate

HOSTILE = "a|b\n---\n# `c` ```<script>&[x](y)\ud800"


@pytest.fixture
def read_head(tmp_path):
    def read(text):
        path = tmp_path / "README.md"
        path.write_text(text, encoding="utf-8")
        return metadata_load(path)

    return read


def test_the_head_is_what_the_hub_reads(news_card, read_head):
    head = read_head(model_card(news_card))
    assert head["library_name"] == "transformers"
    assert head["pipeline_tag"] == "text-classification"
    assert head["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert (head["language"], head["license"], head["tags"]) == (
        ["en"],
        "apache-2.0",
        ["tunewright"],
    )
    assert head["metrics"][:5] == ["accuracy", "f1", "precision", "recall", "matthews_correlation"]


def test_the_head_holds_every_result(news_card):
    data = ModelCard(model_card(news_card)).data
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    assert len(values) == len(make_metrics(0.9))
    assert values["F1 macro"] == 0.976
    assert data.eval_results[0].dataset_name == "BBC news"


def test_a_bare_card_is_still_valid(read_head):
    text = model_card(CardContent("plain", "text classification", {}))
    assert read_head(text)["tags"] == ["tunewright"]
    assert "## Results" not in text
    assert "## Limits" not in text


def test_every_section_is_present_in_order(news_card):
    lines = model_card(news_card).splitlines()
    titles = [line for line in lines if line.startswith("## ")]
    assert titles == [
        *("## Use", "## Results", "## Data", "## Limits", "## Settings", "## Framework versions"),
    ]


def test_results_carry_their_intervals(news_card):
    assert "| Accuracy | 0.9780 | 0.9640 to 0.9892 |" in model_card(news_card)


def test_what_stock_libraries_cannot_express_is_named(news_card):
    limits = ["Trained on news of 2004.", "Logits are divided by a temperature of 1.274."]
    text = model_card(replace(news_card, limits=limits))
    assert "## Limits\n\n- Trained on news of 2004.\n- Logits are divided by" in text


def test_the_snippets_are_python(news_card):
    blocks = model_card(make_card(example='He said "没有" \\ ```')).split("````python\n")[1:]
    assert len(blocks) == 2
    for block in blocks:
        compile(block.split("\n````")[0], "card", "exec")


def test_names_from_data_cannot_break_the_card(news_card, read_head):
    text = model_card(
        make_card(name=HOSTILE, labels=(HOSTILE,), dataset=HOSTILE, settings={HOSTILE: HOSTILE})
    )
    assert read_head(text)["model-index"][0]["name"].startswith("a|b --- # `c`")
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert len(titles) == 7
    page = MarkdownIt("commonmark").enable("table").render(text.split("\n---\n", 1)[1])
    assert "<script>" not in page
    assert "href" not in page


def test_undefined_results_are_not_claimed(read_head):
    nothing = Estimate(math.nan, math.nan, math.nan)
    text = model_card(make_card(metrics={"roc_auc": nothing}))
    assert "model-index" not in read_head(text)
    assert "| ROC AUC | – | – |" in text


def test_long_lists_are_cut_and_counted():
    text = model_card(make_card(labels=[f"class_{i}" for i in range(150)]))
    assert "It tells 150 classes apart" in text
    assert "`class_99` and 50 more, named in `config.json`." in text


def test_same_content_gives_the_same_card(news_card):
    assert model_card(news_card) == model_card(make_card())


def data_of(card, ledger):
    return model_card(replace(card, truncation=ledger)).partition("## Limits")[0].splitlines()[-2]


@pytest.mark.parametrize("bins", [[LengthBin(1, 9, 3)], [LengthBin(1, 9, 2), LengthBin(9, 50, 1)]])
def test_windows_are_named_whether_or_not_a_training_text_needs_them(news_card, bins):
    ledger = TruncationLedger(8, 3, 60, 0, 0, bins, reads_long="window")
    said = "The model reads 8 tokens at once, and longer texts in windows."
    assert data_of(news_card, ledger) == said


def test_a_question_that_is_cut_does_not_make_windows_the_first_tokens(news_card):
    ledger = TruncationLedger(16, 4, 200, 1, 20, reads_long="window")
    assert data_of(news_card, ledger) == (
        "The model reads 16 tokens at once, and longer texts in windows. Of the 4 texts 1 "
        "(25.0\xa0%) are cut, since what stands in each of their windows is long; 10.0\xa0% of all "
        "tokens are not read."
    )


def test_a_row_of_several_texts_that_are_not_cut_is_not_said_to_have_windows(news_card):
    ledger = TruncationLedger(8, 3, 60, 0, 0, [LengthBin(9, 50, 3)], reads_long="truncate")
    assert data_of(news_card, ledger) == (
        "The model reads the first 8 tokens of a text. Of the 3 texts 0 (0.0\xa0%) are longer; "
        "0.0\xa0% of all tokens are not read."
    )


@pytest.mark.parametrize(
    ("reads_long", "said"),
    [
        ("error", "The model reads at most 8 tokens of a text, and longer ones are refused."),
        (
            "mixed",
            "The model reads at most 8 tokens at once. Of what is longer, some is cut, and some is "
            "read in windows. Of the 3 texts 1 (33.3\xa0%) are cut; 10.0\xa0% of all tokens are "
            "not read.",
        ),
    ],
)
def test_other_ways_to_read_long_texts_are_named(news_card, reads_long, said):
    cut = (1, 6) if reads_long == "mixed" else (0, 0)
    assert data_of(news_card, TruncationLedger(8, 3, 60, *cut, reads_long=reads_long)) == said
