"""Reads labelled data from anywhere into rows, checks it, and divides it. It knows no task."""

from tunewright.data.auditing.audit import Audit, AuditConfig
from tunewright.data.cells.spans import read_spans
from tunewright.data.checks import (
    CheckedRows,
    Dropped,
    check_labels,
    check_rows,
    has_no_text,
    is_blank,
    is_dropped,
    is_missing,
    plain_label,
    read_number,
)
from tunewright.data.columns import (
    ColumnChoice,
    as_rows,
    resolve_columns,
)
from tunewright.data.config import DataConfig
from tunewright.data.formats.starter import bbc_news
from tunewright.data.readers import ReadSettings, is_source, read_splits, read_table, stream_tables
from tunewright.data.splits import Split, SplitConfig, split
from tunewright.data.table import Table, TableRows
from tunewright.data.writers import check_output, escape_formula, write_rows

__all__ = [
    "Audit",
    "AuditConfig",
    "CheckedRows",
    "ColumnChoice",
    "DataConfig",
    "Dropped",
    "ReadSettings",
    "Split",
    "SplitConfig",
    "Table",
    "TableRows",
    "as_rows",
    "bbc_news",
    "check_labels",
    "check_output",
    "check_rows",
    "escape_formula",
    "has_no_text",
    "is_blank",
    "is_dropped",
    "is_missing",
    "is_source",
    "plain_label",
    "read_number",
    "read_spans",
    "read_splits",
    "read_table",
    "resolve_columns",
    "split",
    "stream_tables",
    "write_rows",
]
