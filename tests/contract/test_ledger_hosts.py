"""Items that only one host can do."""

from __future__ import annotations

from stagefleet.names import HOST_SEPARATOR, split_host
from stagefleet.runs.ledger import RenewalResult
from stagefleet.runs.messages import host_queue
from stagefleet.runs.models import ItemState, RunState
from tests.contract.ledgers import SETTINGS, LedgerHarness

BOTH = [f"stage{HOST_SEPARATOR}one", f"stage{HOST_SEPARATOR}two"]
LOST_AFTER_SECONDS = 3 * SETTINGS.republish_seconds + 1


def test_an_item_for_a_host_is_claimed_with_its_host(harness: LedgerHarness):
    harness.staff(1, host_queue("one"), host_queue("two"))
    run_id = harness.submit(BOTH)

    claims = [harness.take(), harness.take()]

    assert {("stage", "one"), ("stage", "two")} == {(claim.item, claim.host) for claim in claims}
    for claim in claims:
        assert harness.succeed(claim)
    assert RunState.SUCCEEDED is harness.ledger.run(run_id).state


def test_a_slow_host_does_not_hold_up_the_others(harness: LedgerHarness):
    harness.staff(1, host_queue("one"), host_queue("two"))

    harness.submit([*[f"stage-{n}{HOST_SEPARATOR}one" for n in range(8)], BOTH[1]], parallel=9)

    assert 9 == len(harness.messages())


def test_what_waits_for_a_host_without_workers_fails_and_the_rest_goes_on(harness: LedgerHarness):
    harness.staff(1, host_queue("two"))
    run_id = harness.submit(BOTH)
    index = [split_host(item)[1] for item in BOTH].index("two")
    claim = harness.ledger.claim(run_id, index, "two:1")
    assert claim is not None
    for _ in range(4):
        harness.advance(LOST_AFTER_SECONDS / 4)
        assert [RenewalResult.RUN] == harness.ledger.renew([claim])
    harness.ledger.sweep()
    assert harness.succeed(claim)

    outcomes = {outcome.host: outcome for outcome in harness.outcomes(run_id) or []}
    assert {"one", "two"} == set(outcomes)
    assert ItemState.SUCCEEDED is outcomes["two"].state


def test_the_error_names_the_host_that_is_gone(harness: LedgerHarness):
    run_id = harness.submit(BOTH[:1])
    harness.advance(LOST_AFTER_SECONDS)
    assert 1 == harness.ledger.sweep()

    (outcome,) = harness.outcomes(run_id) or []
    assert ("stage", "one", ItemState.FAILED) == (outcome.item, outcome.host, outcome.state)
    assert outcome.error is not None
    assert "HostLostError" == outcome.error.type
    assert "host one" in outcome.error.message
    assert RunState.FAILED is harness.ledger.run(run_id).state
    assert BOTH[:1] == [item for _, item in harness.ledger.leftovers(run_id)]


def test_a_message_that_a_live_hosts_queue_lost_is_published_again(harness: LedgerHarness):
    harness.staff(1, host_queue("one"))
    harness.submit(BOTH[:1])
    harness.drop_messages()
    harness.advance(SETTINGS.republish_seconds + 1)

    assert 1 == harness.ledger.sweep()
    assert 1 == len(harness.messages())


def test_a_message_that_still_lies_in_its_hosts_queue_is_not_doubled(harness: LedgerHarness):
    harness.staff(1, host_queue("one"))
    harness.submit(BOTH[:1])
    harness.advance(SETTINGS.republish_seconds + 1)

    assert 0 == harness.ledger.sweep()
    assert 1 == len(harness.messages())
