from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.examples import EXAMPLES, rows_of
from tests.training.loops import CPU, build_loop, gradients
from tunewright.answers import Ranking, Relevance
from tunewright.errors import DataError
from tunewright.models.batch import Batch
from tunewright.models.files.folder import save_model
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.run.judging.parity import compare_with_stock
from tunewright.tasks.reranking import Reranking, listwise_loss
from tunewright.tasks.shared.candidates import candidates
from tunewright.types import Row

LISTS = rows_of(EXAMPLES["reranking"])
TEXTS = rows_of(
    [
        {"query": "film", "text": "a good movie", "label": 1},
        {"query": "game", "text": "the goal", "label": True},
        {"query": "film", "text": "the bank card", "label": "0"},
        {"query": "game", "text": "a new book", "label": 0.0},
        {"query": "film", "text": "the plot", "label": 1},
        {"query": "game", "text": "stock and shares", "label": False},
    ]
)


def learned(rows=LISTS, **settings):
    return Reranking(**settings).within(64).learn(rows)


def predictor(task, folder):
    tokenizer = load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
    task.route(model)
    return Predictor(task, model, tokenizer, CPU)


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        (LISTS, {}, ("listwise", "document")),
        (LISTS, {"objective": "pointwise"}, ("pointwise", "row")),
        (TEXTS, {}, ("pointwise", "row")),
        (TEXTS, {"objective": "listwise"}, ("listwise", "batch")),
    ],
)
def test_the_rows_choose_the_objective_and_with_it_the_scope(rows, settings, expected):
    task = learned(rows, **settings)
    assert (task.objective, task.scope) == expected


@pytest.mark.parametrize("architecture", ["bert", "roberta", "mpnet"])
@pytest.mark.parametrize("max_length", [64, 12])
def test_the_saved_folder_gives_equal_scores_in_sentence_transformers(
    architecture, max_length, tiny_folder, tmp_path
):
    library = pytest.importorskip("sentence_transformers")
    task = Reranking(max_length=max_length).learn(LISTS)
    asked = predictor(task, tiny_folder(architecture))
    save_model(asked.model, asked.tokenizer, tmp_path / "saved", max_length=max_length)
    stock = library.CrossEncoder(str(tmp_path / "saved"), device="cpu")
    query, texts = "a fine film", ["a good movie", "the bank card of the phone service " * 4, "b"]
    (answer,) = asked.answers([Row(0, {"query": query, "text": texts})])
    expected = stock.predict([(query, text) for text in texts])
    np.testing.assert_allclose(answer.scores, expected, atol=1e-6)
    assert [each["corpus_id"] for each in stock.rank(query, texts)] == list(answer.order)


def test_the_parity_gate_asks_sentence_transformers_or_transformers(
    tiny_folder, tmp_path, monkeypatch
):
    task = learned()
    asked = predictor(task, tiny_folder("bert"))
    folder = tmp_path / "saved"
    save_model(asked.model, asked.tokenizer, folder, max_length=64)
    features = [item for row in LISTS for item in task.encode(row, asked.tokenizer)]
    parity = compare_with_stock(task, asked.model, folder, features)
    assert parity.against == "stock sentence-transformers"
    assert parity.num_sequences == len(features)
    assert parity.largest_difference < 1e-5
    monkeypatch.setattr("tunewright.tasks.reranking.find_spec", lambda _: None)
    assert compare_with_stock(task, asked.model, folder, features).largest_difference < 1e-5


groups = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=5), min_size=1)


@given(groups, st.integers(0, 100))
def test_the_listwise_loss_is_torch_s_cross_entropy_of_each_group(groups, seed):
    generator = torch.Generator().manual_seed(seed)
    label_B = torch.tensor([label for group in groups for label in group])
    group_B = torch.tensor([n for n, group in enumerate(groups) for _ in group])
    logits_B = 50 * torch.randn(len(label_B), generator=generator)
    order = torch.randperm(len(label_B), generator=generator)
    found = listwise_loss(logits_B[order], label_B[order], group_B[order])
    told = [n for n, group in enumerate(groups) if sum(group)]
    expected = [
        torch.nn.functional.cross_entropy(
            logits_B[group_B == n], torch.tensor(groups[n]) / sum(groups[n])
        )
        for n in told
    ]
    assert found.count == len(told)
    assert float(found.sum) == pytest.approx(float(sum(expected)), rel=1e-4, abs=1e-4)


