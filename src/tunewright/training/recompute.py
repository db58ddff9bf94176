"""Activation checkpointing: less memory for more time."""

from __future__ import annotations

from typing import Any


def recompute_activations(model: Any) -> None:
    """Makes the backward pass compute each layer's activations anew instead of keeping them.

    transformers renamed the method in the course of version 5, and warns of the old name.
    """
    renamed = getattr(model, "activation_checkpointing_enable", None)
    enable = renamed or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
