"""Messages that the broker lost, beside others that it delivers."""

from __future__ import annotations

from stagefleet.names import HOST_SEPARATOR
from stagefleet.runs.messages import host_queue
from tests.contract.ledgers import REPUBLISH_SECONDS, LedgerHarness


def lose_message_of(harness: LedgerHarness, run_id: str) -> None:
    """Take a run's messages out of the broker, and leave the others in their order."""
    kept = []
    while (message := harness.pop_message()) is not None:
        if message.run_id != run_id:
            kept.append(message)
    for message in kept:
        harness.push_message(message)


def keep_busy(harness: LedgerHarness, seconds: float) -> None:
    """Let another run be worked on, an item each second; the queue never gets empty."""
    for _ in range(round(seconds)):
        harness.advance(1)
        message = harness.pop_message()
        assert message is not None
        claim = harness.ledger.claim(message.run_id, message.index, "host:1")
        assert claim is not None
        harness.succeed(claim)


def test_the_tail_of_a_run_is_found_beside_a_busy_one(harness: LedgerHarness):
    """R13: the last message of a run, lost, does not wait until the queue is empty."""
    harness.staff(2)
    small = harness.submit(["s"])
    lose_message_of(harness, small)
    harness.advance(1)
    harness.submit([f"b{number}" for number in range(100)], parallel=8)
    keep_busy(harness, REPUBLISH_SECONDS + 1)
    harness.ledger.sweep()

    assert small in [message.run_id for message in harness.messages()]
    while small not in [message.run_id for message in harness.messages()[:1]]:
        harness.succeed(harness.take())
    harness.succeed(harness.take())
    assert harness.ledger.run(small).state.is_final


def test_the_item_of_a_host_is_found_beside_a_busy_run(harness: LedgerHarness):
    """R13: the same in the queue of a host."""
    harness.staff(2, host_queue("one"))
    small = harness.submit([f"s{HOST_SEPARATOR}one"])
    lose_message_of(harness, small)
    harness.advance(1)
    harness.submit([f"b{number}{HOST_SEPARATOR}one" for number in range(100)], parallel=4)
    keep_busy(harness, REPUBLISH_SECONDS + 1)
    harness.ledger.sweep()

    assert small in [message.run_id for message in harness.messages()]


def test_what_waits_behind_others_is_no_loss(harness: LedgerHarness):
    """R13: messages that were pushed after the newest one that was claimed are on their way."""
    harness.staff(2)
    harness.submit([f"b{number}" for number in range(20)], parallel=8)
    harness.take()
    harness.advance(1)
    late = harness.submit(["s"])
    harness.take()
    harness.advance(REPUBLISH_SECONDS + 1)
    harness.ledger.sweep()

    assert 1 == [message.run_id for message in harness.messages()].count(late)


def test_a_claim_in_one_queue_says_nothing_of_another(harness: LedgerHarness):
    """R13: queues do not overtake each other."""
    harness.staff(2, "copy", host_queue("one"))
    hosted = harness.submit([f"s{HOST_SEPARATOR}one"])
    harness.advance(1)
    harness.submit(["b"])
    claim = harness.ledger.claim(
        next(m.run_id for m in harness.messages() if m.run_id != hosted), 0, "host:1"
    )
    assert claim is not None
    harness.advance(REPUBLISH_SECONDS + 1)
    harness.ledger.sweep()

    assert 1 == [message.run_id for message in harness.messages()].count(hosted)
