"""A purge that goes on without its client: the fleet starts the run of each group."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import pytest

from stagefleet.errors import KeyConflictError, LedgerRewoundError
from stagefleet.fleet import chains
from stagefleet.fleet.callbacks import RemoteCallback
from stagefleet.names import Repository
from stagefleet.projects.purge_plan import PurgeGroup, PurgePlan
from stagefleet.runs.detached_coordinator import DetachedCoordinator
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, RunState, Submission
from stagefleet.setting_types import WebhookSettings

REPOSITORY, FINAL = Repository("src.test", "app"), Repository("dst.test", "app")
NAMES = ["stages", "custom-tags", "final-stages"]


@pytest.fixture
def plan(make_stage):
    groups = [
        PurgeGroup(name, address, items, "delete_stage", {"repository": str(address)}, items)
        for name, address, items in (
            ("stages", REPOSITORY, (make_stage(1), make_stage(2))),
            ("managed-images", REPOSITORY, ()),
            ("custom-tags", REPOSITORY, (make_stage(3),)),
            ("final-stages", FINAL, (make_stage(4),)),
        )
    ]
    return PurgePlan(tuple(groups), (), ())


class Workers:
    """Work off what the ledger publishes, items and coordinations, one message at a time."""

    def __init__(self, ledger):
        self.done, self.failing, self.ends = [], set(), []
        self._ledger = ledger
        self._coordinator = DetachedCoordinator(ledger, self.call, lambda *_: None, WebhookSettings())

    def call(self, call, _lease):
        self.ends.append(call.data["run"])

    def step(self):
        message = self._ledger.broker.popleft()
        if message.index < 0:
            self._coordinator.coordinate(message.run_id)
        elif claim := self._ledger.claim(message.run_id, message.index, "host:1"):
            self.done.append(claim.item)
            problem = ErrorInfo(type="ForbiddenError", message="no") if claim.item in self.failing else None
            state = ItemState.SUCCEEDED if problem is None else ItemState.FAILED
            self._ledger.finish(claim, Outcome(item=claim.item, state=state, error=problem))

    def work_off(self):
        while self._ledger.broker:
            self.step()


@pytest.fixture
def workers(ledger):
    return Workers(ledger)


@pytest.fixture
def project(fleet):
    return fleet.project(REPOSITORY)


def states(fleet, started):
    return [str(fleet.run(group.run.id).state) for group in started if group.run]


def ids(started):
    return [group.run.id for group in started if group.run]


def test_all_runs_are_written_at_once_and_start_one_after_the_other(fleet, project, plan, workers):
    started = project.start_purge(plan)
    assert ["stages", "managed-images", "custom-tags", "final-stages"] == [group.name for group in started]
    assert ["running", "submitting", "submitting"] == states(fleet, started)
    assert None is started[1].run
    workers.work_off()
    assert ["succeeded"] * 3 == states(fleet, started)
    assert [item for group in plan.groups for item in group.items] == workers.done


def test_a_failure_keeps_no_later_group_from_going(fleet, project, plan, workers, make_stage):
    workers.failing.add(make_stage(2))
    started = project.start_purge(plan)
    workers.work_off()
    assert ["failed", "succeeded", "succeeded"] == states(fleet, started)


@pytest.mark.parametrize("number", [0, 1])
def test_whoever_cancels_a_run_cancels_those_after_it(fleet, project, plan, workers, number):
    started = project.start_purge(plan)
    fleet.cancel(ids(started)[number])
    workers.work_off()
    assert ["succeeded"] * number + ["cancelled"] * (3 - number) == states(fleet, started)


def test_the_end_of_each_run_is_told(project, plan, workers):
    started = project.start_purge(plan, RemoteCallback(finish_url="https://ci.example/end"))
    workers.work_off()
    assert ids(started) == workers.ends


def test_a_coordinator_that_dies_starts_nothing_twice(fleet, ledger, project, plan, workers):
    started = project.start_purge(plan)
    ledger.broker.extend(list(ledger.broker) * 2)
    workers.work_off()
    assert len(workers.done) == len(set(workers.done)) == 4
    assert ["succeeded"] * 3 == states(fleet, started)


def test_who_waits_starts_the_next_run_where_no_coordinator_has(fleet, project, plan, fake_worker):
    started = project.start_purge(plan)
    assert [RunState.SUCCEEDED] * 3 == [fleet.wait(run).state for run in ids(started)]


def test_a_run_that_redis_has_forgotten_in_part_is_cancelled_with_those_after_it(
    fleet, ledger, project, plan, workers, monkeypatch
):
    started = project.start_purge(plan)
    second, start = ids(started)[1], ledger.start

    def start_whole(submission):
        if submission.run_id == second:
            raise LedgerRewoundError("items were forgotten")
        start(submission)

    monkeypatch.setattr(ledger, "start", start_whole)
    workers.work_off()
    assert ["succeeded", "cancelled", "cancelled"] == states(fleet, started)
    assert "LedgerRewoundError" == fleet.run(second).error.type


class TestKeys:
    def test_the_same_key_is_the_same_purge_while_it_goes_on(self, fleet, project, plan, workers):
        started = project.start_purge(plan, idempotency_key="job")
        workers.step()
        again = project.start_purge(plan, idempotency_key="job")
        assert ids(started) == ids(again) == ids(project.purge_under("job"))
        assert NAMES == [group.name for group in again]
        workers.work_off()
        assert 3 == len(list(fleet.runs()))

    def test_it_is_that_purge_when_it_has_succeeded(self, project, plan, workers, notices):
        started = project.start_purge(plan, idempotency_key="job")
        workers.work_off()
        assert [] == notices
        assert ids(started) == ids(project.start_purge(plan, idempotency_key="job"))
        assert ["nothing was done now"] == [line.partition(":")[0] for line in notices]

    def test_after_a_failure_it_is_another_one(self, fleet, project, plan, workers, make_stage):
        for number in range(2):
            workers.failing = {make_stage(4)}
            started = project.start_purge(plan, idempotency_key="job")
            assert 3 * (number + 1) == len(list(fleet.runs()))
            workers.work_off()
            assert None is project.purge_under("job")
        workers.failing.clear()
        again = project.start_purge(plan, idempotency_key="job")
        workers.work_off()
        assert ids(started) != ids(again) == ids(project.purge_under("job"))

    def test_it_outlives_a_purge_that_failed_before(
        self, fleet, ledger, project, plan, workers, make_stage, monkeypatch
    ):
        workers.failing = {make_stage(1)}
        project.start_purge(plan, idempotency_key="job")
        workers.work_off()
        started = project.start_purge(plan, idempotency_key="job")
        retention_seconds = fleet.settings.runs.retention_seconds
        monkeypatch.setattr(ledger._runs, "clock", lambda: time.time() + retention_seconds + 60)
        ledger.sweep()

        assert 3 == len(list(fleet.runs()))
        assert ids(started) == ids(project.purge_under("job"))

    def test_a_purge_of_which_redis_lost_a_run_is_no_success(self, fleet, ledger, project, plan, workers):
        started = project.start_purge(plan, idempotency_key="job")
        first, second, third = ids(started)
        for runs in (ledger._runs.records, ledger._runs.live):
            del runs[second]
        workers.work_off()

        assert (RunState.SUCCEEDED, None) == (fleet.run(first).state, project.purge_under("job"))
        assert first not in ids(project.start_purge(plan, idempotency_key="job"))
        assert third not in ids(project.purge_under("job"))

    def test_another_project_under_it_is_refused(self, fleet, project, plan):
        project.start_purge(plan, idempotency_key="job")
        with pytest.raises(KeyConflictError, match="other arguments"):
            fleet.project(FINAL).start_purge(plan, idempotency_key="job")

    def test_a_client_that_died_while_it_wrote_a_purge_is_waited_for_and_then_replaced(
        self, fleet, ledger, project, plan, workers, monkeypatch
    ):
        with monkeypatch.context() as broken:
            broken.setattr(ledger, "start", lambda _: (_ for _ in ()).throw(SystemExit))
            with pytest.raises(SystemExit):
                project.start_purge(plan, idempotency_key="job")
        clock = itertools.count(0, 10)
        waits = SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None)
        monkeypatch.setattr(chains, "time", waits)
        started = project.start_purge(plan, idempotency_key="job")
        workers.work_off()
        assert ["succeeded"] * 3 == states(fleet, started)
        assert {RunState.SUCCEEDED, RunState.CANCELLED} == {run.state for run in fleet.runs()}

    def test_runs_that_a_purge_begun_by_another_client_does_not_name_are_cancelled(
        self, fleet, ledger, project, plan, workers, monkeypatch
    ):
        """Both found nothing under the key; the other one was killed, and its run is completed."""
        with monkeypatch.context() as killed:
            killed.setattr(ledger, "start", lambda _: (_ for _ in ()).throw(SystemExit))
            killed.setattr(ledger, "cancel", lambda _: True)
            with pytest.raises(SystemExit):
                project.start_purge(plan, idempotency_key="job")
        monkeypatch.setattr(ledger, "run_under", lambda _: None)
        monkeypatch.setattr(ledger._runs, "clock", lambda: time.time() + 60)
        started = project.start_purge(plan, idempotency_key="job")
        workers.work_off()
        assert ["succeeded"] * 3 == states(fleet, started)
        assert ["cancelled"] * 2 + ["succeeded"] * 3 == sorted(str(run.state) for run in fleet.runs())

    def test_a_client_that_still_writes_a_purge_is_not_taken_for_dead(
        self, fleet, ledger, project, plan, workers, monkeypatch, make_stage
    ):
        held: list[Submission] = []
        seconds = itertools.count(0, 10)
        with monkeypatch.context() as writing:
            writing.setattr(ledger, "start", held.append)
            started = project.start_purge(plan, idempotency_key="job")

        def write_on(_seconds):
            if held[0].items < 10:
                ledger.append(held[0], [make_stage(10 + held[0].items)])
            else:
                ledger.start(held[0])

        waits = SimpleNamespace(monotonic=lambda: next(seconds), sleep=write_on)
        monkeypatch.setattr(chains, "time", waits)
        assert ids(started) == ids(project.start_purge(plan, idempotency_key="job"))
        workers.work_off()
        assert ["succeeded"] * 3 == states(fleet, started)


def test_a_retry_of_one_run_starts_no_other(fleet, project, plan, workers, make_stage):
    workers.failing.add(make_stage(2))
    started = project.start_purge(plan)
    workers.work_off()
    workers.failing.clear()
    again = fleet.retry(ids(started)[0], detach=True)
    fleet.cancel(again.id)
    workers.work_off()
    assert ["failed", "succeeded", "succeeded"] == states(fleet, started)
    assert ("", None) == (again.spec.group, again.spec.next)
