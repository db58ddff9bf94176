"""The `[generation]` section of a run's settings: how a model writes texts. Imports no torch.

Names and meanings are those of transformers' GenerationConfig, and `generation_config.json` of a
model folder holds them, so that stock libraries write the same texts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tunewright.errors import ModelError

GENERATION_CONFIG = "generation_config.json"
MAX_CONFIG_BYTES = 1_000_000

# What transformers calls that which the settings decide.
GENERATION_NAMES = (
    "max_new_tokens",
    "max_length",
    "num_beams",
    "length_penalty",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "no_repeat_ngram_size",
    "num_return_sequences",
    "stop_strings",
)


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class Generation(BaseModel):
    """How texts are written. The same settings and row give the same text, whatever the batch."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    max_new_tokens: int = Field(128, ge=1, le=100_000, description="most tokens of a text")
    num_beams: int = Field(
        1, ge=1, le=64, description="beginnings that are kept at each token (beam search); 1 is "
        "greedy, or plain sampling"
    )  # fmt: skip
    length_penalty: float = Field(
        1.0, ge=-10, le=10, description="beam search: a text's log-probability is divided by its "
        "number of tokens to this power; above 0 longer texts are preferred"
    )  # fmt: skip
    do_sample: bool = Field(
        False, description="draw each token by its probability; false takes the likeliest"
    )
    temperature: float = Field(
        1.0, gt=0, le=100, description="sampling: below 1 likelier tokens, above 1 odder ones"
    )
    top_k: int = Field(50, ge=0, description="sampling: only among so many likeliest; 0 is off")
    top_p: float = Field(
        1.0, gt=0, le=1, description="sampling: only among the likeliest that make up this share; "
        "1 is off"
    )  # fmt: skip
    no_repeat_ngram_size: int = Field(
        0, ge=0, description="no run of so many tokens is written twice; 0 is off"
    )
    num_return_sequences: int = Field(
        1, ge=1, le=64, description="texts for each row, the best first; with beams at most as many"
    )
    stop: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(
        (), strict=False, description="a text ends before the first of these"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seeds sampling, with each row's number")

    def to_library(self) -> dict[str, Any]:
        """Returns the values under the names of transformers; what is off is left out."""
        values: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.num_beams,
            "do_sample": self.do_sample,
        }
        if self.num_beams > 1:
            values["length_penalty"] = self.length_penalty
        if self.do_sample:
            sampling = ("temperature", "top_k", "top_p")
            values |= {name: getattr(self, name) for name in sampling}
        if self.no_repeat_ngram_size:
            values["no_repeat_ngram_size"] = self.no_repeat_ngram_size
        if self.num_return_sequences > 1:
            values["num_return_sequences"] = self.num_return_sequences
        if self.stop:
            values["stop_strings"] = list(self.stop)
        return values

    @classmethod
    def from_library(cls, values: dict[str, Any], where: str = GENERATION_CONFIG) -> Self:
        """Returns the settings that transformers' values mean; what is not named is the default.

        Raises ModelError, naming `where`, for a value that makes no sense.
        """
        known = {name: values[name] for name in cls.model_fields if values.get(name) is not None}
        stop = values.get("stop_strings")
        try:
            return cls(**known, **({"stop": stop} if stop else {}))
        except ValidationError as error:
            first = error.errors()[0]
            raise ModelError(
                where, f'"{first["loc"][0]}" is {first["input"]!r:.60}', f"{first['msg']}."
            ) from None


def read_generation(folder: Path) -> Generation:
    """Returns what a model folder says of how it writes, the defaults where it says nothing.

    Raises ModelError for a file that cannot be read.
    """
    path = folder / GENERATION_CONFIG
    if not path.is_file():
        return Generation()
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"it is larger than {MAX_CONFIG_BYTES:,} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
    except (ValueError, RecursionError) as error:
        raise ModelError(str(path), f"cannot be read ({error})") from None
    return Generation.from_library(values, str(path))
