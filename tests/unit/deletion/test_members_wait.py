"""Members of indexes that the same run deletes: an index goes before what it has, or both stay."""

from __future__ import annotations

import threading
import time

import pytest

from stagefleet.attempt import Attempt, ItemLeaseRenewer
from stagefleet.errors import RegistryError, RegistryUnavailableError
from stagefleet.names import StageId
from stagefleet.records.models import CustomTag, RejectedStage
from stagefleet.runs.models import ItemState, RunSpec, RunState
from stagefleet.settings import RunSettings
from stagefleet.testing import MemoryLedger
from tasks.delete import delete_stage
from tasks.item import ItemExecutor
from tasks.records import delete_rejected_stage, delete_stage_custom_tag

SETTINGS = RunSettings(backoff_seconds=2, backoff_limit_seconds=60)


class Fleet:
    """A ledger in memory and one worker that deletes in the fake registry; messages are delivered by hand."""

    def __init__(self, fakes):
        self.fakes = fakes
        self.now = 1000.0
        self.ledger = MemoryLedger(SETTINGS, clock=lambda: self.now)
        self.renewer = ItemLeaseRenewer(self.ledger, SETTINGS)
        self.executor = ItemExecutor(self.ledger, self.renewer, SETTINGS, worker="w", sleep=lambda _: None)
        self.tried = []

    def submit(self, *items, **options):
        spec = RunSpec(
            operation="delete_stage",
            options={"repository": str(self.fakes.source), **options},
            max_attempts=2,
            parallel=1,
        )
        submission = self.ledger.open(spec)
        self.ledger.append(submission, [str(item) for item in items])
        self.ledger.start(submission)
        return submission.run_id

    def deliver(self, operation=delete_stage):
        """Let the worker carry out the oldest message."""
        message = self.ledger.broker.popleft()

        def tried(attempt):
            self.tried.append(attempt.item)
            return operation(self.fakes.stage_tasks.storages, attempt)

        self.executor.execute(tried, message.run_id, message.index)

    def work_off(self, operation=delete_stage):
        """Deliver whatever there is, as time goes by."""
        for _ in range(100):
            while self.ledger.broker:
                self.deliver(operation)
            self.now += 20
            self.ledger.sweep()
            if not self.ledger.broker:
                return

    def outcomes(self, run):
        return {out.item: out for out in self.ledger.outcomes(run, "", limit=100, block_seconds=0) or []}


@pytest.fixture
def fleet(fakes):
    fleet = Fleet(fakes)
    yield fleet
    fleet.renewer.close()


@pytest.fixture
def stored(fakes):
    return fakes.registries.stored(fakes.source)


@pytest.fixture
def push_member(fakes):
    def push(number):
        stage_id = fakes.stage(number)
        digest = fakes.registries.push(fakes.source, str(stage_id), layers=(f"own {number}".encode(),))
        return stage_id, digest

    return push


@pytest.fixture
def push_index(fakes):
    def push(number, *members):
        index = StageId(fakes.stage(number).digest)
        return index, fakes.registries.push_index(fakes.source, str(index), members)

    return push


def refuse(fakes, *digests):
    """Let the registry refuse to delete something."""

    def refuse(verb, name):
        if verb == "DELETE" and name in map(str, digests):
            raise RegistryError("immutable", method="DELETE", status=412)

    fakes.registries.on_request = refuse


def test_a_member_waits_until_the_index_that_has_it_is_gone(fakes, fleet, stored, push_member, push_index):
    """R25: a member goes after the index of its run that has it, outside the window, in one attempt each."""
    member, digest = push_member(1)
    index, top = push_index(9, digest)
    run = fleet.submit(member, index)
    fleet.deliver()
    assert ([str(member)], {digest, top}) == (fleet.tried, set(stored.manifests))
    assert 1 == fleet.ledger.run(run).waiting
    fleet.work_off()
    assert [str(member), str(index), str(member)] == fleet.tried
    assert ({}, {}) == (stored.tags, stored.manifests)
    assert {(ItemState.SUCCEEDED, 1)} == {(out.state, out.attempts) for out in fleet.outcomes(run).values()}


def test_a_member_stays_if_the_index_cannot_be_deleted(fakes, fleet, stored, push_member, push_index):
    """R25: where the index fails its member stays, whole and listed, and its error names the index."""
    member, digest = push_member(1)
    index, top = push_index(9, digest)
    other, _ = push_member(2)
    refuse(fakes, top)
    run = fleet.submit(member, index, other)
    fleet.work_off()
    assert ({str(member), str(index)}, {digest, top}) == (set(stored.tags), set(stored.manifests))
    outcomes = fleet.outcomes(run)
    states = {item: out.state for item, out in outcomes.items()}
    assert {str(member): "failed", str(index): "failed", str(other): "succeeded"} == states
    error = outcomes[str(member)].error
    assert ("IndexNotDeletedError", True, 1) == (
        error.type,
        f"{fakes.source}:{index}" in error.message,
        outcomes[str(member)].attempts,
    )
    assert RunState.FAILED is fleet.ledger.run(run).state


