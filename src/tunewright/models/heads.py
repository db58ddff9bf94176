"""From a packed stream to one vector of logits a sequence, through the library's own head.

The backbone runs over the packed row; each head below sees the gathered tokens only. The head
modules are the library's own, so a saved folder is the library's own folder.

Shape letters: N tokens, B sequences, D hidden width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from tunewright.models.attention import PACKED, register
from tunewright.models.batch import PackedStream, filled, padded
from tunewright.models.tokenizers import POSITIONS_AFTER_PADDING

Head = Callable[[Any, Tensor, PackedStream], Tensor]

# Two ways to the same logits may sum in another order: fp32 rounding is about 1e-6 of the largest
# logit. Differences up to this share of it (of 1, where all are smaller) are no differences.
TOLERANCE = 1e-4

# On a CPU a new shape costs about 3 ms for each matrix product, a filler token about 0.1 ms.
TOKEN_QUANTUM = 64

# Their head reads whatever stands at the last position, so padding has to stand before the text.
SUMMED_UP_AT_END = frozenset({"xlnet"})


def _pooled(model: Any, hidden_ND: Tensor, stream: PackedStream) -> Tensor:
    """BERT, ERNIE, Nomic-BERT: first token, the backbone's pooler, dropout, classifier."""
    pooled_BD = model.base_model.pooler(hidden_ND[stream.first_B][:, None])
    return model.classifier(model.dropout(pooled_BD))


def _albert(model: Any, hidden_ND: Tensor, stream: PackedStream) -> Tensor:
    """ALBERT: its pooler is a bare linear layer."""
    backbone = model.base_model
    pooled_BD = backbone.pooler_activation(backbone.pooler(hidden_ND[stream.first_B]))
    return model.classifier(model.dropout(pooled_BD))


def _first_token(model: Any, hidden_ND: Tensor, stream: PackedStream) -> Tensor:
    """RoBERTa, XLM-R, CamemBERT, ELECTRA: a head that takes position 0 of (B, 1, D) itself."""
    return model.classifier(hidden_ND[stream.first_B][:, None])


def _distilbert(model: Any, hidden_ND: Tensor, stream: PackedStream) -> Tensor:
    hidden_BD = torch.relu(model.pre_classifier(hidden_ND[stream.first_B]))
    return model.classifier(model.dropout(hidden_BD))


def _modernbert(model: Any, hidden_ND: Tensor, stream: PackedStream) -> Tensor:
    """ModernBERT: first token or mean of all tokens, as its configuration says."""
    if model.config.classifier_pooling == "cls":
        pooled_BD = hidden_ND[stream.first_B]
    else:
        pooled_BD = mean_pool(hidden_ND, stream)
    return model.classifier(model.drop(model.head(pooled_BD)))


def _last_token(model: Any, hidden_ND: Tensor, stream: PackedStream) -> Tensor:
    """Decoders: the score of the last token that is no padding.

    A text can itself say "<|endoftext|>", which is often the padding token, too.
    """
    place_N = torch.arange(stream.num_tokens, device=hidden_ND.device)
    place_N = place_N.where(stream.token_ids_N != model.config.pad_token_id, 0)
    last_B = stream.first_B.scatter_reduce(0, stream.owner_N, place_N, "amax")
    return model.score(hidden_ND[last_B])


HEADS: dict[str, Head] = {
    "albert": _albert,
    "bert": _pooled,
    "camembert": _first_token,
    "distilbert": _distilbert,
    "electra": _first_token,
    "ernie": _pooled,
    "gpt2": _last_token,
    "llama": _last_token,
    "modernbert": _modernbert,
    "nomic_bert": _pooled,
    "qwen2": _last_token,
    "qwen3": _last_token,
    "roberta": _first_token,
    "smollm3": _last_token,
    "xlm-roberta": _first_token,
}


def mean_pool(hidden_ND: Tensor, stream: PackedStream) -> Tensor:
    """Returns the mean of each sequence's token vectors, (B, D), in the dtype of `hidden_ND`."""
    lengths_B = torch.tensor(stream.lengths, device=hidden_ND.device)
    sums_BD = hidden_ND.new_zeros(stream.num_sequences, hidden_ND.shape[1])
    return sums_BD.index_add(0, stream.owner_N, hidden_ND) / lengths_B[:, None]


def is_packed(model: Any) -> bool:
    """Says whether the model takes the packed route."""
    return bool(model.config._attn_implementation == PACKED)


