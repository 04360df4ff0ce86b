"""A Redis that is full: what is under way goes on, and can be stopped; nothing new begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stagefleet.errors import RedisUnreachableError
from stagefleet.locks import RedisLocks
from stagefleet.redis_client import LastStep, put_off
from stagefleet.runs.ledger import RenewalResult
from stagefleet.runs.models import Callback, ItemState, RunState, WaitReason
from stagefleet.settings import LockSettings, SharedStateSettings
from stagefleet.shared_state.remembered_stages import RedisDescriptions
from tests.contract.ledgers import LEASE_SECONDS, LedgerHarness, RedisBroker, outcome_of
from tests.contract.test_descriptions import description_of


@pytest.fixture(scope="module")
def server(service_folder: Callable[[str], Any]) -> Iterator[Any]:
    """A Redis whose configuration these tests change."""
    from tests.services import RedisServer  # noqa: PLC0415 - typed by its fixture elsewhere

    made = RedisServer(service_folder("redis")).start()
    yield made
    made.stop()


@pytest.fixture
def harness(server: Any) -> Iterator[LedgerHarness]:
    server.renew()
    made = LedgerHarness(RedisBroker(server.url))
    made.staff(4)
    yield made
    server.client().config_set("maxmemory", 0)
    made.close()


@pytest.fixture
def fill(server: Any, harness: LedgerHarness) -> Callable[[], None]:
    """Lets Redis be at its `maxmemory`, with its scripts forgotten, as after a restart."""

    def fill() -> None:
        client = server.client()
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        client.script_flush()
        with pytest.raises(RedisUnreachableError):
            harness.open()

    return fill


def test_a_lease_is_renewed(harness: LedgerHarness, fill: Callable[[], None]):
    """R19: nobody loses an item, or the work in it, because Redis is full."""
    harness.submit(["a"])
    claim = harness.take()
    fill()
    harness.advance(LEASE_SECONDS - 1)

    assert [RenewalResult.RUN] == harness.ledger.renew([claim])
    harness.advance(2)
    assert 0 == harness.ledger.sweep()


@pytest.mark.parametrize("state", [ItemState.SUCCEEDED, ItemState.FAILED])
def test_what_is_under_way_is_finished(harness: LedgerHarness, fill: Callable[[], None], state: ItemState):
    """R19: an outcome is written, and a run ends."""
    run_id = harness.submit(["a"])
    claim = harness.take()
    fill()

    assert harness.ledger.finish(claim, outcome_of(claim, state))
    assert harness.ledger.run(run_id).state.is_final


def test_what_goes_along_with_an_outcome_is_changed(
    server: Any, harness: LedgerHarness, fill: Callable[[], None]
):
    """R19: a copied stage is described, and its locks are free."""
    client = server.client()
    descriptions = RedisDescriptions(client, prefix="t:", settings=SharedStateSettings())
    locks = RedisLocks(client, prefix="t:", settings=LockSettings())
    harness.submit(["a"])
    claim, step = harness.take(), LastStep()
    with locks.acquire_free({"stage": False}, last_step=step):
        put_off(step, descriptions.replacing("storage", description_of(1)))
    fill()

    assert harness.ledger.finish(claim, outcome_of(claim, ItemState.SUCCEEDED), last_step=step)
    step.close()

    assert [description_of(1)] == descriptions.find("storage", [description_of(1).stage_id])
    assert [] == locks.locks()
    locks.close()


def test_a_retry_is_noted(harness: LedgerHarness, fill: Callable[[], None]):
    """R19: an attempt that failed waits for its next one."""
    run_id = harness.submit(["a"])
    claim = harness.take()
    fill()

    assert harness.fail(claim, retry_after_seconds=5)
    assert 1 == harness.ledger.run(run_id).waiting


def test_an_item_is_handed_back(harness: LedgerHarness, fill: Callable[[], None]):
    """R19: a worker that stops gives its items back."""
    run_id = harness.submit(["a"])
    claim = harness.take()
    fill()

    assert harness.ledger.hand_back(claim)
    assert 1 == harness.ledger.run(run_id).published


@pytest.mark.parametrize("now", [False, True])
def test_a_run_is_cancelled(harness: LedgerHarness, fill: Callable[[], None], now: bool):  # noqa: FBT001 - a case
    """R19: what a person would do about a full Redis first is not refused."""
    run_id = harness.submit(["a", "b"], parallel=1)
    claim = harness.take()
    fill()

    assert harness.ledger.cancel(run_id, now=now)
    assert [RenewalResult.CANCEL if now else RenewalResult.RUN] == harness.ledger.renew([claim])
    harness.ledger.hand_back(claim)
    assert RunState.CANCELLED is harness.ledger.run(run_id).state


def test_a_run_that_is_being_submitted_is_cancelled(harness: LedgerHarness, fill: Callable[[], None]):
    """R19: a client whose append is refused can take its run back."""
    submission = harness.open()
    harness.ledger.append(submission, ["a"])
    fill()

    assert harness.ledger.cancel(submission.run_id)
    assert RunState.CANCELLED is harness.ledger.run(submission.run_id).state


def test_outcomes_are_acknowledged(harness: LedgerHarness, fill: Callable[[], None]):
    """R19: callbacks go on, and a client keeps its lease."""
    run_id, _ = harness.watch(["a", "b"], parallel=1)
    harness.succeed(harness.take())
    fill()
    epoch = harness.ledger.coordinate(run_id)

    assert harness.ledger.acknowledge(run_id, epoch, [])
    assert harness.ledger.acknowledge(run_id, epoch, harness.outcomes(run_id) or [])
    assert 1 == harness.ledger.run(run_id).published


def test_a_detached_coordinator_goes_on(harness: LedgerHarness, fill: Callable[[], None]):
    """R19: so do the callbacks that the fleet makes."""
    run_id = harness.submit(["a"], callback=Callback.WEBHOOK, callback_target="http://receiver.example")
    harness.work_off()
    fill()
    coordinator_claim = harness.ledger.callbacks.claim(run_id)
    assert coordinator_claim is not None
    assert harness.ledger.callbacks.pause(coordinator_claim, 1, WaitReason(text="503"))
    harness.advance(2)
    harness.ledger.sweep()
    coordinator_claim = harness.ledger.callbacks.claim(run_id)
    assert coordinator_claim is not None
    assert harness.ledger.acknowledge(run_id, coordinator_claim.epoch, harness.outcomes(run_id) or [])

    assert harness.ledger.callbacks.finish(coordinator_claim)
    assert RunState.SUCCEEDED is harness.ledger.run(run_id).state


def test_the_reaper_sweeps(harness: LedgerHarness, fill: Callable[[], None]):
    """R19: the item of a lost worker comes back; a reaper is elected for it."""
    run_id = harness.submit(["a"])
    harness.take()
    fill()
    assert harness.ledger.heartbeats.lead("reaper", "one", seconds=6)
    assert harness.ledger.heartbeats.lead("reaper", "one", seconds=6)
    harness.advance(LEASE_SECONDS + 1)

    assert 1 == harness.ledger.sweep()
    assert 1 == harness.ledger.run(run_id).published


def test_workers_beat(harness: LedgerHarness, fill: Callable[[], None]):
    """R19: the fleet's workers do not vanish from sight, and with them its slots."""
    fill()
    harness.staff(3, name="host:2")

    assert {"host:1", "host:2"} == {worker.name for worker in harness.ledger.heartbeats.workers("copy")}


def test_nothing_new_is_claimed(harness: LedgerHarness, fill: Callable[[], None]):
    """R19: a claim is refused as long as Redis is full, and made afterwards; its item is not lost."""
    run_id = harness.submit(["a"])
    fill()
    with pytest.raises(RedisUnreachableError):
        harness.ledger.claim(run_id, 0, "host:1")
    assert isinstance(harness.broker, RedisBroker)
    harness.broker.client.config_set("maxmemory", 0)

    assert 1 == harness.work_off()