def test_the_pointwise_loss_is_torch_s_binary_cross_entropy():
    task = learned(TEXTS, positive_weight=3.0)
    logits, label = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.0, 0.0, 0.5])
    found = task.loss({"logits": logits}, Batch({}, {"label": label}, (0, 1, 2)))
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))(logits, label)
    assert float(found.sum) / found.count == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("rows", "settings"),
    [(LISTS, {}), (LISTS, {"objective": "pointwise"}), (TEXTS, {"objective": "listwise"})],
)
@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
def test_any_cut_of_an_update_gives_the_gradient_of_one_batch(
    rows, settings, architecture, tiny_folder
):
    task, folder = learned(rows, **settings), tiny_folder(architecture)
    whole, pieces = (gradients(build_loop(folder, task, rows, max_tokens=n)) for n in (8192, 15))
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("objective", ["pointwise", "listwise"])
@pytest.mark.parametrize("rows", [LISTS, TEXTS], ids=["lists", "texts"])
def test_training_puts_relevant_texts_first(objective, rows, tiny_folder):
    task, folder = learned(rows, objective=objective), tiny_folder("bert")
    loop = build_loop(folder, task, rows, steps=60, learning_rate=3e-3)
    list(loop.run())
    asked = Predictor(task, loop.model, load_tokenizer(folder), CPU)
    pairs = zip(asked.answers(rows), rows, strict=True)
    statistics = task.stack(task.statistics(*pair) for pair in pairs)
    assert task.reduce(statistics)["mrr@10"] == 1


def test_the_texts_of_a_query_meet_in_one_update(tiny_folder):
    rows = rows_of(
        [{"query": f"film {n % 6}", "text": f"{n}", "label": int(n < 6)} for n in range(24)]
    )
    task, tokenizer = learned(rows, objective="listwise"), load_tokenizer(tiny_folder("bert"))
    encoded = [task.encode(row, tokenizer) for row in rows]
    order = np.random.default_rng(0).permutation(24)
    updates = list(task.updates(order, encoded, 8))
    assert sorted(np.concatenate(updates)) == list(range(24))
    queries = [{row % 6 for row in update} for update in updates]
    assert [len(each) for each in queries] == [2, 2, 2]
    plain = learned(rows).updates(order, encoded, 8)
    assert np.concatenate(list(plain)).tolist() == order.tolist()


def test_a_text_has_a_relevance_and_a_list_a_ranking(tiny_folder):
    asked = predictor(learned(), tiny_folder("bert"))
    texts = ["a good movie", "", "the bank"]
    (ranking,) = asked.answers([Row(0, {"query": "film", "text": texts})])
    singly = list(
        asked.answers([Row(i, {"query": "film", "text": t}) for i, t in enumerate(texts)])
    )
    assert isinstance(ranking, Ranking)
    assert all(isinstance(each, Relevance) for each in singly)
    assert ranking.scores == pytest.approx([each.score for each in singly], abs=1e-6)
    best = [each["index"] for each in ranking.to_json()["ranking"]]
    assert best == sorted(range(3), key=lambda place: -singly[place].score)
    assert singly[0].to_json() == {"score": singly[0].score, "logit": singly[0].logit}
    assert 0 < singly[0].score < 1


def test_a_bare_pair_is_answered_by_a_model_that_learned_positives(tiny_folder):
    assert Reranking.bare_roles == ("query", "text")
    asked = predictor(learned(LISTS), tiny_folder("bert"))
    pair = dict(zip(Reranking.bare_roles, ("a film", "the movie"), strict=True))
    (answer,) = asked.answers(rows_of([pair]))
    (same,) = asked.answers(rows_of([{"query": "a film", "positive": "the movie"}]))
    assert isinstance(answer, Relevance)
    assert answer.score == pytest.approx(same.scores[0])


@pytest.mark.parametrize(
    ("values", "source"),
    [
        ({"query": "film", "text": ["a plot", "a card"]}, "rows"),
        ({"query": "film", "text": '["a plot", "a card"]'}, "rows.csv"),
        ({"query": "film", "positive": "a plot", "negative": ["a card"]}, "rows"),
    ],
)
def test_all_texts_of_a_query_are_shown_and_measured(values, source):
    assert learned().shown(Row(0, values, source)) == "film\na plot\na card"


def test_queries_that_any_order_is_right_for_are_counted():
    task = learned()
    rows = rows_of(
        [
            {"query": "film", "positive": ["a plot", "a card"]},
            {"query": "film", "positive": "a plot", "negative": "a card"},
        ]
    )
    answer = Ranking((0.9, 0.1), (2.0, -2.0))
    statistics = task.stack([task.statistics(answer, row) for row in rows])
    assert task.measured_as(statistics) == (
        "1 of 2 queries have only texts that are equally relevant: any order of them is right, and "
        "counts so.",
    )
    assert task.measured_as(task.stack([task.statistics(answer, rows[1])])) == ()


def test_a_blank_text_is_answered_and_a_missing_one_is_not(tiny_folder):
    asked = predictor(learned(), tiny_folder("bert"))
    (blank,) = asked.answers([Row(0, {"query": "film", "text": None})])
    assert isinstance(blank, Relevance)
    with pytest.raises(DataError) as caught:
        list(asked.answers([Row(0, {"query": "film"}, "a.csv", 2)]))
    assert str(caught.value) == (
        "a.csv, line 2: it has no text. A query is read together with a text. Name the column with "
        "data.columns.text, or with data.columns.positive."
    )


