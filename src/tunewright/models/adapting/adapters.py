"""Adapters: a few new weights inside a model, which learn while its own stay as they are.

    attach(model, config, kind, seed)   new ones, before training
    load_adapter(model, folder, kind)   trained ones, from a folder
    adapters_of(model)                  what a model has
    adapters_of(model).save(folder)     peft's layout, the head with it

peft does what it can, and changes the library's model in place: to the rest of the house it is the
model that it was, with the same head and the same route. The bottleneck adapter, which peft has
not, is ours.

Shape letters: D hidden width, S width of a bottleneck.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunewright.errors import ModelError, SettingsError, listed
from tunewright.models.adapting.adapted_layers import (
    OWN_PARTS,
    head_modules,
    layers_for,
    places_behind,
)
from tunewright.models.adapting.adapter_config import (
    MERGEABLE,
    PROMPTS,
    AdapterConfig,
    AdapterName,
    Bits,
)
from tunewright.models.adapting.bases import (
    OWN_CONFIG,
    OWN_WEIGHTS,
    PEFT_CONFIG,
    PEFT_WEIGHTS,
    Base,
    adapter_description,
    read_base,
)
from tunewright.models.adapting.peft_config import (
    ADAPTER,
    NEW_HEADS,
    SEGMENTED,
    peft_config,
    read_peft_config,
    require_peft,
)
from tunewright.models.adapting.prompts import Prompts
from tunewright.models.adapting.quantised import quantise, restore
from tunewright.models.adapting.ranks import Ranks
from tunewright.models.files.architecture import ENCODER, Kind
from tunewright.models.files.weights import TensorEntry, read_header, read_tensor_file

ATTRIBUTE = "tunewright_adapters"
BOTTLENECK = "BOTTLENECK"
# The largest numbers that `[adapter]` takes; AdaLoRA begins with more ranks than it ends with.
LARGEST_SIZES = {
    "r": 8192, "init_r": 8192, "target_r": 8192, "num_virtual_tokens": 10_000,
    "encoder_hidden_size": 100_000, "bottleneck_size": 100_000, "num_layers": 10_000,
    "num_attention_heads": 10_000, "token_dim": 1_000_000,
}  # fmt: skip

# A bottleneck begins as nearly nothing (Houlsby et al. 2019, section 3.6).
INITIAL_DEVIATION = 0.01


class Bottleneck(nn.Module):
    """A layer of the model, and after it two small ones that learn, around a residual.

    With h = `base_layer(x)`, (..., D): out = h + W_up gelu(W_down h + b_down) + b_up, where W_down
    is (S, D) and W_up (D, S). Both begin near zero, so that the model begins as it was.

    Source: Houlsby et al. 2019, "Parameter-efficient transfer learning for NLP", figure 2: one
    after the projection of attention and one after that of feed-forward, before their residuals.
    Pfeiffer et al. 2021, "AdapterFusion", found one after feed-forward to be nearly as good. Theirs
    stand behind the layer's dropout and train its layer norms too; these do neither.
    """

    def __init__(self, base_layer: nn.Module, size: int) -> None:
        super().__init__()
        width = _width(base_layer)
        self.base_layer = base_layer
        self.adapter_down = nn.Linear(width, size)
        self.adapter_up = nn.Linear(size, width)
        for layer in (self.adapter_down, self.adapter_up):
            nn.init.trunc_normal_(layer.weight, std=INITIAL_DEVIATION, a=-0.02, b=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, values: Tensor) -> Tensor:
        hidden = self.base_layer(values)
        return hidden + self.adapter_up(nn.functional.gelu(self.adapter_down(hidden)))


def _width(layer: nn.Module) -> int:
    """Returns how many numbers a linear layer puts out."""
    if isinstance(layer, Conv1D):
        return int(layer.nf)
    assert isinstance(layer, nn.Linear)
    return layer.out_features


@dataclass
class Adapters:
    """What `attach` or `load_adapter` put into a model.

    `peft` is its wrapper around the model, whose modules it changed; None for a bottleneck, whose
    `own` configuration stands here. `ranks` is
    the budget of an AdaLoRA that learns; `base` says which model's weights they go with, `kind` and
    `quantize` what model a loaded one was put into.
    """

    name: AdapterName
    model: Any
    peft: Any = None
    own: Mapping[str, Any] | None = None
    ranks: Ranks | None = None
    base: Base | None = None
    quantize: Bits | None = None
    kind: Kind = ENCODER

    @property
    def is_prompt(self) -> bool:
        return self.name in PROMPTS

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The adapter's own weights, without the head's."""
        return [p for name, p in self.model.named_parameters() if is_adapter(name)]

    def let_learn(self) -> None:
        """Lets the adapter, the head that goes with it, and what is a task's own learn; no more."""
        whole = tuple(
            f"{name}." for name in (*(self.own or {}).get("modules_to_save", ()), *OWN_PARTS)
        )
        for name, parameter in self.model.named_parameters():
            learns = is_adapter(name) or ".modules_to_save." in name or name.startswith(whole)
            parameter.requires_grad_(learns)

    def save(self, folder: Path) -> None:
        """Writes configuration and weights; of the model's own only what was trained with it."""
        if self.ranks is not None:
            self.ranks.settle()
        tensors, config = self._tensors(), self._description()
        config_name, weights_name = PEFT_CONFIG, PEFT_WEIGHTS
        if self.peft is None:
            config_name, weights_name = OWN_CONFIG, OWN_WEIGHTS
        named = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(named, folder / weights_name, metadata={"format": "pt"})
        text = json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        (folder / config_name).write_text(text, encoding="utf-8")

    def _description(self) -> dict[str, Any]:
        if self.peft is None:
            return dict(self.own or {})
        config = self.peft.peft_config[ADAPTER].to_dict()
        if self.base is not None:
            config["base_model_name_or_path"] = self.base.folder
        return {key: _plain(value) for key, value in config.items()} | {"inference_mode": True}

    def _tensors(self) -> dict[str, Tensor]:
        if self.peft is not None:
            from peft import get_peft_model_state_dict

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a layer that AdaLoRA left no rank is meant
                found: dict[str, Tensor] = get_peft_model_state_dict(
                    self.peft, save_embedding_layers=False
                )
            return found
        heads = tuple(f"{name}." for name in (self.own or {})["modules_to_save"])
        every = self.model.state_dict().items()
        return {n: tensor for n, tensor in every if is_adapter(n) or n.startswith(heads)}

    def merge(self) -> Any:
        """Makes the adapter part of the weights; returns the library's model, which has none now.

        Raises SettingsError for a method that cannot be part of them.
        """
        if self.name not in MERGEABLE:
            raise SettingsError(
                f"adapter {self.name}",
                "it cannot be merged",
                f"{listed(sorted(MERGEABLE))} change weights; it adds "
                + ("tokens." if self.is_prompt else "layers."),
                "Use the adapter's folder as it is.",
            )
        if self.quantize is not None:
            self._stand_on_plain_layers()
        self.peft.base_model.merge_adapter()
        _unwrap(self.model)
        delattr(self.model, ATTRIBUTE)
        return self.model.eval()

    def _stand_on_plain_layers(self) -> None:
        """Puts the adapter onto layers that hold the same numbers in full."""
        config, tensors = self.peft.peft_config[ADAPTER], self._tensors()
        _unwrap(self.model)
        restore(self.model)
        again = _wrapped(self.model, self.name, config, self.kind)
        _put_peft(again, tensors)
        self.peft = again.peft


