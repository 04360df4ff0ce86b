"""What a run says of its waits, on each ledger: for whom, why and until when."""

from __future__ import annotations

import math

import pytest

from stagefleet.runs.model import Callback, ItemState
from stagefleet.runs.waits import Wait, WaitKind, WaitReason
from tests.contract.twins import LEASE_SECONDS, Twin, outcome_of

LIMITED = WaitReason(host="registry.example", text="429 Too Many Requests")
DOWN = WaitReason(host="mirror.example", text="503 Service Unavailable")


def waits_of(twin: Twin, run: str) -> list[tuple[WaitKind, WaitReason, int, int]]:
    """Waits with the seconds that are left, rounded."""
    found = twin.ledger.run(run)
    return [(wait.kind, wait.reason, round(wait.until - found.now_at), wait.count) for wait in found.waits]


def put_off(twin: Twin, seconds: float, reason: WaitReason | None) -> None:
    claim = twin.take()
    assert twin.ledger.finish(
        claim, outcome_of(claim, ItemState.FAILED), retry_after_seconds=seconds, reason=reason
    )


def test_items_that_wait_for_a_retry_are_counted_with_the_first_that_is_due_and_the_last_reason(twin: Twin):
    """R7: the ledger keeps for how many, for whom and until when a run waits, and once a run, not an item."""
    twin.staff(8)
    run = twin.submit(["a", "b", "c"])
    assert () == twin.ledger.run(run).waits
    put_off(twin, 40, DOWN)
    put_off(twin, 20, LIMITED)
    assert [(WaitKind.RETRY, LIMITED, 20, 2)] == waits_of(twin, run)
    twin.advance(21)
    twin.ledger.sweep()
    assert [(WaitKind.RETRY, LIMITED, 19, 1)] == waits_of(twin, run)
    assert [run] == [found.id for found in twin.ledger.runs() if found.waits]


def test_a_reason_that_nobody_gave_and_one_of_any_length_are_kept_too(twin: Twin):
    """R7: what the ledger keeps of a reason is bounded."""
    twin.staff(8)
    run = twin.submit(["a", "b"])
    put_off(twin, 20, None)
    assert [(WaitKind.RETRY, WaitReason(), 20, 1)] == waits_of(twin, run)
    put_off(twin, 20, WaitReason(host="h" * 10_000, text="\N{SNOWMAN}" * 10_000))
    ((_, kept, _, _),) = waits_of(twin, run)
    assert (200, 200) == (len(kept.host), len(kept.text))


@pytest.mark.parametrize("seconds", [1e303, math.inf, math.nan, 3601, 99999999999])
def test_no_ledger_lets_an_item_wait_for_longer_than_the_settings_say(twin: Twin, seconds: float):
    """R7: whatever a worker of one's own asks for, the ledger keeps a time that comes."""
    twin.staff(8)
    run = twin.submit(["a"])
    put_off(twin, seconds, LIMITED)
    assert [(WaitKind.RETRY, LIMITED, 3600, 1)] == waits_of(twin, run)
    twin.advance(3601)
    twin.ledger.sweep()
    assert twin.succeed(twin.take())


def test_what_is_due_waits_no_more(twin: Twin):
    """R7: an item that was handed back waits for nobody."""
    twin.staff(1)
    run = twin.submit(["a"])
    assert twin.ledger.hand_back(twin.take())
    assert () == twin.ledger.run(run).waits


def test_a_worker_that_waits_says_so_and_takes_it_back(twin: Twin):
    """R7: a pause inside a worker is seen as well, and no longer than it lasts."""
    twin.staff(8)
    run = twin.submit(["a", "b"])
    first, second = twin.take(), twin.take()
    twin.ledger.note_pause(first, 30, LIMITED)
    assert [(WaitKind.PAUSE, LIMITED, 30, 1)] == waits_of(twin, run)
    twin.ledger.note_pause(second, 0, LIMITED)
    assert [(WaitKind.PAUSE, LIMITED, 30, 1)] == waits_of(twin, run), "the note is another item's"
    twin.ledger.note_pause(first, 0, LIMITED)
    assert [] == waits_of(twin, run)
    twin.ledger.note_pause(second, 30, DOWN)
    twin.advance(31)
    assert [] == waits_of(twin, run)


def test_who_has_lost_its_item_says_nothing_more_of_it(twin: Twin):
    """R7: a note of a stale claim changes nothing."""
    twin.staff(8)
    run = twin.submit(["a"])
    claim = twin.take()
    twin.advance(LEASE_SECONDS + 1)
    twin.ledger.sweep()
    twin.ledger.note_pause(claim, 30, LIMITED)
    assert [] == waits_of(twin, run)


def test_outcomes_wait_for_a_receiver_that_is_away(twin: Twin):
    """R7, R10: a run whose receiver does not answer says for whom it waits and until when."""
    twin.staff(8)
    run = twin.submit(["a", "b", "c"], callback=Callback.WEBHOOK, callback_target="https://ci.example/")
    for _ in range(2):
        assert twin.succeed(twin.take())
    visit = twin.ledger.attend(run)
    assert visit is not None
    assert twin.ledger.pause(visit, 50, WaitReason(host="ci.example", text="answered 503"))
    expected = WaitReason(host="ci.example", text="answered 503")
    assert [(WaitKind.CALLBACK, expected, 50, 2)] == waits_of(twin, run)
    twin.advance(51)
    twin.ledger.sweep()
    assert [] == waits_of(twin, run)


def test_the_end_of_the_last_lease_is_told(twin: Twin):
    """R14: whoever looks for workers sees whether somebody holds an item now."""
    twin.staff(8)
    run = twin.submit(["a", "b"])
    assert 0 == twin.ledger.run(run).leased_until
    claim = twin.take()
    twin.advance(10)
    other = twin.take()
    found = twin.ledger.run(run)
    assert LEASE_SECONDS == round(found.leased_until - found.now_at)
    assert twin.succeed(other)
    found = twin.ledger.run(run)
    assert LEASE_SECONDS - 10 == round(found.leased_until - found.now_at)
    assert twin.succeed(claim)
    assert 0 == twin.ledger.run(run).leased_until


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
