"""Our Transformer: equal to torch's own, to hand-computed cases, and to itself on every route."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForSeq2SeqLM
from transformers.models.t5.modeling_t5 import T5Attention

from tunewright.models.batch import PackedStream
from tunewright.models.transformer import (
    POSITIONS,
    Attention,
    Padded,
    RelativePositions,
    Transformer,
    TransformerConfig,
    rotate,
    sinusoids,
)

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "dropout": 0.0,
}


def model_of(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Transformer(TransformerConfig(**SIZES | settings)).eval()


def texts_of(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 40, (length,), generator=generator) for length in lengths]


def stream_of(texts):
    lengths = [len(text) for text in texts]
    positions = torch.cat([torch.arange(length) for length in lengths])
    return PackedStream(torch.cat(texts), positions, tuple(accumulate(lengths, initial=0)))


def padded(texts):
    pad = nn.utils.rnn.pad_sequence
    return pad(texts, batch_first=True), pad([torch.ones_like(text) for text in texts], True)


def run_padded(model, sources, targets):
    """The logits of real target tokens, one text after another."""
    ids, mask = padded(sources)
    target_ids, target_mask = padded(targets)
    found = model(input_ids=ids, attention_mask=mask, decoder_input_ids=target_ids)
    return found.logits[target_mask.bool()]


# Against torch.nn.Transformer --------------------------------------------------------------------


def copy_attention(ours, theirs):
    parts = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data = torch.cat([part.weight.data for part in parts])
    theirs.in_proj_bias.data = torch.cat([part.bias.data for part in parts])
    theirs.out_proj.load_state_dict(ours.output.state_dict())


def torch_twin(model, norm_first):
    """torch's own Transformer with our weights."""
    shape = {"d_model": 16, "nhead": 2, "dim_feedforward": 24, "dropout": 0.0, "batch_first": True}
    twin = nn.Transformer(
        num_encoder_layers=2, num_decoder_layers=2, norm_first=norm_first, **shape
    )
    for ours, theirs in ((model.encoder, twin.encoder), (model.decoder, twin.decoder)):
        theirs.norm = None
        if norm_first:
            theirs.norm = ours.norm
        for mine, other in zip(ours.layers, theirs.layers, strict=True):
            copy_attention(mine.attention, other.self_attn)
            other.norm1 = mine.attention_norm
            last = "norm2"
            if hasattr(mine, "cross_attention"):
                copy_attention(mine.cross_attention, other.multihead_attn)
                other.norm2, last = mine.cross_attention_norm, "norm3"
            setattr(other, last, mine.feed_forward_norm)
            other.linear1, other.linear2 = mine.feed_forward.inner, mine.feed_forward.outer
    return twin.eval()


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("norm_first", [True, False])
def test_both_stacks_give_what_those_of_torch_give(norm_first):
    model = model_of(norm_first=norm_first)
    for parameter in model.parameters():  # norms and biases too, which begin as ones and zeros
        parameter.data += 0.1 * torch.randn_like(parameter)
    twin = torch_twin(model, norm_first)
    sources, targets = texts_of([5, 9, 3], 0), texts_of([4, 6, 8], 1)
    ids, mask = padded(sources)
    target_ids, target_mask = padded(targets)

    def embed(token_ids):
        table = model.embedding(token_ids) * math.sqrt(16)
        return table + sinusoids(token_ids.shape[1], 16, CPU)

    hidden = twin(
        embed(ids),
        embed(target_ids),
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(8),
        src_key_padding_mask=mask == 0,
        memory_key_padding_mask=mask == 0,
        tgt_is_causal=True,
    )
    expected = (hidden @ model.embedding.weight.T)[target_mask.bool()]
    torch.testing.assert_close(run_padded(model, sources, targets), expected)


# By hand -----------------------------------------------------------------------------------------


def test_attention_of_one_head_is_the_softmax_of_scaled_products():
    attention = Attention(
        TransformerConfig(**SIZES | {"hidden_size": 2, "num_attention_heads": 1}), 0
    )
    for linear in (attention.query, attention.key, attention.value, attention.output):
        linear.weight.data, linear.bias.data = torch.eye(2), torch.zeros(2)
    hidden = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    first = math.exp(1 / math.sqrt(2)), math.exp(0)  # the first vector with itself, and the other
    second = math.exp(0), math.exp(4 / math.sqrt(2))
    expected = [
        [first[0] / sum(first), 2 * first[1] / sum(first)],
        [second[0] / sum(second), 2 * second[1] / sum(second)],
    ]
    found = attention(hidden, Padded())
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_sinusoids_are_sines_and_cosines_of_ever_slower_angles():
    table = sinusoids(3, 4, CPU)
    torch.testing.assert_close(table[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    expected = [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)]
    torch.testing.assert_close(table[2], torch.tensor(expected))


def test_rotated_products_depend_on_the_distance_alone():
    query, key = torch.randn(1, 1, 8), torch.randn(1, 1, 8)
    angles = torch.arange(20.0)[:, None] * torch.tensor([1.0, 0.3, 0.1, 0.01])

    def product(query_place, key_place):
        turned = [
            rotate(values, (angles[place].cos(), angles[place].sin()))
            for values, place in ((query, query_place), (key, key_place))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(3, 7), product(12, 16))
    torch.testing.assert_close(product(5, 5), (query * key).sum())
    assert abs(product(3, 7) - product(3, 9)) > 1e-4


@pytest.mark.parametrize("causal", [True, False])
def test_relative_buckets_are_those_of_t5(causal):
    relative = RelativePositions(TransformerConfig(**SIZES), causal)
    distance = torch.arange(-300, 301)
    expected = T5Attention._relative_position_bucket(distance, bidirectional=not causal)
    assert torch.equal(relative.bucket(distance), expected)


# Routes ------------------------------------------------------------------------------------------

PAIRS = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=6)