def _unwrap(model: Any) -> None:
    """Puts the model's own layers, merged, and the trained head in the place of peft's wrappers.

    peft's own way stumbles over a head of several layers (IA3, version 0.21).
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        path, _, last = name.rpartition(".")
        if isinstance(module, BaseTunerLayer):
            setattr(model.get_submodule(path), last, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            setattr(model.get_submodule(path), last, module.modules_to_save[ADAPTER])


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it; sets get an order."""
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return getattr(value, "value", value)


def adapters_of(model: Any) -> Adapters | None:
    """Returns the adapters of a model; None where it has none."""
    return getattr(model, "__dict__", {}).get(ATTRIBUTE)


def is_adapter(name: str) -> bool:
    """Says whether a parameter of that name belongs to an adapter."""
    return bool(re.search(r"(^|\.)(lora_\w+|ia3_l|prompt_encoder|adapter_down|adapter_up)\.", name))


def attach(model: Any, config: AdapterConfig, kind: Kind, seed: int = 0) -> Adapters:
    """Puts a new adapter into a model of a kind; it and a new head learn, and nothing else.

    Layers whose weights are frozen already get none. Its first weights are drawn from `seed`;
    torch's random state is left as found. Raises SettingsError when the adapter does not fit the
    model, or peft is not installed.
    """
    assert config.name is not None
    heads = head_modules(model) if kind in NEW_HEADS else ()
    is_own = config.name == "bottleneck"
    made = (_own_config(model, config, heads) if is_own
            else peft_config(model, config, kind, heads))  # fmt: skip
    if config.quantize is not None:
        quantise(model, config.quantize)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapters = _insert(model, made) if is_own else _wrapped(model, config.name, made, kind)
    if config.name == "adalora":
        adapters.ranks = Ranks(adapters.peft)
        model.add_module("adapter_ranks", adapters.ranks)
    adapters.let_learn()
    return adapters


