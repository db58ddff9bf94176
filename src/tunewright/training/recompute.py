"""Activation checkpointing: less memory for more time."""

from __future__ import annotations

from typing import Any

from tunewright.errors import SettingsError


def recompute_activations(model: Any) -> None:
    """Makes the backward pass compute each layer's activations anew instead of keeping them.

    transformers renamed the method in the course of version 5, and warns of the old name.
    Raises SettingsError when the model cannot.
    """
    if not model.supports_gradient_checkpointing:
        raise SettingsError(
            "training.gradient_checkpointing",
            f"{type(model).__name__} cannot recompute its activations",
            remedy="Leave the setting off, or use another model.",
        )
    renamed = getattr(model, "activation_checkpointing_enable", None)
    enable = renamed or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
