"""Claims that Redis forgot, and claims whose answer was lost."""

from __future__ import annotations

import pytest

from stagefleet.runs.ledger import Claim, RenewalResult
from stagefleet.runs.models import ItemState, WaitReason
from tests.contract.ledgers import LedgerHarness, outcome_of


@pytest.fixture
def rivals(harness: LedgerHarness) -> tuple[Claim, Claim]:
    """Two claims of one item: Redis forgot the first, and gave its fence again."""
    run_id = harness.submit(["a"])
    kept = harness.snapshot()
    forgotten = harness.ledger.claim(run_id, 0, "host:1")
    harness.forget_since(kept)
    standing = harness.ledger.claim(run_id, 0, "host:2")
    assert forgotten is not None
    assert standing is not None
    return forgotten, standing


class TestAClaimThatRedisForgot:
    def test_it_is_lost_at_its_next_renewal(self, harness: LedgerHarness, rivals: tuple[Claim, Claim]):
        """R23: a worker whose claim was forgotten keeps no lease that another worker has."""
        assert [RenewalResult.LOST, RenewalResult.RUN] == harness.ledger.renew(rivals)

    def test_its_finish_changes_nothing(self, harness: LedgerHarness, rivals: tuple[Claim, Claim]):
        """R23: the work of the forgotten claim is not taken for that of the one that stands."""
        forgotten, standing = rivals
        assert not harness.ledger.finish(forgotten, outcome_of(forgotten, ItemState.FAILED))
        assert 1 == harness.ledger.run(standing.run_id).claimed

        assert harness.succeed(standing)
        assert (1, 0) == ((run := harness.ledger.run(standing.run_id)).succeeded, run.failed)

    def test_it_hands_nothing_back(self, harness: LedgerHarness, rivals: tuple[Claim, Claim]):
        """R23: the item stays with the worker whose claim stands."""
        forgotten, standing = rivals
        assert not harness.ledger.hand_back(forgotten)

        assert harness.ledger.hand_back(standing)

    def test_it_notes_no_pause(self, harness: LedgerHarness, rivals: tuple[Claim, Claim]):
        """R23: nobody is told that the run waits for a worker that has lost the item."""
        forgotten, standing = rivals
        harness.ledger.note_pause(forgotten, 30, WaitReason(text="slow"))
        assert () == harness.ledger.run(standing.run_id).waits

        harness.ledger.note_pause(standing, 30, WaitReason(text="slow"))
        assert 1 == len(harness.ledger.run(standing.run_id).waits)


class TestAClaimWhoseAnswerWasLost:
    def test_it_is_given_again_to_who_repeats_the_call(self, harness: LedgerHarness):
        """R39: the same nonce gets the same claim, with a whole lease and no attempt counted."""
        run_id = harness.submit(["a"])
        first = harness.ledger.claim(run_id, 0, "host:1", nonce="n")
        again = harness.ledger.claim(run_id, 0, "host:1", nonce="n")

        assert first is not None
        assert again is not None
        assert (first.token, 1) == (again.token, again.attempt)
        assert harness.succeed(again)

    def test_another_nonce_gets_nothing(self, harness: LedgerHarness):
        """R39: a second message about the item is no repetition, whoever got it."""
        run_id = harness.submit(["a"])
        assert harness.ledger.claim(run_id, 0, "host:1", nonce="n") is not None

        assert None is harness.ledger.claim(run_id, 0, "host:1", nonce="m")
        assert None is harness.ledger.claim(run_id, 0, "host:1")
