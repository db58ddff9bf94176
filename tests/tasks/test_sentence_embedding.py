from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.tasks.examples import EXAMPLES, rows_of
from tests.training.loops import CPU, build_loop, gradients
from tunewright.answers import Similarity, Vector
from tunewright.errors import DataError, ModelError, SettingsError
from tunewright.models.batch import pack
from tunewright.models.files.folder import save_model
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.run.judging.parity import compare_with_stock
from tunewright.tasks.sentence_embedding import SentenceEmbedding
from tunewright.tasks.shared.related_texts import Relations, related_texts
from tunewright.types import Row

ROWS = rows_of(EXAMPLES["sentence-embedding"])
SCORED = rows_of(
    [
        {"anchor": "a fine film", "positive": "a good movie", "score": 4.5},
        {"anchor": "the worst film", "positive": "a good movie", "score": "1"},
        {"anchor": "a new book", "positive": "the old team", "score": 0},
        {"anchor": "the bank card", "positive": "the phone service", "score": 5},
    ]
)
TEXTS = ["a fine film", "the team won the game, and the match was very good", "book", ""]
PROMPTS = {"query_prompt": "find: ", "document_prompt": "story: "}


def learned(rows=ROWS, **settings):
    return SentenceEmbedding(**settings).within(64).learn(rows)


def predictor(task, folder):
    tokenizer = load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
    task.route(model)
    return Predictor(task, model, tokenizer, CPU)


def vectors(asked, texts, **more):
    answers = asked.answers([Row(i, {"anchor": text} | more) for i, text in enumerate(texts)])
    return np.stack([answer.values for answer in answers])


@pytest.fixture
def saved(tiny_folder, tmp_path):
    """Returns a function that saves a task's model and gives its predictor and folder."""

    def save(task, architecture="bert"):
        asked = predictor(task, tiny_folder(architecture))
        folder = tmp_path / "saved"
        files = {**task.extra_files(asked.model), "task.json": task.to_json_text()}
        save_model(asked.model, asked.tokenizer, folder, max_length=64, extra_files=files)
        return asked, folder

    return save


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("bert", {"pooling": "mean", **PROMPTS}),
        ("bert", {"pooling": "cls", "normalize": False}),
        ("roberta", {"pooling": "last"}),
        ("mpnet", {"pooling": "mean", "normalize": False, **PROMPTS}),
        ("qwen3", {"pooling": "last", **PROMPTS}),
    ],
)
def test_the_saved_folder_gives_equal_vectors_in_sentence_transformers(
    saved, architecture, settings
):
    library = pytest.importorskip("sentence_transformers")
    asked, folder = saved(learned(**settings), architecture)
    stock = library.SentenceTransformer(str(folder), device="cpu")
    if architecture == "qwen3":  # it has no padding token by itself
        stock.tokenizer.pad_token = stock.tokenizer.eos_token
    queries = stock.encode_query(TEXTS[:3])
    documents = stock.encode_document(TEXTS[:3])
    np.testing.assert_allclose(vectors(asked, TEXTS[:3]), queries, atol=1e-5)
    found = vectors(asked, TEXTS[:3], prompt_name="document")
    np.testing.assert_allclose(found, documents, atol=1e-5)
    assert np.allclose(queries, documents) == ("query_prompt" not in settings)
    assert stock.max_seq_length == 64


def test_the_parity_gate_asks_sentence_transformers(saved):
    task = learned(pooling="cls")
    asked, folder = saved(task)
    features = [item for row in ROWS for item in task.encode(row, asked.tokenizer)]
    parity = compare_with_stock(task, asked.model, folder, features)
    assert parity.against == "stock sentence-transformers"
    assert parity.num_sequences == len(features)
    assert parity.largest_difference < 1e-5
    other = replace(task, pooling="mean").extra_files(asked.model)["1_Pooling/config.json"]
    (folder / "1_Pooling" / "config.json").write_text(other)
    assert compare_with_stock(task, asked.model, folder, features).largest_difference > 1e-2


def test_without_sentence_transformers_the_gate_asks_transformers(saved, monkeypatch):
    monkeypatch.setattr("tunewright.tasks.sentence_embedding.find_spec", lambda _: None)
    task = learned()
    asked, folder = saved(task)
    features = [item for row in ROWS for item in task.encode(row, asked.tokenizer)]
    assert compare_with_stock(task, asked.model, folder, features).largest_difference < 1e-5


