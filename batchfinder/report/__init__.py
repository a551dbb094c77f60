"""The answer as data, and every way to read it.

``data``         ReportData: what was found, frozen
``record``       Report: the same, with every way to show and apply it
``rows``         the figures as tables of text
``text``         the table, the choice and the reason, for a terminal
``explanation``  the same in plain words: what binds, what the alternatives cost, what to change
``settings``     lines ready to paste for four ways of training
``ranks``        a row for each rank, where they differ
``document``     HTML: a fragment for notebooks, a self-contained page
"""

from batchfinder.report.record import Report
from batchfinder.report.settings import FRAMEWORKS

__all__ = ["FRAMEWORKS", "Report"]
