"""A backbone whose launches are recorded once and replayed: CUDA graphs.

A small encoder gives a GPU hundreds of kernels a pass, each done sooner than Python can name the
next. A graph holds them all. It has fixed shapes and fixed memory, so there is one for each size of
a packed row (sizes come in steps, see `batch.py`), recorded when it has been met a few times: that
takes as long as some ten passes. They share their memory, so one forward pass at a time can have
one: until its backward pass, the next runs without.

Shape letters: N tokens, B sequences, D hidden width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from tunewright.models.batch import sent
from tunewright.models.layers.varlen import Spans

# What a graph can be given; anything else, such as a wish for all hidden states, goes without one.
TENSORS = ("input_ids", "position_ids", "token_type_ids")
IGNORED = {"use_cache": False}

COUNT_QUANTUM, LEAST_LONGEST = 32, 128
MAX_GRAPHS = 24
MET_BEFORE, NUM_WARMUPS = 2, 2

Autocast = Callable[[], AbstractContextManager[Any]]
Key = tuple[int, int, int, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class _Recording:
    """One size's passes: what is read and written by each replay, in memory of their own."""

    inputs: Sequence[Tensor]
    hidden: Tensor
    gradient: Tensor
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph

    def fill(self, inputs: Sequence[Tensor]) -> None:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)


class _Replay(torch.autograd.Function):
    """Replays a forward pass, and the backward pass when its gradient comes.

    The gradients of the weights are handed on as `done` is called, and autograd has none to see:
    `anchor` only makes it ask.
    """

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, recording: _Recording, done: Callable[[_Recording], None]
    ) -> Tensor:
        ctx.recording, ctx.done = recording, done
        recording.forward.replay()
        return recording.hidden.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        ctx.recording.gradient.copy_(gradients[0])
        ctx.done(ctx.recording)
        return None, None, None


