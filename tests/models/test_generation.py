from __future__ import annotations

import json

import pytest
from pydantic import ValidationError
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

from tunewright.errors import ModelError
from tunewright.models.files.folder import put_generation
from tunewright.models.generating.generation import GENERATION_NAMES, Generation, read_generation

SETTINGS = Generation(
    max_new_tokens=40,
    num_beams=4,
    length_penalty=0.8,
    do_sample=True,
    temperature=0.7,
    top_k=20,
    top_p=0.9,
    no_repeat_ngram_size=3,
    num_return_sequences=2,
    stop="\n",
)


@pytest.fixture
def model():
    sizes = {"num_layers": 1, "num_heads": 2, "d_kv": 4, "d_model": 8, "d_ff": 8}
    return T5ForConditionalGeneration(T5Config(vocab_size=20, decoder_start_token_id=0, **sizes))


@pytest.mark.parametrize("settings", [SETTINGS, Generation(), Generation(num_beams=2)])
def test_settings_come_back_from_a_saved_folder(settings, model, tmp_path):
    put_generation(model, SETTINGS)
    put_generation(model, settings)
    model.save_pretrained(tmp_path)
    assert read_generation(tmp_path) == settings


def test_what_else_a_model_says_of_its_writing_stays(model, tmp_path):
    model.generation_config.forced_bos_token_id = 7
    model.generation_config.max_length = 999
    put_generation(model, Generation())
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "generation_config.json").read_text())
    assert stored["forced_bos_token_id"] == 7
    assert stored["max_new_tokens"] == 128
    assert "max_length" not in stored


def test_a_folder_that_says_nothing_has_the_defaults(tmp_path):
    assert read_generation(tmp_path) == Generation()


def test_every_name_is_one_of_transformers():
    known = GenerationConfig().to_dict()
    assert set(SETTINGS.to_library()) <= set(GENERATION_NAMES) <= set(known)
    assert len(GENERATION_NAMES) == 11


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "cannot be read (it is no JSON object)"),
        ('{"num_beams": 0}', '"num_beams" is 0. Input should be greater than or equal to 1.'),
        ('{"temperature": "hot"}', "\"temperature\" is 'hot'. Input should be a valid number."),
    ],
)
def test_a_file_that_makes_no_sense_is_an_error(text, message, tmp_path):
    path = tmp_path / "generation_config.json"
    path.write_text(text)
    with pytest.raises(ModelError) as caught:
        read_generation(tmp_path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"top_p": 0.0}, {"beams": 4}])
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        Generation(**wrong)
