"""The `[data]` table of a run's settings."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tunewright.data.formats.encoding import check_encoding
from tunewright.data.formats.sources import MIB
from tunewright.data.readers import ReadSettings
from tunewright.data.splits import SplitConfig

Streaming = Literal["auto", "on", "off"]


class DataConfig(BaseModel):
    """Where the rows come from, and how they are read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: str | None = Field(
        default=None,
        description="Training rows: a file (CSV, TSV, JSONL, JSON, TXT, each also .gz or .zip; "
        "Parquet, Arrow), a folder, or a Hugging Face Hub id such as user/name; absent when the "
        "rows are given in Python.",
    )
    validation: str | None = Field(
        default=None,
        description="Validation rows, as for train; when absent they are taken from a folder's or "
        "Hub id's own validation split, or split off the training rows.",
    )
    test: str | None = Field(
        default=None,
        description="Test rows, as for train; when absent they are taken from a folder's or Hub "
        "id's own test split, or split off the training rows.",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Which column plays which role, such as {text = 'review', label = 'stars'}; "
        "roles left out are found by their usual names, and the choice is shown.",
    )
    subset: str | None = Field(
        default=None,
        description="Which subset of a Hub data set that has several; off when absent.",
    )
    encoding: str | None = Field(
        default=None,
        description="Encoding of text files, such as 'gb18030' or 'latin-1'; when absent a byte "
        "order mark, UTF-8 and GB18030 are recognised, and anything else is an error.",
    )
    delimiter: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="The character between a CSV file's columns; when absent, a tab for .tsv and "
        "otherwise the one of , ; tab | that divides the header into most columns.",
    )
    quote: str = Field(
        default='"',
        max_length=1,
        description="The character around CSV values that contain delimiters or line ends; '' "
        "makes quotes plain characters.",
    )
    header: bool = Field(
        default=True,
        description="Whether the first line of a CSV or TSV file names its columns; false: it is a "
        "row, and the columns are called column_1, column_2 and so on.",
    )
    drop_unlabelled: bool = Field(
        default=False,
        description="Drop training rows whose label is empty, and count them; false makes them "
        "an error.",
    )
    drop_blank: bool = Field(
        default=False,
        description="Drop training rows whose text is blank, and count them; false keeps them.",
    )
    max_rows: int | None = Field(
        default=None,
        ge=1,
        description="Read at most this many rows of each file; absent reads all.",
    )
    streaming: Streaming = Field(
        default="auto",
        description="Whether training rows are read from the disk as they are needed: 'on' does so "
        "(Parquet, Arrow, JSONL and TXT files), 'off' holds all in memory, 'auto' chooses by the "
        "files' size and the free memory.",
    )
    max_text_bytes: int = Field(
        default=64 * MIB,
        ge=1,
        description="The longest text allowed, in bytes of UTF-8; a longer one is an error.",
    )
    max_file_expansion: float = Field(
        default=100.0,
        ge=1,
        description="How many times its size a .gz or .zip file may unpack to, from 64 MiB on; a "
        "larger one is refused as a possible attack.",
    )
    split: SplitConfig = Field(
        default_factory=SplitConfig,
        description="How validation and test rows are chosen where no file is given.",
    )

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str | None) -> str | None:
        return value if value is None else check_encoding(value)

    def reading(self) -> ReadSettings:
        """Returns the settings that reading a file needs."""
        return ReadSettings(
            encoding=self.encoding,
            delimiter=self.delimiter,
            quote=self.quote,
            header=self.header,
            subset=self.subset,
            max_rows=self.max_rows,
            max_text_bytes=self.max_text_bytes,
            max_file_expansion=self.max_file_expansion,
        )
