"""What only the ledger on Redis promises: memory, expiry, lost answers, and several clients at once."""

from __future__ import annotations

from typing import Any

import pytest

from stagefleet.errors import RunNotFoundError
from stagefleet.runs.models import ItemState, Outcome, RunState
from stagefleet.runs.redis_ledger import RedisLedger
from tests.contract.ledgers import SETTINGS, LedgerHarness, RedisBroker, outcome_of

MOST_BYTES_AN_ITEM = 1024
STAGES = [f"{number:056x}-{1_700_000_000_000 + number}" for number in range(2000)]


@pytest.fixture
def harness(broker: RedisBroker) -> LedgerHarness:
    return LedgerHarness(broker)


def memory_of(broker: RedisBroker) -> int:
    """Bytes that all keys of the ledger take."""
    keys = list(broker.client.scan_iter(f"{broker.prefix}*", count=1000))
    return sum(broker.client.memory_usage(key, samples=0) for key in keys)


def described(item: str) -> Outcome:
    """An outcome as a copied stage has it."""
    name = f"registry.example:5000/group/app:{item}"
    result = {
        "stage_id": item,
        "digest": item[:56],
        "created_ms": int(item[57:]),
        "name": name,
        "repo_digest": f"registry.example:5000/group/app@sha256:{item[:56]:0>64}",
        "image_id": f"sha256:{item[:56][::-1]:0>64}",
        "parent_id": "",
        "labels": {"werf": "app", "werf-stage-content-digest": item[:56]},
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "size": 16_777_216,
        "created_at": "2026-01-02T03:04:05+00:00",
    }
    return Outcome(item=item, state=ItemState.SUCCEEDED, result=result, seconds=0.25, bytes=1_048_576)


def test_a_run_takes_less_than_a_kibibyte_an_item_at_any_time(harness: LedgerHarness, broker: RedisBroker):
    harness.staff(8)
    submission = harness.open(parallel=32)
    for first in range(0, len(STAGES), 500):
        harness.ledger.append(submission, STAGES[first : first + 500])
    harness.ledger.start(submission)
    sizes = [memory_of(broker)]
    for number in range(len(STAGES)):
        claim = harness.take()
        harness.ledger.finish(claim, described(claim.item))
        if number % 500 == 0:
            sizes.append(memory_of(broker))
    sizes.append(memory_of(broker))

    assert RunState.SUCCEEDED is harness.ledger.run(submission.run_id).state
    assert max(sizes) < MOST_BYTES_AN_ITEM * len(STAGES)


def test_a_finished_run_leaves_its_outcomes_and_itself_and_both_expire(
    harness: LedgerHarness, broker: RedisBroker
):
    run_id = harness.submit([f"i{number}" for number in range(20)], parallel=4)
    harness.fail(harness.take(), retry_after_seconds=0)
    harness.ledger.sweep()
    harness.work_off()

    assert RunState.SUCCEEDED is harness.ledger.run(run_id).state
    left = sorted(broker.client.scan_iter(f"{broker.prefix}run:*"))
    assert [f"{broker.prefix}run:{run_id}".encode(), f"{broker.prefix}run:{run_id}:outcomes".encode()] == left
    assert all(broker.client.pttl(key) > 0 for key in left)


def test_what_a_run_left_is_not_nothing_because_it_expires_meanwhile(
    harness: LedgerHarness, broker: RedisBroker
):
    """R47: items that are gone with their run are no items that succeeded."""
    run_id = harness.submit([f"i{number}" for number in range(2500)])
    harness.ledger.cancel(run_id)
    left = harness.ledger.leftovers(run_id)
    assert [(0, "i0"), (1, "i1")] == [next(left), next(left)]

    broker.client.delete(*broker.client.scan_iter(f"{broker.prefix}run:{run_id}*"))

    with pytest.raises(RunNotFoundError):
        list(left)


def test_scripts_that_the_server_forgot_are_sent_again(harness: LedgerHarness, broker: RedisBroker):
    run_id = harness.submit(["a"])
    broker.client.script_flush()
    harness.work_off()

    assert RunState.SUCCEEDED is harness.ledger.run(run_id).state