def refused(*rows, **settings):
    with pytest.raises(DataError) as caught:
        learned(rows_of(rows), **settings)
    return str(caught.value)


def test_rows_that_cannot_be_learned_from_are_refused():
    assert refused({"query": "a", "text": "b"}) == (
        "rows.csv, line 2: its text has no label. A text needs a label, or a query needs positive "
        "and negative texts. Name the column with data.columns.label, or with "
        "data.columns.positive."
    )
    assert refused({"query": "a", "text": "b", "label": -1}) == (
        "rows.csv, line 2: its label is -1. A label is 0 for an irrelevant text and more for a "
        "relevant one."
    )
    assert refused({"query": "a", "text": ["b", "c"], "label": [1]}) == (
        "rows.csv, line 2: it has 2 texts and 1 labels. Each text has one label."
    )
    assert refused({"query": "a", "positive": ["b", "c"]}) == (
        "the training data: every label is 1. Relevant and irrelevant texts are needed. Find texts "
        "that only look relevant: tunewright mine FILE --out mined.jsonl"
    )
    assert refused({"query": "a", "text": "b", "positive": "c", "negative": "d"}).startswith(
        "rows.csv, line 2: its text has no label."
    )


def test_files_that_hold_lists_and_single_texts_are_refused():
    one = {"query": "a", "text": "b", "label": 1}
    several = {"query": "c", "positive": "d", "negative": "e"}
    assert refused(several, several, one) == (
        "rows.csv, line 4: it holds a text alone, and rows.csv, line 2 a list. Either every row "
        "holds all texts of its query, or every row one of them. Make a list of the text and of "
        "its label, too."
    )
    assert refused(one, several) == (
        "rows.csv, line 3: it holds a list of texts, and rows.csv, line 2 one alone. Either every "
        "row holds all texts of its query, or every row one of them. Give each text a row of its "
        "own, with its query and its label."
    )


def test_single_texts_are_ranked_together_by_a_model_that_learned_lists():
    answers = [Relevance(0.5, logit) for logit in (3.0, -1.0, 4.0, -2.0, 1.0, 0.0)]
    statistics = [
        [task.statistics(*pair) for pair in zip(answers, TEXTS, strict=True)]
        for task in (learned(LISTS), learned(TEXTS))
    ]
    lists, texts = learned(LISTS).stack(statistics[0]), learned(TEXTS).stack(statistics[1])
    assert lists["mrr@10"].tolist() == texts["mrr@10"].tolist() == [0.5] * 6


def test_grades_are_read_as_shares_of_the_highest(tiny_folder):
    rows = rows_of([{"query": "a", "text": f"{n}", "label": n} for n in (0, 1, 4)])
    task = learned(rows)
    found = [task.encode(row, load_tokenizer(tiny_folder("bert")))[0].targets for row in rows]
    assert [each["label"] for each in found] == [0, 0.25, 1]
    assert len({each["group"] for each in found}) == 1


def test_the_texts_of_one_query_are_ranked_together_over_all_rows():
    task = learned(TEXTS)
    logits = [3.0, -1.0, 4.0, -2.0, 1.0, 0.0]
    statistics = task.stack(
        task.statistics(Relevance(0.5, logit), row)
        for logit, row in zip(logits, TEXTS, strict=True)
    )
    assert statistics["mrr@10"].tolist() == [0.5] * 6
    assert statistics["weight"] == pytest.approx([1 / 3] * 6)
    assert statistics["recall@1"].tolist() == [0] * 6
    assert statistics["recall@5"].tolist() == [1] * 6


def test_a_mistake_is_a_score_on_the_wrong_side_or_a_best_text_not_first():
    task = learned(TEXTS)
    assert task.severity(Relevance(0.75, 1.0), TEXTS[0]) is None
    assert task.severity(Relevance(0.75, 1.0), TEXTS[2]) == 0.75
    ranked = Ranking((0.1, 0.2, 0.3), (-2.0, -1.0, 0.0))
    assert learned().compared(ranked, LISTS[2]) == (1, 3)
    assert learned().severity(ranked, LISTS[2]) == 3
    assert learned().severity(Ranking((0.4, 0.2), (3.0, 1.0)), LISTS[0]) is None


def test_lists_that_csv_files_hold_as_text_are_lists():
    (row,) = rows_of([{"query": "a film", "text": '["the film", "a bank"]', "label": "[1, 0]"}])
    found = [(candidate.text, candidate.label) for candidate in candidates(row)]
    assert found == [("the film", 1.0), ("a bank", 0.0)]
    assert Reranking().learn([row]).objective == "listwise"
