"""What a run says of its waits, on each ledger: for whom, why and until when."""

from __future__ import annotations

import math

import pytest

from stagefleet.runs.models import Callback, ItemState, Wait, WaitKind, WaitReason
from tests.contract.ledgers import LEASE_SECONDS, LedgerHarness, outcome_of

LIMITED = WaitReason(host="registry.example", text="429 Too Many Requests")
DOWN = WaitReason(host="mirror.example", text="503 Service Unavailable")


def waits_of(harness: LedgerHarness, run_id: str) -> list[tuple[WaitKind, WaitReason, int, int]]:
    """Waits with the seconds that are left, rounded."""
    found = harness.ledger.run(run_id)
    return [(wait.kind, wait.reason, round(wait.until - found.now_at), wait.count) for wait in found.waits]


def put_off(harness: LedgerHarness, seconds: float, reason: WaitReason | None) -> None:
    claim = harness.take()
    assert harness.ledger.finish(
        claim, outcome_of(claim, ItemState.FAILED), retry_after_seconds=seconds, reason=reason
    )


def test_items_that_wait_for_a_retry_are_counted_with_the_first_that_is_due_and_the_last_reason(
    harness: LedgerHarness,
):
    """R7: the ledger keeps for how many, for whom and until when a run waits, and once a run, not an item."""
    harness.staff(8)
    run_id = harness.submit(["a", "b", "c"])
    assert () == harness.ledger.run(run_id).waits
    put_off(harness, 40, DOWN)
    put_off(harness, 20, LIMITED)
    assert [(WaitKind.RETRY, LIMITED, 20, 2)] == waits_of(harness, run_id)
    harness.advance(21)
    harness.ledger.sweep()
    assert [(WaitKind.RETRY, LIMITED, 19, 1)] == waits_of(harness, run_id)
    assert [run_id] == [found.id for found in harness.ledger.runs() if found.waits]


def test_a_reason_that_nobody_gave_and_one_of_any_length_are_kept_too(harness: LedgerHarness):
    """R7: what the ledger keeps of a reason is bounded."""
    harness.staff(8)
    run_id = harness.submit(["a", "b"])
    put_off(harness, 20, None)
    assert [(WaitKind.RETRY, WaitReason(), 20, 1)] == waits_of(harness, run_id)
    put_off(harness, 20, WaitReason(host="h" * 10_000, text="\N{SNOWMAN}" * 10_000))
    ((_, kept, _, _),) = waits_of(harness, run_id)
    assert (200, 200) == (len(kept.host), len(kept.text))


@pytest.mark.parametrize("seconds", [1e303, math.inf, math.nan, 3601, 99999999999])
def test_no_ledger_lets_an_item_wait_for_longer_than_the_settings_say(harness: LedgerHarness, seconds: float):
    """R7: whatever a worker of one's own asks for, the ledger keeps a time that comes."""
    harness.staff(8)
    run_id = harness.submit(["a"])
    put_off(harness, seconds, LIMITED)
    assert [(WaitKind.RETRY, LIMITED, 3600, 1)] == waits_of(harness, run_id)
    harness.advance(3601)
    harness.ledger.sweep()
    assert harness.succeed(harness.take())


def test_what_is_due_waits_no_more(harness: LedgerHarness):
    """R7: an item that was handed back waits for nobody."""
    harness.staff(1)
    run_id = harness.submit(["a"])
    assert harness.ledger.hand_back(harness.take())
    assert () == harness.ledger.run(run_id).waits


def test_a_worker_that_waits_says_so_and_takes_it_back(harness: LedgerHarness):
    """R7: a pause inside a worker is seen as well, and no longer than it lasts."""
    harness.staff(8)
    run_id = harness.submit(["a", "b"])
    first, second = harness.take(), harness.take()
    harness.ledger.note_pause(first, 30, LIMITED)
    assert [(WaitKind.PAUSE, LIMITED, 30, 1)] == waits_of(harness, run_id)
    harness.ledger.note_pause(second, 0, LIMITED)
    assert [(WaitKind.PAUSE, LIMITED, 30, 1)] == waits_of(harness, run_id), "the note is another item's"
    harness.ledger.note_pause(first, 0, LIMITED)
    assert [] == waits_of(harness, run_id)
    harness.ledger.note_pause(second, 30, DOWN)
    harness.advance(31)
    assert [] == waits_of(harness, run_id)


def test_who_has_lost_its_item_says_nothing_more_of_it(harness: LedgerHarness):
    """R7: a note of a stale claim changes nothing."""
    harness.staff(8)
    run_id = harness.submit(["a"])
    claim = harness.take()
    harness.advance(LEASE_SECONDS + 1)
    harness.ledger.sweep()
    harness.ledger.note_pause(claim, 30, LIMITED)
    assert [] == waits_of(harness, run_id)


def test_outcomes_wait_for_a_receiver_that_is_away(harness: LedgerHarness):
    """R7, R10: a run whose receiver does not answer says for whom it waits and until when."""
    harness.staff(8)
    run_id = harness.submit(["a", "b", "c"], callback=Callback.WEBHOOK, callback_target="https://ci.example/")
    for _ in range(2):
        assert harness.succeed(harness.take())
    coordinator_claim = harness.ledger.callbacks.claim(run_id)
    assert coordinator_claim is not None
    assert harness.ledger.callbacks.pause(
        coordinator_claim, 50, WaitReason(host="ci.example", text="answered 503")
    )
    expected = WaitReason(host="ci.example", text="answered 503")
    assert [(WaitKind.CALLBACK, expected, 50, 2)] == waits_of(harness, run_id)
    harness.advance(51)
    harness.ledger.sweep()
    assert [] == waits_of(harness, run_id)


def test_the_end_of_the_last_lease_is_told(harness: LedgerHarness):
    """R14: whoever looks for workers sees whether somebody holds an item now."""
    harness.staff(8)
    run_id = harness.submit(["a", "b"])
    assert 0 == harness.ledger.run(run_id).leased_until
    claim = harness.take()
    harness.advance(10)
    other = harness.take()
    found = harness.ledger.run(run_id)
    assert LEASE_SECONDS == round(found.leased_until - found.now_at)
    assert harness.succeed(other)
    found = harness.ledger.run(run_id)
    assert LEASE_SECONDS - 10 == round(found.leased_until - found.now_at)
    assert harness.succeed(claim)
    assert 0 == harness.ledger.run(run_id).leased_until


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (LIMITED, "for registry.example (429 Too Many Requests)"),
        (WaitReason(host="registry.example"), "for registry.example"),
        (WaitReason(text="LockTimeoutError: others have it"), "(LockTimeoutError: others have it)"),
        (WaitReason(), "for another attempt"),
    ],
)
def test_a_reason_is_said_in_words(reason: WaitReason, text: str):
    """R7: whoever follows a run reads for whom it waits."""
    assert text == str(reason)
    assert text == str(Wait(WaitKind.RETRY, reason, 0).reason)
