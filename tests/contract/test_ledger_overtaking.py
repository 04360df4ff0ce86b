"""Messages that the broker lost, beside others that it delivers."""

from __future__ import annotations

from stagefleet.runs.dispatch import host_queue
from stagefleet.runs.model import HOST_SEPARATOR
from tests.contract.twins import REPUBLISH_SECONDS, Twin


def lose_message_of(twin: Twin, run: str) -> None:
    """Take a run's messages out of the broker, and leave the others in their order."""
    kept = []
    while (message := twin.pop_message()) is not None:
        if message.run != run:
            kept.append(message)
    for message in kept:
        twin.push_message(message)


def keep_busy(twin: Twin, seconds: float) -> None:
    """Let another run be worked on, an item each second; the queue never gets empty."""
    for _ in range(round(seconds)):
        twin.advance(1)
        message = twin.pop_message()
        assert message is not None
        claim = twin.ledger.claim(message.run, message.index, "host:1")
        assert claim is not None
        twin.succeed(claim)


def test_the_tail_of_a_run_is_found_beside_a_busy_one(twin: Twin):
    """R13: the last message of a run, lost, does not wait until the queue is empty."""
    twin.staff(2)
    small = twin.submit(["s"])
    lose_message_of(twin, small)
    twin.advance(1)
    twin.submit([f"b{number}" for number in range(100)], parallel=8)
    keep_busy(twin, REPUBLISH_SECONDS + 1)
    twin.ledger.sweep()

    assert small in [message.run for message in twin.messages()]
    while small not in [message.run for message in twin.messages()[:1]]:
        twin.succeed(twin.take())
    twin.succeed(twin.take())
    assert twin.ledger.run(small).state.is_final


def test_the_item_of_a_host_is_found_beside_a_busy_run(twin: Twin):
    """R13: the same in the queue of a host."""
    twin.staff(2, host_queue("one"))
    small = twin.submit([f"s{HOST_SEPARATOR}one"])
    lose_message_of(twin, small)
    twin.advance(1)
    twin.submit([f"b{number}{HOST_SEPARATOR}one" for number in range(100)], parallel=4)
    keep_busy(twin, REPUBLISH_SECONDS + 1)
    twin.ledger.sweep()

    assert small in [message.run for message in twin.messages()]


def test_what_waits_behind_others_is_no_loss(twin: Twin):
    """R13: messages that were pushed after the newest one that was claimed are on their way."""
    twin.staff(2)
    twin.submit([f"b{number}" for number in range(20)], parallel=8)
    twin.take()
    twin.advance(1)
    late = twin.submit(["s"])
    twin.take()
    twin.advance(REPUBLISH_SECONDS + 1)
    twin.ledger.sweep()

    assert 1 == [message.run for message in twin.messages()].count(late)


def test_a_claim_in_one_queue_says_nothing_of_another(twin: Twin):
    """R13: queues do not overtake each other."""
    twin.staff(2, "copy", host_queue("one"))
    hosted = twin.submit([f"s{HOST_SEPARATOR}one"])
    twin.advance(1)
    twin.submit(["b"])
    claim = twin.ledger.claim(next(m.run for m in twin.messages() if m.run != hosted), 0, "host:1")
    assert claim is not None
    twin.advance(REPUBLISH_SECONDS + 1)
    twin.ledger.sweep()

    assert 1 == [message.run for message in twin.messages()].count(hosted)
