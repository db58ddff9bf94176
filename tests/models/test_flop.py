from __future__ import annotations

import pytest
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification, MistralConfig

from tunewright.models.adapter_config import AdapterConfig
from tunewright.models.adapters import attach
from tunewright.models.architecture import CAUSAL_LM, MASKED_LM, SEQUENCE_CLASSIFIER
from tunewright.models.batch import pack
from tunewright.models.flop import FlopCount
from tunewright.models.heads import choose_route, packed_hidden
from tunewright.models.loading import load_classifier, load_library_model
from tunewright.models.transformer import Transformer, TransformerConfig
from tunewright.training.optimizer import freeze
from tunewright.types import Features, TokenStream


def test_a_bert_layer_costs_its_six_matrices_and_its_square(tiny_folder):
    model = load_classifier(tiny_folder("bert"), ["a", "b"]).model
    width, inner, layers = 32, 48, 2
    matrices = layers * (4 * width * width + 2 * width * inner)
    count = FlopCount.of(model)
    assert count == FlopCount(matrices, layers * width)
    lengths = [3, 5]
    assert count.inference(lengths) == 2 * matrices * 8 + 4 * layers * width * (9 + 25)


def test_training_costs_three_times_inference():
    count = FlopCount(10, 4.0)
    assert count.training([7]) == 3 * count.inference([7]) == 6 * 10 * 7 + 12 * 4 * 49


def test_a_frozen_weight_costs_no_gradient_of_its_own(tiny_folder):
    model = load_classifier(tiny_folder("bert"), ["a", "b"]).model
    all_learn = FlopCount.of(model).training([7])
    attach(model, AdapterConfig(name="lora", r=2), SEQUENCE_CLASSIFIER)
    count, matrices = FlopCount.of(model), 2 * (4 * 32 * 32 + 2 * 32 * 48)
    adapters = 2 * 2 * (4 * (32 + 32) + 2 * (32 + 48))
    assert count.frozen_parameters == matrices
    assert count.matrix_parameters == matrices + adapters
    assert count.training([7]) == all_learn - 2 * matrices * 7 + 6 * adapters * 7


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "modernbert", "qwen3"])
def test_layers_below_all_that_learns_cost_a_forward_pass_alone(tiny_folder, architecture):
    model = load_classifier(tiny_folder(architecture, 2), ["a", "b"]).model
    whole = FlopCount.of(model)
    freeze(model, -1)
    frozen = FlopCount.of(model)
    assert frozen.training([7, 9]) == frozen.inference([7, 9]) == whole.inference([7, 9])
    freeze(model, 1)
    half = FlopCount.of(model)
    assert half.inference([7, 9]) == whole.inference([7, 9])
    assert half.training([7, 9]) == 2 * whole.inference([7, 9])  # of two equal layers


def test_causal_attention_costs_half_the_square(tiny_folder):
    folders = [tiny_folder(name, 2) for name in ("llama", "bert")]
    causal, full = (FlopCount.of(load_classifier(f, ["a", "b"]).model) for f in folders)
    assert causal.attention_width == full.attention_width / 2


def test_gpt2_s_transposed_layers_count_as_well(tiny_folder):
    model = load_classifier(tiny_folder("gpt2", 2), ["a", "b"]).model
    width = 32
    assert FlopCount.of(model).matrix_parameters == 2 * (4 * width**2 + 8 * width**2)


@pytest.mark.parametrize(
    "architecture", ["albert", "bert", "distilbert", "electra", "modernbert", "roberta"]
)
def test_the_count_is_what_torch_counts_itself(tiny_folder, architecture, monkeypatch):
    """ModernBERT's texts are as short as its windows: torch computes what windows hide as well."""
    monkeypatch.setenv("TUNEWRIGHT_NATIVE", "0")  # torch does not see what native code computes
    model = load_classifier(tiny_folder(architecture, 2), ["a", "b"]).model.eval()
    choose_route(model)
    # 64 tokens in all, so that no filler joins them
    lengths = [8] * 8 if architecture == "modernbert" else [40, 24]
    features = [Features(n, {"text": TokenStream([7] * n)}) for n in lengths]
    with FlopCounterMode(display=False) as counter:  # with gradients: it misses the fused kernel
        packed_hidden(model, pack(features).streams["text"])
    pooler = 2 * 32 * 32  # runs once for the whole row here, and is left out of the count
    extra = pooler if architecture in ("bert", "albert") else 0
    assert FlopCount.of(model).inference(lengths) + extra == counter.get_total_flops()


def test_a_token_of_an_encoder_decoder_goes_through_half_of_it():
    config = TransformerConfig(
        vocab_size=50,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    count = FlopCount.of(Transformer(config))
    encoder, decoder, table = 4 * 8 * 8 + 2 * 8 * 16, 8 * 8 * 8 + 2 * 8 * 16, 50 * 8
    assert count.matrix_parameters == (encoder + decoder + table) // 2


def test_a_window_costs_the_tokens_that_are_seen_through_it(tiny_folder):
    count = FlopCount.of(load_classifier(tiny_folder("modernbert", 2), ["a", "b"]).model)
    window, width = 16 // 2 + 1, 32  # every second layer sees all
    assert (count.attention_width, count.windows) == (width, ((window, width),))
    lengths = [3, window, 40]
    seen = sum(abs(i - j) < window for length in lengths for i in range(length)
               for j in range(length))  # fmt: skip
    every = sum(length**2 for length in lengths)
    products = 2 * count.matrix_parameters * sum(lengths)
    assert count.inference(lengths) == products + 4 * width * (every + seen)


def test_a_causal_window_costs_half_and_may_be_every_layer_s():
    config = MistralConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, sliding_window=5,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config)
    assert FlopCount.of(model).windows == ((5, 3 * 16 * 0.5),)
    config.sliding_window = None
    assert FlopCount.of(AutoModelForSequenceClassification.from_config(config)).windows == ()


def test_a_masked_language_model_s_head_sees_the_hidden_tokens(tiny_folder):
    backbone = FlopCount.of(load_classifier(tiny_folder("bert"), ["a", "b"]).model)
    model = load_library_model(tiny_folder("bert"), MASKED_LM, pad_token_id=0).model
    count, width = FlopCount.of(model), 32
    head = width * width + width * model.config.vocab_size
    assert count.head_parameters == head
    assert count.inference([7]) == backbone.inference([7])
    assert count.inference([7], 2) == backbone.inference([7]) + 2 * head * 2
    assert count.training([7], 2) == backbone.training([7]) + 6 * head * 2


def test_a_frozen_head_hands_its_gradient_on_and_gets_none(tiny_folder):
    model = load_library_model(tiny_folder("llama"), CAUSAL_LM, pad_token_id=0).model
    head, learns = 32 * model.config.vocab_size, FlopCount.of(model)
    assert learns.head_parameters == head
    model.get_output_embeddings().weight.requires_grad_(False)
    assert learns.training([5], 3) - FlopCount.of(model).training([5], 3) == 2 * head * 3


def test_a_classifier_s_decoder_scores_no_vocabulary(tiny_folder):
    for name in ("llama", "gpt2", "bert"):
        assert FlopCount.of(load_classifier(tiny_folder(name), ["a"]).model).head_parameters == 0
