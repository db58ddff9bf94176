"""Fetches data sets from the Hugging Face Hub, and opens those that `datasets` saved to disk.

No code from a data set is ever run: `datasets` 4 and later cannot.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from tunewright.data.arrays import plain_table
from tunewright.data.formats.folders import SPLIT_NAMES
from tunewright.data.formats.sources import is_data_file
from tunewright.data.table import Table
from tunewright.errors import DataError, listed

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


def is_hub_id(source: str) -> bool:
    """Says whether a source that is no file reads as `user/name` on the Hub."""
    is_one = bool(_HUB_ID.match(source)) and not is_data_file(Path(source))
    return is_one and not Path(source).parent.exists()


def fetch_hub_splits(hub_id: str, subset: str | None) -> dict[str, Table]:
    """Returns the splits of a Hub data set, from the local cache when it is there.

    Raises: DataError when it cannot be fetched: no network, offline by the user's wish, no such
    data set, no access, or a subset that has to be named.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(hub_id, name=subset)
    except Exception as error:  # datasets lets errors of six libraries through
        raise _not_fetched(hub_id, error, bool(datasets.config.HF_HUB_OFFLINE)) from None
    return dataset_splits(loaded, hub_id)


def _not_fetched(hub_id: str, error: Exception, is_offline: bool) -> DataError:
    words = " ".join(str(error).split())[:300] or type(error).__name__
    if is_offline:
        return DataError(
            hub_id,
            "it is not in the local cache, and HF_HUB_OFFLINE forbids the network",
            "There is no file of this name either.",
            "Unset HF_HUB_OFFLINE to fetch it from the Hugging Face Hub, or give a file.",
        )
    return DataError(
        hub_id,
        f"it could not be fetched from the Hugging Face Hub ({words})",
        "There is no file of this name either.",
        "Check the name, the network and HF_TOKEN; data.subset names one of several subsets.",
    )


def read_saved(folder: Path) -> dict[str, Table]:
    """Returns what `datasets` saved to `folder`: its splits, or one table as "train".

    Raises: DataError when the folder is damaged.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise DataError(str(folder), f"this is no whole saved data set ({words})") from None
    return dataset_splits(loaded, str(folder))


def dataset_splits(loaded: Any, name: str) -> dict[str, Table]:
    """Returns the tables of a `datasets.DatasetDict` or `datasets.Dataset` ("train")."""
    if not isinstance(loaded, dict):
        return {"train": dataset_table(loaded, name)}
    names = {str(split): SPLIT_NAMES.get(str(split), str(split)) for split in loaded}
    if len(set(names.values())) < len(names):
        raise DataError(
            name,
            f"it holds the splits {listed(names)}, of which two are the same by another name",
            "Each of train, validation and test is needed once.",
            "Hand over the split that is meant.",
        )
    return {names[split]: dataset_table(loaded[split], name) for split in names}


def dataset_table(dataset: Any, name: str) -> Table:
    """Returns the Arrow table behind a `datasets.Dataset`, its rows in the data set's order."""
    columns = pa.table(dataset.data.table)
    if dataset._indices is not None:
        columns = columns.take(dataset._indices.column(0))
    columns = columns.replace_schema_metadata(dataset.features.arrow_schema.metadata)
    return Table(name, plain_table(columns, name))