def load_adapter(model: Any, folder: Path, kind: Kind) -> None:
    """Puts the adapter of a folder into a model that has its head already.

    Raises ModelError when its configuration is unknown, or its weights do not fit.
    """
    description = adapter_description(folder)
    _check_sizes(folder, description)
    kind_of_adapter = description.get("peft_type")
    quantize = read_base(folder).quantize
    if quantize is not None:
        quantise(model, quantize)
    try:
        if kind_of_adapter == BOTTLENECK:
            adapters = _insert(model, description)
            _put_own(model, read_tensor_file(folder / OWN_WEIGHTS))
        else:
            config, name = read_peft_config(folder, description)
            adapters = _wrapped(model, name, config, kind)
            _put_peft(adapters, read_tensor_file(folder / PEFT_WEIGHTS))
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            str(folder),
            f"its adapter does not fit the model ({reason:.300})",
            "",
            "Use the files that belong together.",
        ) from error
    adapters.quantize, adapters.kind = quantize, kind
    model.requires_grad_(False)


def _check_sizes(folder: Path, description: Mapping[str, Any]) -> None:
    """Raises ModelError for sizes that no adapter has, before memory is taken for them."""
    ranks = description.get("rank_pattern") or {}
    claimed = {name: description.get(name) for name in LARGEST_SIZES} | {
        f"rank_pattern of {name}": rank for name, rank in dict(ranks).items()
        if not isinstance(rank, list)
    }  # fmt: skip
    for name, size in claimed.items():
        most = LARGEST_SIZES.get(name, LARGEST_SIZES["r"])
        if size is not None and not (type(size) is int and 0 <= size <= most):
            raise ModelError(
                str(folder),
                f"its adapter's {name} is {size!r:.40}",
                f"It is a whole number of at most {most:,}.",
                "Use the file that belongs to the weights.",
            )


def _wrapped(model: Any, name: AdapterName, config: Any, kind: Kind) -> Adapters:
    """Lets peft change the model, and keeps its wrapper beside it."""
    peft = require_peft()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that transformers has changed, and the like
        wrapper = peft.get_peft_model(model, config)
    adapters = Adapters(name, model, peft=wrapper)
    model.__dict__[ATTRIBUTE] = adapters  # beside the modules: the wrapper holds the model itself
    if name in PROMPTS:
        # A part of the backbone, so that it learns at the backbone's rate, not at the head's.
        model.base_model.add_module("prompt_encoder", wrapper.prompt_encoder)
        Prompts(wrapper, name == "prefix", kind in SEGMENTED).hook(model.base_model)
    return adapters


