"""peft's configuration of an adapter: made for a model, and read from a folder."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers.pytorch_utils import Conv1D

from tunewright.errors import ModelError, SettingsError, listed
from tunewright.models.adapting.adapted_layers import (
    AFTER_FEED_FORWARD,
    KEYS_AND_VALUES,
    layers_for,
    matching,
)
from tunewright.models.adapting.adapter_config import PROMPTS, AdapterConfig, AdapterName
from tunewright.models.adapting.bases import PEFT_CONFIG
from tunewright.models.files.architecture import (
    CAUSAL_LM,
    CHOOSER,
    ENCODER,
    SEQUENCE_CLASSIFIER,
    SPAN_FINDER,
    TOKEN_CLASSIFIER,
    Kind,
)

ADAPTER = "default"  # the name that peft gives the one adapter of a model

# What peft calls the kinds of models; it has prompts for no others.
TASK_TYPES = {
    CAUSAL_LM: "CAUSAL_LM",
    ENCODER: "FEATURE_EXTRACTION",
    SEQUENCE_CLASSIFIER: "SEQ_CLS",
    SPAN_FINDER: "QUESTION_ANS",
    TOKEN_CLASSIFIER: "TOKEN_CLS",
}
# Of the others peft's forward drops the segment ids when it puts a prompt before a text. For
# question answering it drops them always, so there layers are adapted without naming the task.
SEGMENTED = frozenset({SEQUENCE_CLASSIFIER, TOKEN_CLASSIFIER})
# Heads that come with the weights and share theirs with the embeddings stay as they are.
NEW_HEADS = frozenset({*TASK_TYPES, CHOOSER} - {CAUSAL_LM, ENCODER})

# AdaLoRA starts with this multiple of the rank it ends with (Zhang et al. 2023, section 4.1).
FIRST_RANK = 1.5


def require_peft() -> Any:
    try:
        with quiet_imports():
            import peft
    except ImportError as error:
        raise SettingsError(
            "[adapter]",
            "peft is not installed",
            "It makes every adapter but the bottleneck.",
            'Run: pip install "tunewright[adapters]"',
        ) from error
    return peft


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Keeps bitsandbytes from reporting kernels that it misses and nobody here needs."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def peft_config(model: Any, config: AdapterConfig, kind: Kind, heads: Sequence[str]) -> Any:
    """Returns peft's configuration of an adapter for a model."""
    peft = require_peft()
    is_named = kind is not SPAN_FINDER or config.name in PROMPTS
    task_type = TASK_TYPES.get(kind) if is_named else None
    common: dict[str, Any] = {"task_type": task_type, "modules_to_save": list(heads) or None}
    if config.name in PROMPTS:
        _check_prompts(model, config, kind)
        return _prompt_config(peft, config, common | _sizes(model, config))
    common["fan_in_fan_out"] = any(isinstance(m, Conv1D) for m in model.base_model.modules())
    if config.name == "ia3":
        targets = layers_for(model, config, [KEYS_AND_VALUES, AFTER_FEED_FORWARD])
        behind = matching(targets, [AFTER_FEED_FORWARD])
        return peft.IA3Config(target_modules=targets, feedforward_modules=behind, **common)
    common["target_modules"] = layers_for(model, config)
    common |= {"lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout}
    if config.name == "adalora":
        first = math.ceil(FIRST_RANK * config.r)
        # How many updates there are is known when training begins (`Ranks.plan`).
        return peft.AdaLoraConfig(target_r=config.r, init_r=first, total_step=1, **common)
    return peft.LoraConfig(r=config.r, use_dora=config.name == "dora", **common)


def _sizes(model: Any, config: AdapterConfig) -> dict[str, Any]:
    """Returns the sizes of a prompt, which peft finds in the configurations of few families.

    Words may be narrower than what the layers hand on (ALBERT, ELECTRA).
    """
    of_words = model.get_input_embeddings().embedding_dim
    return {
        "num_virtual_tokens": config.num_virtual_tokens,
        "token_dim": model.config.hidden_size if config.name == "prefix" else of_words,
        "num_layers": model.config.num_hidden_layers,
        "num_attention_heads": model.config.num_attention_heads,
    }


def _prompt_config(peft: Any, config: AdapterConfig, common: Mapping[str, Any]) -> Any:
    if config.name == "prefix":
        return peft.PrefixTuningConfig(**common)
    if config.name == "p-tuning":
        return peft.PromptEncoderConfig(encoder_hidden_size=config.encoder_hidden_size, **common)
    # Words of the vocabulary: from far away, prompts learn slowly (Lester et al. 2021).
    return peft.PromptTuningConfig(prompt_tuning_init="SAMPLE_VOCAB", **common)


def _check_prompts(model: Any, config: AdapterConfig, kind: Kind) -> None:
    """Raises SettingsError where peft has no prompts for a kind of model, or no prefix for one."""
    where = f"adapter {config.name}"
    others = "Use lora, or another one that changes layers."
    if kind not in TASK_TYPES:
        raise SettingsError(where, f"peft has none for a {kind.purpose}", remedy=others)
    accepted = inspect.signature(model.base_model.forward).parameters
    if config.name == "prefix" and "past_key_values" not in accepted:
        raise SettingsError(
            where,
            f"the attention of {model.config.model_type} takes no keys and values from outside",
            "A prefix is made of them.",
            'Use adapter "prompt" or "lora".',
        )


# peft's types by our names; LORA is dora where its configuration says so.
_NAMES: dict[str, AdapterName] = {
    "LORA": "lora",
    "ADALORA": "adalora",
    "IA3": "ia3",
    "PREFIX_TUNING": "prefix",
    "PROMPT_TUNING": "prompt",
    "P_TUNING": "p-tuning",
}
# These reach for other files or other code.
_REACHING = frozenset(
    {"auto_mapping", "revision", "loftq_config", "eva_config", "corda_config", "runtime_config",
     "arrow_config", "megatron_config", "megatron_core", "tokenizer_name_or_path",
     "prompt_tuning_init_text", "tokenizer_kwargs", "peft_version", "peft_type"}
)  # fmt: skip


def read_peft_config(folder: Path, description: Mapping[str, Any]) -> tuple[Any, AdapterName]:
    """Returns peft's configuration from a folder, its own keys alone, and our name for it."""
    require_peft()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = description.get("peft_type")
    if kind not in _NAMES:
        raise ModelError(
            str(folder / PEFT_CONFIG),
            f"its adapter is a {kind}",
            f"{listed(list(_NAMES), 10)} can be read.",
            "Merge it with peft, and name the saved folder.",
        )
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    known = {item.name for item in fields(config_class) if item.init} - _REACHING
    values = {key: value for key, value in description.items() if key in known}
    config = config_class(**values | {"inference_mode": True})
    return config, "dora" if getattr(config, "use_dora", False) else _NAMES[kind]