def test_a_folder_s_own_settings_are_taken_up(saved):
    task = learned(pooling="cls", normalize=False, **PROMPTS)
    _, folder = saved(task)
    fresh = SentenceEmbedding().started_from(folder)
    for name in ("pooling", "normalize", "max_length", "query_prompt", "document_prompt"):
        assert getattr(fresh, name) == getattr(task, name)
    own = SentenceEmbedding(pooling="last", normalize=True, query_prompt="").started_from(folder)
    assert (own.pooling, own.normalize, own.query_prompt) == ("last", True, "")


def test_a_plain_encoder_is_pooled_by_the_mean(tiny_folder):
    task = SentenceEmbedding().started_from(tiny_folder("bert"))
    assert (task.pooling, task.normalize, task.max_length) == ("mean", True, None)


def test_a_pooling_that_is_not_done_here_may_be_replaced(saved, tmp_path):
    _, folder = saved(learned())
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "1_Pooling" / "config.json").write_text('{"pooling_mode": "max"}')
    with pytest.raises(ModelError, match='pools by "max"'):
        SentenceEmbedding().started_from(tmp_path / "other")
    assert SentenceEmbedding(pooling="mean").started_from(tmp_path / "other").pooling == "mean"


@pytest.mark.parametrize(
    ("objective", "rows", "expected"),
    [
        ("auto", ROWS, ("ranking", "batch", "ndcg@10")),
        ("auto", SCORED, ("cosent", "batch", "spearman")),
        ("cosine", SCORED, ("cosine", "document", "spearman")),
        ("ranking", ROWS, ("ranking", "batch", "ndcg@10")),
    ],
)
def test_the_rows_choose_the_objective_and_with_it_scope_and_metrics(objective, rows, expected):
    task = learned(rows, objective=objective)
    assert (task.objective, task.scope, task.metrics[0].name) == expected


def test_before_the_rows_are_known_both_kinds_of_metric_may_be_named():
    names = [spec.name for spec in SentenceEmbedding().metrics]
    assert {"mrr@10", "spearman"} <= set(names)


@pytest.mark.parametrize("objective", ["cosent", "cosine", "contrastive"])
def test_scores_of_any_range_are_read_from_0_to_1(objective, tiny_folder):
    task = learned(SCORED, objective=objective)
    assert (task.lowest_score, task.highest_score) == (0, 5)
    tokenizer = load_tokenizer(tiny_folder("bert"))
    found = [task.encode(row, tokenizer)[0].targets["score"] for row in SCORED]
    assert found == pytest.approx([0.9, 0.2, 0, 1])
    _, notices = task.build(tiny_folder("bert"), tokenizer, dropout=None, seed=0)
    assert notices[-1] == "The scores are read as 0 (0, nothing in common) to 1 (5, the same)."


@pytest.mark.parametrize(
    ("objective", "scores", "expected"),
    [
        ("cosine", (-1, 0.5), (0, 1)),
        ("contrastive", (-1, 1), (-1, 1)),
        ("contrastive", (0, 1), (0, 1)),
        ("cosent", (1, 7), (1, 7)),
    ],
)
def test_scores_that_are_cosines_already_stay(objective, scores, expected):
    rows = rows_of([{"anchor": "a", "positive": "b", "score": score} for score in scores])
    task = learned(rows, objective=objective)
    assert (task.lowest_score, task.highest_score) == expected


def refused(rows, **settings):
    with pytest.raises(DataError) as caught:
        learned(rows_of(rows), **settings)
    return str(caught.value)


def test_rows_that_an_objective_cannot_learn_from_are_refused():
    assert refused([{"anchor": "a"}]) == (
        "rows.csv, line 2: it has no second text. Every row needs an anchor and a positive. Name "
        "the column of the second text with data.columns.positive."
    )
    assert refused([{"anchor": "a", "positive": "b"}], objective="triplet") == (
        "rows.csv, line 2: it has no negative. The objective triplet needs one in every row. Add "
        "one, or choose task.objective=ranking, which finds its own."
    )
    assert refused([{"anchor": "a", "positive": ["b", "c"], "score": 1}]) == (
        "rows.csv, line 2: it has 3 texts. The objective cosent reads pairs of texts, each with a "
        "score. Choose task.objective=ranking to learn from positives and negatives."
    )
    one = {"anchor": "a", "positive": "b", "score": 3}
    assert refused([one, one]) == (
        "the training data: every score is 3. At least two different ones are needed."
    )
    assert refused([one, one | {"score": "high"}]) == (
        'rows.csv, line 3, score: "high" is not a finite number. A number is needed here. Correct '
        "the value, or remove the row."
    )


