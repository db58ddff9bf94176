"""What clients of other servers send, and what they expect back."""

from __future__ import annotations

import base64
import io
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.tasks.examples import picture
from tunewright.types import Row


def posted(client, path, **body):
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refusal(client, path, **body):
    response = client.post(path, json=body)
    return response.status_code, response.json()["error"]


# Classes ------------------------------------------------------------------------------------------


def test_classes_come_sorted_as_probabilities_or_as_logits(serve, model_of):
    client = serve("text-classification")
    (answer,) = model_of("text-classification").predict(["a fine film"])
    found = posted(client, "/predict", inputs="a fine film")
    assert {entry["label"]: entry["score"] for entry in found} == pytest.approx(answer.scores)
    scores = [entry["score"] for entry in found]
    assert scores == sorted(scores, reverse=True)
    raw = posted(client, "/predict", inputs="a fine film", raw_scores=True)
    by_label = dict(zip(answer.scores, answer.logits, strict=True))
    assert {entry["label"]: entry["score"] for entry in raw} == pytest.approx(by_label)


def test_a_list_is_a_pair_and_a_list_of_lists_a_batch(serve, model_of):
    client = serve("text-classification")
    model = model_of("text-classification")
    pair = posted(client, "/predict", inputs=["a film", "a book"])
    (expected,) = model.predict([("a film", "a book")])
    assert {entry["label"]: entry["score"] for entry in pair} == pytest.approx(expected.scores)
    batch = posted(client, "/predict", inputs=[["a film"], ["a film", "a book"]])
    assert batch[1] == pair
    assert batch[0] == posted(client, "/predict", inputs="a film")


def test_where_no_pairs_are_read_a_list_is_a_batch(serve):
    client = serve("summarization")
    first, second = posted(client, "/predict", inputs=["the film is good", "a book"])
    assert "summary_text" in first[0]
    assert posted(client, "/predict", inputs="a book") == second


def test_labels_say_which_are_chosen(serve, model_of):
    client = serve("multi-label-classification")
    (answer,) = model_of("multi-label-classification").predict(["a film"])
    found = posted(client, "/predict", inputs="a film")
    assert {entry["label"] for entry in found if entry["chosen"]} == set(answer.labels)
    assert len(found) == len(answer.scores)


def test_a_text_that_would_be_cut_is_refused_unless_told_otherwise(serve):
    client = serve("text-classification")
    long = "film " * 500
    status, words = refusal(client, "/predict", inputs=long)
    assert status == 413
    assert "374 tokens more than the model reads. It reads 128 of each" in words
    assert "truncate" in words
    response = client.post("/predict", json={"inputs": long, "truncate": True})
    assert response.status_code == 200
    assert response.headers["x-truncated-tokens"] == "374"


# Pictures -----------------------------------------------------------------------------------------


def test_pictures_come_in_base64(serve, model_of):
    client = serve("image-captioning")
    data = picture(4, (40, 16), "JPEG")
    (expected,) = model_of("image-captioning").predict([data])
    text = base64.b64encode(data).decode()
    for inputs in (text, f"data:image/jpeg;base64,{text}", {"image": text}, {"file_name": text}):
        (found,) = posted(client, "/predict", inputs=inputs)
        assert found["generated_text"] == expected.text
    several = posted(client, "/predict", inputs=[text, base64.b64encode(picture(1)).decode()])
    assert several[0][0]["generated_text"] == expected.text
    assert len(several) == 2


def test_no_path_and_no_address_is_followed(serve, tmp_path):
    client = serve("image-captioning")
    file = tmp_path / "a.png"
    file.write_bytes(picture(1))
    for inputs in (str(file), {"image": str(file)}, {"image": f"file://{file}"}):
        status, words = refusal(client, "/predict", inputs=inputs)
        assert status == 422
        assert "base64" in words
    status, words = refusal(client, "/predict", inputs={"image": {"path": str(file)}})
    assert (status, "base64" in words) == (422, True)