def test_another_client_sees_the_same_and_is_fenced_the_same(harness: LedgerHarness, broker: RedisBroker):
    other = RedisLedger(broker.client, prefix=broker.prefix, settings=SETTINGS)
    run_id = harness.submit(["a"])
    claim = other.claim(run_id, 0, "host:2")
    assert claim is not None

    assert None is harness.ledger.claim(run_id, 0, "host:1")
    assert harness.succeed(claim)
    assert not other.finish(claim, outcome_of(claim, ItemState.FAILED))
    assert harness.ledger.run(run_id).succeeded == other.run(run_id).succeeded == 1


def test_ledgers_with_another_prefix_are_strangers(harness: LedgerHarness, broker: RedisBroker):
    stranger = RedisLedger(broker.client, prefix=f"{broker.prefix}other:", settings=SETTINGS)
    harness.submit(["a"], key="k", fingerprint="f")

    assert [] == list(stranger.runs())
    assert [] == stranger.heartbeats.workers()
    assert 0 == stranger.sweep()


@pytest.mark.parametrize("script", ["append", "claim"])
def test_a_step_whose_answer_was_lost_can_be_repeated(
    harness: LedgerHarness, script: str, monkeypatch: pytest.MonkeyPatch
):
    """The client sends a command again when its connection breaks: it may have been carried out already."""
    ledger = harness.ledger
    assert isinstance(ledger, RedisLedger)
    call = ledger.scripts.call

    def twice(name: str, *arguments: Any) -> Any:
        if name == script:
            call(name, *arguments)
        return call(name, *arguments)

    monkeypatch.setattr(ledger.scripts, "call", twice)
    run_id = harness.submit(["a", "b"], parallel=1)
    claim = harness.take()

    assert (2, 1) == ((found := ledger.run(run_id)).total, found.claimed)
    assert harness.succeed(claim)
    assert 1 == ledger.run(run_id).succeeded


def published(harness: LedgerHarness, run_id: str) -> int:
    return harness.ledger.run(run_id).published


def test_a_share_is_refilled_when_more_than_a_quarter_is_free(harness: LedgerHarness):
    harness.staff(16)
    run_id = harness.submit(STAGES[:100], parallel=64)
    found = [published(harness, run_id)]
    for _ in range(5):
        claim = harness.take()
        found.append(published(harness, run_id))
        harness.succeed(claim)
        assert found[-1] == published(harness, run_id)
    assert [16, 15, 14, 13, 12, 16] == found
    assert 95 == harness.work_off()
    assert RunState.SUCCEEDED is harness.ledger.run(run_id).state


def test_a_heartbeat_refills_a_share_at_once(harness: LedgerHarness):
    harness.staff(16)
    run_id = harness.submit(STAGES[:100], parallel=64)
    harness.take()
    assert 15 == published(harness, run_id)
    harness.staff(16)
    assert 16 == published(harness, run_id)


def test_a_share_that_has_become_smaller_is_not_refilled_beyond_it(harness: LedgerHarness):
    harness.staff(16)
    first = harness.submit(STAGES[:100], parallel=64)
    harness.submit(STAGES[:100], parallel=64)
    while published(harness, first) > 8:
        before = published(harness, first)
        harness.take()
        assert published(harness, first) <= before


def test_a_retry_that_is_due_is_published_without_a_sweep(harness: LedgerHarness):
    harness.staff(16)
    run_id = harness.submit(STAGES[:17], parallel=64)
    harness.fail(harness.take(), retry_after_seconds=5)
    harness.advance(6)
    assert 17 == harness.work_off()
    assert RunState.SUCCEEDED is harness.ledger.run(run_id).state


def test_the_spec_of_a_run_that_starts_early_is_one_that_older_releases_read(
    harness: LedgerHarness, broker: RedisBroker
):
    """Releases from before schema versions refuse a spec with a field that they do not know."""
    run_id = harness.open(starts_early=True).run_id
    order, early = broker.client.hmget(f"{broker.prefix}run:{run_id}", ["order", "early"])
    assert (False, b"1") == (b"early" in order, early)