class Graphs:
    """Takes the place of a backbone's `forward` in training; everything else it hands on.

    `begin` says that no forward pass waits for its backward pass any more.
    """

    def __init__(self, backbone: nn.Module, autocast: Autocast) -> None:
        self._backbone, self._autocast = backbone, autocast
        self._forward = backbone.forward
        self._recordings: dict[Key, _Recording] = {}
        self._met: Counter[Key] = Counter()
        self._pool = torch.cuda.graph_pool_handle()
        self._learning = [p for p in backbone.parameters() if p.requires_grad]
        self._sum = torch.empty(0)  # of all gradients, one behind the other
        self._sums: list[Tensor] = []
        self._anchor = torch.empty(0, device=self._learning[0].device, requires_grad=True)
        self._waiting = False
        self.failure: str | None = None

    @property
    def num_recorded(self) -> int:
        return len(self._recordings)

    def begin(self, failure: str | None = None) -> None:
        """`failure` is that of another backbone: where one cannot be recorded, none is."""
        self._waiting = False
        if failure and not self.failure:
            self.failure = failure
            self._recordings.clear()

    def _done(self, recording: _Recording) -> None:
        self._hand_on(recording)
        self._waiting = False

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        key = None if args else self._key(inputs)
        if key is None:
            return self._forward(*args, **inputs)
        tensors = [inputs[name] for name in key[3]]
        tensors.append(_offsets(inputs["boundaries"], key[1], tensors[0].device))
        recording = self._recordings.get(key) or self._recorded(key, tensors)
        if recording is None:
            return self._forward(*args, **inputs)
        recording.fill(tensors)
        self._waiting = torch.is_grad_enabled()
        hidden: Tensor = _Replay.apply(self._anchor, recording, self._done)  # type: ignore[no-untyped-call]
        return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=hidden)

    def _key(self, inputs: Mapping[str, Any]) -> Key | None:
        """Returns which recording fits, or None where there can be none."""
        known = {*TENSORS, "boundaries", *IGNORED}
        busy = self.failure is not None or self._waiting
        if busy or not self._backbone.training or not known >= inputs.keys():
            return None
        boundaries = inputs["boundaries"]
        if isinstance(boundaries, Spans) or any(
            inputs.get(name, value) != value for name, value in IGNORED.items()
        ):
            return None
        names = tuple(name for name in TENSORS if name in inputs)
        longest = max(end - start for start, end in pairwise(boundaries))
        longest = max(LEAST_LONGEST, 1 << (longest - 1).bit_length())
        count = -(-len(boundaries) // COUNT_QUANTUM) * COUNT_QUANTUM
        return inputs["input_ids"].shape[-1], count, longest, names

    def _hand_on(self, recording: _Recording) -> None:
        """Replays a backward pass, and makes what it finds part of the weights' gradients.

        A replay writes where it always does, so what an earlier pass of the update has left there
        is put aside meanwhile.
        """
        held = None
        given = [weight.grad for weight in self._learning]
        if any(gradient is not None for gradient in given):
            pairs = zip(self._sums, given, strict=True)
            for own, gradient in pairs:
                if gradient is None:
                    own.zero_()
                elif gradient is not own:
                    own.copy_(gradient)
            held = self._sum.clone()
        recording.backward.replay()
        if held is not None:
            self._sum.add_(held)
        for own, weight in zip(self._sums, self._learning, strict=True):
            weight.grad = own

    def _recorded(self, key: Key, tensors: Sequence[Tensor]) -> _Recording | None:
        """Records a size; on failure says why and returns None, from then on for every size.

        Random numbers go on as if nothing had been recorded.
        """
        self._met[key] += 1
        if self._met[key] <= MET_BEFORE or self.num_recorded == MAX_GRAPHS:
            return None
        device, stream = tensors[0].device, torch.cuda.current_stream()
        state = torch.cuda.get_rng_state(device)
        try:
            with torch.enable_grad(), torch.autocast("cuda", enabled=False):
                self._recordings[key] = self._record(key, [x.clone() for x in tensors])
        except RuntimeError as error:
            self.failure = str(error).splitlines()[0]
            self._recordings.clear()
            _leave(device, stream, self._pool)
            return None
        finally:
            torch.cuda.set_rng_state(state, device)
        return self._recordings[key]

    def _record(self, key: Key, tensors: Sequence[Tensor]) -> _Recording:
        *inputs, offsets = tensors
        given = dict(zip(key[3], inputs, strict=True))
        spans = Spans(offsets, key[2])

        def run() -> Tensor:
            with self._autocast():
                found = self._forward(**given, **IGNORED, boundaries=spans)
            hidden: Tensor = found.last_hidden_state
            return hidden

        def differentiated(hidden: Tensor, gradient: Tensor) -> Sequence[Tensor | None]:
            return torch.autograd.grad(hidden, self._learning, gradient, allow_unused=True)

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(NUM_WARMUPS):
                hidden = run()
                gradient = torch.zeros_like(hidden)
                found = differentiated(hidden, gradient)
            if not self._sums:
                self._learning = [w for w, g in zip(self._learning, found, strict=True)
                                  if g is not None]  # fmt: skip
                sizes = [weight.numel() for weight in self._learning]
                self._sum = torch.zeros(sum(sizes), device=gradient.device)
                parts = zip(self._sum.split(sizes), self._learning, strict=True)
                self._sums = [part.view_as(weight) for part, weight in parts]
            del hidden, found
        torch.cuda.current_stream().wait_stream(side)
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(forward, pool=self._pool):
            hidden = run()
        with torch.cuda.graph(backward, pool=self._pool):
            every = [found for found in differentiated(hidden, gradient) if found is not None]
            torch._foreach_copy_(self._sums, every)
        return _Recording(tensors, hidden.detach(), gradient, forward, backward)


def _leave(device: torch.device, stream: torch.cuda.Stream, pool: tuple[int, int]) -> None:
    """Goes back to where a recording began that could not be ended.

    A capture that breaks, as where the memory runs out, leaves its stream as the current one, the
    allocator in the capture's pool, which can give nothing back then, and the generator waiting for
    an end, which refuses to draw then. A copy of the generator does not wait.
    """
    place = device.index or 0
    torch.cuda.set_stream(stream)
    with suppress(RuntimeError, AttributeError):  # where the capture could be ended after all
        torch._C._cuda_endAllocateToPool(place, pool)
    generator = torch.cuda.default_generators[place]
    generator.graphsafe_set_state(generator.clone_state())


def record_passes(backbone: nn.Module, autocast: Autocast) -> Graphs:
    """Lets the training passes of a backbone on a GPU be recorded as they come.

    `autocast` makes the context in which it runs, which must keep no casts and narrow the numbers:
    attention in fp32 has no kernel of fixed shape.
    """
    graphs = Graphs(backbone, autocast)
    backbone.forward = graphs
    return graphs


def _offsets(boundaries: tuple[int, ...], count: int, device: torch.device) -> Tensor:
    """Returns boundaries as (count,) int32; the sequences that are added are empty."""
    padded = boundaries + boundaries[-1:] * (count - len(boundaries))
    return sent(np.array(padded, np.int32), device)
