"""A deletion that ends half way leaves the stage visible or gone, and what a killed one leaves is seen to."""

from __future__ import annotations

import pytest

from stagefleet import fleet_registries as rejections
from stagefleet.attempt import Attempt, ItemResult
from stagefleet.deletion import tag_deletion as unfinished_deletions
from stagefleet.errors import (
    ForbiddenError,
    ItemCancelledError,
    LeaseLostError,
    LockLostError,
    NotFoundError,
    RedisUnreachableError,
    RegistryError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    SharedDigestError,
    StageNotFoundError,
)
from stagefleet.fleet_registries import Registries
from stagefleet.images import Platform
from stagefleet.leases import NO_LEASE, under_lease
from stagefleet.locks import MemoryLocks
from stagefleet.locks.stage_locks import StageLocks
from stagefleet.manifests import Manifest
from stagefleet.names import StageId
from stagefleet.project_addresses import Project
from stagefleet.records.image import RecordImage, is_placeholder, make_placeholder, make_rejection, put_record
from stagefleet.records.models import CustomTag, RejectedStage
from stagefleet.shared_state.implementations import MemorySharedState
from stagefleet.storages.index_publication import IndexPublication
from tests.stage_tasks import StageTasks

SHARED = (b"shared",)
REFUSALS = [
    ForbiddenError("denied", status=403),
    RegistryError("412 (immutable)", status=412),
    RegistryUnavailableError("503", status=503),
    RegistryUnreachableError("away"),
    ItemCancelledError("cancelled"),
]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(unfinished_deletions, "SECOND_LOOK_SECONDS", 0)


@pytest.fixture
def shared(fakes):
    """A stage that shares its digest with the tag `release`."""
    stage_id = fakes.stage(1)
    for tag in (str(stage_id), "release"):
        fakes.registries.push(fakes.source, tag, layers=SHARED)
    return stage_id


@pytest.fixture
def reject(fakes):
    """Writes the record of a rejection, that of a deletion or another."""

    def reject(stage_id, *, while_deleting=True):
        record = make_rejection("app", while_deleting=while_deleting)
        put_record(fakes.registries, fakes.source.tagged(stage_id.rejected_tag), record, lease=NO_LEASE)

    return reject


@pytest.fixture
def move_aside(fakes, reject):
    """Leaves a stage as a deletion does that is killed before the placeholder's DELETE."""

    def move_aside(stage_id):
        reject(stage_id)
        fakes.registries.put_manifest(fakes.source.tagged(str(stage_id)), Manifest.of(make_placeholder()))

    return move_aside


@pytest.fixture
def listed(fakes):
    return lambda: list(fakes.stage_tasks.stage_ids(fakes.source))


def reborn(fakes):
    fakes.shared_state = MemorySharedState()
    fakes.stage_tasks = StageTasks(fakes.registries, fakes.shared_state)
    return fakes


def failing(fakes, monkeypatch, method, error, is_meant, *, after=False):
    """One method of the registries fails for what is meant, before or after its effect."""
    call = getattr(fakes.registries, method)

    def fail(reference, *arguments, **options):
        if is_meant(reference):
            if after:
                call(reference, *arguments, **options)
            raise error
        return call(reference, *arguments, **options)

    monkeypatch.setattr(fakes.registries, method, fail)


def is_placeholders(fakes):
    def is_meant(reference):
        found = fakes.registries.stored(reference.repository).manifests.get(reference.digest)
        return found is not None and is_placeholder(found.annotations)

    return is_meant


# What ends between the rejection and the placeholder


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_a_stage_that_could_not_be_moved_aside_stays_visible(fakes, shared, listed, monkeypatch, error):
    """R12: whatever ends the item between the rejection and the placeholder."""
    failing(fakes, monkeypatch, "put_manifest", error, lambda reference: reference.tag == str(shared))
    with pytest.raises((type(error), SharedDigestError)):
        fakes.delete(shared)
    assert {str(shared), "release"} == fakes.tags(fakes.source)
    assert [shared] == listed()


def test_a_cancelled_item_withdraws_its_rejection(fakes, shared, listed):
    """R12: `--now` makes every write of the item fail, that which takes back excepted."""

    class Cancelled:
        """The run is cancelled once the rejection stands."""

        def check(self):
            self.require(0)

        def require(self, seconds):
            if any(what == shared.rejected_tag for _, what in fakes.registries.writes):
                raise ItemCancelledError("cancelled")

    with pytest.raises(ItemCancelledError), under_lease(lease := Cancelled()):
        fakes.delete(shared, lease=lease)
    assert ({str(shared), "release"}, [shared]) == (fakes.tags(fakes.source), listed())


