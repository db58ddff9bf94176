"""Outputs of a model's head for some of the tokens only.

    logits_MV = chosen_outputs(model, stream, hidden_N)

A language model's head makes a score for every word of the vocabulary: for all tokens of a batch it
costs more than the whole of a small encoder, and the loss looks at every seventh token only.

Shape letters: N tokens, M chosen tokens, V vocabulary, D hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from tunewright.models.batch import PackedStream
from tunewright.models.heads import is_packed, token_outputs


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
