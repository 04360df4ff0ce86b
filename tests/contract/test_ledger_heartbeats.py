"""What `HeartbeatLedger` promises, and the shares that it is for."""

from __future__ import annotations

from stagefleet.runs.models import ItemTransfer, WorkerInfo
from tests.contract.ledgers import LedgerHarness


class TestWorkers:
    def test_they_are_listed_by_queue(self, harness: LedgerHarness):
        harness.staff(4, "copy", "delete", name="host:1")
        harness.staff(2, "delete", name="host:2")

        assert ["host:1", "host:2"] == sorted(worker.name for worker in harness.ledger.heartbeats.workers())
        assert [WorkerInfo("host:1", 4, ("copy", "delete"))] == harness.ledger.heartbeats.workers("copy")
        assert [] == harness.ledger.heartbeats.workers("describe")

    def test_one_beat_replaces_the_one_before(self, harness: LedgerHarness):
        harness.staff(4, "copy")
        harness.staff(2, "delete")

        assert [WorkerInfo("host:1", 2, ("delete",))] == harness.ledger.heartbeats.workers()

    def test_a_beat_tells_what_the_worker_moves(self, harness: LedgerHarness):
        moving = (ItemTransfer("0a0a0a0a", 7, 3_000_000_000, 2**40), ItemTransfer("0b0b0b0b", 0, 0, 1))
        worker = WorkerInfo("host:1", 4, ("copy",), transfers=moving)
        harness.ledger.heartbeats.beat(worker, seconds=20)
        assert [worker] == harness.ledger.heartbeats.workers()
        harness.staff(4, "copy")
        assert [()] == [found.transfers for found in harness.ledger.heartbeats.workers()]

    def test_one_that_falls_silent_is_gone(self, harness: LedgerHarness):
        harness.staff(4, seconds=20)
        harness.advance(10)
        assert 1 == len(harness.ledger.heartbeats.workers())
        harness.advance(11)
        assert [] == harness.ledger.heartbeats.workers()

    def test_one_that_signs_off_is_gone_at_once(self, harness: LedgerHarness):
        harness.staff(4)
        harness.staff(4, seconds=0)

        assert [] == harness.ledger.heartbeats.workers()


class TestRoles:
    def test_one_holder_has_a_role_and_may_keep_it(self, harness: LedgerHarness):
        assert harness.ledger.heartbeats.lead("reaper", "host:1", seconds=1000)
        assert not harness.ledger.heartbeats.lead("reaper", "host:2", seconds=1000)
        assert harness.ledger.heartbeats.lead("reaper", "host:1", seconds=1000)

    def test_roles_do_not_know_of_each_other(self, harness: LedgerHarness):
        assert harness.ledger.heartbeats.lead("reaper", "host:1", seconds=1000)
        assert harness.ledger.heartbeats.lead("librarian", "host:2", seconds=1000)


class TestShares:
    ITEMS = tuple(f"i{number}" for number in range(20))

    def published(self, harness: LedgerHarness, run_id: str) -> int:
        return harness.ledger.run(run_id).published

    def test_without_workers_one_item_is_published(self, harness: LedgerHarness):
        run_id = harness.submit(self.ITEMS)

        assert 1 == self.published(harness, run_id)

    def test_a_long_run_publishes_as_much_as_the_live_slots(self, harness: LedgerHarness):
        harness.staff(2, name="host:1")
        harness.staff(1, name="host:2")

        assert 3 == self.published(harness, harness.submit(self.ITEMS))

    def test_other_queues_slots_and_runs_do_not_count(self, harness: LedgerHarness):
        harness.staff(1, "copy", name="host:1")
        harness.staff(8, "delete", name="host:2")
        harness.submit(self.ITEMS, operation="delete_stage")

        assert 1 == self.published(harness, harness.submit(self.ITEMS))

    def test_two_runs_of_a_queue_share_its_slots(self, harness: LedgerHarness):
        harness.staff(3)
        harness.submit(self.ITEMS)

        assert 2 == self.published(harness, harness.submit(self.ITEMS))

    def test_a_short_run_publishes_twice_its_share(self, harness: LedgerHarness):
        """So that its items come before most of a long run's, whose queue is short, too."""
        harness.staff(4)
        harness.submit(self.ITEMS)

        assert 4 == self.published(harness, harness.submit(self.ITEMS[:8]))
        assert 2 == self.published(harness, harness.submit(self.ITEMS[:9]))

    def test_an_odd_share_is_rounded_up(self, harness: LedgerHarness):
        harness.staff(1)
        harness.submit(self.ITEMS)
        harness.submit(self.ITEMS)

        assert 1 == self.published(harness, harness.submit(self.ITEMS))

    def test_a_large_run_lets_a_small_one_in_and_takes_its_share_back(self, harness: LedgerHarness):
        harness.staff(2)
        large = harness.submit(self.ITEMS)
        small = harness.submit(["a"])
        assert 2 == self.published(harness, large)
        assert 1 == self.published(harness, small)
        claims = [harness.take() for _ in range(2)]
        assert {large} == {claim.run_id for claim in claims}
        assert 1 == self.published(harness, large)
        harness.work_off()
        assert 0 == self.published(harness, small)

    def test_a_claim_makes_room_for_the_next(self, harness: LedgerHarness):
        harness.staff(1)
        run_id = harness.submit(self.ITEMS)
        for _ in range(5):
            harness.take()

        found = harness.ledger.run(run_id)
        assert (5, 1) == (found.claimed, found.published)

    def test_the_window_bounds_a_share(self, harness: LedgerHarness):
        harness.staff(10)
        run_id = harness.submit(self.ITEMS, parallel=4)
        harness.take()

        found = harness.ledger.run(run_id)
        assert (1, 3) == (found.claimed, found.published)

    def test_a_worker_that_signs_on_gets_work_at_once(self, harness: LedgerHarness):
        run_id = harness.submit(self.ITEMS)
        harness.staff(2)

        assert 2 == self.published(harness, run_id)

    def test_when_workers_leave_nothing_more_is_published_until_there_is_room(self, harness: LedgerHarness):
        harness.staff(4)
        run_id = harness.submit(self.ITEMS)
        harness.staff(4, seconds=0)
        harness.succeed(harness.take())
        assert 3 == self.published(harness, run_id)
        for _ in range(3):
            harness.succeed(harness.take())
        assert 1 == self.published(harness, run_id)

    def test_what_is_handed_back_keeps_within_the_share(self, harness: LedgerHarness):
        harness.staff(1)
        run_id = harness.submit(self.ITEMS, parallel=6)
        claims = [harness.take() for _ in range(4)]
        assert all(harness.ledger.hand_back(claim) for claim in claims)

        found = harness.ledger.run(run_id)
        assert (1, 4, 0) == (found.published, found.waiting, found.claimed)
        assert len(self.ITEMS) == harness.work_off()