@pytest.mark.parametrize("error", [LeaseLostError("lost"), LockLostError("lost")])
def test_who_may_not_be_alone_any_more_takes_nothing_back(fakes, shared, monkeypatch, error):
    """R12: another attempt may rely on the rejection by now."""
    failing(fakes, monkeypatch, "put_manifest", error, lambda reference: reference.tag == str(shared))
    with pytest.raises(type(error)):
        fakes.delete(shared)
    assert shared.rejected_tag in fakes.tags(fakes.source)


def test_an_index_that_could_not_be_moved_aside_is_not_left_rejected(fakes, listed, monkeypatch):
    """R12: the record of an index exists only while the deletion is under way."""
    member = fakes.registries.push(fakes.source, None)
    index = StageId(fakes.stage(9).digest)
    for tag in (str(index), "release"):
        fakes.registries.push_index(fakes.source, tag, [member])
    error = RegistryError("412 (immutable)", status=412)
    failing(fakes, monkeypatch, "put_manifest", error, lambda reference: reference.tag == str(index))
    with pytest.raises(SharedDigestError, match="immutable"):
        fakes.delete(index)
    assert ({str(index), "release"}, [index]) == (fakes.tags(fakes.source), listed())


def test_a_placeholder_whose_answer_was_lost_is_gone_on_from(fakes, shared, monkeypatch):
    """R12: look before you give up."""
    error = RegistryUnavailableError("504", status=504)
    failing(
        fakes, monkeypatch, "put_manifest", error, lambda reference: reference.tag == str(shared), after=True
    )
    fakes.delete(shared)
    assert {"release"} == fakes.tags(fakes.source)


# What ends between the placeholder and its deletion


@pytest.mark.parametrize("error", REFUSALS[:3], ids=lambda error: type(error).__name__)
def test_a_placeholder_that_cannot_be_deleted_gives_the_tag_back(fakes, shared, listed, monkeypatch, error):
    """R12: visible again, and not hidden behind what cannot be removed."""
    digest = fakes.registries.stored(fakes.source).tags[str(shared)]
    with monkeypatch.context() as patched:
        failing(fakes, patched, "delete_manifest", error, is_placeholders(fakes))
        with pytest.raises(type(error)):
            fakes.delete(shared)
    assert {str(shared): digest, "release": digest} == fakes.registries.stored(fakes.source).tags
    assert [shared] == listed()
    reborn(fakes).delete(shared)
    assert {"release"} == fakes.tags(fakes.source)


def test_a_deletion_whose_answer_was_lost_gives_nothing_back(fakes, shared, monkeypatch):
    """R12: it is gone, and the next attempt finds it so."""
    error = RegistryUnavailableError("504", status=504)
    with monkeypatch.context() as patched:
        failing(fakes, patched, "delete_manifest", error, is_placeholders(fakes), after=True)
        with pytest.raises(RegistryUnavailableError):
            fakes.delete(shared)
    assert {"release", shared.rejected_tag} == fakes.tags(fakes.source)
    fakes.delete(shared)
    assert {"release"} == fakes.tags(fakes.source)


def test_an_item_that_is_cancelled_behind_the_placeholder_is_gone(fakes, shared, listed):
    """R12: cancelled, and gone: what is left to do are two requests."""

    class Cancelled:
        """The run is cancelled once the tag is moved."""

        def check(self):
            self.require(0)

        def require(self, seconds):
            moved = fakes.registries.stored(fakes.source).tags.get(str(shared))
            if moved is None or is_placeholder(
                fakes.registries.stored(fakes.source).manifests[moved].annotations
            ):
                raise ItemCancelledError("cancelled")

    with pytest.raises(ItemCancelledError), under_lease(lease := Cancelled()):
        fakes.delete(shared, lease=lease)
    assert ({"release"}, []) == (fakes.tags(fakes.source), listed())


def test_where_tags_of_ours_stay_no_rejection_is_added(fakes, shared, listed):
    """R12, W37: it could not be withdrawn either; the error has the registry's words."""
    fakes.registries.deletes = "immutable"
    with pytest.raises(SharedDigestError, match=r"release.*immutable tag"):
        fakes.delete(shared)
    assert shared.rejected_tag not in fakes.tags(fakes.source)
    assert [shared] == listed()


