"""`tunewright pretrain`: plain text in, a masked language model out."""

from __future__ import annotations

import pytest

from tests.cli.conftest import BAD, GOOD, QUICK

NEW = ["--model", "new:1x64", "--vocab-size", 300, *QUICK]


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_text("\n".join(f"{line}, {n}" for n in range(8) for line in GOOD + BAD))
    return file


def test_a_model_begins_from_nothing_and_is_trained_for_a_task(command, corpus, reviews):
    ended = command("pretrain", corpus, *NEW, "--tokenizer", "bpe", "--lowercase", "--json")
    assert ended.status == 0, ended.err
    assert set(ended.json["evaluation"]["metrics"]) == {"perplexity", "token_accuracy"}
    assert "which begins with what counting says of the texts, and its tokenizer of" in ended.err
    after = command("train", reviews, "--model", ended.json["run"], "--text", "review", "--label",
                    "stars", "--json", *QUICK)  # fmt: skip
    assert after.status == 0, after.err
    assert "does not use" in after.err


def test_a_model_that_exists_is_adapted(command, corpus, tiny):
    ended = command("pretrain", corpus, "--model", tiny, "--name", "adapted", *QUICK)
    assert ended.status == 0, ended.err
    assert "perplexity" in ended.out
    assert "next  tunewright train DATA --model runs/adapted" in ended.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vocab-size", 500],
         'tunewright: the tokenizer: the model "starter" has one already. Only a new model gets a '
         "new one. Leave its kind, vocab_size and lowercase out, or name a new model: new:mini.\n"),
        (["--model", "new:smal"],
         'tunewright: model "new:smal": there is no size "smal". There is "tiny", "mini", "small", '
         '"medium", "base", or LAYERSxWIDTH such as 6x384. Did you mean new:small?\n'),
        (["--model", "new:tiny", "--tokenizer", "words"],
         'tunewright: the tokenizer: there is no kind "words". It is wordpiece, bpe or unigram.\n'),
        (["--model", "new:tiny", "--vocab-size", 5],
         "tunewright: the vocabulary: its size is 5. It must be from 300 to 1,000,000.\n"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_sentence(command, corpus, words, message):
    ended = command("pretrain", corpus, *words)
    assert ended.status == 2
    assert ended.err.endswith(message)
    assert not list(corpus.parent.glob("runs/*"))
