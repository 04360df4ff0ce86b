from __future__ import annotations

import pytest

from stagefleet.runs.model import ErrorInfo, Order, Run, RunState
from stagefleet.runs.versions import WriterVersion, own_version

SOURCE, DESTINATION = "src.test/app", "dst.test/app"

pytestmark = pytest.mark.usefixtures("in_fleet")


def start(command):
    return command("copy", SOURCE, DESTINATION, "--detach").out.strip()


def test_runs_are_listed_the_newest_first(command):
    ids = [start(command), start(command)]
    listed = command("runs", "list", "--json").objects
    assert set(ids) == {run["run"] for run in listed}
    assert all(run_id in command("runs", "list").out for run_id in ids)


def test_show_tells_how_a_run_stands(command):
    run = start(command)
    (found,) = command("runs", "show", run, "--json").objects
    assert ("running", 5, 1) == (found["state"], found["total"], found["skipped"])
    told = command("runs", "show", run).out
    assert f"run {run} running: 5 stages (1 skipped, 4 to do)" in told
    assert "source src.test/app" in told
    assert not [sign for sign in ("None", "[") if sign in told]


def test_watch_shows_the_outcomes_and_exits_as_the_run_does(command, crew, make_stage):
    crew.failing = {make_stage(2)}
    result = command("runs", "watch", start(command), "--json")
    assert (1, 6) == (result.code, len(result.objects))


def test_cancel_tells_how_the_run_stands_then(command, crew):
    run = command("copy", SOURCE, DESTINATION, "--json").objects[-1]["run"]
    result = command("runs", "cancel", run)
    assert 0 == result.code
    assert "had ended already" in result.err


def test_cancel_stops_a_run(command):
    run = start(command)
    assert f"run {run} cancelled" in command("runs", "cancel", run, "--now").out


def test_retry_runs_what_failed_as_a_new_run(command, crew, make_stage):
    crew.failing = {make_stage(2)}
    failed = command("copy", SOURCE, DESTINATION, "--json").objects[-1]["run"]
    crew.failing = set()
    result = command("runs", "retry", failed, "--json")
    assert (0, 1) == (result.code, result.objects[-1]["succeeded"])
    assert failed != result.objects[-1]["run"]


def test_retry_of_a_success_says_so(command, crew):
    done = command("copy", SOURCE, DESTINATION, "--json").objects[-1]["run"]
    result = command("runs", "retry", done)
    assert 0 == result.code
    assert "nothing to retry" in result.err


@pytest.mark.parametrize("verb", ["show", "watch", "cancel", "retry"])
def test_an_unknown_run_is_wrong_use(command, verb):
    result = command("runs", verb, "nonsense")
    assert 2 == result.code
    assert "nonsense" in result.err


def test_a_run_that_cannot_be_read_hides_no_other_in_the_list(command, ledger, monkeypatch):
    """R28, O-A2: `runs list` names the version of what it cannot read, and lists the rest."""
    readable, odd = start(command), start(command)
    newer = WriterVersion("9.9.9", "9.0")
    unreadable = Run(
        id=odd,
        order=Order(operation="unreadable"),
        state=RunState.UNREADABLE,
        error=ErrorInfo.of(newer.refusal(f"run {odd}")),
        version=newer,
    )
    found = [unreadable if run.id == odd else run for run in ledger.runs()]
    monkeypatch.setattr(ledger, "runs", lambda: iter(found))

    told = command("runs", "list")

    assert 0 == told.code
    assert f"run {readable} running" in told.out
    assert f"run {odd} unreadable" in told.out
    assert str(newer) in told.out


def test_show_tells_the_version_that_started_a_run(command):
    """O-A2: `runs show` shows the version."""
    run = start(command)
    (found,) = command("runs", "show", run, "--json").objects
    assert str(own_version()) == found["version"]
    assert str(own_version()) in command("runs", "show", run).out
