"""From a packed stream to a model's outputs, through the library's own backbone and head.

The backbone runs over the packed row. Heads that look at one token at a time run over it too; the
head of a whole sequence sees the gathered tokens only. All modules are the library's own, so a
saved folder is the library's own folder.

Shape letters: N tokens, B sequences, D hidden width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from tunewright.models.adapting.adapters import stirred
from tunewright.models.adapting.prompts import is_causal
from tunewright.models.batch import PackedStream, filled, padded
from tunewright.models.layers.attention import PACKED, PaddedOnly, register
from tunewright.models.text.tokenizers import POSITIONS_AFTER_PADDING

Head = Callable[[Any, Tensor, PackedStream], Tensor]
Forward = Callable[[Any, PackedStream], Tensor]


class NoPackedHead(PaddedOnly):
    """An architecture whose head is not known here."""


# Two ways to the same logits may sum in another order: fp32 rounding is about 1e-6 of the largest
# logit. Differences up to this share of it (of 1, where all are smaller) are no differences.
TOLERANCE = 1e-4

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


def _summary(model: Any, hidden_ND: Tensor, stream: PackedStream) -> Tensor:
    """ELECTRA: a summary that takes the first of (B, 1, D) itself, then the classifier."""
    return model.classifier(model.sequence_summary(hidden_ND[stream.first_B][:, None]))


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


# Multiple choice: the heads have one output, and RoBERTa's family pools as BERT does.
CHOICE_HEADS: dict[str, Head] = {
    "albert": _albert,
    "bert": _pooled,
    "camembert": _pooled,
    "distilbert": _distilbert,
    "electra": _summary,
    "ernie": _pooled,
    "modernbert": _modernbert,
    "roberta": _pooled,
    "xlm-roberta": _pooled,
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

    The row is filled up with a sequence of its own, which is cut off again: matrix kernels are
    prepared anew for every number of rows that they have not seen.
    """
    inputs = _packed_inputs(model, filled(stream))
    return model.base_model(**inputs).last_hidden_state[0, : stream.num_tokens]


def _packed_inputs(model: Any, stream: PackedStream) -> dict[str, Any]:
    """Returns what the library's forward is given: the one row, and where its sequences end."""
    positions_N = stream.position_ids_N
    if model.config.model_type in POSITIONS_AFTER_PADDING:
        positions_N = _positions_after_padding(stream, model.config.pad_token_id)
    segments = {} if stream.type_ids_N is None else {"token_type_ids": stream.type_ids_N[None]}
    cache = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    return {
        "input_ids": stream.token_ids_N[None],
        "position_ids": positions_N[None],
        "boundaries": stream.boundaries,
        **segments,
        **cache,
    }


def _padded_inputs(model: Any, stream: PackedStream) -> dict[str, Tensor]:
    """Returns what the library's forward is given by its own users: rows of padded tokens."""
    side: Literal["left", "right"] = (
        "left" if model.config.model_type in SUMMED_UP_AT_END else "right"
    )
    return padded(stream, model.config.pad_token_id or 0, side)


def classify(model: Any, stream: PackedStream) -> Tensor:
    """Returns the logits of each sequence, (B, C), by the route that the model has."""
    if is_packed(model):
        return _packed_head(model, stream, HEADS)
    if _looks_at_the_end(model):
        alone = (model(**_padded_inputs(model, each)).logits for each in stream.each())
        return torch.cat(list(alone))
    return model(**_padded_inputs(model, stream)).logits


def _looks_at_the_end(model: Any) -> bool:
    """Says whether a head takes whatever stands last, padding too: a decoder's in peft's hands,
    which gives it a prompt and no token ids.
    """
    prompts = getattr(model, "prompt_encoder", None)
    return prompts is not None and is_causal(model.base_model)


def choice_logits(model: Any, stream: PackedStream) -> Tensor:
    """Returns the logit of each sequence, (B,), of a multiple choice model.

    Each sequence is one choice of some row: the library's head scores them one by one, and only
    the loss looks at the choices of a row together.
    """
    if is_packed(model):
        return _packed_head(model, stream, CHOICE_HEADS)[:, 0]
    inputs = {name: values[None] for name, values in _padded_inputs(model, stream).items()}
    return model(**inputs).logits[0]


