"""A new model of a given size with random weights: an encoder, or an encoder-decoder.

    save_new_model(folder, sizes_of("new:small"), tokenizer, seed=42)          # a BERT
    save_new_transformer(folder, sizes_of("new:small"), tokenizer, seed=42)    # our Transformer
    save_new_captioner(folder, sizes, tokenizer, seed=42, image_size=64, patch_size=8)

Shape: the names and sizes are those of Turc et al. 2019, "Well-Read Students Learn Better"; any
other size is `new:LAYERSxWIDTH`, such as `new:6x384`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM

from tunewright.errors import SettingsError, listed, nearest
from tunewright.models.files.folder import save_model
from tunewright.models.first_weights import begin_with_counts
from tunewright.models.picture_form import PREPROCESSOR, PictureForm
from tunewright.models.transformer import (
    Captioner,
    CaptionerConfig,
    Transformer,
    TransformerConfig,
)

PREFIX = "new:"
HEAD_WIDTH = 64  # of every size below, and of BERT
MAX_LAYERS, MAX_WIDTH = 48, 4096


@dataclass(frozen=True, slots=True)
class Sizes:
    """The number of layers and the width of the hidden states, a multiple of 64."""

    layers: int
    width: int


SIZES = {
    "tiny": Sizes(2, 128),
    "mini": Sizes(4, 256),
    "small": Sizes(4, 512),
    "medium": Sizes(8, 512),
    "base": Sizes(12, 768),
}


def is_new(name: str) -> bool:
    """Says whether a model's name asks for a new one."""
    return name.startswith(PREFIX)


def sizes_of(name: str) -> Sizes:
    """Returns the sizes that a name such as `new:small` or `new:6x384` asks for.

    Raises SettingsError for a name without sizes, or sizes that no model can have.
    """
    asked = name.removeprefix(PREFIX)
    if asked in SIZES:
        return SIZES[asked]
    found = re.fullmatch(r"(\d{1,3})x(\d{1,5})", asked)
    if found is None:
        near = nearest(asked, SIZES)
        raise SettingsError(
            f'model "{name}"',
            f'there is no size "{asked}"',
            f"There is {listed(SIZES)}, or LAYERSxWIDTH such as 6x384.",
            f"Did you mean {PREFIX}{near}?" if near else "",
        )
    sizes = Sizes(int(found[1]), int(found[2]))
    if not (0 < sizes.layers <= MAX_LAYERS and 0 < sizes.width <= MAX_WIDTH) or (
        sizes.width % HEAD_WIDTH
    ):
        raise SettingsError(
            f'model "{name}"',
            f"it has {sizes.layers} layers of width {sizes.width}",
            f"A new model has 1 to {MAX_LAYERS} layers, and its width is a multiple of "
            f"{HEAD_WIDTH} up to {MAX_WIDTH:,}.",
        )
    return sizes


def save_new_model(
    folder: Path, sizes: Sizes, tokenizer: Any, *, seed: int, texts: Sequence[str] = ()
) -> None:
    """Writes a folder with a masked language model (BertForMaskedLM) of random weights.

    It reads as many tokens as the tokenizer says. With `texts` it begins with what counting says
    of them (`first_weights`). The same seed gives the same weights; torch's global random state is
    left as found.

    Raises ModelError when `folder` exists, RunError when it cannot be written.
    """
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.width // HEAD_WIDTH,
        intermediate_size=4 * sizes.width,
        max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
    )

    def settle(model: Any) -> None:
        if texts:
            begin_with_counts(model, tokenizer, texts, seed)

    _save(BertForMaskedLM, config, tokenizer, folder, seed, settle=settle)


def save_new_transformer(
    folder: Path, sizes: Sizes, tokenizer: Any, *, seed: int, **variant: Any
) -> None:
    """Writes a folder with an encoder-decoder (`Transformer`) of random weights.

    Both sides have `sizes`. `variant` holds values of `TransformerConfig`, None for its own. The
    rest is as in `save_new_model`.
    """
    config = TransformerConfig(**_values(sizes, tokenizer, variant))
    _save(Transformer, config, tokenizer, folder, seed)


def save_new_captioner(
    folder: Path,
    sizes: Sizes,
    tokenizer: Any,
    *,
    seed: int,
    image_size: int,
    patch_size: int,
    **variant: Any,
) -> None:
    """Writes a folder with a `Captioner` of random weights, which reads squares of `image_size`.

    Raises SettingsError for pictures that cannot be cut into patches of `patch_size`. The rest is
    as in `save_new_transformer`.
    """
    values = _values(sizes, tokenizer, variant)
    room = max(tokenizer.model_max_length, (image_size // patch_size) ** 2)
    pictures = {"image_size": image_size, "patch_size": patch_size}
    try:
        config = CaptionerConfig(**values | pictures | {"max_position_embeddings": room})
    except Exception as error:  # the library wraps what the configuration raises
        reason = str(error.__cause__ or error).strip().splitlines()[-1].strip()
        raise SettingsError(
            "[model.new]",
            f"pictures of {image_size} pixels with patches of {patch_size} make no model "
            f"({reason})",
            "The patch is a power of 2, and the picture a multiple of it.",
        ) from None
    form = PictureForm(image_size, image_size, patch_size)
    files = {PREPROCESSOR: form.to_json_text()}
    _save(Captioner, config, tokenizer, folder, seed, files)


def _values(sizes: Sizes, tokenizer: Any, variant: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what an encoder-decoder's configuration is told."""
    chosen = {name: value for name, value in variant.items() if value is not None}
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "max_position_embeddings": tokenizer.model_max_length,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.bos_token_id,
        "num_attention_heads": sizes.width // HEAD_WIDTH,
        "intermediate_size": 4 * sizes.width,
        **chosen,
    }


def _save(
    model_class: Any,
    config: Any,
    tokenizer: Any,
    folder: Path,
    seed: int,
    files: Mapping[str, str] | None = None,
    settle: Callable[[Any], None] = lambda _: None,
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    settle(model)
    length = tokenizer.model_max_length
    save_model(model, tokenizer, folder, max_length=length, extra_files=files)
