"""Vectors of texts and of tokens, equal to those of the libraries that users know."""

from __future__ import annotations

import shutil
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from tests.tiny import tiny_sentence_model
from tunewright.errors import DataError, ModelError, SettingsError
from tunewright.models.files.sentence_folder import SentenceSettings
from tunewright.models.pooling import quantised, value_ranges
from tunewright.prediction.predictor import Predictor
from tunewright.retrieval.encoder import load_encoder, load_token_encoder

TEXTS = [
    "a very fine film of the old book",
    "the game",
    "Music, stock and 24 shares!",
    "电影很好",
    "",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model of sentences with prompts, as sentence-transformers keeps one."""
    settings = SentenceSettings("mean", True, 64, query_prompt="find: ", document_prompt="a ")
    return tiny_sentence_model(tmp_path_factory.mktemp("sentences") / "model", settings)


def stock_layers(folder, text):
    """The hidden states of every layer for one text, (L, N, D), without the special tokens'."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    with torch.no_grad():
        found = model.eval()(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    return np.stack([layer[0].numpy() for layer in found.hidden_states])


def test_vectors_are_those_of_sentence_transformers(folder):
    library = pytest.importorskip("sentence_transformers")
    stock = library.SentenceTransformer(str(folder), device="cpu")
    encoder = load_encoder(folder, precision="fp32")

    queries = stock.encode_query(TEXTS, show_progress_bar=False)
    documents = stock.encode_document(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(encoder.encode_query(TEXTS), queries, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_document(TEXTS), documents, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS), documents, atol=1e-5)
    assert np.abs(queries - documents).max() > 0.01


@pytest.mark.parametrize("layer", [-3, -1, 0, 1, 2])
@pytest.mark.parametrize(
    ("pooling", "pooled"),
    [
        ("mean", lambda hidden_ND: hidden_ND.mean(0)),
        ("cls", lambda hidden_ND: hidden_ND[0]),
        ("last", lambda hidden_ND: hidden_ND[-1]),
    ],
)
def test_any_layer_is_pooled_in_any_way(tiny_folder, layer, pooling, pooled):
    encoder = load_encoder(
        tiny_folder("bert"), layer=layer, pooling=pooling, normalize=False, precision="fp32"
    )
    expected = [pooled(stock_layers(tiny_folder("bert"), text)[layer]) for text in TEXTS]
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "mpnet", "qwen3"])
def test_tokens_have_the_vectors_of_stock_transformers(tiny_folder, architecture):
    folder = tiny_folder(architecture)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = load_token_encoder(folder, precision="fp32").stream(TEXTS)

    for text, answer in zip(TEXTS, answers, strict=True):
        specials = tokenizer(text, return_special_tokens_mask=True)["special_tokens_mask"]
        is_text_N = np.array(specials) == 0
        expected_ND = stock_layers(folder, text)[-1] if specials else np.zeros((0, 32))
        assert answer.tokens == tuple(
            piece
            for piece, is_text in zip(
                tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]),
                is_text_N, strict=True,
            ) if is_text
        )  # fmt: skip
        np.testing.assert_allclose(answer.vectors_ND, expected_ND[is_text_N], atol=1e-4)


def test_places_of_tokens_are_those_in_the_text(tiny_folder):
    text = "a very FINE film, 电影"
    (answer,) = load_token_encoder(tiny_folder("bert"), precision="fp32").stream([text])
    pieces = [text[start:end] for start, end in answer.places_N2]

    assert pieces == ["a", "very", "FINE", "film", ",", "电", "影"]
    assert answer.to_json()["tokens"][2] == "fine"


def test_no_answer_depends_on_how_texts_are_cut_into_windows(tiny_folder, monkeypatch):
    encoder = load_encoder(tiny_folder("bert"), precision="fp32")
    texts = [f"a film {n} of the {'old ' * (n % 7)}book" for n in range(23)]
    whole = encoder.encode(texts)
    monkeypatch.setattr(type(encoder.predictor.task), "window_texts", 4)
    np.testing.assert_allclose(encoder.encode(texts), whole, atol=1e-5)


@pytest.mark.parametrize("load", [load_encoder, load_token_encoder])
def test_texts_are_read_as_they_are_needed(tiny_folder, load):
    encoder = load(tiny_folder("bert"), precision="fp32")
    taken = []

    def texts():
        for number in range(10_000):
            taken.append(number)
            yield f"film {number}"

    next(encoder.stream(texts()))
    assert len(taken) == encoder.predictor.task.window_texts < 10_000


