"""Redis that is away while a run is submitted and followed."""

from __future__ import annotations

import pytest

from stagefleet.errors import RedisUnreachableError
from stagefleet.runs import coordinator
from stagefleet.runs.models import RunState

SOURCE, DESTINATION = "src.test/app", "dst.test/app"
FULL = RedisUnreachableError("Redis at redis:6379 refuses for now (MISCONF disk full): make room on its disk")


@pytest.fixture
def lossy(ledger, monkeypatch):
    """Makes a step of the ledger lose its first answers: what was asked was done."""

    def lose(step: str, count: int = 2) -> None:
        call, losses = getattr(ledger, step), iter([FULL] * count)

        def lost(*arguments, **options):
            answer = call(*arguments, **options)
            for error in losses:
                raise error
            return answer

        monkeypatch.setattr(ledger, step, lost)

    return lose


@pytest.fixture
def away(ledger, monkeypatch):
    """Makes steps of the ledger fail from now on."""

    def fail(*steps: str) -> None:
        def refuse(*_, **__):
            raise FULL

        for step in steps:
            part = ledger if hasattr(ledger, step) else ledger.heartbeats
            monkeypatch.setattr(part, step, refuse)

    return fail


@pytest.fixture
def outage_seconds():
    """Longer than any outage here lasts, however slow the machine is."""
    return 60


@pytest.fixture
def settings(settings, outage_seconds):
    runs = settings.runs.model_copy(update={"outage_seconds": outage_seconds})
    return settings.model_copy(update={"runs": runs})


stays_away = pytest.mark.parametrize("outage_seconds", [0.3])


@pytest.mark.parametrize("step", ["append", "start"])
def test_an_outage_while_a_run_is_submitted_is_sat_out(fleet, fake_worker, lossy, step):
    """R8, R34: a command goes on after an outage in the midst of its submission, with each item once."""
    lossy(step)
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION)
    assert (RunState.SUCCEEDED, 5) == (run.state, run.total)


@pytest.mark.parametrize("on_outcome", [None, lambda _: None])
@pytest.mark.parametrize("step", ["run", "outcomes"])
def test_an_outage_while_a_run_is_followed_is_sat_out(fleet, fake_worker, lossy, on_outcome, step):
    """R8, R34: a command goes on after an outage in the midst of its run."""
    lossy(step)
    assert RunState.SUCCEEDED is fleet.for_each_copy_stage(SOURCE, DESTINATION, None, on_outcome).state


@stays_away
@pytest.mark.parametrize("on_outcome", [None, lambda _: None])
def test_a_redis_that_stays_away_ends_the_command_which_names_the_run(fleet, ledger, away, on_outcome):
    """W34: a command that dies of an outage leaves with 4, and names the run."""
    away("outcomes")
    with pytest.raises(RedisUnreachableError, match="MISCONF") as caught:
        fleet.for_each_copy_stage(SOURCE, DESTINATION, None, on_outcome)
    (run,) = ledger.runs()
    assert f"stagefleet runs show {run.id}" in str(caught.value)
    assert 4 == caught.value.exit_code


@stays_away
def test_a_detached_run_is_named_when_redis_goes_right_behind_its_start(fleet, ledger, away, monkeypatch):
    """W34: a run that was started is named also where it cannot be looked at any more."""
    start = ledger.start

    def start_and_go(submission):
        start(submission)
        away("run")

    monkeypatch.setattr(ledger, "start", start_and_go)
    with pytest.raises(RedisUnreachableError, match="stagefleet runs show"):
        fleet.for_each_copy_stage(SOURCE, DESTINATION, detach=True)


@stays_away
def test_a_redis_that_takes_no_writes_is_waited_for_and_no_worker_missed(
    fleet, ledger, away, notices, monkeypatch
):
    """W34: workers that cannot beat on a full disk are not missed: what is waited for is Redis."""
    monkeypatch.setattr(coordinator, "_BLOCK_SECONDS", 0.001)
    away("ping", "cancel")
    with pytest.raises(RedisUnreachableError, match="MISCONF") as caught:
        fleet.for_each_copy_stage(SOURCE, DESTINATION)
    (run,) = ledger.runs()
    assert f"stagefleet runs show {run.id}" in str(caught.value)
    assert [] == [notice for notice in notices if "worker" in notice]
    assert RunState.RUNNING is run.state


@pytest.mark.parametrize("step", ["open", "run_under"])
def test_a_run_that_is_not_opened_yet_is_not_waited_for(fleet, ledger, away, notices, step):
    """R8: before a run is there nothing is lost by an error: the command ends at once."""
    away(step)
    with pytest.raises(RedisUnreachableError, match="MISCONF"):
        fleet.for_each_copy_stage(SOURCE, DESTINATION, idempotency_key="job-7")
    assert ([], []) == (list(ledger.runs()), notices)
