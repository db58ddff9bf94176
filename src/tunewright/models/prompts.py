"""Prompts before a text: what peft does in a forward of its own, done before the backbone's.

So the model stays the library's own to the rest of the house, whatever its head.

Shape letters: B sequences, P tokens of a prompt, T tokens of the longest text, D hidden width.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from tunewright.models.attention import PaddedOnly
from tunewright.models.peft_config import ADAPTER


class Prompts:
    """What peft's forward does with a prompt, before the backbone's own.

    A prompt belongs to each sequence, so the model runs padded. Encoders see it as their first
    tokens, and a head that takes the first one takes the prompt's, as in peft. Of decoders the
    prompt's outputs are cut off again, so that the last token stands where the head looks for it.
    """

    def __init__(self, wrapper: Any, is_prefix: bool, keeps_segments: bool) -> None:
        self._wrapper, self._is_prefix = wrapper, is_prefix
        self._keeps_segments = keeps_segments
        self._length = wrapper.peft_config[ADAPTER].num_virtual_tokens

    def hook(self, backbone: Any) -> None:
        self._names = list(inspect.signature(backbone.forward).parameters)
        backbone.register_forward_pre_hook(self.before, with_kwargs=True)
        if is_causal(backbone) and not self._is_prefix:
            backbone.register_forward_hook(self.after)

    def before(
        self, backbone: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = dict(zip(self._names, args, strict=False)) | kwargs
        ids_BT = given["input_ids"]
        if "boundaries" in given:
            raise PaddedOnly("a prompt stands before each text, and a packed row would have one")
        mask_BT = given["attention_mask"]
        ones_BP = mask_BT.new_ones(len(ids_BT), self._length)
        given["attention_mask"] = torch.cat([ones_BP, mask_BT], dim=1)
        prompt = self._wrapper.get_prompt(len(ids_BT))
        if not self._keeps_segments:
            given.pop("token_type_ids", None)
        if self._is_prefix:
            return (), given | {"past_key_values": prompt}
        words_BTD = self._wrapper.word_embeddings(ids_BT)
        given["inputs_embeds"] = torch.cat([prompt.to(words_BTD.dtype), words_BTD], dim=1)
        given["input_ids"] = None
        types_BT = given.get("token_type_ids")
        if types_BT is not None:
            zeros_BP = types_BT.new_zeros(len(ids_BT), self._length)
            given["token_type_ids"] = torch.cat([zeros_BP, types_BT], dim=1)
        return (), given

    def after(self, backbone: Any, args: Any, outputs: Any) -> Any:
        outputs.last_hidden_state = outputs.last_hidden_state[:, self._length :]
        return outputs


def is_causal(backbone: Any) -> bool:
    """Says whether a backbone's tokens see those before them only."""
    return any(getattr(module, "is_causal", False) for module in backbone.modules())
