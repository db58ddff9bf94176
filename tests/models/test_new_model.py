"""A new model of a given size: random weights in the library's own folder."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForMaskedLM

from tunewright.errors import SettingsError
from tunewright.models.files.architecture import MASKED_LM, SEQUENCE_CLASSIFIER
from tunewright.models.files.folder import check_model_folder
from tunewright.models.files.loading import load_classifier, load_library_model
from tunewright.models.new_model import SIZES, Sizes, is_new, save_new_model, sizes_of
from tunewright.models.text.new_tokenizer import train_tokenizer
from tunewright.models.text.tokenizers import load_tokenizer, max_length_of

TEXTS = ["The films filmed in Paris", "酒店的服务非常好"] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, "wordpiece", 300, max_length=64)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("new") / "model"
    save_new_model(path, Sizes(2, 128), tokenizer, seed=3)
    return path


def test_names_stand_for_published_sizes():
    assert sizes_of("new:small") == SIZES["small"] == Sizes(4, 512)
    assert sizes_of("new:6x384") == Sizes(6, 384)
    assert [is_new(name) for name in ("new:tiny", "starter", "newest/model")] == [
        True,
        False,
        False,
    ]


def test_the_folder_is_the_librarys_own(folder, tokenizer):
    assert check_model_folder(folder, MASKED_LM) == ()
    stock = AutoModelForMaskedLM.from_pretrained(folder)
    ours = load_library_model(folder, MASKED_LM)
    assert ours.notices == ()
    assert stock.config.vocab_size == len(tokenizer) == len(load_tokenizer(folder))
    assert max_length_of(stock.config, load_tokenizer(folder)) == 64
    for name, weight in stock.named_parameters():
        assert torch.equal(weight, ours.model.get_parameter(name))


def test_the_same_seed_gives_the_same_weights(tokenizer, tmp_path):
    state = torch.random.get_rng_state()
    first, same, other = (
        _weights(tmp_path / str(number), tokenizer, seed) for number, seed in enumerate((1, 1, 2))
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


def _weights(folder, tokenizer, seed):
    save_new_model(folder, Sizes(1, 64), tokenizer, seed=seed)
    return load_library_model(folder, MASKED_LM).model.get_input_embeddings().weight


def test_a_classifier_drops_its_language_head_and_says_so(folder):
    assert check_model_folder(folder, SEQUENCE_CLASSIFIER) == ()
    loaded = load_classifier(folder, ["bad", "good"])
    new, unused = loaded.notices
    assert "new weights, to be trained" in new
    assert "classifier.weight" in new
    assert unused.startswith(f'{folder}: a text classifier does not use "cls.predictions.bias"')
    stock = load_library_model(folder, MASKED_LM).model.bert
    assert torch.equal(
        loaded.model.bert.embeddings.word_embeddings.weight,
        stock.embeddings.word_embeddings.weight,
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("new:smal", 'model "new:smal": there is no size "smal". There is "tiny", "mini", "small", '
         '"medium", "base", or LAYERSxWIDTH such as 6x384. Did you mean new:small?'),
        ("new:4x100", 'model "new:4x100": it has 4 layers of width 100. A new model has 1 to 48 '
         "layers, and its width is a multiple of 64 up to 4,096."),
        ("new:0x64", 'model "new:0x64": it has 0 layers of width 64. A new model has 1 to 48 '
         "layers, and its width is a multiple of 64 up to 4,096."),
    ],
)  # fmt: skip
def test_sizes_that_no_model_has_are_refused(name, message):
    with pytest.raises(SettingsError) as caught:
        sizes_of(name)
    assert str(caught.value) == message
