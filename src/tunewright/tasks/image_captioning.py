"""A picture becomes a sentence.

{"image": "dog.png", "caption": "a dog runs"}
->  Generated("a dog runs", 0.64)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass

from tunewright.answers import Generated
from tunewright.data.cells.pictures import MAX_PIXELS, picture_of
from tunewright.errors import SettingsError
from tunewright.figures import Bars, Figure
from tunewright.metrics import MetricSpec
from tunewright.metrics.translation import (
    best_constant,
    bleu_counts,
    bleu_of,
    chrf_counts,
    chrf_of,
    signatures,
)
from tunewright.models.batch import Batch, PackedPictures, PackedStream
from tunewright.models.files.architecture import CAPTIONER, Kind, load_config
from tunewright.models.picture_form import PREPROCESSOR, Change, PictureForm, read_picture_form
from tunewright.tasks import CAPTION_ROLES
from tunewright.tasks.base import Statistics
from tunewright.tasks.shared.pictures import (
    PictureInput,
    PicturesByContent,
    remarks_on,
    row_picture,
)
from tunewright.tasks.shared.writer import Writer, moved
from tunewright.types import Features, Role, Row, Rows, TokenStream

CONSTANT = "constant_"
OTHER = "label "  # begins the names of the captions after the first, of which one is drawn
CAPTION_METRICS = (
    MetricSpec("chrf", True, "chrF: character n-grams shared with the captions, 0 to 100"),
    MetricSpec("bleu", True, "BLEU: word n-grams shared with the captions, 0 to 100"),
    MetricSpec("exact", True, "share of answers that are a caption word for word, 0 to 1"),
    MetricSpec(f"{CONSTANT}chrf", True, "chrF of one caption for every picture, the best one"),
)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ImageCaptioning(Writer):
    """Captions by a vision encoder with a text decoder, measured by chrF beside a constant one."""

    name: ClassVar[str] = "image-captioning"
    roles: ClassVar[tuple[Role, ...]] = CAPTION_ROLES
    metrics: ClassVar[tuple[MetricSpec, ...]] = CAPTION_METRICS
    kind: ClassVar[Kind] = CAPTIONER
    streams: ClassVar[tuple[str, ...]] = ("image", "target")
    pipeline_tag: ClassVar[str] = "image-to-text"
    text_roles: ClassVar[tuple[str, ...]] = ()
    picture_roles: ClassVar[tuple[str, ...]] = ("image",)
    bare_roles: ClassVar[tuple[str, ...]] = ("image",)
    target_role: ClassVar[str] = "caption"
    own_usage: ClassVar[str] = (
        'import tunewright as tw\n\ntw.load("path/to/this/folder").predict(["picture.png"])'
    )
    stock_usage: ClassVar[str] = (
        "from PIL import Image\n"
        "from transformers import (\n"
        "    AutoImageProcessor,\n    AutoModelForImageTextToText,\n    AutoTokenizer,\n)\n\n"
        'folder = "path/to/this/folder"\n'
        "processor = AutoImageProcessor.from_pretrained(folder)\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        "model = AutoModelForImageTextToText.from_pretrained(folder)\n"
        'inputs = processor(Image.open("picture.png").convert("RGB"), return_tensors="pt")\n'
        "tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True)"
    )

    augmentation: float = field(
        default=1.0,
        metadata={"help": "how much pictures are turned, scaled, moved and coloured at random in "
                          "training, 0 to 3; 0 is off"},
    )  # fmt: skip
    mirror: bool = field(
        default=False,
        metadata={"help": "mirror half of the pictures in training; not where left and right are "
                          "in the captions"},
    )  # fmt: skip
    max_pixels: PositiveInt = field(
        default=MAX_PIXELS,
        metadata={"help": "pixels of the largest picture that is read"},
    )
    form: PictureForm = field(
        default_factory=PictureForm,
        metadata={"help": "the size and the numbers that the model wants", "fitted": True},
    )
    constant: str = field(
        default="", metadata={"help": "the best caption for every picture", "fitted": True}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.augmentation <= 3:
            raise SettingsError(
                "[task]",
                f"task.augmentation is {self.augmentation}",
                "It must be from 0 to 3.",
            )

    # What a row holds ------------------------------------------------------------------------

    def texts(self, row: Row) -> list[str]:
        return list(self.targets_of(row))

    def learn(self, rows: Iterable[Row]) -> Self:
        rows = list(rows)
        learned = super().learn(rows)
        return replace(learned, constant=best_constant([self.targets_of(row) for row in rows]))

    def started_from(self, source: Path) -> Self:
        form = read_picture_form(source, load_config(source))
        return replace(super().started_from(source), form=form)

    def remarks(self, split: str, rows: Iterable[Sequence[Features]]) -> Sequence[str]:
        return remarks_on(rows, split)

    def audited(self, rows: Rows) -> Rows:
        """Returns rows whose pictures are the same where their files are, whatever their names."""
        return PicturesByContent(rows, "image")

    def shown(self, row: Row) -> str:
        value = row.values["image"]
        if isinstance(value, Mapping):
            value = value.get("path") or value.get("bytes")
        return str(value) if isinstance(value, str) and len(value) < 1000 else "a picture"

    def thumbnail(self, row: Row) -> bytes | None:
        return row_picture(row, "image", self.max_pixels).thumbnail()

    # Encoding --------------------------------------------------------------------------------

    def encode(self, row: Row, processor: Any) -> list[Features]:
        picture = PictureInput(row_picture(row, "image", self.max_pixels), self.form)
        found = self.encode_targets(row, processor, most=None)
        if not found:
            return [Features(row.id, {}, pictures={"image": picture})]
        streams = {"target": found[0][0]}
        targets = {"label": found[0][1]}
        targets |= {f"{OTHER}{place}": label for place, (_, label) in enumerate(found[1:])}
        return [Features(row.id, streams, targets, 0, {"image": picture})]

    def vary(self, features: Features, rng: np.random.Generator) -> Features:
        """Draws one of a row's captions; turns, scales, moves and colours its picture at random."""
        labels = [np.asarray(label) for label in features.targets.values()]
        label = labels[rng.integers(len(labels))]
        start = int(np.asarray(features.streams["target"].token_ids)[0])
        picture = features.pictures["image"]
        assert isinstance(picture, PictureInput)
        if self.augmentation or self.mirror:
            picture = replace(picture, change=Change.drawn(rng, self.augmentation, self.mirror))
        return replace(
            features,
            streams={"target": TokenStream(moved(start, label))},
            targets={"label": label},
            pictures={"image": picture},
        )

    # The model -------------------------------------------------------------------------------

    def source_in(self, batch: Batch) -> PackedPictures:
        return batch.pictures["image"]

    def probe(self, config: Any) -> Batch:
        generator = torch.Generator().manual_seed(0)
        pixels_BCHW = torch.rand(4, 3, self.form.height, self.form.width, generator=generator) - 0.5
        lengths = (5, 9, 3, 12)
        target = PackedStream(
            torch.randint(3, config.vocab_size, (sum(lengths),), generator=generator),
            torch.cat([torch.arange(length) for length in lengths]),
            tuple(accumulate(lengths, initial=0)),
        )
        pictures = PackedPictures(pixels_BCHW, self.form.num_patches)
        return Batch({"target": target}, {}, (0, 1, 2, 3), pictures={"image": pictures})

    def probe_picture(self, rng: np.random.Generator) -> PictureInput:
        levels = rng.integers(0, 256, (self.form.height, self.form.width, 3), dtype=np.uint8)
        return PictureInput(picture_of(Image.fromarray(levels), "probe"), self.form)

    def extra_files(self, model: Any) -> Mapping[str, str | bytes]:
        return {PREPROCESSOR: self.form.to_json_text()}

    def limits(self) -> Sequence[str]:
        return (
            "Transparent parts of pictures lie on white here, and pictures stand upright as their "
            "cameras say; stock image processors do neither.",
        )

    # Measuring -------------------------------------------------------------------------------

    def statistics(self, answer: Generated, row: Row) -> Mapping[str, Any]:
        captions = self.targets_of(row)
        return {
            "chrf": chrf_counts(answer.text, captions),
            "bleu": bleu_counts(answer.text, captions, "13a"),
            "exact": float(answer.text in captions),
            f"{CONSTANT}chrf": chrf_counts(self.constant, captions),
        }

    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        def total(name: str) -> np.ndarray:
            figures_R = np.asarray(statistics[name], np.float64)
            return figures_R.sum(0) if counts is None else np.asarray(counts) @ figures_R

        num_rows = len(statistics["exact"]) if counts is None else counts.sum()
        return {
            "chrf": chrf_of(total("chrf")),
            "bleu": bleu_of(total("bleu")),
            "exact": float(total("exact") / num_rows),
            f"{CONSTANT}chrf": chrf_of(total(f"{CONSTANT}chrf")),
        }

    def measured_as(self, statistics: Statistics) -> Sequence[str]:
        known = signatures("13a")
        return (
            f"chrF is {known['chrf']} of sacreBLEU, BLEU is {known['bleu']}.",
            f'constant_chrf is that of "{self.constant}" for every picture, the caption of the '
            "training rows that does best there.",
        )

    def severity(self, answer: Generated, row: Row) -> float | None:
        """Returns how far the caption is from the true one: 1 less the row's own chrF."""
        captions = self.targets_of(row)
        found = chrf_of(chrf_counts(answer.text, captions))
        return None if answer.text in captions else 1 - found / 100

    def figures(self, statistics: Statistics) -> Sequence[Figure]:
        found = self.reduce(statistics)
        shown = {"the model": found["chrf"], f"“{self.constant}”": found[f"{CONSTANT}chrf"]}
        return [Bars("chrF of the model, and of one caption for every picture", shown, "chrF")]