def test_a_member_stays_if_the_run_is_cancelled_before_the_index_is_gone(
    fakes, fleet, stored, push_member, push_index
):
    """R25: a cancelled run leaves an index with its member, and counts both as cancelled."""
    member, digest = push_member(1)
    index, top = push_index(9, digest)
    run = fleet.submit(member, index)
    fleet.deliver()
    fleet.ledger.cancel(run)
    fleet.work_off()
    found = fleet.ledger.run(run)
    assert (RunState.CANCELLED, 2, 0) == (found.state, found.cancelled, found.failed)
    assert {digest, top} == set(stored.manifests)


def test_a_member_that_is_under_way_when_the_run_is_cancelled_stays_too(
    fakes, fleet, stored, push_member, push_index
):
    """R25: also a member that a worker has at the moment of the cancel ends as cancelled."""
    member, digest = push_member(1)
    index, top = push_index(9, digest)
    run = fleet.submit(member, index)
    message = fleet.ledger.broker.popleft()

    def operation(attempt):
        fleet.ledger.cancel(run)
        return delete_stage(fakes.stage_tasks.storages, attempt)

    fleet.executor.execute(operation, message.run_id, message.index)
    found = fleet.ledger.run(run)
    assert (RunState.CANCELLED, 2, 0) == (found.state, found.cancelled, found.failed)
    assert {digest, top} == set(stored.manifests)


def test_a_member_waits_through_the_retries_of_the_index(fakes, fleet, stored, push_member, push_index):
    """R25: an index that is tried again is waited for, and that costs its member no attempt."""
    member, digest = push_member(1)
    index, top = push_index(9, digest)
    failures = [RegistryUnavailableError("a moment", method="DELETE", status=503)]

    def fail_once(verb, name):
        if verb == "DELETE" and name == str(top) and failures:
            raise failures.pop()

    fakes.registries.on_request = fail_once
    run = fleet.submit(member, index)
    fleet.work_off()
    assert {} == stored.tags
    attempts = {item: out.attempts for item, out in fleet.outcomes(run).items()}
    assert {str(member): 1, str(index): 2} == attempts


def test_members_wait_for_every_index_and_for_indexes_of_indexes(
    fakes, fleet, stored, push_member, push_index
):
    """R25: a member waits for each index that has it, and an inner index for the outer one."""
    member, digest = push_member(1)
    inner, inner_digest = push_index(7, digest)
    outer, _ = push_index(8, inner_digest)
    second, _ = push_index(9, digest)
    run = fleet.submit(member, inner, second, outer)
    fleet.work_off()
    assert ({}, {}) == (stored.tags, stored.manifests)
    order = [item for item, _ in sorted(fleet.outcomes(run).items(), key=lambda pair: int(pair[1].position))]
    assert order.index(str(outer)) < order.index(str(inner)) < order.index(str(member))
    assert order.index(str(second)) < order.index(str(member))
    assert {1} == {out.attempts for out in fleet.outcomes(run).values()}


def test_of_two_indexes_one_that_fails_keeps_the_member(fakes, fleet, stored, push_member, push_index):
    """R25: one index that stays is enough for its member to stay."""
    member, digest = push_member(1)
    first, _ = push_index(8, digest)
    second, top = push_index(9, digest, push_member(2)[1])
    refuse(fakes, top)
    run = fleet.submit(member, first, second)
    fleet.work_off()
    assert {str(member), str(second), str(fakes.stage(2))} == set(stored.tags)
    assert "failed" == fleet.outcomes(run)[str(member)].state


def test_an_index_that_came_back_after_its_deletion_keeps_its_member(
    fakes, fleet, stored, push_member, push_index
):
    """R25: an index that somebody pushes again after the run has deleted it is nobody's to break."""
    member, digest = push_member(1)
    index, top = push_index(9, digest)
    run = fleet.submit(index, member)
    fleet.deliver()
    fakes.registries.push(fakes.source, str(member), layers=(b"own 1",))
    fakes.registries.push_index(fakes.source, str(index), [digest])
    fleet.work_off()
    assert {str(index)} == set(stored.tags)
    assert {digest, top} == set(stored.manifests)
    assert {"succeeded"} == {out.state for out in fleet.outcomes(run).values()}


def test_an_index_that_goes_with_a_later_run_of_the_purge_is_not_waited_for(
    fakes, fleet, stored, push_member
):
    """R25: where the plan's later run deletes the index, the member is moved aside, and goes with it then."""
    member, digest = push_member(1)
    top = fakes.registries.push_index(fakes.source, "release", [digest])
    run = fleet.submit(member, also=["release"])
    fleet.work_off()
    assert ({"release": top}, {digest, top}) == (stored.tags, set(stored.manifests))
    assert "succeeded" == fleet.outcomes(run)[str(member)].state