def test_a_deletion_that_ends_half_way_in_the_registry_is_none(fakes, shared, listed, monkeypatch):
    """R12, W12: the manifest is gone, its tag is listed: what is told as deleted has to be so."""
    delete = fakes.registries.delete_manifest
    digest = fakes.registries.stored(fakes.source).tags[str(shared)]
    failing = [True]

    def fail(reference, **options):
        stored = fakes.registries.stored(reference.repository)
        found = stored.manifests.get(reference.digest)
        if failing and found is not None and is_placeholder(found.annotations):
            del stored.manifests[reference.digest]
            raise NotFoundError("unknown", status=404)  # the first answer was a 500, and it was sent again
        delete(reference, **options)

    monkeypatch.setattr(fakes.registries, "delete_manifest", fail)
    with pytest.raises(RegistryUnavailableError, match="listed still"):
        fakes.delete(shared)
    assert (digest, [shared]) == (fakes.registries.stored(fakes.source).tags[str(shared)], listed())
    failing.clear()
    fakes.delete(shared)
    assert {"release"} == fakes.tags(fakes.source)


def test_a_rejection_that_is_listed_and_gone_hides_nothing_and_is_cleared_away(fakes, left, listed):
    """R12, W12: as a withdrawal leaves it that ended half way."""
    stored = fakes.registries.stored(fakes.source)
    del stored.manifests[stored.tags[left.rejected_tag]]
    assert [left] == listed()
    other = fakes.stage(2)
    fakes.registries.push(fakes.source, str(other))
    fakes.delete(other)
    assert {str(left)} == fakes.tags(fakes.source)


# Readers after a kill


@pytest.fixture
def left(fakes, reject):
    """A stage whose deletion was killed before its tag was moved."""
    stage_id = fakes.stage(1)
    fakes.registries.push(fakes.source, str(stage_id))
    reject(stage_id)
    return stage_id


def test_readers_take_a_deletions_rejection_for_none_while_the_stage_is_there(fakes, left, listed):
    """R12: list, describe, look-up by digest, copy, custom tags."""
    assert [left] == listed()
    assert left == fakes.stage_tasks.describe_stage(fakes.source, left).stage_id
    lookup = fakes.stage_tasks.project(Project.alone(fakes.source)).lookup
    assert [left] == [found.stage_id for found in lookup.by_digest(left.digest)]
    assert [left] == [found.stage_id for found in lookup.by_digest_as_known(left.digest)]
    assert not fakes.copy(left).skipped
    fakes.stage_tasks.records.add_custom_tag(fakes.source, "app", CustomTag("v1", left))
    assert "v1" in fakes.tags(fakes.source)


def test_readers_take_it_for_one_while_the_tag_is_moved_aside(fakes, move_aside, listed):
    """R12: what stands there is no stage."""
    stage_id = fakes.stage(1)
    fakes.registries.push(fakes.source, str(stage_id))
    move_aside(stage_id)
    assert [] == listed()
    for read in (fakes.stage_tasks.describe_stage, lambda _, stage_id: fakes.copy(stage_id)):
        with pytest.raises(StageNotFoundError):
            read(fakes.source, stage_id)


def test_a_rejection_that_is_no_deletions_stands(fakes, reject, listed):
    """R12: those that somebody wrote because the stage is broken."""
    stage_id = fakes.stage(1)
    fakes.registries.push(fakes.source, str(stage_id))
    reject(stage_id, while_deleting=False)
    assert [] == listed()
    with pytest.raises(StageNotFoundError):
        fakes.stage_tasks.describe_stage(fakes.source, stage_id)


def test_an_index_can_be_published_where_a_deletion_left_its_rejection(fakes, reject):
    """R12: it comes again under the same name, and other tools would take it for rejected."""
    member, index = fakes.stage(1), StageId(fakes.stage(9).digest)
    fakes.registries.push(fakes.source, str(member), config={"os": "linux", "architecture": "amd64"})
    reject(index)
    publication = IndexPublication(fakes.stage_tasks.storages, fakes.source, Attempt("r"))
    publication.publish(index, {Platform.parse("linux/amd64"): fakes.source.tagged(str(member))})
    assert {str(member), str(index)} == fakes.tags(fakes.source)


def test_an_index_that_is_copied_anew_is_not_left_rejected(fakes):
    """R12: as a build of it by another tool would find it."""
    member = fakes.registries.push(fakes.source, None)
    index = StageId(fakes.stage(9).digest)
    fakes.registries.push_index(fakes.source, str(index), [member])
    record = make_rejection("app", while_deleting=True)
    tag = fakes.destination.tagged(index.rejected_tag)
    put_record(fakes.registries, tag, record, lease=NO_LEASE)
    fakes.copy(index)
    assert {str(index)} == fakes.tags(fakes.destination)


