"""A tokenizer that is trained on the spot: what it learns, keeps, and refuses."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from tunewright.errors import DataError, SettingsError
from tunewright.models.text.new_tokenizer import train_tokenizer

TEXTS = ["The films filmed in Paris", "酒店的服务非常好", "a film of 1999, filming filters"] * 30
KINDS = ("wordpiece", "bpe", "unigram")


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return train_tokenizer(TEXTS, request.param, 400)


def pieces(tokenizer, text):
    """The stretches of a text that its tokens cover."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [text[start:end].strip() for start, end in found["offset_mapping"]]


def test_frequent_words_become_tokens_of_their_own(tokenizer):
    assert "film" in pieces(tokenizer, "a film") or pieces(tokenizer, "a film")[-2:] == ["fi", "lm"]
    assert len(tokenizer) <= 400


def test_each_chinese_character_is_a_token(tokenizer):
    found = pieces(tokenizer, "的酒店服务")
    assert found in (
        list("的酒店服务"),
        list("的的酒店服务"),
    )  # unigram: "▁" stands for the first, too


def test_special_tokens_stand_around_a_text_and_between_two(tokenizer):
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    pair = tokenizer("film", "店")
    assert pair["input_ids"][0] == cls
    assert [place for place, token in enumerate(pair["input_ids"]) if token == sep] == [
        pair["token_type_ids"].index(1) - 1,
        len(pair["input_ids"]) - 1,
    ]
    assert tokenizer.convert_tokens_to_ids("[PAD]") == tokenizer.pad_token_id == 0
    (masked,) = set(tokenizer("[MASK]", add_special_tokens=False)["input_ids"]) - {
        tokenizer.convert_tokens_to_ids("▁")
    }
    assert masked == tokenizer.mask_token_id


def test_stock_transformers_reads_what_is_saved(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("The film, 酒店! 1999", "unknown \U0001f600 ß"):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.model_max_length == 512
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_the_same_texts_give_the_same_tokenizer(kind):
    first, second = (train_tokenizer(TEXTS, kind, 350).get_vocab() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("kind", KINDS)
def test_lower_case_is_a_choice(kind):
    plain, lower = (train_tokenizer(TEXTS, kind, 350, lowercase=low) for low in (False, True))
    assert lower("PARIS")["input_ids"] == lower("paris")["input_ids"]
    assert plain("Paris")["input_ids"] != plain("paris")["input_ids"]


def test_bytes_know_no_unknown_character():
    tokenizer = train_tokenizer(TEXTS, "bpe", 400)
    text = "生 \U0001f600 ß"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_more_characters_than_the_vocabulary_holds_leave_room_for_the_frequent_ones():
    rare = [chr(0x4E00 + number) for number in range(1000)]
    tokenizer = train_tokenizer([*rare, *("酒店" for _ in range(5))], "wordpiece", 300)
    assert len(tokenizer) <= 300
    assert tokenizer.unk_token_id not in tokenizer("酒店")["input_ids"]
    letters = " ".join(chr(0x0400 + number) * 2 for number in range(250))
    assert len(train_tokenizer([letters] * 5, "wordpiece", 300)) <= 300


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((TEXTS, "words"), SettingsError,
         'the tokenizer: there is no kind "words". It is wordpiece, bpe or unigram.'),
        ((TEXTS, "bpe", 12), SettingsError,
         "the vocabulary: its size is 12. It must be from 300 to 1,000,000."),
        ((["", " "],), DataError,
         "the tokenizer: the texts hold no character. It learns from texts."),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused(arguments, error, message):
    with pytest.raises(error) as caught:
        train_tokenizer(*arguments)
    assert str(caught.value) == message
