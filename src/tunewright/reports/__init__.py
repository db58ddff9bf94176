"""What a run says to its reader: the HTML report and the model card.

Both are made from plain values (`content.py`) and know no task, model or tensor.
"""

from tunewright.reports.card import model_card
from tunewright.reports.content import CardContent, ReportContent
from tunewright.reports.page import render_report, write_report

__all__ = ["CardContent", "ReportContent", "model_card", "render_report", "write_report"]
