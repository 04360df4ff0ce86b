"""Real worker processes: they work, die, come back, stop, and outlive their Redis."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from stagefleet.processes import isolated_command, worker_command
from stagefleet.runs.models import RunState
from tests.integration.workers.conftest import eventually
from tests.services.environment import stagefleet_command


def test_a_run_is_carried_out_by_all_processes(workers, fleet):
    workers.start()
    run, outcomes = fleet.follow(fleet.submit(40, seconds=0.05))
    assert ("succeeded", 40) == (run.state, run.succeeded)
    assert {f"item-{number}" for number in range(40)} == {outcome.item for outcome in outcomes}
    assert 2 == len({record["worker"] for record in workers.said("item_succeeded")})


def test_workers_are_visible_until_they_stop(workers, fleet):
    workers.start()
    eventually(lambda: len(fleet.ledger.heartbeats.workers("wait")) == 2, "heartbeats")
    found = fleet.ledger.heartbeats.workers()
    assert [4, 4] == [worker.slots for worker in found]
    assert set(workers.pids) == {int(worker.name.split("@")[0].split("-")[1]) for worker in found}
    workers.signal()
    assert 0 == workers.wait()
    assert [] == fleet.ledger.heartbeats.workers()


def test_a_killed_process_is_replaced_and_its_items_are_done_by_others(workers, fleet):
    workers.start()
    run = fleet.submit(12, parallel=8, seconds=0.5)
    eventually(lambda: fleet.ledger.run(run).claimed == 8, "all places are taken")
    victim = workers.pids[0]
    os.kill(victim, signal.SIGKILL)
    finished, outcomes = fleet.follow(run)
    assert ("succeeded", 12) == (finished.state, finished.succeeded)
    assert 12 == len({outcome.item for outcome in outcomes}) == len(outcomes)
    assert 2 == max(outcome.attempts for outcome in outcomes)
    eventually(lambda: len(workers.pids) == 2 and victim not in workers.pids, "the supervisor starts another")
    assert [victim] == [record["pid"] for record in workers.said("process_died")]


def test_a_first_signal_lets_what_is_held_finish(workers, fleet):
    workers.start()
    run = fleet.submit(20, parallel=8, seconds=1)
    eventually(lambda: fleet.ledger.run(run).claimed == 8, "all places are taken")
    workers.signal()
    assert 0 == workers.wait()
    stands = fleet.ledger.run(run)
    assert (8, 0) == (stands.succeeded, stands.claimed)
    assert "running" == stands.state
    workers.start()
    finished, outcomes = fleet.follow(run)
    assert ("succeeded", 20) == (finished.state, finished.succeeded)
    assert {1} == {outcome.attempts for outcome in outcomes}


def test_a_paused_run_rests_while_others_are_done_and_a_killed_worker_changes_nothing(workers, fleet):
    """What a dead worker had waits with the rest; no sweep and no end of a lease starts any of it."""
    workers.start()
    run_id = fleet.submit(40, seconds=0.4, parallel=40)
    eventually(lambda: fleet.ledger.run(run_id).succeeded, "a first item is done")
    fleet.ledger.set_paused(run_id, paused=True)
    os.kill(workers.pids[0], signal.SIGKILL)
    eventually(lambda: not fleet.ledger.run(run_id).claimed, "what was under way has ended")
    rested = fleet.ledger.run(run_id)
    assert fleet.follow(fleet.submit(20))[0].state is RunState.SUCCEEDED
    found = fleet.ledger.run(run_id)
    assert (RunState.PAUSED, 0, 0, rested.done) == (found.state, found.claimed, found.published, found.done)
    fleet.ledger.set_paused(run_id, paused=False)
    run, outcomes = fleet.follow(run_id)
    assert (RunState.SUCCEEDED, 40, 40) == (run.state, run.succeeded, len({done.item for done in outcomes}))


def test_what_takes_too_long_is_handed_back_without_counting_the_attempt(workers, fleet):
    workers.start(processes=1)
    run = fleet.submit(4, parallel=4, seconds=60)
    eventually(lambda: fleet.ledger.run(run).claimed == 4, "all are under way")
    workers.signal()
    assert 0 == workers.wait()
    assert 4 == len(workers.said("item_handed_back"))
    stands = fleet.ledger.run(run)
    assert (0, 4) == (stands.claimed, stands.published)


def test_what_hears_nothing_does_not_keep_a_worker_from_stopping(workers, fleet):
    workers.start(processes=1)
    run = fleet.submit(1, seconds=60, deaf=True)
    eventually(lambda: fleet.ledger.run(run).claimed == 1, "it is under way")
    workers.signal()
    assert 0 == workers.wait()
    assert workers.said("leaving_at_once")
    eventually(lambda: fleet.ledger.sweep() == 0 or fleet.ledger.run(run).published == 1, "its lease ends")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(workers, fleet, number):
    workers.start()
    run = fleet.submit(8, parallel=8, seconds=60)
    eventually(lambda: fleet.ledger.run(run).claimed == 8, "all places are taken")
    pids = workers.pids
    workers.signal(number)
    eventually(lambda: workers.said("stopping"), "the first signal is heard")
    workers.signal(number)
    assert 0 == workers.wait()
    assert [] == workers.said("item_handed_back")
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_no_process_outlives_its_supervisor(workers, fleet):
    workers.start()
    pids = workers.pids
    workers.signal(signal.SIGKILL)
    workers.wait()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the processes follow")


def test_doubled_messages_are_harmless(workers, fleet, redis_server):
    run = fleet.submit(10, parallel=10)
    client = redis_server.client()
    for message in client.lrange("stagefleet:mq:wait", 0, -1):
        client.lpush("stagefleet:mq:wait", message, message)
    workers.start(processes=1)
    finished, outcomes = fleet.follow(run)
    assert 10 == len(outcomes) == finished.succeeded
    eventually(lambda: client.llen("stagefleet:mq:wait") == 0, "the doubles are taken too")
    assert 10 == fleet.ledger.run(run).succeeded
    assert {1} == {outcome.attempts for outcome in outcomes}


def test_a_restart_of_redis_in_the_middle_loses_nothing(workers, fleet, redis_server):
    workers.start()
    pids = set(workers.pids)
    run = fleet.submit(60, parallel=8, seconds=0.3)
    eventually(lambda: fleet.ledger.run(run).succeeded >= 10, "a part is done")
    redis_server.restart()
    finished, outcomes = fleet.follow(run)
    assert ("succeeded", 60) == (finished.state, finished.succeeded)
    assert 60 == len({outcome.item for outcome in outcomes})
    assert pids == set(workers.pids), "no worker may die of it"


def test_a_users_own_packages_do_not_come_before_ours(redis_server, workers, fleet, tmp_path):
    for package in ("tasks", "config", "workers", "stagefleet"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('the wrong package')\n")
    workers.environment["PYTHONPATH"] = str(tmp_path)
    workers.start(worker_command("--processes", "1", "--queues", "describe"), cwd=tmp_path)
    found = eventually(fleet.ledger.heartbeats.workers, "it beats")
    assert [("describe",)] == [worker.queues for worker in found]
    workers.signal()
    assert 0 == workers.wait()


def test_wrong_settings_end_the_supervisor_with_one_line(tmp_path):
    environment = {"PATH": os.environ["PATH"], "STAGEFLEET_REDIS_URL": "gopher://nowhere"}
    done = subprocess.run(
        worker_command("--processes", "2"),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert 2 == done.returncode
    assert "gopher" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_health_check_tells_a_live_worker_from_none_and_from_an_outage(redis_server, workers, fleet):
    asking_redis = isolated_command("workers.health")

    def health(command: Sequence[str] = asking_redis) -> int:
        return subprocess.run(
            command, env=workers.environment, stdout=subprocess.DEVNULL, check=False, timeout=40
        ).returncode

    assert (1, 1) == (health(), health(stagefleet_command("health")))
    workers.start(processes=1)
    eventually(fleet.ledger.heartbeats.workers, "it beats")
    assert (0, 0) == (health(), health(stagefleet_command("health")))
    workers.environment["STAGEFLEET_REDIS_URL"] = "redis://127.0.0.1:1/0"
    assert 0 == health()