def vectors_of(answer):
    return answer.vectors_ND if hasattr(answer, "vectors_ND") else answer.values


@pytest.fixture(params=[load_encoder, load_token_encoder])
def watched(request, tiny_folder, monkeypatch):
    """An encoder of short windows, and the names of the threads that made its tokens."""
    encoder = request.param(tiny_folder("bert"), max_length=9, precision="fp32")
    kind, made_by = type(encoder.predictor.task), []
    encode = kind.encode

    def watching(task, row, tokenizer):
        made_by.append(threading.current_thread().name)
        return encode(task, row, tokenizer)

    monkeypatch.setattr(kind, "encode", watching)
    monkeypatch.setattr(kind, "window_texts", 100)
    return encoder, made_by


MANY = [f"film {n} of the {'old ' * (n % 7)}book" for n in range(250)]


def test_several_threads_make_the_tokens_of_a_window(watched, monkeypatch):
    encoder, made_by = watched
    monkeypatch.setattr("tunewright.prediction.ahead.torch.get_num_threads", lambda: 1)
    cuts, cuts_alone = [], []
    alone = [vectors_of(answer) for answer in encoder.stream(MANY, cut=cuts_alone.append)]
    assert made_by == ["MainThread"] * len(MANY)
    made_by.clear()
    monkeypatch.setattr("tunewright.prediction.ahead.torch.get_num_threads", lambda: 4)
    found = [vectors_of(answer) for answer in encoder.stream(MANY, cut=cuts.append)]

    assert len(made_by) == len(MANY)
    assert {name.split("_")[0] for name in made_by[:200]} == {"spread"}
    assert cuts == cuts_alone != []
    for one, other in zip(found, alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_next_window_is_made_while_a_device_computes(watched, monkeypatch):
    encoder, made_by = watched
    monkeypatch.setattr("tunewright.prediction.ahead.torch.get_num_threads", lambda: 1)
    expected = [vectors_of(answer) for answer in encoder.stream(MANY)]
    made_by.clear()
    monkeypatch.setattr(Predictor, "ahead", property(lambda _: True))
    found = [vectors_of(answer) for answer in encoder.stream(MANY)]

    assert made_by == ["MainThread"] * 100 + ["one ahead"] * 150
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_device_is_not_waited_for_with_more_than_three_windows(watched, monkeypatch):
    encoder, _ = watched
    monkeypatch.setattr(Predictor, "ahead", property(lambda _: True))
    taken, third = [], threading.Event()

    def texts():
        for number in range(10_000):
            taken.append(number)
            if number == 399:
                third.set()
            yield f"film {number}"

    coming = encoder.stream(texts())
    for _ in range(101):  # the second window is in use, the third waits, the fourth is made
        next(coming)
    assert third.wait(5)
    assert not threading.Event().wait(0.2)
    assert len(taken) == 400
    coming.close()


@pytest.mark.parametrize("load", [load_encoder, load_token_encoder])
def test_exact_vectors_have_the_same_bits_alone_and_in_any_batch(tiny_folder, load, monkeypatch):
    texts = [f"a film {n} of the {'old ' * (n % 7)}book" for n in range(40)]
    exact, usual = (
        load(tiny_folder("bert"), precision="fp32", exact=exact) for exact in (True, False)
    )
    forward = type(exact.predictor.task).forward

    def rounding(task, model, batch):  # as kernels round, more than tiny models let them
        found = forward(task, model, batch)["vectors"]
        return {"vectors": found + batch.streams["text"].num_sequences * 1e-6}

    monkeypatch.setattr(type(exact.predictor.task), "forward", rounding)

    def bits(encoder, texts):
        return [vectors_of(answer).tobytes() for answer in encoder.stream(texts)]

    alone = [bits(exact, [text])[0] for text in texts]
    assert bits(exact, texts) == alone
    assert bits(exact, texts[::-1]) == alone[::-1]
    assert bits(usual, texts) != alone


def test_an_exact_encoder_is_loaded_again_as_one(tiny_folder):
    about = load_encoder(tiny_folder("bert"), precision="fp32", exact=True).reference
    assert about["settings"] == {"layer": -1, "exact": True}
    assert load_encoder(about["name"], **about["settings"]).predictor.exact


@pytest.mark.parametrize("form", ["float32", "int8", "uint8", "binary", "ubinary"])
def test_vectors_are_quantised_as_sentence_transformers_does(folder, form):
    library = pytest.importorskip("sentence_transformers")
    quantize = library.util.quantization.quantize_embeddings
    encoder = load_encoder(folder, precision="fp32")
    ranges_2D = value_ranges(encoder.encode(TEXTS))
    for ours, vectors_BD in (
        (encoder.encode, encoder.encode(TEXTS)),
        (encoder.encode_document, encoder.encode_document(TEXTS)),
        (encoder.encode_query, encoder.encode_query(TEXTS)),
    ):
        found, expected = ours(TEXTS, precision=form), quantize(vectors_BD, form)
        assert found.dtype == expected.dtype
        assert found.tolist() == expected.tolist()
        found = ours(TEXTS, form, ranges_2D)
        assert found.tolist() == quantised(vectors_BD, form, ranges_2D).tolist()
    assert encoder.encode([], precision=form).size == 0


def test_a_form_that_there_is_not_is_refused(tiny_folder):
    with pytest.raises(SettingsError) as caught:
        load_encoder(tiny_folder("bert"), precision="fp32").encode(TEXTS, precision="int4")
    assert str(caught.value) == (
        'precision: it is "int4". It is one of "float32", "int8", "uint8", "binary", "ubinary".'
    )


def test_what_is_cut_is_told(tiny_folder):
    cut = []
    encoder = load_encoder(tiny_folder("bert"), max_length=6, precision="fp32")
    list(encoder.stream(["a film", "a film of the old book and the bank"], cut=cut.append))
    assert cut == [9 - 4]


def test_no_texts_have_no_vectors(tiny_folder):
    assert load_encoder(tiny_folder("bert"), precision="fp32").encode([]).size == 0


def test_an_encoder_is_loaded_again_by_what_it_says_of_itself(tiny_folder):
    first = load_encoder(tiny_folder("bert"), layer=1, pooling="cls", precision="fp32")
    about = first.reference
    again = load_encoder(about["name"], **about["settings"], precision="fp32")

    assert about["settings"] == {"layer": 1, "pooling": "cls"}
    np.testing.assert_array_equal(again.encode(TEXTS), first.encode(TEXTS))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layer": 3}, "layer: it is 3. bert-backbone has the layers 0 (word embeddings) to 2; "
                       "-1 is the last."),
        ({"layer": -4}, "layer: it is -4. bert-backbone has the layers 0 (word embeddings) to 2; "
                        "-1 is the last."),
        ({"pooling": "max"}, 'pooling: it is "max". It is one of "mean", "cls", "last".'),
        ({"precision": "int4"}, 'precision: it is "int4". It is one of "auto", "bf16", "fp32".'),
        ({"max_length": 1000}, "[task]: task.max_length is 1000. The model reads at most 128 "
                               "tokens. Use task.max_length=128 or a model that reads more."),
    ],
)  # fmt: skip
def test_what_the_model_does_not_have_is_refused(tiny_folder, given, message):
    with pytest.raises(SettingsError) as caught:
        load_encoder(tiny_folder("bert"), **given)
    assert str(caught.value) == message


