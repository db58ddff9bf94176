"""AdaLoRA's budget of ranks: which of them are worth keeping, as training goes on.

Source: Zhang et al. 2023, "Adaptive budget allocation for parameter-efficient fine-tuning". A
layer's change is B diag(E) A. After every update the sensitivity |weight x gradient| of each number
is averaged, and of all layers' ranks those with the least are set to zero in E, until the mean rank
is the one wanted. peft decides (its RankAllocator); here stands what it has to remember, so that a
run that is killed goes on to the same bits.

Shape letters: R rank, I inputs, O outputs of a layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Ranks begin to fall after this share of the updates, and are settled with the other to go.
FIRST_SHARE, LAST_SHARE = 0.1, 0.3
# Ranks are given away about so many times in a run.
NUM_DECISIONS = 100
# With fewer updates there is nothing to measure, and all ranks stay.
LEAST_STEPS = 10


class Ranks(nn.Module):
    """What a budget remembers, as buffers beside the weights: they go into every checkpoint.

    `wrapper` is peft's, of a model with one AdaLoRA adapter that learns.
    """

    def __init__(self, wrapper: Any) -> None:
        super().__init__()
        self._tuner = [wrapper.base_model]  # in a list: it holds the model that holds this
        named = wrapper.base_model.model.named_parameters()
        self._names = [n for n, p in named if ".lora_" in n]
        for place, tensor in enumerate(self._weights().values()):
            self.register_buffer(f"sensitivity_{place}", torch.zeros_like(tensor))
            self.register_buffer(f"uncertainty_{place}", torch.zeros_like(tensor))
        for place, name in enumerate(self._values):
            kept = torch.ones(self._weights()[name].shape, dtype=torch.bool)
            self.register_buffer(f"kept_{place}", kept)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._is_planned = False

    def plan(self, total_steps: int) -> None:
        """Spreads the budget over the updates of a run."""
        config = self._config
        config.total_step = total_steps
        config.tinit, config.tfinal = (
            int(share * total_steps) for share in (FIRST_SHARE, LAST_SHARE)
        )
        config.deltaT = max(1, total_steps // NUM_DECISIONS)
        self._is_planned = total_steps >= LEAST_STEPS

    @torch.no_grad()
    def penalize(self) -> None:
        """Adds to the gradients that of the penalty on A and B that are not orthogonal.

        The penalty is weight / matrices · sum of |P Pᵀ - 1| (Frobenius), with P = A and P = Bᵀ. Its
        gradient is weight / matrices · 2 (P Pᵀ - 1) P / |P Pᵀ - 1|. As an L1 penalty it comes after
        clipping, and is no part of the loss that is shown.
        """
        pairs = [(n, p) for n, p in self._weights().items() if ".lora_E." not in n]
        for name, parameter in pairs:
            matrix = parameter if ".lora_A." in name else parameter.T  # (R, I) or (R, O)
            excess_RR = matrix @ matrix.T - torch.eye(len(matrix), device=matrix.device)
            norm = excess_RR.norm()
            if parameter.grad is None or not norm > 0:
                continue
            gradient = excess_RR @ matrix * (2 * self._config.orth_reg_weight / len(pairs) / norm)
            parameter.grad.add_(gradient if ".lora_A." in name else gradient.T)

    def allocate(self) -> None:
        """Measures the update that was just made, and gives ranks away when it is time."""
        self.get_buffer("step").add_(1)
        if not self._is_planned:
            return
        allocator, config = self._tuner[0].rankallocator, self._config
        weights = self._weights()
        for place, name in enumerate(weights):
            allocator.ipt[name] = weights[name]  # peft only looks whether there is one
            allocator.exp_avg_ipt[name] = self.get_buffer(f"sensitivity_{place}")
            allocator.exp_avg_unc[name] = self.get_buffer(f"uncertainty_{place}")
        config.rank_pattern = self._kept()
        self._tuner[0].update_and_allocate(int(self.get_buffer("step")))
        for place, name in enumerate(weights):
            if name in allocator.exp_avg_ipt:  # it forgets all when the ranks are settled
                self.get_buffer(f"sensitivity_{place}").copy_(allocator.exp_avg_ipt[name])
                self.get_buffer(f"uncertainty_{place}").copy_(allocator.exp_avg_unc[name])
        for place, name in enumerate(self._values):
            kept = torch.tensor(config.rank_pattern[name])
            self.get_buffer(f"kept_{place}").copy_(kept.view(-1, 1))

    @torch.no_grad()
    def settle(self) -> None:
        """Tells peft which ranks the weights have that the model now holds."""
        weights = self._weights()
        for place, name in enumerate(self._values):
            weights[name].mul_(self.get_buffer(f"kept_{place}"))
        self._config.rank_pattern = None if self.are_whole else self._kept()

    @property
    def are_whole(self) -> bool:
        """Whether no rank was given away yet."""
        return all(bool(b.all()) for n, b in self.named_buffers() if n.startswith("kept_"))

    @property
    def _config(self) -> Any:
        return self._tuner[0].peft_config["default"]

    @property
    def _values(self) -> list[str]:
        """The names of the E, one for each layer."""
        return [name for name in self._names if ".lora_E." in name]

    def _weights(self) -> dict[str, Tensor]:
        named = dict(self._tuner[0].model.named_parameters())
        return {name: named[name] for name in self._names}

    def _kept(self) -> dict[str, list[bool]]:
        return {
            name: self.get_buffer(f"kept_{place}").flatten().tolist()
            for place, name in enumerate(self._values)
        }
