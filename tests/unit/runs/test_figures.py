"""Figures of a run: counted in one pass, in bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence

from stagefleet.errors import LedgerRewoundError
from stagefleet.runs.figures import BARS, KEPT_FAILURES, KEPT_LATEST, KEPT_SLOWEST, RunFigures
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, Run, RunSpec, RunState

START_MS = 1_764_000_000_000
OPTIONS = {"source": "src.test/app", "destination": "dst.test/app"}
RUN = Run(
    "6200c6a4b1f3",
    RunSpec(operation="copy_stage", options=OPTIONS),
    RunState.RUNNING,
    created_at=START_MS / 1000,
)


def outcome_of(number: int, state: ItemState = ItemState.SUCCEEDED, **fields: object) -> Outcome:
    return Outcome.model_validate(
        {"item": f"item-{number}", "state": state, "position": f"{START_MS + number * 1000}-0", **fields}
    )


class Stream:
    """Outcomes as a ledger gives them."""

    def __init__(self, outcomes: Sequence[Outcome], *, ended: bool = False) -> None:
        self.outcomes = list(outcomes)
        self.ended = ended
        self.reads: list[str] = []

    def read(self, after: str, limit: int) -> Sequence[Outcome] | None:
        self.reads.append(after)
        positions = [outcome.position for outcome in self.outcomes]
        if after and after not in positions:
            raise LedgerRewoundError("forgotten")
        first = positions.index(after) + 1 if after else 0
        found = self.outcomes[first : first + limit]
        return None if self.ended and not found else found


def test_outcomes_are_counted_once_however_often_they_are_read():
    stream = Stream([outcome_of(number) for number in range(2500)])
    figures = RunFigures(RUN)
    figures.read_on(stream.read, seconds=60)
    stream.outcomes.append(outcome_of(2500, ItemState.FAILED, error=ErrorInfo(type="X", message="m")))
    figures.read_on(stream.read, seconds=60)
    shown = figures.as_json()
    (registry,) = shown["registries"]
    assert (2500, 1, 2501, True) == (
        registry["succeeded"],
        registry["failed"],
        shown["read"],
        shown["has_all"],
    )
    assert {"X": 1} == shown["error_types"]


def test_a_long_run_is_read_in_parts():
    stream = Stream([outcome_of(number) for number in range(5000)])
    figures = RunFigures(RUN)
    figures.read_on(stream.read, seconds=0)
    assert (1000, False) == (figures.as_json()["read"], figures.has_all)
    assert 1 == len(stream.reads)
    figures.read_on(stream.read, seconds=60)
    assert (5000, True) == (figures.as_json()["read"], figures.has_all)


def test_a_run_that_has_ended_is_not_read_again():
    stream = Stream([outcome_of(0)], ended=True)
    figures = RunFigures(RUN)
    for _ in range(3):
        figures.read_on(stream.read, seconds=60)
    read = len(stream.reads)
    figures.read_on(stream.read, seconds=60)
    assert read == len(stream.reads)


def test_what_the_ledger_has_forgotten_is_counted_from_its_first_outcome():
    stream = Stream([outcome_of(number) for number in range(10)])
    figures = RunFigures(RUN)
    figures.read_on(stream.read, seconds=60)
    stream.outcomes = stream.outcomes[:4]
    figures.read_on(stream.read, seconds=60)
    assert (4, True) == (figures.as_json()["read"], figures.has_all)


def test_lists_and_time_line_are_bounded_and_add_up():
    figures = RunFigures(RUN)
    states = [ItemState.SUCCEEDED, ItemState.FAILED, ItemState.SKIPPED, ItemState.CANCELLED]
    for number in range(8000):
        error = ErrorInfo(type=f"Error{number % 300}", message="x" * 2000)
        figures.add(
            outcome_of(
                number,
                states[number % 4],
                host=f"host-{number % 200}",
                seconds=number % 977,
                bytes=10,
                attempts=1,
                error=error if number % 4 == 1 else None,
            )
        )
    shown = figures.as_json()
    assert KEPT_FAILURES == len(shown["failures"])
    assert KEPT_LATEST == len(shown["latest"])
    assert [976, 976] == [row["seconds"] for row in shown["slowest"]][:2]
    assert KEPT_SLOWEST == len(shown["slowest"])
    assert len(shown["hosts"]) <= 31
    assert len(shown["error_types"]) <= 31
    assert 2000 == sum(shown["error_types"].values())
    assert BARS / 2 <= shown["bars"] <= BARS
    assert {str(state): 2000 for state in states} == {
        state: sum(line) for state, line in shown["time_line"].items()
    }
    assert {shown["bars"]} == {len(line) for line in shown["time_line"].values()}
    assert 8000 == sum(row[name] for row in shown["hosts"] for name in states)
    assert 80_000 == sum(row["bytes"] for row in shown["hosts"])
    assert START_MS / 1000 == shown["begins_at"]
    assert max(len(row["error"]["message"]) for row in shown["failures"]) <= 500


def test_time_lines_of_hosts_keep_step_with_that_of_the_run():
    figures = RunFigures(RUN)
    for number in (0, 1, 2, 700, 5000):
        figures.add(outcome_of(number, host=f"host-{number % 2}"))
    lines = [counts.time_line(figures.bars) for counts in figures.hosts]
    added = [sum(bars) for bars in zip(*(line["succeeded"] for line in lines), strict=True)]
    assert figures.all.time_line(figures.bars)["succeeded"] == added
    assert [int(number / figures.bar_seconds) for number in (0, 700, 5000)] == [
        place for place, count in enumerate(added) if count
    ]


def test_a_short_run_has_narrow_bars():
    figures = RunFigures(RUN)
    for number in range(10):
        figures.add(outcome_of(number))
    shown = figures.as_json()
    assert (0.125, 73) == (shown["bar_seconds"], shown["bars"])


def test_an_outcome_counts_for_one_registry_that_its_failure_names_or_that_is_written_to():
    figures = RunFigures(RUN)
    figures.add(outcome_of(0))
    for number, host in enumerate(("src.test", "dst.test", "elsewhere"), 1):
        error = ErrorInfo(type="NotFoundError", message=f"{host} has no such blob")
        figures.add(outcome_of(number, ItemState.FAILED, error=error))
    counted = {row["name"]: (row["succeeded"], row["failed"]) for row in figures.as_json()["registries"]}
    assert {"dst.test": (1, 2), "src.test": (0, 1)} == counted


def test_a_clock_that_is_set_back_loses_no_outcome():
    figures = RunFigures(RUN)
    figures.add(outcome_of(1))
    figures.add(outcome_of(-5))
    assert 2 == sum(figures.as_json()["time_line"]["succeeded"])


def test_memory_does_not_grow_with_the_number_of_outcomes():
    """Names and messages differ in each: nothing is kept for all of them."""

    def peak(count: int) -> tuple[int, int]:
        tracemalloc.start()
        try:
            figures = RunFigures(RUN)
            for number in range(count):
                error = ErrorInfo(type=f"Type{number}Error", message=f"message {number} " * 50)
                result = {"reason": f"note {number}", "notes": [f"more {number}"] * 3}
                fields = {"error": error, "host": f"host-{number}", "result": result, "attempts": 1}
                figures.add(outcome_of(number, ItemState.FAILED, **fields))
            return tracemalloc.get_traced_memory()[1], len(json.dumps(figures.as_json()))
        finally:
            tracemalloc.stop()

    (small, small_document), (large, large_document) = peak(500), peak(2000)
    assert large < 1.2 * small
    assert large_document < 1.2 * small_document
