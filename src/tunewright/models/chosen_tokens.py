"""Outputs of a model's head for some of the tokens only, and the losses of some tokens.

    logits_MV = chosen_outputs(model, stream, hidden_N)
    losses_M = next_token_losses(model, stream, places_M)

A language model's head makes a score for every word of the vocabulary: for all tokens of a batch it
costs more than the whole of a small encoder, and the loss looks at every seventh token only.

Shape letters: N tokens, M chosen tokens, V vocabulary, D hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tunewright.models.batch import PackedStream
from tunewright.models.heads import is_packed, packed_hidden, token_outputs

# Tokens whose scores are made at once: of 50,000 words they take 200 MB, and as much for gradients.
HEAD_TOKENS = 1024


def chosen_outputs(model: Any, stream: PackedStream, chosen_N: Tensor) -> Tensor:
    """Returns the logits of the tokens that `chosen_N`, booleans, chooses: (M, V).

    On the packed route the library's head, which looks at one token at a time, is handed these
    alone; on the padded route all logits are made and M are kept.
    """
    if not is_packed(model):
        return token_outputs(model, stream, "logits")[0][chosen_N]
    with _head_sees(model.base_model, chosen_N.nonzero()[:, 0]):
        return token_outputs(model, stream, "logits")[0]


@contextmanager
def _head_sees(backbone: nn.Module, places_M: Tensor) -> Iterator[None]:
    """Lets the backbone give only these places of its one row to the head, for a block."""

    def gather(_module: nn.Module, _inputs: Any, outputs: Any) -> Any:
        outputs.last_hidden_state = outputs.last_hidden_state[:, places_M]
        return outputs

    handle = backbone.register_forward_hook(gather)
    try:
        yield
    finally:
        handle.remove()


def next_token_losses(model: Any, stream: PackedStream, places_M: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the loss of each token at `places_M`, given those before it, and whether it is right.

    Losses are in nats, fp32 (M,); right ones are those that the model thinks the likeliest. No
    place is the first of its sequence. On the packed route the head is run for these tokens only
    and a thousand at a time, anew in the backward pass, so that memory does not grow with a large
    vocabulary.
    """
    true_M = stream.token_ids_N[places_M]
    if not is_packed(model):
        logits_MV = token_outputs(model, stream, "logits")[0][places_M - 1]
        return _losses(logits_MV, true_M)
    hidden_MD = packed_hidden(model, stream)[places_M - 1]
    head, pieces = model.get_output_embeddings(), []
    for hidden, true in zip(hidden_MD.split(HEAD_TOKENS), true_M.split(HEAD_TOKENS), strict=True):
        if torch.is_grad_enabled():
            pieces.append(checkpoint(_head_losses, head, hidden, true, use_reentrant=False))
        else:
            pieces.append(_head_losses(head, hidden, true))
    losses, right = zip(*pieces, strict=True)
    return torch.cat(losses), torch.cat(right)


def next_token_logits(model: Any, stream: PackedStream) -> Tensor:
    """Returns the scores of every token's next one, (N, V), by the model's route."""
    if not is_packed(model):
        return token_outputs(model, stream, "logits")[0]
    return model.get_output_embeddings()(packed_hidden(model, stream))


def _head_losses(head: nn.Module, hidden_MD: Tensor, true_M: Tensor) -> tuple[Tensor, Tensor]:
    return _losses(head(hidden_MD), true_M)


def _losses(logits_MV: Tensor, true_M: Tensor) -> tuple[Tensor, Tensor]:
    losses_M = functional.cross_entropy(logits_MV.float(), true_M, reduction="none")
    return losses_M, logits_MV.detach().argmax(-1) == true_M
