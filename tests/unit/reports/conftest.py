"""Runs and outcomes as a ledger in Redis has them, without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from stagefleet.reports.report import Report
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, Run, RunSpec, RunState

CREATED_AT = 1_764_000_000.0
SECONDS = 240.0
SOURCE, DESTINATION = "src.test/app", "dst.test:5000/app"


@pytest.fixture
def make_run():
    def make(state=RunState.FAILED, **fields):
        options = {"source": SOURCE, "destination": DESTINATION}
        counts = {"total": 100, "succeeded": 90, "failed": 5, "skipped": 5} | fields
        is_final = state.is_final
        return Run(
            id="6200c6a4b1f3",
            spec=RunSpec(operation="copy_stage", options=options, key="nightly", parallel=4),
            state=state,
            created_at=CREATED_AT,
            finished_at=CREATED_AT + SECONDS if is_final else None,
            now_at=CREATED_AT + SECONDS,
            **counts,
        )

    return make


@pytest.fixture
def make_outcome():
    numbers = iter(range(1_000_000))

    def make(state=ItemState.SUCCEEDED, *, at=1.0, error=None, item=None, **fields):
        number = next(numbers)
        fields = {"seconds": 0.5, "bytes": 1000, "attempts": 1} | fields
        return Outcome(
            item=f"stage-{number}" if item is None else item,
            state=ItemState.FAILED if error else state,
            error=None if error is None else ErrorInfo(type=error[0], message=error[1]),
            position=f"{int((CREATED_AT + at) * 1000)}-{number}",
            **fields,
        )

    return make


@pytest.fixture
def report_of(make_run):
    """Makes a report of outcomes, and of runs that follow; outcomes that are read again are the same."""

    def report(outcomes, run=None, following=()):
        known = list(outcomes)
        runs = [(make_run(total=len(known)) if run is None else run, known)]
        for number, (state, later) in enumerate(following, 2):
            runs.append((replace(make_run(state, total=len(later)), id=f"run-{number}"), list(later)))
        outcomes_of = {one.id: found for one, found in runs}

        def read(run_id: str) -> Iterator[Outcome]:
            return iter(outcomes_of[run_id])

        return Report([one for one, _ in runs], read)

    return report
