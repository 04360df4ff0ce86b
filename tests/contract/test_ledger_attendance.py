"""What `Attendance` promises, and the shares that it is for."""

from __future__ import annotations

from stagefleet.runs.model import WorkerInfo
from tests.contract.twins import Twin


class TestWorkers:
    def test_they_are_listed_by_queue(self, twin: Twin):
        twin.staff(4, "copy", "delete", name="host:1")
        twin.staff(2, "delete", name="host:2")

        assert ["host:1", "host:2"] == sorted(worker.name for worker in twin.ledger.workers())
        assert [WorkerInfo("host:1", 4, ("copy", "delete"))] == twin.ledger.workers("copy")
        assert [] == twin.ledger.workers("describe")

    def test_one_beat_replaces_the_one_before(self, twin: Twin):
        twin.staff(4, "copy")
        twin.staff(2, "delete")

        assert [WorkerInfo("host:1", 2, ("delete",))] == twin.ledger.workers()

    def test_one_that_falls_silent_is_gone(self, twin: Twin):
        twin.staff(4, seconds=20)
        twin.advance(10)
        assert 1 == len(twin.ledger.workers())
        twin.advance(11)
        assert [] == twin.ledger.workers()

    def test_one_that_signs_off_is_gone_at_once(self, twin: Twin):
        twin.staff(4)
        twin.staff(4, seconds=0)

        assert [] == twin.ledger.workers()


class TestRoles:
    def test_one_holder_has_a_role_and_may_keep_it(self, twin: Twin):
        assert twin.ledger.lead("reaper", "host:1", seconds=1000)
        assert not twin.ledger.lead("reaper", "host:2", seconds=1000)
        assert twin.ledger.lead("reaper", "host:1", seconds=1000)

    def test_roles_do_not_know_of_each_other(self, twin: Twin):
        assert twin.ledger.lead("reaper", "host:1", seconds=1000)
        assert twin.ledger.lead("librarian", "host:2", seconds=1000)


class TestShares:
    ITEMS = tuple(f"i{number}" for number in range(20))

    def published(self, twin: Twin, run: str) -> int:
        return twin.ledger.run(run).published

    def test_without_workers_one_item_is_published(self, twin: Twin):
        run = twin.submit(self.ITEMS)

        assert 1 == self.published(twin, run)

    def test_a_run_publishes_twice_the_live_slots(self, twin: Twin):
        twin.staff(2, name="host:1")
        twin.staff(1, name="host:2")

        assert 6 == self.published(twin, twin.submit(self.ITEMS))

    def test_other_queues_slots_and_runs_do_not_count(self, twin: Twin):
        twin.staff(1, "copy", name="host:1")
        twin.staff(8, "delete", name="host:2")
        twin.submit(self.ITEMS, operation="delete_stage")

        assert 2 == self.published(twin, twin.submit(self.ITEMS))

    def test_two_runs_of_a_queue_share_its_slots(self, twin: Twin):
        twin.staff(3)
        twin.submit(self.ITEMS)

        assert 3 == self.published(twin, twin.submit(self.ITEMS))

    def test_an_odd_share_is_rounded_up(self, twin: Twin):
        twin.staff(1)
        twin.submit(self.ITEMS)
        twin.submit(self.ITEMS)

        assert 1 == self.published(twin, twin.submit(self.ITEMS))

    def test_a_large_run_lets_a_small_one_in_and_takes_its_share_back(self, twin: Twin):
        twin.staff(2)
        large = twin.submit(self.ITEMS)
        small = twin.submit(["a"])
        assert 4 == self.published(twin, large)
        assert 1 == self.published(twin, small)
        claims = [twin.take() for _ in range(2)]
        assert {large} == {claim.run for claim in claims}
        assert 2 == self.published(twin, large)
        twin.work_off()
        assert 0 == self.published(twin, small)

    def test_a_claim_makes_room_for_the_next(self, twin: Twin):
        twin.staff(1)
        run = twin.submit(self.ITEMS)
        for _ in range(5):
            twin.take()

        found = twin.ledger.run(run)
        assert (5, 2) == (found.claimed, found.published)

    def test_the_window_bounds_a_share(self, twin: Twin):
        twin.staff(10)
        run = twin.submit(self.ITEMS, parallel=4)
        twin.take()

        found = twin.ledger.run(run)
        assert (1, 3) == (found.claimed, found.published)

    def test_a_worker_that_signs_on_gets_work_at_once(self, twin: Twin):
        run = twin.submit(self.ITEMS)
        twin.staff(2)

        assert 4 == self.published(twin, run)

    def test_when_workers_leave_nothing_more_is_published_until_there_is_room(self, twin: Twin):
        twin.staff(2)
        run = twin.submit(self.ITEMS)
        twin.staff(2, seconds=0)
        twin.succeed(twin.take())
        assert 3 == self.published(twin, run)
        for _ in range(3):
            twin.succeed(twin.take())
        assert 1 == self.published(twin, run)

    def test_what_is_handed_back_keeps_within_the_share(self, twin: Twin):
        twin.staff(1)
        run = twin.submit(self.ITEMS, parallel=6)
        claims = [twin.take() for _ in range(4)]
        assert all(twin.ledger.hand_back(claim) for claim in claims)

        found = twin.ledger.run(run)
        assert (2, 4, 0) == (found.published, found.waiting, found.claimed)
        assert len(self.ITEMS) == twin.work_off()