def test_what_is_no_text_is_refused():
    assert refused([{"anchor": "a", "positive": ["b", 5]}]) == (
        "rows.csv, line 2: its positive is 5, which is no text. A text is needed. Name another "
        "column with data.columns.positive, or turn this one into text."
    )


def test_a_prompt_is_for_a_text_alone_and_has_one_of_two_names(tiny_folder):
    task, tokenizer = learned(), load_tokenizer(tiny_folder("bert"))
    with pytest.raises(DataError) as caught:
        task.encode(Row(0, {"anchor": "a", "prompt_name": "doc"}, "a.csv", 2), tokenizer)
    assert str(caught.value) == (
        'a.csv, line 2: its prompt_name is \'doc\'. A text alone is a "query" or a "document". '
        "Leave prompt_name out."
    )
    values = {"anchor": "a", "positive": "b", "prompt_name": "query"}
    with pytest.raises(DataError, match="it has several texts and a prompt_name"):
        task.encode(Row(0, values, "a.csv", 2), tokenizer)


def test_settings_that_do_not_fit_are_refused(tiny_folder):
    with pytest.raises(SettingsError) as caught:
        SentenceEmbedding(matryoshka_dimensions=(32, 8), matryoshka_weights=(1,))
    assert str(caught.value) == (
        "[task]: task.matryoshka_weights names 1 weights. task.matryoshka_dimensions names 2 "
        "lengths."
    )
    with pytest.raises(SettingsError) as caught:
        predictor(learned(matryoshka_dimensions=(64, 8)), tiny_folder("bert"))
    assert str(caught.value) == (
        "[task]: task.matryoshka_dimensions or task.dimensions is 64. The model's vectors have 32 "
        "numbers."
    )


def loss_of(task, rows, vectors_of, tokenizer):
    features = [item for row in rows for item in task.encode(row, tokenizer)]
    batch = pack(features)
    loss = task.loss({"vectors": vectors_of(len(features))}, batch)
    return float(loss.sum) / loss.count, batch


def random_vectors(num):
    return torch.randn(num, 32, generator=torch.Generator().manual_seed(0))


def test_a_loss_of_nested_lengths_is_their_weighted_sum(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("bert"))

    def loss(rows=ROWS, cut=32, **settings):
        return loss_of(
            learned(rows, **settings), rows, lambda n: random_vectors(n)[:, :cut], tokenizer
        )[0]

    nested = loss(matryoshka_dimensions=(32, 8), matryoshka_weights=(1, 0.5))
    assert nested == pytest.approx(loss() + 0.5 * loss(cut=8), rel=1e-5)


def test_the_losses_are_those_of_sentence_transformers(tiny_folder):
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    tokenizer = load_tokenizer(tiny_folder("bert"))
    triplets = rows_of(
        [{"anchor": f"film {n}", "positive": f"book {n}", "negative": f"team {n}"} for n in "abcd"]
    )
    columns = [random_vectors(12)[place::3] for place in range(3)]
    metric = losses.TripletDistanceMetric.COSINE
    for objective, theirs in (
        ("ranking", losses.MultipleNegativesRankingLoss(None)),
        ("triplet", losses.TripletLoss(None, metric, 0.5)),
    ):
        task = learned(triplets, objective=objective)
        found, _ = loss_of(task, triplets, random_vectors, tokenizer)
        expected = float(theirs.compute_loss_from_embeddings(columns, None))
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("objective", ["cosent", "cosine", "contrastive"])
def test_the_losses_of_scored_pairs_are_those_of_sentence_transformers(objective, tiny_folder):
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    rows = rows_of([{"anchor": f"a{n}", "positive": f"b{n}", "score": n % 2} for n in range(6)])
    columns = [random_vectors(12)[place::2] for place in range(2)]
    labels = torch.tensor([0.0, 1.0] * 3)
    task = learned(rows, objective=objective)
    found, _ = loss_of(task, rows, random_vectors, load_tokenizer(tiny_folder("bert")))
    expected = {
        "cosent": lambda: losses.CoSENTLoss(None).compute_loss_from_embeddings(columns, labels),
        "contrastive": lambda: losses.ContrastiveLoss(None).compute_loss_from_embeddings(
            columns, labels
        ),
        "cosine": lambda: (torch.cosine_similarity(*columns) - labels).square().mean(),
    }[objective]()
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_a_row_s_texts_find_one_another_in_any_order(tiny_folder):
    task, tokenizer = learned(), load_tokenizer(tiny_folder("bert"))
    features = [item for row in ROWS for item in task.encode(row, tokenizer)]
    made = random_vectors(len(features))
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(1))
    found = []
    for places in (torch.arange(len(features)), order):
        batch = pack([features[place] for place in places])
        found.append(task.loss({"vectors": made[places]}, batch))
    torch.testing.assert_close(found[0].sum, found[1].sum)
    assert found[0].count == found[1].count == 9