def test_a_damaged_rejection_hides_its_stage_and_no_other(fakes, reject, listed, monkeypatch):
    """R12, x1: one that answers 500 or is no JSON counts as a rejection."""
    stages = [fakes.stage(n) for n in (1, 2, 3)]
    for stage_id in stages:
        fakes.registries.push(fakes.source, str(stage_id))
    fakes.registries.push(fakes.source, stages[0].rejected_tag, config=[])
    reject(stages[1])
    error = RegistryUnavailableError("500", status=500)
    failing(fakes, monkeypatch, "fetch_manifest", error, lambda ref: ref.tag == stages[1].rejected_tag)
    assert [stages[2]] == listed()


# How much that costs


@pytest.fixture
def records_read(fakes):
    return lambda: [what for verb, what in fakes.registries.reads if verb == "get" and "rejected" in what]


def test_ordinary_rejections_are_looked_at_once_and_some_at_a_time(
    fakes, reject, listed, records_read, monkeypatch
):
    """R12: ten thousand rejections must not cost ten thousand requests at each list."""
    monkeypatch.setattr(rejections, "MOST_LOOKED_AT", 10)
    for number in range(1, 26):
        fakes.registries.push(fakes.source, str(fakes.stage(number)))
        reject(fakes.stage(number), while_deleting=False)
    counts = []
    for _ in range(4):
        fakes.registries.reads.clear()
        assert [] == listed()
        counts.append(len(records_read()))
    assert [10, 10, 5, 0] == counts


def test_the_newest_and_the_multi_platform_stages_are_looked_at_first(
    fakes, reject, records_read, listed, monkeypatch
):
    """R12: a deletion's rejection is found sooner there."""
    monkeypatch.setattr(rejections, "MOST_LOOKED_AT", 2)
    stages = [fakes.stage(number) for number in (1, 2, 3)]
    index = StageId(fakes.stage(9).digest)
    for stage_id in (*stages, index):
        reject(stage_id, while_deleting=False)
    listed()
    assert {index.rejected_tag, stages[2].rejected_tag} == set(records_read())


def test_a_rejection_that_is_written_or_removed_is_looked_at_anew(fakes, reject, listed):
    """R12: what was an ordinary one may be a deletion's next time."""
    stage_id = fakes.stage(1)
    fakes.registries.push(fakes.source, str(stage_id))
    records = fakes.stage_tasks.records
    records.write(fakes.source, "app", RejectedStage(stage_id))
    assert [] == listed()
    records.delete(fakes.source, RejectedStage(stage_id).id, run_id="r", to_delete=list)
    reject(stage_id)
    assert [stage_id] == listed()


# Who finishes it


def test_a_later_run_finishes_what_was_moved_aside_and_withdraws_the_rest(fakes, move_aside, reject):
    """R12: any later run that deletes in the repository."""
    moved, there, gone, index = fakes.stage(1), fakes.stage(2), fakes.stage(3), StageId(fakes.stage(9).digest)
    for stage_id in (moved, there):
        fakes.registries.push(fakes.source, str(stage_id))
    move_aside(moved)
    for stage_id in (there, gone, index):
        reject(stage_id)
    other = fakes.stage(5)
    fakes.registries.push(fakes.source, str(other))
    reject(fakes.stage(7), while_deleting=False)
    fakes.delete(other)
    assert {str(there), fakes.stage(7).rejected_tag} == fakes.tags(fakes.source)


def test_the_deletion_of_a_record_is_such_a_run_too(fakes, move_aside):
    """R12: as `records remove`."""
    fakes.registries.push(fakes.source, str(fakes.stage(1)))
    move_aside(fakes.stage(1))
    record = CustomTag("v1", fakes.stage(2))
    image = RecordImage.of("app", record.labels)
    put_record(fakes.registries, fakes.source.tagged(record.id.tag), image, lease=NO_LEASE)
    fakes.stage_tasks.records.delete(fakes.source, record.id, run_id="r", to_delete=list)
    assert set() == fakes.tags(fakes.source)


def test_a_record_or_a_custom_tag_that_was_moved_aside_goes_too(fakes):
    """R12: without a rejection, as a stage of which somebody took it back: the look at tags sees them."""
    tags = ("v1", CustomTag("v1", fakes.stage(2)).id.tag, str(fakes.stage(3)))
    for tag in tags:
        fakes.registries.put_manifest(fakes.source.tagged(tag), Manifest.of(make_placeholder()))
    fakes.registries.push_index(fakes.source, "release", [])  # an index without members that is none of ours
    other = fakes.stage(1)
    fakes.registries.push(fakes.source, str(other))
    fakes.delete(other)
    assert {"release"} == fakes.tags(fakes.source)


