"""Claims that Redis forgot, and claims whose answer was lost."""

from __future__ import annotations

import pytest

from stagefleet.runs.ledger import Renewal
from stagefleet.runs.model import Claim, ItemState
from stagefleet.runs.waits import WaitReason
from tests.contract.twins import Twin, outcome_of


@pytest.fixture
def rivals(twin: Twin) -> tuple[Claim, Claim]:
    """Two claims of one item: Redis forgot the first, and gave its fence again."""
    run = twin.submit(["a"])
    kept = twin.snapshot()
    forgotten = twin.ledger.claim(run, 0, "host:1")
    twin.forget_since(kept)
    standing = twin.ledger.claim(run, 0, "host:2")
    assert forgotten is not None
    assert standing is not None
    return forgotten, standing


class TestAClaimThatRedisForgot:
    def test_it_is_lost_at_its_next_renewal(self, twin: Twin, rivals: tuple[Claim, Claim]):
        """R23: a worker whose claim was forgotten keeps no lease that another worker has."""
        assert [Renewal.LOST, Renewal.RUN] == twin.ledger.renew(rivals)

    def test_its_finish_changes_nothing(self, twin: Twin, rivals: tuple[Claim, Claim]):
        """R23: the work of the forgotten claim is not taken for that of the one that stands."""
        forgotten, standing = rivals
        assert not twin.ledger.finish(forgotten, outcome_of(forgotten, ItemState.FAILED))
        assert 1 == twin.ledger.run(standing.run).claimed

        assert twin.succeed(standing)
        assert (1, 0) == ((run := twin.ledger.run(standing.run)).succeeded, run.failed)

    def test_it_hands_nothing_back(self, twin: Twin, rivals: tuple[Claim, Claim]):
        """R23: the item stays with the worker whose claim stands."""
        forgotten, standing = rivals
        assert not twin.ledger.hand_back(forgotten)

        assert twin.ledger.hand_back(standing)

    def test_it_notes_no_pause(self, twin: Twin, rivals: tuple[Claim, Claim]):
        """R23: nobody is told that the run waits for a worker that has lost the item."""
        forgotten, standing = rivals
        twin.ledger.note_pause(forgotten, 30, WaitReason(text="slow"))
        assert () == twin.ledger.run(standing.run).waits

        twin.ledger.note_pause(standing, 30, WaitReason(text="slow"))
        assert 1 == len(twin.ledger.run(standing.run).waits)


class TestAClaimWhoseAnswerWasLost:
    def test_it_is_given_again_to_who_repeats_the_call(self, twin: Twin):
        """R39: the same nonce gets the same claim, with a whole lease and no attempt counted."""
        run = twin.submit(["a"])
        first = twin.ledger.claim(run, 0, "host:1", nonce="n")
        again = twin.ledger.claim(run, 0, "host:1", nonce="n")

        assert first is not None
        assert again is not None
        assert (first.token, 1) == (again.token, again.attempt)
        assert twin.succeed(again)

    def test_another_nonce_gets_nothing(self, twin: Twin):
        """R39: a second message about the item is no repetition, whoever got it."""
        run = twin.submit(["a"])
        assert twin.ledger.claim(run, 0, "host:1", nonce="n") is not None

        assert None is twin.ledger.claim(run, 0, "host:1", nonce="m")
        assert None is twin.ledger.claim(run, 0, "host:1")
