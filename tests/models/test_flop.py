from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BartConfig,
    BartForConditionalGeneration,
    MistralConfig,
    T5Config,
    T5ForConditionalGeneration,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

from tunewright.models.adapting.adapter_config import AdapterConfig
from tunewright.models.adapting.adapters import attach
from tunewright.models.batch import pack
from tunewright.models.files.architecture import CAUSAL_LM, MASKED_LM, SEQUENCE_CLASSIFIER
from tunewright.models.files.loading import load_classifier, load_library_model
from tunewright.models.flop import FlopCount
from tunewright.models.heads import choose_route, packed_hidden
from tunewright.models.transformer import (
    Captioner,
    CaptionerConfig,
    Transformer,
    TransformerConfig,
)
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


def of_two_stacks(name):
    sizes = {"vocab_size": 50, "d_model": 8}
    heads = {f"{stack}_{kind}": 2 for stack in ("encoder", "decoder")
             for kind in ("layers", "attention_heads")}  # fmt: skip
    inner = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    if name == "bart":
        return BartForConditionalGeneration(BartConfig(**sizes, **heads, **inner))
    if name == "t5":
        sizes |= {"d_ff": 16, "d_kv": 3, "num_heads": 2, "num_layers": 2, "num_decoder_layers": 3}
        return T5ForConditionalGeneration(T5Config(**sizes))
    own = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_decoder_layers": 1,
           "num_attention_heads": 2, "intermediate_size": 24}  # fmt: skip
    if name == "captioner":
        return Captioner(CaptionerConfig(**own, image_size=16, patch_size=4))
    return Transformer(TransformerConfig(**own, tie_word_embeddings=name == "tied"))


@pytest.mark.parametrize("name", ["tied", "untied", "captioner", "bart", "t5"])
def test_both_stacks_cost_what_torch_counts_itself(name):
    model, written = of_two_stacks(name).eval(), 5
    target = torch.full((1, written), 7)
    if name == "captioner":
        length, inputs = 16, {"pixel_values": torch.zeros(1, 3, 16, 16)}
        item = Features(0, {"target": TokenStream([7] * written)}, {}, 0, {"image": [0] * length})
    else:
        length, inputs = 9, {"input_ids": torch.full((1, 9), 7)}
        item = Features(0, {"source": TokenStream([7] * length)})
        item = replace(item, streams=item.streams | {"target": TokenStream([7] * written)})
    # torch does not see what a fused kernel computes
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(**inputs, decoder_input_ids=target, use_cache=False)
    count = FlopCount.of(model)
    hidden_half = 4 * count.decoder.attention_width * written**2  # a padded square is computed
    assert count.update([item], written) / 3 + hidden_half == counter.get_total_flops()
    assert count.update([item, item], 2 * written) == 2 * count.update([item], written)
    assert count.update([]) == 0
    if name != "captioner":  # whose convolutions run several times for a patch
        head = 0 if name == "untied" else model.get_input_embeddings().weight.numel()
        linear = {m.weight: m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)}
        tied = {model.get_input_embeddings().weight: head} if head else {}
        assert count.all_matrices == sum((linear | tied).values())


@pytest.mark.parametrize("decoder", ["gpt2", "bert"])
def test_a_library_s_captioner_costs_nearly_what_torch_counts(decoder):
    """A picture's first vector, of no patch, is counted as one."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    seen = ViTConfig(**sizes, intermediate_size=48, image_size=32, patch_size=4)
    own = {"n_embd": 32, "n_layer": 2, "n_head": 2} if decoder == "gpt2" else sizes
    asked = AutoConfig.for_model(decoder, **own, vocab_size=50, is_decoder=True,
                                 add_cross_attention=True)  # fmt: skip
    model = VisionEncoderDecoderModel(
        VisionEncoderDecoderConfig.from_encoder_decoder_configs(seen, asked)
    ).eval()
    length, written = 65, 5
    item = Features(0, {"target": TokenStream([7] * written)}, {}, 0, {"image": [0] * length})
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(
            pixel_values=torch.zeros(1, 3, 32, 32),
            decoder_input_ids=torch.full((1, written), 7),
            use_cache=False,
        )
    count = FlopCount.of(model)
    hidden_half = 4 * count.decoder.attention_width * written**2
    found = count.update([item], written) / 3 + hidden_half
    assert found == pytest.approx(counter.get_total_flops(), rel=0.005)


def test_a_part_s_target_is_a_target():
    count = FlopCount.of(of_two_stacks("tied"))
    streams = {"source": TokenStream([7] * 9), "target": TokenStream([7] * 4)}
    in_a_part = Features(0, {f"english/{name}": stream for name, stream in streams.items()})
    assert count.update([in_a_part], 4) == count.update([Features(0, streams)], 4)


def test_a_text_that_is_classified_goes_through_both_stacks(tiny_folder):
    model = load_classifier(tiny_folder("bart", 2), ["a", "b"]).model
    count, text = FlopCount.of(model), TokenStream([7] * 6)
    assert count.decoder.head_parameters == 0
    twice = Features(0, {"source": text, "target": text})
    assert count.update([Features(0, {"text": text})]) == count.update([twice]) > 0


def test_an_encoder_that_learns_nothing_costs_its_forward_pass_alone():
    model = of_two_stacks("tied")
    item = Features(0, {"source": TokenStream([7] * 9), "target": TokenStream([7])})
    learns, layers = FlopCount.of(model).update([item], 1), model.encoder
    for part in (layers, model.embedding):
        part.requires_grad_(False)
    read = FlopCount(sum(m.weight.numel() for m in layers.modules() if isinstance(m, nn.Linear)),
                     2 * 16).inference([9])  # fmt: skip
    table = 2 * model.embedding.weight.numel()
    assert FlopCount.of(model).update([item], 1) == learns - 2 * read - table


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
