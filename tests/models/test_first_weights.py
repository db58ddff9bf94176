"""What a new encoder knows before its first update."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from tunewright.models.new_model import Sizes, save_new_model
from tunewright.models.text.new_tokenizer import train_tokenizer

# Each pair of a family goes with the words of the same family, and never with another's.
FAMILIES = (("cat", "dog", "paw", "fur"), ("sun", "sky", "rain", "wind"), ("ink", "pen", "page"))
SIZES = Sizes(3, 128)


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(FAMILIES[number % len(FAMILIES)], 12)) for number in range(600)]


@pytest.fixture(scope="module")
def tokenizer(texts):
    made = " ".join(f"w{number}" for number in range(200))  # the vocabulary is wider than the model
    return train_tokenizer([*texts, made], "wordpiece", 400, lowercase=False, max_length=64)


@pytest.fixture(scope="module")
def all_texts(texts):
    rng = np.random.default_rng(1)
    noise = [" ".join(f"w{number}" for number in rng.integers(0, 200, 12)) for _ in range(600)]
    return [*texts, *noise]


@pytest.fixture(scope="module")
def folder(all_texts, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("first") / "model"
    save_new_model(path, SIZES, tokenizer, seed=7, texts=all_texts)
    return path


def words(tokenizer, family):
    return [tokenizer.convert_tokens_to_ids(word) for word in family]


def test_words_that_go_together_lie_together(folder, tokenizer):
    model = AutoModelForMaskedLM.from_pretrained(folder)
    vectors = model.get_input_embeddings().weight.detach()
    for family in FAMILIES:
        others = [word for other in FAMILIES if other != family for word in other]
        own = torch.nn.functional.normalize(vectors[words(tokenizer, family)], dim=1)
        far = torch.nn.functional.normalize(vectors[words(tokenizer, others)], dim=1)
        assert (own @ own.T).min() > (own @ far.T).max() + 0.3


def test_a_hidden_word_is_guessed_from_its_neighbours_before_any_update(folder, tokenizer):
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    for family in FAMILIES:
        text = " ".join([*family[:2], tokenizer.mask_token, *family[:2]])
        batch = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            logits = model(**batch).logits[0, 3]
        guessed = tokenizer.convert_ids_to_tokens(logits.topk(2).indices.tolist())
        assert set(guessed) <= set(family)


def test_each_head_of_the_first_layers_looks_at_one_neighbour(folder, tokenizer):
    model = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager").eval()
    ids = torch.tensor([words(tokenizer, FAMILIES[0] * 8)])
    with torch.no_grad():
        found = model.bert(ids, output_attentions=True).attentions
    looks = [(0, 0, -1), (0, 1, 1), (1, 0, -2), (1, 1, 2)]
    for layer, head, offset in looks:
        assert found[layer][0, head].diagonal(offset).mean() > 0.5, (layer, head)
    assert found[2].max() < 0.2  # no more layers are touched


def weights(folder):
    return AutoModelForMaskedLM.from_pretrained(folder).state_dict()


KEY = "bert.embeddings.word_embeddings.weight"


def test_the_same_texts_give_the_same_weights_and_stray_tokens_stay_random(
    folder, all_texts, tokenizer, tmp_path
):
    save_new_model(tmp_path / "again", SIZES, tokenizer, seed=7, texts=all_texts)
    save_new_model(tmp_path / "random", SIZES, tokenizer, seed=7)
    first, again, random = (weights(f) for f in (folder, tmp_path / "again", tmp_path / "random"))
    for name, values in first.items():
        assert torch.equal(values, again[name]), name
    stray, seen = words(tokenizer, ["[MASK]", "cat"])
    assert torch.equal(first[KEY][stray], random[KEY][stray])
    assert not torch.equal(first[KEY][seen], random[KEY][seen])


def test_a_vocabulary_smaller_than_the_width_will_do(texts, tmp_path):
    tokenizer = train_tokenizer(texts, "wordpiece", 300, lowercase=False, max_length=64)
    sizes = Sizes(1, 320)
    save_new_model(tmp_path / "model", sizes, tokenizer, seed=7, texts=texts)
    assert len(tokenizer) < sizes.width
    vectors = torch.nn.functional.normalize(weights(tmp_path / "model")[KEY], dim=1)
    near, far = words(tokenizer, ("dog", "paw")), words(tokenizer, ("sun", "pen"))
    cat = vectors[tokenizer.convert_tokens_to_ids("cat")]
    assert (vectors[near] @ cat).min() > (vectors[far] @ cat).max() + 0.3


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_every_kind_of_tokenizer_will_do(kind, all_texts, tmp_path):
    tokenizer = train_tokenizer(all_texts, kind, 400, lowercase=False, max_length=64)
    save_new_model(tmp_path / "model", Sizes(1, 64), tokenizer, seed=7, texts=all_texts)
    found = weights(tmp_path / "model")
    assert all(bool(values.isfinite().all()) for values in found.values())
    assert found[KEY][:, 48:].abs().sum(1).eq(0).sum() > 20  # the numbers of positions


@pytest.mark.parametrize("few", [[""], ["cat"], ["cat dog"]])
def test_too_few_texts_to_count_are_no_reason_to_stop(few, tokenizer, tmp_path):
    save_new_model(tmp_path / "model", Sizes(1, 64), tokenizer, seed=7, texts=few)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    assert all(bool(values.isfinite().all()) for values in model.state_dict().values())
