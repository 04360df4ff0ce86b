"""The report of a run, or of a chain of runs, in the forms that people and CI systems read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from stagefleet.reports.advice import advice_for
from stagefleet.reports.junit import junit_of
from stagefleet.reports.page import report_page
from stagefleet.runs.documents import instant
from stagefleet.runs.figures import RunFigures
from stagefleet.runs.messages import subject_of
from stagefleet.runs.models import Outcome, Run


class Report:
    """The report of a run as it stands: what was done, how fast, what failed and why.

    Runs that follow it in its chain, as in a mirror or a purge, are part of it. The page and the JSON
    document have bounded lists beside exact totals: both stay small, however large a run is. Outcomes are
    read from the ledger when they are needed: once for page and JSON, once for JUnit.

    Attributes:
        run: The run, as it was when the report was asked for.
        runs: The run and those that follow it.
    """

    def __init__(self, runs: Sequence[Run], read_outcomes: Callable[[str], Iterable[Outcome]]) -> None:
        self.run = runs[0]
        self.runs = tuple(runs)
        self._read_outcomes = read_outcomes

    @cached_property
    def _figures(self) -> list[tuple[Run, RunFigures]]:
        return [(run, _figures_of(run, self._read_outcomes(run.id))) for run in self.runs]

    def as_json(self) -> dict[str, Any]:
        """Return the report as one JSON document."""
        first, *following = [_document(run, figures) for run, figures in self._figures]
        return first | {"following": following}

    def html(self) -> str:
        """Return the report as one HTML page, which needs no script, no network and no other file."""
        return report_page(self._figures)

    def junit(self) -> Iterator[bytes]:
        """Yield JUnit XML for GitLab and Jenkins, in parts: a run is a test suite, an item is a test case.

        It has at most 28 MB, as GitLab takes no more: items that did not fail are left out first, and the
        properties of the suites tell how many. All outcomes are read before the first part.
        """
        return junit_of((run, self._read_outcomes(run.id)) for run in self.runs)


def _figures_of(run: Run, outcomes: Iterable[Outcome]) -> RunFigures:
    figures = RunFigures(run)
    for outcome in outcomes:
        figures.add(outcome)
    return figures


def _document(run: Run, figures: RunFigures) -> dict[str, Any]:
    """Return what the page tells of a run."""
    seconds = max(run.seconds, 0.001)
    return {
        **run.summary(),
        "is_finished": run.state.is_final,
        "left": max(0, run.total - figures.read),
        **subject_of(run.spec).facts,
        "parallel": run.spec.parallel,
        "key": run.spec.key,
        "parent": run.spec.parent,
        "version": str(run.version),
        "created_at": instant(run.created_at),
        "finished_at": None if run.finished_at is None else instant(run.finished_at),
        "error": None
        if run.error is None
        else run.error.model_dump() | {"advice": advice_for(run.error.type)},
        "bytes": figures.all.bytes,
        "bytes_per_second": round(figures.all.bytes / seconds),
        "items_per_second": round(figures.read / seconds, 3),
        "attempts": figures.attempts,
        "retried": figures.retried,
        "durations": figures.durations.as_json(),
        "bar_seconds": figures.bar_seconds,
        "failures": [
            {
                "type": group.type,
                "count": group.count,
                "advice": advice_for(group.type),
                "examples": group.examples,
            }
            for group in figures.failures
        ],
        **{
            name: [counts.as_json() | {"time_line": counts.time_line(figures.bars)} for counts in found]
            for name, found in (("hosts", figures.hosts), ("registries", figures.registries))
        },
        "slowest": figures.slowest,
        "notes": dict(figures.notes.most_common()),
    }