def test_a_deletion_under_way_is_left_to_those_who_are_at_it(fakes, move_aside):
    """R12: who has the stage's lock is at work."""
    locks = MemoryLocks()
    stage_tasks = StageTasks(fakes.registries, fakes.shared_state, locks=locks)
    stage_id, other = fakes.stage(1), fakes.stage(2)
    for some in (stage_id, other):
        fakes.registries.push(fakes.source, str(some))
    move_aside(stage_id)
    with StageLocks(locks).lock_exclusively(fakes.source, stage_id, attempt=Attempt("theirs")):
        stage_tasks.delete_stage(fakes.source, other, run_id="ours", to_delete=lambda: [str(other)])
    assert {str(stage_id), stage_id.rejected_tag} == fakes.tags(fakes.source)


def test_a_deletion_that_another_fleet_goes_on_with_is_left_alone(fakes, left, reject, monkeypatch):
    """R12: other fleets have other locks; a rejection that is not the same at the second look is theirs."""
    other = fakes.stage(2)
    fakes.registries.push(fakes.source, str(other))
    monkeypatch.setattr(unfinished_deletions, "pause", lambda seconds, lease: reject(left))
    fakes.delete(other)
    assert {str(left), left.rejected_tag} == fakes.tags(fakes.source)


def test_what_cannot_be_finished_does_not_fail_the_item(fakes, left, monkeypatch, caplog):
    """R12: it is nobody's item; a warning names it."""
    other = fakes.stage(2)
    fakes.registries.push(fakes.source, str(other))
    record = fakes.registries.stored(fakes.source).tags[left.rejected_tag]
    error = RegistryError("412 (immutable)", status=412)
    failing(fakes, monkeypatch, "delete_manifest", error, lambda reference: reference.digest == record)
    fakes.delete(other)
    assert {str(left), left.rejected_tag} == fakes.tags(fakes.source)
    assert str(left) in caplog.text


@pytest.mark.parametrize("error", [ItemCancelledError("cancelled"), RedisUnreachableError("away")])
def test_an_item_has_done_its_own_whatever_ends_the_look_for_others(fakes, left, monkeypatch, error):
    """R12: what others have left is no reason to tell it as cancelled or failed."""
    other = fakes.stage(2)
    fakes.registries.push(fakes.source, str(other))

    def end(*_):
        raise error

    monkeypatch.setattr(Registries, "rejections", end)
    assert ItemResult() == fakes.delete(other)
    assert {str(left), left.rejected_tag} == fakes.tags(fakes.source)


def test_it_is_looked_for_once_a_run_and_not_where_tags_are_deleted_alone(fakes):
    """R12: one tag list a run, and none where nothing is ever moved aside."""
    stages = [fakes.stage(n) for n in range(1, 7)]
    for stage_id in stages:
        fakes.registries.push(fakes.source, str(stage_id))
    for stage_id in stages[:3]:
        fakes.delete(stage_id, stages[:3])
    with_digests = fakes.registries.reads.count(("tags", str(fakes.source)))
    reborn(fakes).registries.deletes = "tag"
    fakes.delete(stages[3])
    fakes.registries.reads.clear()
    fakes.delete(stages[4])
    fakes.delete(stages[5], run_id="another")
    assert 0 == fakes.registries.reads.count(("tags", str(fakes.source)))
    assert with_digests < 6


# Rejected stages that are none


def test_a_rejected_stage_that_is_none_stays_and_its_record_goes(fakes, left):
    """R12: `records remove rejected-stage` takes no stage that only a deletion rejected."""
    with pytest.raises(StageNotFoundError, match="not rejected"):
        fakes.stage_tasks.records.delete_rejected_stage(fakes.source, left, run_id="r", to_delete=list)
    assert {str(left)} == fakes.tags(fakes.source)


def test_one_that_was_moved_aside_goes(fakes, move_aside):
    """R12: it was to go anyway."""
    fakes.registries.push(fakes.source, str(fakes.stage(1)))
    move_aside(fakes.stage(1))
    fakes.stage_tasks.records.delete_rejected_stage(fakes.source, fakes.stage(1), run_id="r", to_delete=list)
    assert set() == fakes.tags(fakes.source)


def test_a_purge_takes_it_with_the_rest(fakes, left):
    """R12: everything of the project goes, whatever rejects it."""
    fakes.stage_tasks.records.delete_rejected_stage(
        fakes.source, left, run_id="r", to_delete=list, unfinished=True
    )
    assert set() == fakes.tags(fakes.source)