def test_vectors_that_are_not_finite_are_refused(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("bert"), tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.LayerNorm.weight"][:] = 3e38  # finite, and what it gives is not
    save_file(weights, folder / "model.safetensors", {"format": "pt"})

    with pytest.raises(ModelError, match="not finite"):
        load_encoder(folder, precision="fp32").encode(["a film"])


def test_a_long_text_has_the_mean_vector_of_its_windows(tiny_folder):
    folder, text = tiny_folder("bert"), "a fine film and the plot is very good " * 3
    cut = load_encoder(folder, max_length=12, normalize=False)
    windows = load_encoder(folder, max_length=12, normalize=False, long="window", stride=0)
    (whole,) = windows.encode([text])
    parts = cut.encode(["a fine film and the plot is very good a", "fine film and the plot is very "
                        "good a fine", "film and the plot is very good"])  # fmt: skip
    assert whole == pytest.approx(parts.mean(0), abs=1e-5)
    assert whole != pytest.approx(cut.encode([text])[0], abs=1e-5)
    assert np.linalg.norm(load_encoder(folder, max_length=12, long="window").encode([text])) == (
        pytest.approx(1, abs=1e-5)
    )
    with pytest.raises(DataError, match="it has 29 tokens"):
        load_encoder(folder, max_length=12, long="error").encode([text])
    with pytest.raises(SettingsError, match="windows"):
        load_encoder(folder, long="windows")
