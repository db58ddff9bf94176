"""Frozen weights in fewer bits: bitsandbytes' linear layers in the place of a backbone's own.

8bit: a row of a matrix is 127 steps of its largest number (Dettmers et al. 2022, LLM.int8). 4bit:
blocks of 64 numbers are given by 16 quantiles of a normal distribution (Dettmers et al. 2023,
QLoRA, NF4). Activations stay as they are. On a CPU the weights are multiplied out again for every
product, so that memory is saved and time is not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tunewright.errors import ModelError, SettingsError
from tunewright.models.adapting.adapter_config import Bits
from tunewright.models.adapting.peft_config import quiet_imports

# How far a matrix of normal numbers is away, as a share of its length: about 0.01 and 0.092. Past
# these the library has gone wrong, as 0.50 does on a CPU for 4 bits and rows of 32 or 96 numbers.
LARGEST_ERRORS: dict[Bits, float] = {"8bit": 0.05, "4bit": 0.15}
# What transformers and peft look at to know what they have before them.
MARKS: dict[Bits, str] = {"8bit": "is_loaded_in_8bit", "4bit": "is_loaded_in_4bit"}


@torch.no_grad()
def quantise(model: Any, bits: Bits) -> None:
    """Keeps the weights of the backbone's linear layers in so many bits; they learn no more.

    Embeddings, norms, biases, poolers and heads stay as they are. Raises SettingsError where
    bitsandbytes is not installed, or does not know the layers, ModelError where the weights come
    back wrong.
    """
    bnb = _bitsandbytes()
    layers = _layers(model, nn.Linear | Conv1D)
    if not layers or any(isinstance(layer, Conv1D) for _, layer in layers):
        raise SettingsError(
            "adapter.quantize",
            f"the layers of {model.config.model_type} cannot be kept in {bits}",
            "bitsandbytes has its own for torch's linear layers.",
            "Leave it off, or use another model.",
        )
    for name, layer in layers:
        sizes = (layer.in_features, layer.out_features, layer.bias is not None)
        made = _eight_bits(bnb, sizes) if bits == "8bit" else _four_bits(bnb, sizes)
        made.load_state_dict(layer.state_dict())
        made.to(layer.weight.device)
        if bits == "8bit":
            made.init_8bit_state()  # peft looks there for the scales
        _check(bnb, name, layer, made, bits)
        _put(model, name, made.requires_grad_(False))
    setattr(model, MARKS[bits], True)


def _check(bnb: Any, name: str, layer: nn.Linear, made: Any, bits: Bits) -> None:
    """Raises ModelError where the numbers that come back are not near those that went in."""
    lost = (_numbers(bnb, made) - layer.weight).norm() / layer.weight.norm().clamp(min=1e-12)
    if lost > LARGEST_ERRORS[bits]:
        raise ModelError(
            f"adapter.quantize={bits}",
            f'the weights of "{name}", {list(layer.weight.shape)}, come back {lost:.0%} off from '
            f"bitsandbytes {bnb.__version__}",
            f"At most {LARGEST_ERRORS[bits]:.0%} is allowed.",
            "Use the other number of bits, or leave it off.",
        )


def _eight_bits(bnb: Any, sizes: tuple[int, int, bool]) -> Any:
    """Returns a layer that multiplies its numbers out in evaluation as it does in training.

    bitsandbytes' own rounds what it reads to 8 bits, too, when it is evaluated: it would answer
    otherwise than it was trained.
    """

    class Linear(bnb.nn.Linear8bitLt):  # type: ignore[misc]  # known where it is imported
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            self.weight.CB = None  # all is in `state`; peft's DoRA leaves half of it here, too
            was_training = bool(self.training)
            self.train()
            found: torch.Tensor = super().forward(values)
            self.train(was_training)
            return found

    return Linear(*sizes, has_fp16_weights=False, threshold=0.0)


def _four_bits(bnb: Any, sizes: tuple[int, int, bool]) -> Any:
    """Returns a layer that stays as it is when it is evaluated.

    On some CPUs bitsandbytes' own then rearranges its weights and rounds their scales, for good,
    and no gradient goes through it any more.
    """
    layer = bnb.nn.Linear4bit(
        *sizes, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=False
    )
    layer.support_avx512bf16_for_cpu = False
    return layer


@torch.no_grad()
def restore(model: Any) -> None:
    """Puts plain layers in the place of quantised ones; they hold the numbers that those had."""
    bnb = _bitsandbytes()
    for name, layer in _layers(model, bnb.nn.Linear8bitLt | bnb.nn.Linear4bit):
        plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        plain.weight.copy_(_numbers(bnb, layer))
        if layer.bias is not None:
            plain.bias.copy_(layer.bias)
        _put(model, name, plain.requires_grad_(False))
    for mark in MARKS.values():
        if getattr(model, mark, False):
            delattr(model, mark)


def _numbers(bnb: Any, layer: Any) -> torch.Tensor:
    """Returns the weight that a quantised layer stands for, in fp32."""
    weight = layer.weight
    if isinstance(layer, bnb.nn.Linear4bit):
        return bnb.functional.dequantize_4bit(weight.data, weight.quant_state).float()
    return bnb.functional.int8_vectorwise_dequant(layer.state.CB, layer.state.SCB).float()


def _layers(model: Any, kinds: Any) -> list[tuple[str, Any]]:
    """Returns the backbone's linear layers with their names in it; poolers count to the head."""
    return [
        (name, module)
        for name, module in model.base_model.named_modules()
        if isinstance(module, kinds) and "pooler" not in name.split(".")
    ]


def _put(model: Any, name: str, layer: nn.Module) -> None:
    path, _, last = name.rpartition(".")
    setattr(model.base_model.get_submodule(path), last, layer)


def _bitsandbytes() -> Any:
    try:
        with quiet_imports():
            import bitsandbytes
    except ImportError as error:
        raise SettingsError(
            "adapter.quantize",
            "bitsandbytes is not installed",
            "It keeps weights in fewer bits.",
            'Run: pip install "tunewright[quantised]"',
        ) from error
    return bitsandbytes