def test_all_negatives_of_a_row_make_triplets_with_all_its_positives(tiny_folder):
    rows = rows_of(
        [
            {"anchor": "a", "positive": ["b", "c"], "negative": ["d", "e"], "negative_2": "f"},
            {"anchor": "g", "positive": "h", "negative": "i"},
        ]
    )
    task = learned(rows, objective="triplet")
    features = [i for row in rows for i in task.encode(row, load_tokenizer(tiny_folder("bert")))]
    relations = Relations.of(pack(features))
    assert len(relations.triplet_T2) == 2 * 3 + 1


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        (ROWS, {"symmetric": True, "matryoshka_dimensions": (32, 16)}),
        (SCORED, {"objective": "cosent"}),
        (SCORED, {"objective": "cosine"}),
    ],
)
@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_cached_gradients_are_those_of_one_batch(
    rows, settings, architecture, dropout, tiny_folder
):
    task, folder = learned(rows, **settings), tiny_folder(architecture)

    def found(max_tokens):
        return gradients(build_loop(folder, task, rows, max_tokens=max_tokens, dropout=dropout))

    cached, again = found(20), found(20)
    for name in cached:
        assert torch.equal(cached[name], again[name])
    if dropout:
        return  # one batch draws other masks than its pieces
    whole = found(8192)
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(cached[name], gradient, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("settings", [{"objective": "cosine"}, {"objective": "contrastive"}, {}])
def test_training_moves_cosines_towards_the_order_of_the_scores(settings, tiny_folder):
    task, folder = learned(SCORED, **settings), tiny_folder("bert")
    loop = build_loop(folder, task, SCORED, steps=40, learning_rate=3e-3)
    losses = [event.loss for event in loop.run()]
    assert losses[-1] < losses[0] / 2
    asked = Predictor(task, loop.model, load_tokenizer(folder), CPU)
    cosines = [answer.score for answer in asked.answers(SCORED)]
    assert np.argmax(cosines) in (0, 3)
    assert np.argmin(cosines) in (1, 2)


def test_updates_keep_equal_texts_apart_in_ranking_alone(tiny_folder):
    pairs = [{"anchor": f"a{n // 2}", "positive": f"b{n}"} for n in range(16)]
    scored = rows_of([{**pair, "score": n} for n, pair in enumerate(pairs)])
    tokenizer = load_tokenizer(tiny_folder("bert"))

    def texts(objective, **settings):
        rows = scored if objective == "cosent" else rows_of(pairs)
        task = learned(rows, objective=objective, **settings)
        encoded = [task.encode(row, tokenizer) for row in rows]
        for update in task.updates(np.arange(16), encoded, 4):
            numbers = [item.targets["text"] for row in update for item in encoded[row]]
            yield len(numbers) - len(set(numbers))

    assert max(texts(objective="ranking")) == 0
    assert max(texts(objective="ranking", distinct=False)) == 2
    assert max(texts(objective="cosent")) == 2


def test_a_text_is_a_vector_and_several_are_a_similarity(tiny_folder):
    asked = predictor(learned(), tiny_folder("bert"))
    (alone,) = asked.answers([Row(0, {"anchor": "a film"})])
    assert isinstance(alone, Vector)
    assert alone.values.dtype == np.float32
    assert len(alone.to_json()["vector"]) == 32
    assert repr(alone) == "Vector(32 numbers)"
    values = {"anchor": "a film", "positive": "a book", "negative": ["the team", " "]}
    (several,) = asked.answers([Row(0, values)])
    assert isinstance(several, Similarity)
    assert len(several.scores) == 2
    expected = several.vectors[0] @ several.vectors[1]
    assert several.score == pytest.approx(float(expected), abs=1e-6)
    assert several.to_json() == {"score": several.score, "scores": list(several.scores)}


def test_a_blank_text_has_a_vector(tiny_folder):
    asked = predictor(learned(), tiny_folder("bert"))
    assert np.isfinite(vectors(asked, ["", None, "   "])).all()


def test_shorter_vectors_are_the_beginning_of_the_long_ones_at_length_one(tiny_folder):
    folder = tiny_folder("bert")
    full = vectors(predictor(learned(), folder), TEXTS)
    short = vectors(predictor(learned(dimensions=8), folder), TEXTS)
    expected = full[:, :8] / np.linalg.norm(full[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(short, expected, atol=1e-6)


def test_the_worst_rows_are_the_farthest_from_their_score():
    answer = Similarity((0.25,), np.eye(2, dtype=np.float32))
    task = learned(SCORED)
    assert task.compared(answer, SCORED[0]) == (pytest.approx(0.9), 0.25)
    assert task.severity(answer, SCORED[0]) == pytest.approx(0.65)
    assert learned().severity(answer, ROWS[0]) == pytest.approx(0.75)


def test_the_answers_of_an_evaluation_are_ranked_among_all_positives(tiny_folder):
    task = learned()
    asked = predictor(task, tiny_folder("bert"))
    statistics = task.stack(
        task.statistics(a, row) for a, row in zip(asked.answers(ROWS), ROWS, strict=True)
    )
    texts = [text for row in ROWS for text in np.atleast_1d(row.values["positive"])]
    documents = vectors(asked, texts, prompt_name="document")
    query = vectors(asked, [ROWS[0].values["anchor"]])[0]
    place = (documents @ query > documents[0] @ query).sum() + 1
    assert statistics["mrr@10"][0] == pytest.approx(1 / place if place <= 10 else 0)
    assert {len(values) for values in statistics.values()} == {8}


def test_the_starter_comes_with_its_own_settings():
    folder = pytest.importorskip("tunewright.models.files.folder").find_model("starter")
    task = SentenceEmbedding().started_from(folder)
    assert (task.pooling, task.normalize, task.max_length) == ("mean", True, 256)


def test_the_files_are_those_that_every_version_of_the_library_reads(saved):
    _, folder = saved(learned(**PROMPTS))
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == [
        "Transformer",
        "Pooling",
        "Normalize",
    ]
    assert all(left["idx"] + 1 == right["idx"] for left, right in pairwise(modules))
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]
    assert prompts == {"query": "find: ", "document": "story: "}


SCORED_PAIRS = [
    {"anchor": "a film", "positive": "the film", "score": 1},
    {"anchor": "a film", "positive": "the bank", "score": 0},
]


@pytest.mark.parametrize("objective", ["ranking", "triplet"])
def test_scored_pairs_are_not_learnt_as_texts_that_belong_together(objective):
    with pytest.raises(DataError, match=f'such as "0", "1". The objective {objective} takes every'):
        SentenceEmbedding(objective=objective).learn(rows_of(SCORED_PAIRS))


def test_pairs_of_one_score_may_be_ranked():
    rows = rows_of([{**row, "score": 1 if n else 1.0} for n, row in enumerate(SCORED_PAIRS)])
    assert SentenceEmbedding(objective="ranking").learn(rows).objective == "ranking"


def test_a_score_anywhere_makes_scored_pairs():
    rows = rows_of([{**SCORED_PAIRS[0], "score": None}, *SCORED_PAIRS])
    with pytest.raises(DataError, match="line 2, score"):
        SentenceEmbedding().learn(rows)


def test_lists_that_csv_files_hold_as_text_are_lists():
    (row,) = rows_of([{"anchor": "a film", "positive": '["the film", "films"]'}])
    assert [text.text for text in related_texts(row)] == ["a film", "the film", "films"]
