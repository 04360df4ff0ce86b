"""Items that only one host can do."""

from __future__ import annotations

from stagefleet.runs.dispatch import host_queue
from stagefleet.runs.ledger import Renewal
from stagefleet.runs.model import HOST_SEPARATOR, ItemState, RunState, split_host
from tests.contract.twins import SETTINGS, Twin

BOTH = [f"stage{HOST_SEPARATOR}one", f"stage{HOST_SEPARATOR}two"]
PATIENCE_SECONDS = 3 * SETTINGS.republish_seconds + 1


def test_an_item_for_a_host_is_claimed_with_its_host(twin: Twin):
    twin.staff(1, host_queue("one"), host_queue("two"))
    run = twin.submit(BOTH)

    claims = [twin.take(), twin.take()]

    assert {("stage", "one"), ("stage", "two")} == {(claim.item, claim.host) for claim in claims}
    for claim in claims:
        assert twin.succeed(claim)
    assert RunState.SUCCEEDED is twin.ledger.run(run).state


def test_a_slow_host_does_not_hold_up_the_others(twin: Twin):
    twin.staff(1, host_queue("one"), host_queue("two"))

    twin.submit([*[f"stage-{n}{HOST_SEPARATOR}one" for n in range(8)], BOTH[1]], parallel=9)

    assert 9 == len(twin.messages())


def test_what_waits_for_a_host_without_workers_fails_and_the_rest_goes_on(twin: Twin):
    twin.staff(1, host_queue("two"))
    run = twin.submit(BOTH)
    index = [split_host(item)[1] for item in BOTH].index("two")
    claim = twin.ledger.claim(run, index, "two:1")
    assert claim is not None
    for _ in range(4):
        twin.advance(PATIENCE_SECONDS / 4)
        assert [Renewal.RUN] == twin.ledger.renew([claim])
    twin.ledger.sweep()
    assert twin.succeed(claim)

    outcomes = {outcome.host: outcome for outcome in twin.outcomes(run) or []}
    assert {"one", "two"} == set(outcomes)
    assert ItemState.SUCCEEDED is outcomes["two"].state


def test_the_error_names_the_host_that_is_gone(twin: Twin):
    run = twin.submit(BOTH[:1])
    twin.advance(PATIENCE_SECONDS)
    assert 1 == twin.ledger.sweep()

    (outcome,) = twin.outcomes(run) or []
    assert ("stage", "one", ItemState.FAILED) == (outcome.item, outcome.host, outcome.state)
    assert outcome.error is not None
    assert "HostGoneError" == outcome.error.type
    assert "host one" in outcome.error.message
    assert RunState.FAILED is twin.ledger.run(run).state
    assert BOTH[:1] == list(twin.ledger.leftovers(run))


def test_a_message_that_a_live_hosts_queue_lost_is_published_again(twin: Twin):
    twin.staff(1, host_queue("one"))
    twin.submit(BOTH[:1])
    twin.drop_messages()
    twin.advance(SETTINGS.republish_seconds + 1)

    assert 1 == twin.ledger.sweep()
    assert 1 == len(twin.messages())


def test_a_message_that_still_lies_in_its_hosts_queue_is_not_doubled(twin: Twin):
    twin.staff(1, host_queue("one"))
    twin.submit(BOTH[:1])
    twin.advance(SETTINGS.republish_seconds + 1)

    assert 0 == twin.ledger.sweep()
    assert 1 == len(twin.messages())