def _own_config(model: Any, config: AdapterConfig, heads: Sequence[str]) -> dict[str, Any]:
    return {
        "peft_type": BOTTLENECK,
        "bottleneck_size": config.bottleneck_size,
        "target_modules": layers_for(model, config, places_behind(config)),
        "modules_to_save": list(heads),
    }


def _insert(model: Any, description: Mapping[str, Any]) -> Adapters:
    """Puts bottlenecks behind the named layers, and stops all else from learning."""
    model.requires_grad_(False)
    for name in description["target_modules"]:
        path, _, last = name.rpartition(".")
        parent = model.get_submodule(path)
        setattr(parent, last, Bottleneck(getattr(parent, last), description["bottleneck_size"]))
    adapters = Adapters("bottleneck", model, own=description)
    model.__dict__[ATTRIBUTE] = adapters
    return adapters


@contextmanager
def stirred(model: Any) -> Iterator[None]:
    """Holds random numbers in a model's adapters for the time of a block.

    New ones change nothing (a product with zero), so that two ways through them would agree
    whatever they did.
    """
    adapters = adapters_of(model)
    parameters = [] if adapters is None else adapters.parameters
    kept = [parameter.detach().clone() for parameter in parameters]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise.to(parameter.device), alpha=0.2)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(parameters, kept, strict=True):
                parameter.copy_(values)


def head_tensors(folder: Path) -> dict[str, Tensor]:
    """Returns the trained head of an adapter's folder, under the names that the library has."""
    name = PEFT_WEIGHTS if (folder / PEFT_CONFIG).is_file() else OWN_WEIGHTS
    tensors = read_tensor_file(folder / name)
    return {_bare(n): t for n, t in tensors.items() if not _is_saved_adapter(n)}


def head_headers(folder: Path) -> dict[str, TensorEntry]:
    """Returns the same from the header alone, which is checked."""
    name = PEFT_WEIGHTS if (folder / PEFT_CONFIG).is_file() else OWN_WEIGHTS
    return {_bare(n): e for n, e in read_header(folder / name).items() if not _is_saved_adapter(n)}


def _is_saved_adapter(name: str) -> bool:
    return bool(re.search(r"\.lora_\w+|\.ia3_l$|^prompt_embeddings$", name)) or is_adapter(name)


def _bare(name: str) -> str:
    """Returns a saved name without what peft puts before it."""
    return name.removeprefix("base_model.").removeprefix("model.") if name.startswith(
        "base_model."
    ) else name  # fmt: skip


def _put_peft(adapters: Adapters, tensors: Mapping[str, Tensor]) -> None:
    """Gives an adapter its weights; the head stands in the model already."""
    if adapters.is_prompt:
        embedding = adapters.peft.prompt_encoder[ADAPTER].embedding
        embedding.load_state_dict({"weight": tensors["prompt_embeddings"]})
        return
    from peft import set_peft_model_state_dict

    result = set_peft_model_state_dict(adapters.peft, dict(tensors))
    lost = [name for name in result.missing_keys if is_adapter(name)]
    if lost or result.unexpected_keys:
        raise ValueError(f"tensors differ: {listed([*lost, *result.unexpected_keys], 3)}")


def _put_own(model: Any, tensors: Mapping[str, Tensor]) -> None:
    wanted = {name for name, _ in model.named_parameters() if is_adapter(name)}
    given = {name for name in tensors if is_adapter(name)}
    if wanted != given:
        raise ValueError(f"tensors differ: {listed(sorted(wanted ^ given), 3)}")
    model.load_state_dict({n: tensors[n] for n in sorted(given)}, strict=False)
