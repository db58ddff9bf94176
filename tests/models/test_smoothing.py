from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tunewright.models import smoothing
from tunewright.models.smoothing import smoothed_cross_entropy


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("piece", [1, 100, 10**6])
def test_loss_and_gradient_are_those_of_torch(share, piece, monkeypatch):
    monkeypatch.setattr(smoothing, "PIECE_ELEMENTS", piece)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(13, 30, generator=generator, dtype=torch.float32)
    labels = torch.randint(0, 30, (13,), generator=generator)
    labels[[2, 7]] = -100
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    found = smoothed_cross_entropy(ours, labels, share)
    expected = functional.cross_entropy(theirs, labels, reduction="sum", label_smoothing=share)
    torch.testing.assert_close(found, expected)
    (3 * found).backward()
    (3 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_narrow_logits_have_a_narrow_gradient_and_a_wide_loss():
    logits = torch.randn(5, 12).bfloat16().requires_grad_()
    loss = smoothed_cross_entropy(logits, torch.arange(5), 0.1)
    loss.backward()
    assert (loss.dtype, logits.grad.dtype) == (torch.float32, torch.bfloat16)


def test_logits_out_of_range_do_not_overflow():
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = smoothed_cross_entropy(logits, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    torch.testing.assert_close(logits.grad, torch.tensor([[1.0, -1.0, 0.0]]))
