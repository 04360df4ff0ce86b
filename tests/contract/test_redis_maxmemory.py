"""A Redis that is full: what is under way goes on, and can be stopped; nothing new begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stagefleet.errors import RedisUnreachableError
from stagefleet.runs.ledger import Renewal
from stagefleet.runs.model import Callback, ItemState, RunState
from stagefleet.runs.waits import WaitReason
from tests.contract.twins import LEASE_SECONDS, RedisBroker, Twin, outcome_of


@pytest.fixture(scope="module")
def server(service_folder: Callable[[str], Any]) -> Iterator[Any]:
    """A Redis whose configuration these tests change."""
    from tests.services import RedisServer  # noqa: PLC0415 - typed by its fixture elsewhere

    made = RedisServer(service_folder("redis")).start()
    yield made
    made.stop()


@pytest.fixture
def twin(server: Any) -> Iterator[Twin]:
    server.renew()
    made = Twin(RedisBroker(server.url))
    made.staff(4)
    yield made
    server.client().config_set("maxmemory", 0)
    made.close()


@pytest.fixture
def fill(server: Any, twin: Twin) -> Callable[[], None]:
    """Lets Redis be at its `maxmemory`, with its scripts forgotten, as after a restart."""

    def fill() -> None:
        client = server.client()
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        client.script_flush()
        with pytest.raises(RedisUnreachableError):
            twin.open()

    return fill


def test_a_lease_is_renewed(twin: Twin, fill: Callable[[], None]):
    """R19: nobody loses an item, or the work in it, because Redis is full."""
    twin.submit(["a"])
    claim = twin.take()
    fill()
    twin.advance(LEASE_SECONDS - 1)

    assert [Renewal.RUN] == twin.ledger.renew([claim])
    twin.advance(2)
    assert 0 == twin.ledger.sweep()


@pytest.mark.parametrize("state", [ItemState.SUCCEEDED, ItemState.FAILED])
def test_what_is_under_way_is_finished(twin: Twin, fill: Callable[[], None], state: ItemState):
    """R19: an outcome is written, and a run ends."""
    run = twin.submit(["a"])
    claim = twin.take()
    fill()

    assert twin.ledger.finish(claim, outcome_of(claim, state))
    assert twin.ledger.run(run).state.is_final


def test_a_retry_is_noted(twin: Twin, fill: Callable[[], None]):
    """R19: an attempt that failed waits for its next one."""
    run = twin.submit(["a"])
    claim = twin.take()
    fill()

    assert twin.fail(claim, retry_after_seconds=5)
    assert 1 == twin.ledger.run(run).waiting


def test_an_item_is_handed_back(twin: Twin, fill: Callable[[], None]):
    """R19: a worker that stops gives its items back."""
    run = twin.submit(["a"])
    claim = twin.take()
    fill()

    assert twin.ledger.hand_back(claim)
    assert 1 == twin.ledger.run(run).published


@pytest.mark.parametrize("now", [False, True])
def test_a_run_is_cancelled(twin: Twin, fill: Callable[[], None], now: bool):  # noqa: FBT001 - a case
    """R19: what a person would do about a full Redis first is not refused."""
    run = twin.submit(["a", "b"], parallel=1)
    claim = twin.take()
    fill()

    assert twin.ledger.cancel(run, now=now)
    assert [Renewal.CANCEL if now else Renewal.RUN] == twin.ledger.renew([claim])
    twin.ledger.hand_back(claim)
    assert RunState.CANCELLED is twin.ledger.run(run).state


def test_a_run_that_is_being_submitted_is_cancelled(twin: Twin, fill: Callable[[], None]):
    """R19: a client whose append is refused can take its run back."""
    submission = twin.open()
    twin.ledger.append(submission, ["a"])
    fill()

    assert twin.ledger.cancel(submission.run)
    assert RunState.CANCELLED is twin.ledger.run(submission.run).state


def test_outcomes_are_acknowledged(twin: Twin, fill: Callable[[], None]):
    """R19: callbacks go on, and a client keeps its lease."""
    run, _ = twin.watch(["a", "b"], parallel=1)
    twin.succeed(twin.take())
    fill()
    epoch = twin.ledger.coordinate(run)

    assert twin.ledger.acknowledge(run, epoch, [])
    assert twin.ledger.acknowledge(run, epoch, twin.outcomes(run) or [])
    assert 1 == twin.ledger.run(run).published


def test_a_detached_coordinator_goes_on(twin: Twin, fill: Callable[[], None]):
    """R19: so do the callbacks that the fleet makes."""
    run = twin.submit(["a"], callback=Callback.WEBHOOK, callback_target="http://receiver.example")
    twin.work_off()
    fill()
    visit = twin.ledger.attend(run)
    assert visit is not None
    assert twin.ledger.pause(visit, 1, WaitReason(text="503"))
    twin.advance(2)
    twin.ledger.sweep()
    visit = twin.ledger.attend(run)
    assert visit is not None
    assert twin.ledger.acknowledge(run, visit.epoch, twin.outcomes(run) or [])

    assert twin.ledger.conclude(visit)
    assert RunState.SUCCEEDED is twin.ledger.run(run).state


def test_the_reaper_sweeps(twin: Twin, fill: Callable[[], None]):
    """R19: the item of a lost worker comes back; a reaper is elected for it."""
    run = twin.submit(["a"])
    twin.take()
    fill()
    assert twin.ledger.lead("reaper", "one", seconds=6)
    assert twin.ledger.lead("reaper", "one", seconds=6)
    twin.advance(LEASE_SECONDS + 1)

    assert 1 == twin.ledger.sweep()
    assert 1 == twin.ledger.run(run).published


def test_workers_beat(twin: Twin, fill: Callable[[], None]):
    """R19: the fleet's workers do not vanish from sight, and with them its slots."""
    fill()
    twin.staff(3, name="host:2")

    assert {"host:1", "host:2"} == {worker.name for worker in twin.ledger.workers("copy")}


def test_nothing_new_is_claimed(twin: Twin, fill: Callable[[], None]):
    """R19: a claim is refused as long as Redis is full, and made afterwards; its item is not lost."""
    run = twin.submit(["a"])
    fill()
    with pytest.raises(RedisUnreachableError):
        twin.ledger.claim(run, 0, "host:1")
    assert isinstance(twin.broker, RedisBroker)
    twin.broker.client.config_set("maxmemory", 0)

    assert 1 == twin.work_off()
