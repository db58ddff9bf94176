from __future__ import annotations

from itertools import accumulate, pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunewright.models.crf import CRF, best_tags, log_likelihood, marginals, most_likely

LENGTHS = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def made(lengths, num_tags=3, seed=0, allowed=None):
    generator = torch.Generator().manual_seed(seed)
    crf = CRF(num_tags, allowed)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    boundaries = tuple(accumulate(lengths, initial=0))
    emissions = torch.randn(boundaries[-1], num_tags, generator=generator)
    tags = torch.randint(0, num_tags, (boundaries[-1],), generator=generator)
    return crf, emissions, tags, boundaries


def every_way(crf, emissions_SC):
    """Each tagging of one sequence with its score, by the formula."""
    transitions, start, end = crf.steps
    for tags in product(range(emissions_SC.shape[1]), repeat=len(emissions_SC)):
        score = start[tags[0]] + end[tags[-1]]
        score = score + sum(emissions_SC[place, tag] for place, tag in enumerate(tags))
        steps = pairwise(tags)
        yield tags, float((score + sum(transitions[a, b] for a, b in steps)).detach())


@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_likelihood_best_tags_and_probabilities_are_those_of_every_way_tried(lengths, seed):
    crf, emissions, tags, boundaries = made(lengths, seed=seed)
    best = best_tags(crf.steps, emissions, boundaries)
    probabilities = marginals(crf.steps, emissions, boundaries)
    total = 0.0
    for start, end in pairwise(boundaries):
        ways = dict(every_way(crf, emissions[start:end]))
        scores = torch.tensor(list(ways.values()), dtype=torch.float64)
        own = tuple(tags[start:end].tolist())
        total += float(ways[own] - torch.logsumexp(scores, 0))
        assert tuple(best[start:end].tolist()) == max(ways, key=ways.get)
        expected = torch.zeros(end - start, 3, dtype=torch.float64)
        for way, weight in zip(ways, torch.softmax(scores, 0), strict=True):
            expected[range(end - start), list(way)] += weight
        torch.testing.assert_close(probabilities[start:end].double(), expected, atol=1e-5, rtol=0)
    found = log_likelihood(crf.steps, emissions, tags, boundaries)
    assert float(found.detach()) == pytest.approx(total, abs=1e-4)


def test_forbidden_steps_are_never_taken():
    allowed = torch.ones(4, 4, dtype=torch.bool)
    allowed[0, 1] = allowed[3, 2] = allowed[1, 3] = False  # 0 to 1; begin with 2; end with 1
    crf, emissions, _, boundaries = made([5, 4, 1], allowed=allowed, seed=4)
    for start, end in pairwise(boundaries):
        tags = best_tags(crf.steps, emissions, boundaries)[start:end].tolist()
        assert (0, 1) not in pairwise(tags)
        assert tags[0] != 2
        assert tags[-1] != 1
    probabilities = marginals(crf.steps, emissions, boundaries)
    assert float(probabilities[torch.tensor(boundaries[:-1]), 2].abs().max()) < 1e-6


def test_the_gradient_leads_to_the_tags_that_were_given():
    crf, emissions, tags, boundaries = made([5, 3])
    emissions = torch.zeros_like(emissions).requires_grad_()
    optimizer = torch.optim.Adam([*crf.parameters(), emissions], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        (-log_likelihood(crf.steps, emissions, tags, boundaries)).backward()
        optimizer.step()
    assert best_tags(crf.steps, emissions, boundaries).tolist() == tags.tolist()


@given(lengths=st.permutations([1, 4, 2, 3]))
def test_sequences_do_not_see_their_neighbours(lengths):
    crf, emissions, tags, boundaries = made(lengths)
    alone = [
        log_likelihood(crf.steps, emissions[a:b], tags[a:b], (0, b - a))
        for a, b in pairwise(boundaries)
    ]
    together = log_likelihood(crf.steps, emissions, tags, boundaries)
    torch.testing.assert_close(sum(alone), together, atol=1e-4, rtol=0)


def test_without_a_field_the_most_likely_tags_are_those_of_each_token_alone():
    crf, emissions, _, _ = made([5])
    tags, scores = most_likely(emissions, None)
    assert tags == emissions.argmax(1).tolist()
    assert scores.tolist() == pytest.approx(emissions.softmax(1).max(1).values.tolist())
    assert most_likely(emissions, crf.steps)[0] == best_tags(crf.steps, emissions, (0, 5)).tolist()
    assert most_likely(emissions[:0], crf.steps)[0] == []
