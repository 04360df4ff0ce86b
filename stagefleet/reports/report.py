"""The report of one run, in the forms that people and CI systems read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

from stagefleet.reports.figures import ReportFigures
from stagefleet.reports.junit import junit_of
from stagefleet.reports.page import report_page
from stagefleet.runs.models import Outcome, Run


class Report:
    """The report of a run as it stands: what was done, how fast, what failed and why.

    The page and the JSON document have bounded lists beside exact totals: both stay small, however large the
    run is. Outcomes are read from the ledger when they are needed: once for page and JSON, once for JUnit.

    Attributes:
        run: The run, as it was when the report was asked for.
    """

    def __init__(self, run: Run, read_outcomes: Callable[[], Iterable[Outcome]]) -> None:
        self.run = run
        self._read_outcomes = read_outcomes

    @cached_property
    def _figures(self) -> ReportFigures:
        return ReportFigures(self.run, self._read_outcomes())

    @property
    def left(self) -> int:
        """Number of items without an outcome."""
        return self._figures.left

    def as_json(self) -> dict[str, Any]:
        """Return the report as one JSON document."""
        return self._figures.as_json()

    def html(self) -> str:
        """Return the report as one HTML page, which needs no script, no network and no other file."""
        return report_page(self._figures)

    def junit(self) -> Iterator[bytes]:
        """Yield JUnit XML for GitLab and Jenkins, in parts: the run is a test suite, an item is a test case.

        It has at most 28 MB, as GitLab takes no more: items that did not fail are left out first, and the
        properties of the suite tell how many. All outcomes are read before the first part.
        """
        return junit_of(self.run, self._read_outcomes())
