from __future__ import annotations

import inspect

import pytest

from stagefleet import errors
from stagefleet.reports.advice import advice_for
from stagefleet.runs.models import ErrorInfo, ItemState, RunState
from tests.unit.reports.conftest import SECONDS

OF_ITEMS = sorted(
    name
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if name.endswith("Error") and name not in {"StagefleetError", "RemoteError"}
)


@pytest.mark.parametrize("name", OF_ITEMS)
def test_each_error_has_advice(name):
    assert advice_for("ValueError") != advice_for(name)


def test_an_error_without_advice_of_its_own_has_that_of_its_base():
    assert advice_for("BrokenStageError") == advice_for("MissingContentError")


def test_a_user_s_error_has_advice_that_fits_all():
    assert advice_for("getmembers") == advice_for("NoSuchError")


def test_failures_are_grouped_by_type_the_most_frequent_first(report_of, make_outcome):
    outcomes = [make_outcome(error=("NotFoundError", "gone")) for _ in range(2)]
    outcomes += [make_outcome(error=("RateLimitedError", f"no {n}")) for n in range(50)]
    first, second = report_of(outcomes).as_json()["failures"]
    assert ("RateLimitedError", 50, 20) == (first["type"], first["count"], len(first["examples"]))
    assert ("NotFoundError", 2, 2) == (second["type"], second["count"], len(second["examples"]))
    assert "--parallel" in first["advice"]
    assert {"type": "RateLimitedError", "message": "no 0"} == first["examples"][0]["error"]


def test_a_time_line_has_each_outcome_in_the_bar_of_its_time(report_of, make_outcome):
    outcomes = [make_outcome(at=0), make_outcome(at=SECONDS / 2), make_outcome(at=SECONDS - 1)]
    outcomes.append(make_outcome(error=("NotFoundError", "src.test has no such blob"), at=SECONDS - 1))
    document = report_of(outcomes).as_json()
    lines = {line["name"]: line["time_line"] for line in document["registries"]}
    assert {"dst.test:5000", "src.test"} == set(lines)
    bars = lines["dst.test:5000"]["succeeded"]
    at = (0, SECONDS / 2, SECONDS - 1)
    assert [int(seconds / document["bar_seconds"]) for seconds in at] == [
        number for number, count in enumerate(bars) if count
    ]
    assert (1, len(bars)) == (lines["src.test"]["failed"][-1], len(lines["src.test"]["failed"]))


def test_hosts_have_time_lines_of_their_own(report_of, make_outcome):
    outcomes = [make_outcome(host=host, bytes=5) for host in ("two", "one", "two")]
    hosts = report_of(outcomes).as_json()["hosts"]
    counts = [(host["name"], host["succeeded"], host["bytes"]) for host in hosts]
    assert [("one", 1, 5), ("two", 2, 10)] == counts


def test_outcomes_without_a_time_are_counted_all_the_same(report_of, make_outcome):
    outcome = make_outcome(host="one").model_copy(update={"position": "17"})
    (line,) = report_of([outcome]).as_json()["hosts"]
    assert (1, {}) == (line["succeeded"], line["time_line"])


def test_the_slowest_items_come_first(report_of, make_outcome):
    outcomes = [make_outcome(seconds=n / 10) for n in (5, 900, 3, 70, *range(100, 160))]
    slowest = [row["seconds"] for row in report_of(outcomes).as_json()["slowest"]]
    assert (90.0, 15.9, 20) == (slowest[0], slowest[1], len(slowest))
    assert sorted(slowest, reverse=True) == slowest


def test_durations_are_told_within_a_tenth(report_of, make_outcome):
    outcomes = [make_outcome(seconds=n / 10) for n in range(1, 1001)]
    durations = report_of(outcomes).as_json()["durations"]
    assert durations["median"] == pytest.approx(50, rel=0.1)
    assert durations["nine_of_ten"] == pytest.approx(90, rel=0.1)
    assert 100 == durations["longest"]


def test_what_was_decided_without_a_task_took_no_time(report_of, make_outcome):
    outcomes = [make_outcome(ItemState.SKIPPED, attempts=0, seconds=0.0) for _ in range(9)]
    document = report_of([*outcomes, make_outcome(seconds=8.0)]).as_json()
    assert (8.0, 1) == (document["durations"]["median"], len(document["slowest"]))


def test_retries_rates_and_notes_are_counted(report_of, make_outcome):
    outcomes = [make_outcome(attempts=3, bytes=4000), make_outcome(result={"notes": ["a layer is absent"]})]
    outcomes.append(make_outcome(ItemState.SKIPPED, result={"reason": "was not there"}))
    document = report_of(outcomes).as_json()
    assert (5, 1, 6000) == (document["attempts"], document["retried"], document["bytes"])
    assert (6000 / SECONDS, round(3 / SECONDS, 3)) == (
        document["bytes_per_second"],
        document["items_per_second"],
    )
    assert {"a layer is absent": 1, "was not there": 1} == document["notes"]


def test_a_run_that_is_not_finished_says_how_much_is_left(report_of, make_run, make_outcome):
    document = report_of([make_outcome()], make_run(RunState.RUNNING, total=10)).as_json()
    assert (False, 9, None) == (document["is_finished"], document["left"], document["finished_at"])


def test_the_error_of_a_run_comes_with_advice(report_of, make_run):
    error = ErrorInfo(type="CoordinatorLostError", message="gone")
    document = report_of([], make_run(RunState.CANCELLED, error=error)).as_json()
    assert document["error"]["advice"] == advice_for("CoordinatorLostError")


def test_runs_that_follow_in_a_chain_are_part_of_the_report(report_of, make_outcome):
    deletions = [make_outcome(ItemState.SUCCEEDED, item="old"), make_outcome(error=("NotFoundError", "gone"))]
    following = [(RunState.FAILED, deletions), (RunState.CANCELLED, [])]
    document = report_of([make_outcome()], following=following).as_json()
    assert [("run-2", "failed", 2), ("run-3", "cancelled", 0)] == [
        (run["run"], run["state"], run["total"]) for run in document["following"]
    ]
    assert [1, []] == [run["failures"] and run["failures"][0]["count"] for run in document["following"]]
    assert [] == report_of([make_outcome()]).as_json()["following"]