def test_broken_and_huge_pictures_are_refused(serve):
    client = serve("image-captioning")
    whole = picture(1, (200, 200))
    cut = base64.b64encode(whole[: len(whole) // 2]).decode()
    assert refusal(client, "/predict", inputs=cut)[0] == 422
    huge = bytearray(picture(1))
    huge[16:24] = (60_000).to_bytes(4) * 2  # width and height, then the checksum over both
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4)
    status, words = refusal(client, "/predict", inputs=base64.b64encode(bytes(huge)).decode())
    assert status == 422
    assert "pixels" in words


def test_pictures_are_too_many_by_what_their_heads_say(serve):
    file = io.BytesIO()
    Image.new("1", (5000, 5000)).save(file, "PNG")
    small = base64.b64encode(file.getvalue()).decode()
    assert len(small) < 10_000
    client = serve("image-captioning")
    status, words = refusal(client, "/predict", inputs=[small] * 3)
    assert status == 413
    assert "75,000,000 pixels" in words


# Vectors ------------------------------------------------------------------------------------------


def vectors_of(model, texts, purpose="document"):
    rows = [Row(n, {"anchor": text, "prompt_name": purpose}) for n, text in enumerate(texts)]
    return np.stack([answer.values for answer in model.stream(rows)])


def test_vectors_are_those_of_the_model(serve, model_of):
    settings = {"query_prompt": "book "}
    client = serve("sentence-embedding", settings)
    model = model_of("sentence-embedding", **settings)
    texts = ["a fine film", "the bank card"]
    found = np.array(posted(client, "/embed", inputs=texts))
    np.testing.assert_allclose(found, vectors_of(model, texts), atol=1e-6)
    query = posted(client, "/embed", inputs="a fine film", prompt_name="query")
    np.testing.assert_allclose(query, vectors_of(model, texts[:1], "query"), atol=1e-6)
    raw = np.array(posted(client, "/embed", inputs=texts, normalize=False))
    length_B1 = np.linalg.norm(raw, axis=1, keepdims=True)
    assert abs(length_B1 - 1).min() > 0.1
    np.testing.assert_allclose(raw / length_B1, found, atol=1e-6)
    short = np.array(posted(client, "/embed", inputs=texts, dimensions=8))
    np.testing.assert_allclose(
        short, found[:, :8] / np.linalg.norm(found[:, :8], axis=1, keepdims=True), atol=1e-6
    )
    assert refusal(client, "/embed", inputs=texts, dimensions=33)[0] == 422


def test_openai_embeddings_in_numbers_and_in_base64(serve, model_of):
    client = serve("sentence-embedding")
    texts = ["a fine film", "the bank card"]
    found = posted(client, "/v1/embeddings", input=texts, model="any")
    expected = vectors_of(model_of("sentence-embedding"), texts)
    np.testing.assert_allclose([each["embedding"] for each in found["data"]], expected, atol=1e-6)
    assert [each["index"] for each in found["data"]] == [0, 1]
    assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] == 10
    coded = posted(client, "/v1/embeddings", input=texts, encoding_format="base64")
    for each, row in zip(coded["data"], expected, strict=True):
        numbers = np.frombuffer(base64.b64decode(each["embedding"]), "<f4")
        np.testing.assert_allclose(numbers, row, atol=1e-6)


def test_openai_embeddings_as_the_signs_of_their_numbers(serve, model_of):
    client = serve("sentence-embedding")
    texts = ["a fine film", "the bank card"]
    bits_BW = np.packbits(vectors_of(model_of("sentence-embedding"), texts) > 0, axis=1)
    for form, expected in (("ubinary", bits_BW.astype(int)), ("binary", bits_BW.astype(int) - 128)):
        found = posted(client, "/v1/embeddings", input=texts, encoding_format=form)
        assert [each["embedding"] for each in found["data"]] == expected.tolist()
    status, words = refusal(client, "/v1/embeddings", input=texts, encoding_format="int8")
    assert status == 422
    assert "'float', 'base64', 'binary' or 'ubinary'" in words


