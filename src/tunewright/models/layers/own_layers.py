"""Layers of our own in the place of a library's, where the device has a faster form of them."""

from __future__ import annotations

from torch import nn

from tunewright.models.layers.gpu_layers import use_gpu_layers
from tunewright.models.layers.native_layers import use_native_layers


def use_own_layers(model: nn.Module) -> None:
    """Gives a model the form of its layers that suits the device that it is on.

    Weights, their names and what is computed stay the library's. Whatever something else hooks on
    to is left alone.
    """
    kinds = {parameter.device.type for parameter in model.parameters()}
    if kinds == {"cuda"}:
        use_gpu_layers(model)
    elif kinds == {"cpu"}:
        use_native_layers(model)
