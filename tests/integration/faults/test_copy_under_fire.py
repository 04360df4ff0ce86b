"""A copy ends as it should whatever dies in the middle: workers, their commands, Redis."""

import signal

import pytest

from tests.integration.faults.conftest import STAGES, eventually

PART = 30


@pytest.fixture
def copy(workers, start, source, destination):
    """A copy of all stages, of which a part is done."""
    command = start("copy", source[0], destination[0])
    command.read(PART)
    return command


@pytest.fixture
def check(source, destination, show):
    """Checks that a copy has copied every stage, and that the ledger counts them so."""

    def check(copy):
        assert 0 == copy.wait(), copy.errors
        *outcomes, summary = copy.objects
        assert source[1] == destination[1]()
        assert set(source[1]) == {outcome["item"] for outcome in outcomes}
        assert STAGES == len(outcomes)
        shown = show(summary["run"])
        counts = ("state", "total", "failed", "cancelled", "claimed", "published")
        assert ("succeeded", STAGES, 0, 0, 0, 0) == tuple(shown[name] for name in counts)
        # Who was killed between the manifest and the finish has copied it: the next attempt skips it.
        assert STAGES == shown["succeeded"] + shown["skipped"]
        assert shown["skipped"] <= sum(outcome["attempts"] > 1 for outcome in outcomes)
        return outcomes

    return check


def test_a_copy_survives_the_loss_of_a_worker_command_with_all_its_processes(copy, workers, check):
    workers.kill_command()
    assert max(outcome["attempts"] for outcome in check(copy)) <= 2


def test_a_copy_survives_the_loss_of_one_process(copy, workers, check):
    victim = workers.kill_one()
    assert max(outcome["attempts"] for outcome in check(copy)) <= 2
    eventually(lambda: victim not in workers.pids and len(workers.pids) == 2, "another takes its place")


def test_a_copy_survives_a_restart_of_redis(copy, workers, redis_server, check):
    pids = set(workers.pids)
    redis_server.restart()
    check(copy)
    assert pids == set(workers.pids), "no worker may die of it"


def test_an_interrupt_cancels_the_copy(copy, destination, show):
    copy.signal(signal.SIGINT)
    assert 3 == copy.wait()
    summary = copy.objects[-1]
    assert "cancelled" == summary["state"]
    assert STAGES == summary["succeeded"] + summary["cancelled"]
    assert summary["succeeded"] == len(destination[1]()) < STAGES
    shown = show(summary["run"])
    assert summary == {name: shown[name] for name in summary}