def gradients(model, logits):
    model.zero_grad()
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5))
    (logits * weights).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@settings(max_examples=12)
@given(PAIRS, st.sampled_from(POSITIONS), st.booleans(), st.integers(0, 1000))
def test_packed_is_padded_forward_and_backward(lengths, positions, norm_first, seed):
    model = model_of(positions=positions, norm_first=norm_first)
    sources, targets = (texts_of(side, seed) for side in zip(*lengths, strict=True))
    packed = model.packed(stream_of(sources), stream_of(targets))
    expected = run_padded(model, sources, targets)
    torch.testing.assert_close(packed, expected, atol=2e-5, rtol=1e-4)
    found, theirs = gradients(model, packed), gradients(model, expected)
    assert found.keys() == theirs.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in theirs.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * largest, rtol=1e-4, msg=name)


@pytest.mark.parametrize("positions", POSITIONS)
def test_packed_without_gradients_is_the_same(positions):
    model = model_of(positions=positions)
    streams = stream_of(texts_of([5, 19, 3], 0)), stream_of(texts_of([4, 17, 20], 1))
    with torch.no_grad():
        plain = model.packed(*streams)
    torch.testing.assert_close(plain, model.packed(*streams))


def test_streams_of_whole_quanta_need_no_filler():
    model = model_of()
    sources, targets = texts_of([32, 32], 0), texts_of([7, 30], 1)
    packed = model.packed(stream_of(sources), stream_of(targets))
    torch.testing.assert_close(packed, run_padded(model, sources, targets), atol=2e-5, rtol=1e-4)


def test_a_target_never_sees_its_own_future_nor_another_text():
    model = model_of()
    sources, targets = texts_of([5, 6], 0), texts_of([4, 5], 1)
    before = model.packed(stream_of(sources), stream_of(targets))
    targets[0][3] = 39
    sources[1][2] = 38
    after = model.packed(stream_of(sources), stream_of(targets))
    torch.testing.assert_close(after[:3], before[:3])
    assert (after[3:] - before[3:]).abs().max(1).values.min() > 1e-4


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_cached_decoding_writes_what_decoding_anew_writes(positions, num_beams):
    model = model_of(positions=positions)
    ids, mask = padded(texts_of([5, 9, 3], 0))
    written = [
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=12,
            num_beams=num_beams,
            use_cache=cached,
        )
        for cached in (True, False)
    ]
    assert torch.equal(*written)
    assert written[0].shape[1] > 4


def test_padding_of_a_source_changes_nothing():
    model = model_of()
    (text,) = texts_of([6], 0)
    alone = model.generate(input_ids=text[None], max_new_tokens=8)
    ids, mask = padded([text, *texts_of([11], 1)])
    beside = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=8)
    assert torch.equal(alone[0], beside[0, : alone.shape[1]])


# As a model of the library -----------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_folder_is_read_by_stock_transformers(tied, tmp_path):
    model = model_of(tie_word_embeddings=tied, positions="relative")
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert type(again) is Transformer
    sources, targets = texts_of([5, 9], 0), texts_of([4, 7], 1)
    expected = run_padded(model, sources, targets)
    assert torch.equal(run_padded(again, sources, targets), expected)
    assert hasattr(again, "output") is not tied


def test_labels_give_the_mean_cross_entropy_and_the_decoder_its_input():
    model = model_of()
    ids, _ = padded(texts_of([5, 5], 0))
    labels = torch.tensor([[7, 8, 2], [9, 2, -100]])
    found = model(input_ids=ids, labels=labels)
    moved = torch.tensor([[1, 7, 8], [1, 9, 2]])
    logits = model(input_ids=ids, decoder_input_ids=moved).logits
    torch.testing.assert_close(found.logits[labels >= 0], logits[labels >= 0])
    logs = logits.log_softmax(-1)
    each = [logs[0, 0, 7], logs[0, 1, 8], logs[0, 2, 2], logs[1, 0, 9], logs[1, 1, 2]]
    torch.testing.assert_close(found.loss, -torch.stack(each).mean())


@pytest.mark.parametrize(
    "wrong",
    [
        {"positions": "absolute"},
        {"activation": "tanh"},
        {"hidden_size": 18, "num_attention_heads": 4},
    ],
)
def test_sizes_that_make_no_model_are_refused(wrong):
    with pytest.raises(Exception, match=r"positions|activation|hidden_size"):
        TransformerConfig(**SIZES | wrong)


def test_dropout_is_drawn_only_in_training():
    model = model_of(dropout=0.5)
    streams = stream_of(texts_of([5, 9], 0)), stream_of(texts_of([4, 7], 1))
    assert torch.equal(model.packed(*streams), model.packed(*streams))
    model.train()
    assert not torch.equal(model.packed(*streams), model.packed(*streams))
