from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunewright.tasks.shared import contrastive
from tunewright.tasks.shared.contrastive import (
    contrastive_loss,
    cosent_loss,
    cosine_loss,
    ranking_loss,
    triplet_loss,
)

losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")

SCORES = torch.tensor([0.2, 0.9, 0.2, 0.5, 0.0, 1.0, 0.9])


def vectors(num, seed):
    return torch.randn(num, 6, generator=torch.Generator().manual_seed(seed))


def texts(num, start=0):
    return torch.arange(start, start + num)


ANCHORS, POSITIVES, NEGATIVES = vectors(7, 0), vectors(7, 1), vectors(7, 2)
CANDIDATES = torch.cat([POSITIVES, NEGATIVES])


def ranked(anchors=ANCHORS, candidates=CANDIDATES, anchor_text=None, candidate_text=None, **more):
    anchor_text = texts(len(anchors)) if anchor_text is None else anchor_text
    candidate_text = texts(len(candidates), 100) if candidate_text is None else candidate_text
    return ranking_loss(anchors, candidates, anchor_text, candidate_text, **{"scale": 20.0, **more})


def theirs(loss, *columns, labels=None):
    return loss.compute_loss_from_embeddings(list(columns), labels)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_ranking_is_that_of_sentence_transformers(scale):
    loss = losses.MultipleNegativesRankingLoss(None, scale=scale)
    expected = theirs(loss, ANCHORS, POSITIVES, NEGATIVES)
    torch.testing.assert_close(ranked(scale=scale) / 7, expected)


def test_symmetric_ranking_is_that_of_sentence_transformers():
    loss = losses.MultipleNegativesRankingLoss(
        None, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    expected = theirs(loss, ANCHORS, POSITIVES, NEGATIVES)
    torch.testing.assert_close(ranked(symmetric=True) / 7, expected)


@given(st.integers(1, 9), st.booleans())
def test_memory_for_a_few_anchors_at_a_time_gives_the_same_gradient(size, symmetric):
    found = []
    for at_once in (512, size):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(contrastive, "ANCHORS_AT_ONCE", at_once)
            anchors, candidates = (each.clone().requires_grad_() for each in (ANCHORS, CANDIDATES))
            loss = ranked(anchors, candidates, symmetric=symmetric)
            found.append((loss, *torch.autograd.grad(loss, (anchors, candidates))))
    torch.testing.assert_close(found[0], found[1])


few_texts = st.lists(st.integers(0, 5), min_size=7, max_size=7)


@given(few_texts, few_texts, few_texts)
def test_a_candidate_that_is_no_negative_is_left_out(anchor, positive, negative):
    candidate, expected = [*positive, *negative], torch.tensor(0.0)
    for p in range(7):
        kept = [p] + [
            k
            for k in range(14)
            if k != p and candidate[k] not in (positive[p], anchor[p])
            if not (k < 7 and anchor[k] == anchor[p])
        ]
        logits = 20 * torch.cosine_similarity(ANCHORS[p : p + 1], CANDIDATES[kept])
        expected -= logits.log_softmax(0)[0]
    found = ranked(anchor_text=torch.tensor(anchor), candidate_text=torch.tensor(candidate))
    torch.testing.assert_close(found, expected)


def test_two_pairs_of_equal_texts_have_nothing_to_tell_apart():
    same = torch.tensor([5, 5])
    found = ranked(ANCHORS[:2], POSITIVES[:2], same, torch.tensor([8, 9]), symmetric=True)
    assert float(found) == 0


def test_the_triplet_loss_is_that_of_sentence_transformers():
    metric = losses.TripletDistanceMetric.COSINE
    expected = theirs(losses.TripletLoss(None, metric, 0.3), ANCHORS, POSITIVES, NEGATIVES)
    torch.testing.assert_close(triplet_loss(ANCHORS, POSITIVES, NEGATIVES, 0.3) / 7, expected)


def test_the_contrastive_loss_is_that_of_sentence_transformers():
    labels = (SCORES > 0.5).float()
    expected = theirs(losses.ContrastiveLoss(None, margin=0.5), ANCHORS, POSITIVES, labels=labels)
    torch.testing.assert_close(contrastive_loss(ANCHORS, POSITIVES, labels, 0.5) / 7, expected)


def test_the_cosine_loss_is_the_mean_squared_error():
    cosine = torch.cosine_similarity(ANCHORS, POSITIVES)
    expected = torch.nn.functional.mse_loss(cosine, SCORES)
    torch.testing.assert_close(cosine_loss(ANCHORS, POSITIVES, SCORES) / 7, expected)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_cosent_is_that_of_sentence_transformers(scores):
    scores = torch.tensor(scores, dtype=torch.float32)
    left, right = vectors(len(scores), 3), vectors(len(scores), 4)
    expected = theirs(losses.CoSENTLoss(None), left, right, labels=scores)
    torch.testing.assert_close(cosent_loss(left, right, scores, 20.0), expected)


def test_cosent_without_two_different_scores_learns_nothing():
    left = ANCHORS.clone().requires_grad_()
    loss = cosent_loss(left, POSITIVES, torch.ones(7), 20.0)
    loss.backward()
    assert float(loss.detach()) == 0
    assert left.grad is not None
    assert not left.grad.any()
