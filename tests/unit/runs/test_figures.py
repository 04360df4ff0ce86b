"""Figures of a run: counted in one pass, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

from stagefleet.errors import LedgerRewoundError
from stagefleet.runs.figures import KEPT_FAILURES, KEPT_LATEST, KEPT_SLOWEST, RunFigures
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome

START_MS = 1_764_000_000_000


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
    figures = RunFigures()
    figures.read(stream.read, seconds=60)
    stream.outcomes.append(outcome_of(2500, ItemState.FAILED, error=ErrorInfo(type="X", message="m")))
    figures.read(stream.read, seconds=60)
    shown = figures.as_json()
    assert (2500, 1, 2501, True) == (
        shown["all"]["succeeded"],
        shown["all"]["failed"],
        shown["read"],
        shown["has_all"],
    )
    assert {"X": 1} == shown["error_types"]


def test_a_long_run_is_read_in_parts():
    stream = Stream([outcome_of(number) for number in range(5000)])
    figures = RunFigures()
    figures.read(stream.read, seconds=0)
    assert (1000, False) == (figures.as_json()["read"], figures.has_all)
    assert 1 == len(stream.reads)
    figures.read(stream.read, seconds=60)
    assert (5000, True) == (figures.as_json()["read"], figures.has_all)


def test_a_run_that_has_ended_is_not_read_again():
    stream = Stream([outcome_of(0)], ended=True)
    figures = RunFigures()
    for _ in range(3):
        figures.read(stream.read, seconds=60)
    read = len(stream.reads)
    figures.read(stream.read, seconds=60)
    assert read == len(stream.reads)


def test_what_the_ledger_has_forgotten_is_counted_from_its_first_outcome():
    stream = Stream([outcome_of(number) for number in range(10)])
    figures = RunFigures()
    figures.read(stream.read, seconds=60)
    stream.outcomes = stream.outcomes[:4]
    figures.read(stream.read, seconds=60)
    assert (4, True) == (figures.as_json()["read"], figures.has_all)


def test_lists_and_time_line_are_bounded_and_add_up():
    figures = RunFigures()
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
                error=error if number % 4 == 1 else None,
            )
        )
    shown = figures.as_json()
    assert KEPT_FAILURES == len(shown["failures"])
    assert KEPT_LATEST == len(shown["latest"])
    assert [976] * KEPT_SLOWEST == [row["seconds"] for row in shown["slowest"]][: KEPT_SLOWEST - 2] + [
        976
    ] * 2
    assert len(shown["hosts"]) <= 51
    assert len(shown["error_types"]) <= 51
    assert 2000 == sum(shown["error_types"].values())
    line = shown["time_line"]
    assert 50 <= len(line["bars"]) <= 100
    assert (2000, 2000, 2000, 2000, 80_000) == tuple(map(sum, zip(*line["bars"], strict=True)))
    assert 8000 == sum(row[name] for row in shown["hosts"] for name in states)
    assert START_MS / 1000 == line["begins_at"]
    assert max(len(row["error"]["message"]) for row in shown["failures"]) <= 500


def test_a_clock_that_is_set_back_loses_no_outcome():
    figures = RunFigures()
    figures.add(outcome_of(100))
    figures.add(outcome_of(0))
    assert [[2, 0, 0, 0, 0]] == figures.as_json()["time_line"]["bars"]