def _positions_after_padding(stream: PackedStream, pad_id: int) -> Tensor:
    """Counts positions from `pad_id` + 1; a padding token that a text itself names stays at it."""
    counts_N = stream.token_ids_N != pad_id
    count_N = counts_N.cumsum(0)
    before_B = (count_N - counts_N.long())[stream.first_B]
    return (count_N - before_B[stream.owner_N]) * counts_N + pad_id


def packed_hidden(model: Any, stream: PackedStream) -> Tensor:
    """Runs the backbone over the packed row; returns the last hidden states, (N, D).

    The row is filled up to a multiple of `TOKEN_QUANTUM` with a sequence of its own, which is cut
    off again: matrix kernels are prepared anew for every number of rows that they have not seen.
    """
    return _packed_hidden(model, filled(stream, TOKEN_QUANTUM))[: stream.num_tokens]


def _packed_hidden(model: Any, stream: PackedStream) -> Tensor:
    positions_N = stream.position_ids_N
    if model.config.model_type in POSITIONS_AFTER_PADDING:
        positions_N = _positions_after_padding(stream, model.config.pad_token_id)
    segments = {} if stream.type_ids_N is None else {"token_type_ids": stream.type_ids_N[None]}
    cache = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    outputs = model.base_model(
        input_ids=stream.token_ids_N[None],
        position_ids=positions_N[None],
        boundaries=stream.boundaries,
        **segments,
        **cache,
    )
    return outputs.last_hidden_state[0]


def classify(model: Any, stream: PackedStream) -> Tensor:
    """Returns the logits of each sequence, (B, C), by the route that the model has."""
    if is_packed(model):
        head = HEADS[model.config.model_type]
        return head(model, packed_hidden(model, stream), stream)
    return padded_logits(model, stream)


def padded_logits(model: Any, stream: PackedStream) -> Tensor:
    """Returns the logits of each sequence, (B, C), as the library's own padded forward has them."""
    side: Literal["left", "right"] = (
        "left" if model.config.model_type in SUMMED_UP_AT_END else "right"
    )
    token_ids, mask, types = padded(stream, model.config.pad_token_id or 0, side)
    segments = {} if types is None else {"token_type_ids": types}
    return model(input_ids=token_ids, attention_mask=mask, **segments).logits


def choose_route(model: Any) -> str:
    """Puts the model on the packed route if it gives the padded route's logits there.

    A few random sequences of mixed lengths go through both, without dropout and in fp32. Returns
    `packed`, or `padded: ` and the reason. The model's random state and mode are left as found.
    """
    config = model.config
    if config.model_type not in HEADS:
        return f"padded: {config.model_type} has no packed head"
    if not model._can_set_attn_implementation():
        return f"padded: {config.model_type} does not follow the attention interface"
    register()
    was_training, stock = model.training, config._attn_implementation
    model.eval()
    probe = _probe(config)
    try:
        with torch.no_grad():
            expected_BC = classify(model, probe)
            model.set_attn_implementation(PACKED)
            found_BC = classify(model, probe)
    except Exception as error:  # any failure of a stranger's forward means: not this route
        model.set_attn_implementation(stock)
        return f"padded: the packed probe failed ({type(error).__name__}: {error})"
    finally:
        model.train(was_training)
    difference = float((found_BC - expected_BC).abs().max())
    scale = max(1.0, float(expected_BC.abs().max()))
    if not difference <= TOLERANCE * scale:
        model.set_attn_implementation(stock)
        return f"padded: packed logits differ by {difference:.2g}"
    return "packed"


def _probe(config: Any) -> PackedStream:
    """Four sequences of mixed lengths with random token ids, on the CPU.

    One is longer than a sliding window, where the model has one that fits its positions.
    """
    generator = torch.Generator().manual_seed(0)
    limit = getattr(config, "max_position_embeddings", 512) - 4
    window = getattr(config, "sliding_window", None) or 0
    lengths = [min(length, limit) for length in (5, 17, 3, max(30, window + 9))]
    num_tokens = sum(lengths)
    ids_N = torch.randint(0, config.vocab_size, (num_tokens,), generator=generator)
    special = config.pad_token_id
    ids_N[ids_N == special] = (special or 0) + 1  # padding inside a text would move positions
    boundaries = [0]
    for length in lengths:
        boundaries.append(boundaries[-1] + length)
    positions_N = torch.cat([torch.arange(length) for length in lengths])
    return PackedStream(ids_N, positions_N, tuple(boundaries))
