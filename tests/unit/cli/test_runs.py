from __future__ import annotations

from dataclasses import replace

import pytest

from stagefleet.runs.models import ErrorInfo, Run, RunSpec, RunState
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


def test_watch_shows_the_outcomes_and_exits_as_the_run_does(command, fake_worker, make_stage):
    fake_worker.failing = {make_stage(2)}
    result = command("runs", "watch", start(command), "--json")
    assert (1, 6) == (result.code, len(result.objects))


def test_cancel_tells_how_the_run_stands_then(command, fake_worker):
    run = command("copy", SOURCE, DESTINATION, "--json").objects[-1]["run"]
    result = command("runs", "cancel", run)
    assert 0 == result.code
    assert "had ended already" in result.err


def test_cancel_stops_a_run(command):
    run = start(command)
    assert f"run {run} cancelled" in command("runs", "cancel", run, "--now").out


def test_a_paused_run_is_shown_as_such_until_it_is_resumed(command):
    run = start(command)
    paused = command("runs", "pause", run)
    assert 0 == paused.code
    assert paused.out.startswith(f"run {run} paused: 5 stages (1 skipped, 4 to do)")
    assert "paused" == command("runs", "show", run, "--json").objects[0]["state"]
    assert f"run {run} paused" in command("runs", "list").out
    assert "was paused already" in command("runs", "pause", run).err
    assert f"run {run} running" in command("runs", "resume", run).out
    again = command("runs", "resume", run)
    assert (0, True) == (again.code, "was not paused" in again.err)


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_what_has_ended_is_neither_paused_nor_resumed(command, fake_worker, verb):
    run = command("copy", SOURCE, DESTINATION, "--json").objects[-1]["run"]
    result = command("runs", verb, run)
    assert 2 == result.code
    assert f"run {run} has ended: it is succeeded, so it can be neither paused nor resumed" in result.err
    assert 1 == len(result.err.strip().splitlines())


def test_retry_runs_what_failed_as_a_new_run(command, fake_worker, make_stage):
    fake_worker.failing = {make_stage(2)}
    failed = command("copy", SOURCE, DESTINATION, "--json").objects[-1]["run"]
    fake_worker.failing = set()
    result = command("runs", "retry", failed, "--json")
    assert (0, 1) == (result.code, result.objects[-1]["succeeded"])
    assert failed != result.objects[-1]["run"]


def test_retry_of_a_success_says_so(command, fake_worker):
    done = command("copy", SOURCE, DESTINATION, "--json").objects[-1]["run"]
    result = command("runs", "retry", done)
    assert 0 == result.code
    assert "nothing to retry" in result.err


@pytest.mark.parametrize("verb", ["show", "watch", "cancel", "pause", "resume", "retry"])
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
        spec=RunSpec(operation="unreadable"),
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


@pytest.fixture
def failed_run(command, fake_worker, make_stage):
    """A run of four stages, two of which failed."""
    fake_worker.failing = {make_stage(2), make_stage(3)}
    return command("copy", SOURCE, DESTINATION, "--json").objects[-1]["run"]


class TestFailures:
    def test_show_names_the_failed_items_and_why(self, command, failed_run, make_stage):
        """O-A4: `runs show` says which items failed and with which reason."""
        told = command("runs", "show", failed_run).out
        for stage in (make_stage(2), make_stage(3)):
            assert any(f"{stage} failed: " in line for line in told.splitlines())
        (found,) = command("runs", "show", failed_run, "--json").objects
        assert {str(make_stage(2)), str(make_stage(3))} == {row["item"] for row in found["failures"]}

    def test_their_ids_alone_fit_for_from_file(self, command, failed_run, make_stage, fake_worker, tmp_path):
        listed = command("runs", "show", failed_run, "--failed")
        assert {str(make_stage(2)), str(make_stage(3))} == set(listed.out.split())
        fake_worker.failing = set()
        (tmp_path / "ids").write_text(listed.out)
        again = command("copy", SOURCE, DESTINATION, "--from-file", tmp_path / "ids", "--json")
        assert 2 == again.objects[-1]["succeeded"]

    def test_many_are_counted(self, command, failed_run, monkeypatch):
        monkeypatch.setattr("stagefleet.cli.commands.runs._FAILURES_SHOWN", 1)
        assert "and 1 more that failed" in command("runs", "show", failed_run).out

    def test_a_run_without_any_shows_none(self, command, fake_worker):
        run = command("copy", SOURCE, DESTINATION, "--json").objects[-1]["run"]
        assert "" == command("runs", "show", run, "--failed").out


def test_the_list_says_from_where_to_where(command):
    """O-A4: a run is known by its repositories."""
    start(command)
    assert f"{SOURCE} -> {DESTINATION}" in command("runs", "list").out


@pytest.mark.parametrize("verb", ["show", "watch", "cancel"])
def test_the_beginning_of_an_id_will_do(command, fake_worker, verb):
    run = command("copy", SOURCE, DESTINATION, "--json").objects[-1]["run"]
    assert run in command("runs", verb, run[:6]).out


@pytest.mark.parametrize(("count", "told"), [(2, "…0, …1: write"), (9, "…0, …1, …2 or another: write")])
def test_a_beginning_of_several_is_refused(command, monkeypatch, ledger, count, told):
    run = start(command)
    several = [replace(ledger.run(run), id=f"{run[:4]}{number}") for number in range(count)]
    monkeypatch.setattr(ledger, "runs", lambda *, beginning: iter(several if beginning else ()))
    refused = command("runs", "show", run[:4])
    assert (2, True) == (refused.code, told.replace("…", run[:4]) in refused.err)
    monkeypatch.undo()


@pytest.mark.parametrize("text", ["zzzz", "*", "[a-f]", ""])
def test_what_begins_no_run_is_no_run(command, text):
    start(command)
    refused = command("runs", "show", text)
    assert (2, True) == (refused.code, "there is no run" in refused.err)