def _packed_head(model: Any, stream: PackedStream, heads: Mapping[str, Head]) -> Tensor:
    """Runs the head over one vector a sequence, in fp32.

    It costs nothing there, and three digits of bf16 are too few for a regression.
    """
    head = heads.get(model.config.model_type)
    if head is None:
        raise NoPackedHead(f"{model.config.model_type} has no packed head")
    hidden_ND = packed_hidden(model, stream)
    with torch.autocast(hidden_ND.device.type, enabled=False):
        return head(model, hidden_ND.float(), stream)


def token_outputs(model: Any, stream: PackedStream, *names: str) -> tuple[Tensor, ...]:
    """Returns outputs of the library's whole model for each token, each (N,) or (N, C).

    `names` are those of the model's output, such as `logits`, or `start_logits` and `end_logits`.
    Heads that look at one token at a time need nothing of ours: they run over the packed row.
    """
    if is_packed(model):
        outputs = model(**_packed_inputs(model, filled(stream)))
        return tuple(outputs[name][0, : stream.num_tokens] for name in names)
    inputs = _padded_inputs(model, stream)
    outputs, real = model(**inputs), inputs["attention_mask"].bool()
    return tuple(_of_texts(outputs[name], real)[real] for name in names)


def _of_texts(values: Tensor, real: Tensor) -> Tensor:
    """Returns the outputs of a padded batch without those of a prompt before each text."""
    return values[:, values.shape[1] - real.shape[1] :]


def hidden_states(model: Any, stream: PackedStream, layer: int = -1) -> Tensor:
    """Returns the hidden states after a layer of the backbone, (N, D), by the model's route.

    -1 is the last layer, as the model puts it out; 0 are the embeddings.
    """
    every = {} if layer == -1 else {"output_hidden_states": True}
    if is_packed(model):
        inputs = _packed_inputs(model, filled(stream))
        return _layer(model.base_model(**inputs, **every), layer)[0, : stream.num_tokens]
    inputs = _padded_inputs(model, stream)
    real = inputs["attention_mask"].bool()
    backbone = model.base_model
    if hasattr(model, "prompt_encoder"):  # peft's own forward, which knows no segments here
        backbone, _ = model, inputs.pop("token_type_ids", None)
    found = _layer(backbone(**inputs, **every), layer)
    return _of_texts(found, real)[real]


def _layer(outputs: Any, layer: int) -> Tensor:
    return outputs.last_hidden_state if layer == -1 else outputs.hidden_states[layer]


def choose_route(model: Any, forward: Forward = classify) -> str:
    """Puts the model on the packed route if `forward` gives the padded route's figures there.

    A few random sequences of mixed lengths go through both, without dropout and in fp32, and with
    random numbers in adapters, which change nothing while they are new. Returns `packed`, or
    `padded: ` and the reason. The model's weights and mode are left as found.
    """
    with stirred(model):
        return _probed_route(model, forward)


def _probed_route(model: Any, forward: Forward) -> str:
    config = model.config
    if not model._can_set_attn_implementation():
        return f"padded: {config.model_type} does not follow the attention interface"
    register()
    was_training, stock = model.training, config._attn_implementation
    model.eval()
    probe = probe_stream(config)
    try:
        with torch.no_grad():
            expected = forward(model, probe)
            model.set_attn_implementation(PACKED)
            found = forward(model, probe)
    except PaddedOnly as error:
        model.set_attn_implementation(stock)
        return f"padded: {error}"
    except Exception as error:  # any failure of a stranger's forward means: not this route
        model.set_attn_implementation(stock)
        return f"padded: the packed probe failed ({type(error).__name__}: {error})"
    finally:
        model.train(was_training)
    difference = float((found - expected).abs().max())
    scale = max(1.0, float(expected.abs().max()))
    if not difference <= TOLERANCE * scale:
        model.set_attn_implementation(stock)
        return f"padded: packed logits differ by {difference:.2g}"
    return "packed"


def probe_stream(config: Any, seed: int = 0) -> PackedStream:
    """Returns four sequences of mixed lengths with random token ids, on the CPU.

    One is longer than a sliding window, where the model has one that fits its positions.
    """
    generator = torch.Generator().manual_seed(seed)
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
