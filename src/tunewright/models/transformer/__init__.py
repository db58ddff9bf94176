"""Transformers of our own, encoder and decoder: one that reads texts, one that reads pictures.

    Transformer(TransformerConfig(vocab_size=8000))     # translation, summarization
    Captioner(CaptionerConfig(image_size=64))           # captions of pictures

Importing this package makes both known to transformers, so that AutoModelForSeq2SeqLM and
AutoModelForImageTextToText read their folders.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
)

from tunewright.models.transformer.captioner import Captioner, CaptionerConfig
from tunewright.models.transformer.config import POSITIONS, TransformerConfig
from tunewright.models.transformer.layers import Attention, Context, Layout, Padded, narrowed
from tunewright.models.transformer.model import EncoderDecoder, Transformer, of_keys
from tunewright.models.transformer.positions import RelativePositions, rotate, sinusoids

__all__ = [
    "POSITIONS",
    "Attention",
    "Captioner",
    "CaptionerConfig",
    "Context",
    "EncoderDecoder",
    "Layout",
    "Padded",
    "RelativePositions",
    "Transformer",
    "TransformerConfig",
    "narrowed",
    "of_keys",
    "register",
    "rotate",
    "sinusoids",
]


def register() -> None:
    """Makes both models known to transformers; calling it again changes nothing."""
    known = {
        TransformerConfig: (Transformer, AutoModelForSeq2SeqLM),
        CaptionerConfig: (Captioner, AutoModelForImageTextToText),
    }
    for config, (model, auto) in known.items():
        AutoConfig.register(config.model_type, config, exist_ok=True)
        for each in (AutoModel, auto):
            each.register(config, model, exist_ok=True)


register()