def test_a_member_in_a_cache_is_moved_aside_and_not_waited_for(fakes, fleet, push_member, push_index):
    """R25: a cache may lack anything, but an index in it keeps its members until it goes itself."""
    cache = fakes.destination
    digest = fakes.registries.push(cache, str(fakes.stage(1)), layers=(b"own",))
    index = StageId(fakes.stage(9).digest)
    fakes.registries.push_index(cache, str(index), [digest])
    run = fleet.submit(fakes.stage(1), index, caches=[str(cache)])
    fleet.deliver()
    assert ({str(index)}, True) == (fakes.tags(cache), digest in fakes.registries.stored(cache).manifests)
    fleet.work_off()
    assert ({}, {}) == (fakes.registries.stored(cache).tags, fakes.registries.stored(cache).manifests)
    assert {"succeeded"} == {out.state for out in fleet.outcomes(run).values()}


def test_where_tags_go_alone_nothing_waits(fakes, fleet, stored, push_member, push_index):
    """R25: where a tag can be deleted alone, no index loses a member by that."""
    fakes.registries.deletes = "tag"
    member, digest = push_member(1)
    index, top = push_index(9, digest)
    run = fleet.submit(member, index)
    fleet.deliver()
    assert {str(index)} == set(stored.tags)
    assert {digest, top} <= set(stored.manifests)
    fleet.work_off()
    assert {"succeeded"} == {out.state for out in fleet.outcomes(run).values()}


def test_stages_of_one_digest_go_at_once_with_the_locks_of_all(fakes, fleet, stored):
    """R25: what goes along with a digest is not being copied meanwhile: its lock is taken too."""
    first, second = fakes.stage(1), fakes.stage(2)
    for stage_id in (first, second):
        fakes.registries.push(fakes.source, str(stage_id), layers=(b"shared",))
    held = []

    def note(verb, name):
        if verb == "DELETE" and name.startswith("sha256:") and name in map(str, stored.manifests):
            locks = fakes.stage_tasks.stage_locks._locks
            held.append({info.name.rpartition("/")[2] for info in locks.locks()})

    fakes.registries.on_request = note
    run = fleet.submit(first, second)
    fleet.work_off()
    assert {} == stored.tags
    assert {first.digest, second.digest} in held
    assert {"succeeded"} == {out.state for out in fleet.outcomes(run).values()}


def test_a_copy_under_way_does_not_lose_its_source(fakes, stored):
    """R25: a stage of the same digest that is being copied is waited for before the digest goes."""
    first, second = fakes.stage(1), fakes.stage(2)
    for stage_id in (first, second):
        fakes.registries.push(fakes.source, str(stage_id), layers=(b"shared",))
    stage_locks = fakes.stage_tasks.stage_locks
    deletion = threading.Thread(target=lambda: fakes.delete(first, [first, second]))
    with stage_locks.lock_for_copy(fakes.source, fakes.destination, second, Attempt("copy")):
        deletion.start()
        while not any(info.waiting for info in stage_locks._locks.locks()):
            assert deletion.is_alive()
            time.sleep(0.001)  # nothing else tells that somebody waits
        assert {str(first), str(second)} == set(stored.tags)
    deletion.join(30)
    assert {} == stored.tags


def test_what_went_along_with_a_digest_is_counted_as_cancelled_all_the_same(fakes, fleet, stored):
    """R25: the limit: a run that is cancelled counts what it had not begun, also what went with a sibling."""
    first, second = fakes.stage(1), fakes.stage(2)
    for stage_id in (first, second):
        fakes.registries.push(fakes.source, str(stage_id), layers=(b"shared",))
    run = fleet.submit(first, second)
    fleet.deliver()
    fleet.ledger.cancel(run)
    found = fleet.ledger.run(run)
    assert ({}, 1, 1) == (stored.tags, found.succeeded, found.cancelled)


def test_rejected_stages_wait_for_one_another_too(fakes, fleet, stored, push_member, push_index):
    """R25: so do the items of every other run that deletes stages."""
    member, digest = push_member(1)
    index, _ = push_index(9, digest)
    for stage_id in (member, index):
        fakes.stage_tasks.records.write(fakes.source, "app", RejectedStage(stage_id))
    run = fleet.submit(member, index)
    fleet.work_off(delete_rejected_stage)
    assert ({}, 1) == (stored.tags, fleet.outcomes(run)[str(member)].attempts)
    assert [str(member), str(index), str(member)] == fleet.tried
    assert [] == [name for verb, name in fakes.registries.writes if verb == "put" and name == str(member)]


def test_an_index_under_a_custom_tag_loses_no_member_to_another(fakes, fleet, stored):
    """R25: which custom tags a run takes, their records tell: a member's is moved aside and does not wait."""
    digest = fakes.registries.push(fakes.source, "one", layers=(b"own",))
    top = fakes.registries.push_index(fakes.source, "multi", [digest])
    for name, number in (("one", 1), ("multi", 2)):
        fakes.stage_tasks.records.write(fakes.source, "app", CustomTag(name, fakes.stage(number)))
    refuse(fakes, top)
    run = fleet.submit("one", "multi")
    fleet.work_off(delete_stage_custom_tag)
    assert {"one": "succeeded", "multi": "failed"} == {i: o.state for i, o in fleet.outcomes(run).items()}
    assert {digest, top} <= set(stored.manifests)