def test_similarity_is_the_cosine(serve, model_of):
    client = serve("sentence-embedding")
    texts = ["a fine film", "a good movie", "the bank card"]
    vectors = vectors_of(model_of("sentence-embedding"), texts)
    inputs = {"source_sentence": texts[0], "sentences": texts[1:]}
    found = posted(client, "/similarity", inputs=inputs)
    np.testing.assert_allclose(found, vectors[1:] @ vectors[0], atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "status"),
    [([], 400), ("", 400), (["a", " "], 400), (["a"] * 257, 413), (5, 422), ([1], 422),
     (None, 422), ([["a"]], 422)],
)  # fmt: skip
@pytest.mark.parametrize("route", ["/embed", "/v1/embeddings"])
def test_odd_texts_have_no_vector(serve, route, inputs, status):
    key = "inputs" if route == "/embed" else "input"
    assert refusal(serve("sentence-embedding"), route, **{key: inputs})[0] == status


def test_predict_gives_the_vectors_that_predict_gives(serve, model_of):
    settings = {"dimensions": 8}
    client = serve("sentence-embedding", settings)
    model = model_of("sentence-embedding", **settings)
    found = posted(client, "/predict", inputs=[["a fine film"], ["the bank card"]])
    vectors = [each["vector"] for each in found]
    np.testing.assert_allclose(vectors, vectors_of(model, ["a fine film", "the bank card"]))
    assert np.shape(vectors) == (2, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    embedded = posted(client, "/embed", inputs=["a fine film", "the bank card"])
    np.testing.assert_allclose(embedded, vectors, atol=1e-6)
    assert np.shape(posted(client, "/embed", inputs="a film", dimensions=16)) == (1, 16)


def test_a_route_without_truncate_does_not_speak_of_it(serve):
    status, words = refusal(serve("sentence-embedding"), "/v1/embeddings", input="film " * 500)
    assert status == 413
    assert "truncate" not in words


# Order --------------------------------------------------------------------------------------------


def test_texts_are_ranked_in_both_shapes(serve, model_of):
    client = serve("reranking")
    texts = ["a good movie", "the bank card", "a new book"]
    row = Row(0, {"query": "a film", "text": texts})
    ranking = next(iter(model_of("reranking").stream([row])))
    found = posted(client, "/rerank", query="a film", texts=texts, return_text=True)
    assert [each["index"] for each in found] == list(ranking.order)
    assert [each["text"] for each in found] == [texts[place] for place in ranking.order]
    assert found[0]["score"] == pytest.approx(max(ranking.scores))
    raw = posted(client, "/rerank", query="a film", texts=texts, raw_scores=True)
    assert raw[0]["score"] == pytest.approx(max(ranking.logits))
    documents = [texts[0], {"text": texts[1]}, texts[2]]
    cohere = posted(client, "/v1/rerank", query="a film", documents=documents, top_n=2)
    assert [each["index"] for each in cohere["results"]] == list(ranking.order[:2])
    assert cohere["results"][0]["relevance_score"] == pytest.approx(max(ranking.scores))
    assert refusal(client, "/rerank", query="", texts=texts)[0] == 400
    assert refusal(client, "/v1/rerank", query="a", documents=[{"title": "b"}])[0] == 422


# What it is ---------------------------------------------------------------------------------------


def test_tokens_have_their_places(serve):
    (found,) = posted(serve("text-classification"), "/tokenize", inputs="a film")
    assert [(each["text"], each["special"]) for each in found] == [
        ("[CLS]", True), ("a", False), ("film", False), ("[SEP]", True),
    ]  # fmt: skip
    assert (found[2]["start"], found[2]["stop"]) == (2, 6)
    (bare,) = posted(
        serve("text-classification"), "/tokenize", inputs="a film", add_special_tokens=False
    )
    assert len(bare) == 2


def test_the_tokens_of_long_texts_are_not_shown(serve):
    client = serve("text-classification")
    assert refusal(client, "/tokenize", inputs="!" * 200_001)[0] == 413
    assert refusal(client, "/tokenize", inputs=["a"] * 257)[0] == 413


def test_info_says_what_the_model_is(serve):
    info = serve("text-classification").get("/info").json()
    assert info["model_id"] == info["task"] == "text-classification"
    assert sorted(info["model_type"]["classifier"]["label2id"]) == ["bank", "book", "film", "sport"]
    assert info["max_input_length"] == 128
    assert "embedding" in serve("sentence-embedding").get("/info").json()["model_type"]
    models = serve("reranking").get("/v1/models").json()
    assert [each["id"] for each in models["data"]] == ["reranking"]
