"""Prompts before a text: what peft does in a forward of its own, done before the backbone's.

So the model stays the library's own to the rest of the house, whatever its head.

Shape letters: B sequences, P tokens of a prompt, T tokens of the longest text, D hidden width.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from tunewright.models.adapting.peft_config import ADAPTER
from tunewright.models.layers.attention import PaddedOnly


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
        self._num_asked = ids_BT.shape[1]
        if "boundaries" in given:
            raise PaddedOnly("a prompt stands before each text, and a packed row would have one")
        mask_BT, places_BT = given.get("attention_mask"), given.get("position_ids")
        if mask_BT is not None:  # without one there is no padding
            ones_BP = mask_BT.new_ones(len(ids_BT), self._length)
            given["attention_mask"] = torch.cat([ones_BP, mask_BT], dim=1)
        if places_BT is not None:
            given["position_ids"] = places_BT + self._length
        past = given.get("past_key_values")
        if past is not None and past.get_seq_length() > 0:  # a text goes on: the prompt is in there
            return (), given
        prompt = self._wrapper.get_prompt(len(ids_BT))
        if not self._keeps_segments:
            given.pop("token_type_ids", None)
        if self._is_prefix:
            return (), given | {"past_key_values": prompt}
        words_BTD = self._wrapper.word_embeddings(ids_BT)
        given["inputs_embeds"] = torch.cat([prompt.to(words_BTD.dtype), words_BTD], dim=1)
        given["input_ids"] = None
        if places_BT is not None:
            own_BP = torch.arange(self._length, device=ids_BT.device).expand(len(ids_BT), -1)
            given["position_ids"] = torch.cat([own_BP, given["position_ids"]], dim=1)
        types_BT = given.get("token_type_ids")
        if types_BT is not None:
            zeros_BP = types_BT.new_zeros(len(ids_BT), self._length)
            given["token_type_ids"] = torch.cat([zeros_BP, types_BT], dim=1)
        return (), given

    def after(self, backbone: Any, args: Any, outputs: Any) -> Any:
        outputs.last_hidden_state = outputs.last_hidden_state[:, -self._num_asked :]
        return outputs


def is_causal(backbone: Any) -> bool:
    """Says whether a backbone's tokens see those before them only."""
    return any(getattr(module, "is_causal", False) for module in backbone.modules())
