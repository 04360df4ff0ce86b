"""A deletion that ends half way leaves the stage visible or gone, and what a killed one leaves is seen to."""

from __future__ import annotations

import pytest

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
from stagefleet.locks import MemoryLocks
from stagefleet.manager import Produced, StageManager, unfinished_deletions
from stagefleet.manager.multiplatform import IndexPublication
from stagefleet.manager.stage_locks import StageLocks
from stagefleet.names import StageId
from stagefleet.platforms import Platform
from stagefleet.records import (
    CustomTag,
    RecordImage,
    RejectedStage,
    is_placeholder,
    make_placeholder,
    make_rejection,
)
from stagefleet.registry import Manifest
from stagefleet.registry.leash import UNLEASHED, under
from stagefleet.roles import Roles
from stagefleet.runs.book import MemoryBook
from stagefleet.storages import rejections
from stagefleet.storages.record_writer import put_record

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
def shared(world):
    """A stage that shares its digest with the tag `release`."""
    stage_id = world.stage(1)
    for tag in (str(stage_id), "release"):
        world.registries.push(world.source, tag, layers=SHARED)
    return stage_id


@pytest.fixture
def reject(world):
    """Writes the record of a rejection, that of a deletion or another."""

    def reject(stage_id, *, while_deleting=True):
        record = make_rejection("app", while_deleting=while_deleting)
        put_record(world.registries, world.source.tagged(stage_id.rejected_tag), record, leash=UNLEASHED)

    return reject


@pytest.fixture
def move_aside(world, reject):
    """Leaves a stage as a deletion does that is killed before the placeholder's DELETE."""

    def move_aside(stage_id):
        reject(stage_id)
        world.registries.put_manifest(world.source.tagged(str(stage_id)), Manifest.of(make_placeholder()))

    return move_aside


@pytest.fixture
def listed(world):
    return lambda: list(world.manager.stage_ids(world.source))


def reborn(world):
    world.book = MemoryBook()
    world.manager = StageManager(world.registries, world.book)
    return world


def failing(world, monkeypatch, method, error, is_meant, *, after=False):
    """One method of the registries fails for what is meant, before or after its effect."""
    call = getattr(world.registries, method)

    def fail(reference, *arguments, **options):
        if is_meant(reference):
            if after:
                call(reference, *arguments, **options)
            raise error
        return call(reference, *arguments, **options)

    monkeypatch.setattr(world.registries, method, fail)


def is_placeholders(world):
    def is_meant(reference):
        found = world.registries.shelf(reference.repository).manifests.get(reference.digest)
        return found is not None and is_placeholder(found.annotations)

    return is_meant


# What ends between the rejection and the placeholder


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_a_stage_that_could_not_be_moved_aside_stays_visible(world, shared, listed, monkeypatch, error):
    """R12: whatever ends the item between the rejection and the placeholder."""
    failing(world, monkeypatch, "put_manifest", error, lambda reference: reference.tag == str(shared))
    with pytest.raises((type(error), SharedDigestError)):
        world.delete(shared)
    assert {str(shared), "release"} == world.tags(world.source)
    assert [shared] == listed()


def test_a_cancelled_item_withdraws_its_rejection(world, shared, listed):
    """R12: `--now` makes every write of the item fail, that which takes back excepted."""

    class Cancelled:
        """The run is cancelled once the rejection stands."""

        def check(self):
            self.require(0)

        def require(self, seconds):
            if any(what == shared.rejected_tag for _, what in world.registries.writes):
                raise ItemCancelledError("cancelled")

    with pytest.raises(ItemCancelledError), under(leash := Cancelled()):
        world.delete(shared, leash=leash)
    assert ({str(shared), "release"}, [shared]) == (world.tags(world.source), listed())


@pytest.mark.parametrize("error", [LeaseLostError("lost"), LockLostError("lost")])
def test_who_may_not_be_alone_any_more_takes_nothing_back(world, shared, monkeypatch, error):
    """R12: another attempt may rely on the rejection by now."""
    failing(world, monkeypatch, "put_manifest", error, lambda reference: reference.tag == str(shared))
    with pytest.raises(type(error)):
        world.delete(shared)
    assert shared.rejected_tag in world.tags(world.source)


def test_an_index_that_could_not_be_moved_aside_is_not_left_rejected(world, listed, monkeypatch):
    """R12: the record of an index exists only while the deletion is under way."""
    member = world.registries.push(world.source, None)
    index = StageId(world.stage(9).digest)
    for tag in (str(index), "release"):
        world.registries.push_index(world.source, tag, [member])
    error = RegistryError("412 (immutable)", status=412)
    failing(world, monkeypatch, "put_manifest", error, lambda reference: reference.tag == str(index))
    with pytest.raises(SharedDigestError, match="immutable"):
        world.delete(index)
    assert ({str(index), "release"}, [index]) == (world.tags(world.source), listed())


def test_a_placeholder_whose_answer_was_lost_is_gone_on_from(world, shared, monkeypatch):
    """R12: look before you give up."""
    error = RegistryUnavailableError("504", status=504)
    failing(
        world, monkeypatch, "put_manifest", error, lambda reference: reference.tag == str(shared), after=True
    )
    world.delete(shared)
    assert {"release"} == world.tags(world.source)


# What ends between the placeholder and its deletion


@pytest.mark.parametrize("error", REFUSALS[:3], ids=lambda error: type(error).__name__)
def test_a_placeholder_that_cannot_be_deleted_gives_the_tag_back(world, shared, listed, monkeypatch, error):
    """R12: visible again, and not hidden behind what cannot be removed."""
    digest = world.registries.shelf(world.source).tags[str(shared)]
    with monkeypatch.context() as patched:
        failing(world, patched, "delete_manifest", error, is_placeholders(world))
        with pytest.raises(type(error)):
            world.delete(shared)
    assert {str(shared): digest, "release": digest} == world.registries.shelf(world.source).tags
    assert [shared] == listed()
    reborn(world).delete(shared)
    assert {"release"} == world.tags(world.source)


def test_a_deletion_whose_answer_was_lost_gives_nothing_back(world, shared, monkeypatch):
    """R12: it is gone, and the next attempt finds it so."""
    error = RegistryUnavailableError("504", status=504)
    with monkeypatch.context() as patched:
        failing(world, patched, "delete_manifest", error, is_placeholders(world), after=True)
        with pytest.raises(RegistryUnavailableError):
            world.delete(shared)
    assert {"release", shared.rejected_tag} == world.tags(world.source)
    world.delete(shared)
    assert {"release"} == world.tags(world.source)


def test_an_item_that_is_cancelled_behind_the_placeholder_is_gone(world, shared, listed):
    """R12: cancelled, and gone: what is left to do are two requests."""

    class Cancelled:
        """The run is cancelled once the tag is moved."""

        def check(self):
            self.require(0)

        def require(self, seconds):
            moved = world.registries.shelf(world.source).tags.get(str(shared))
            if moved is None or is_placeholder(
                world.registries.shelf(world.source).manifests[moved].annotations
            ):
                raise ItemCancelledError("cancelled")

    with pytest.raises(ItemCancelledError), under(leash := Cancelled()):
        world.delete(shared, leash=leash)
    assert ({"release"}, []) == (world.tags(world.source), listed())


def test_where_tags_of_ours_stay_no_rejection_is_added(world, shared, listed):
    """R12, W37: it could not be withdrawn either; the error has the registry's words."""
    world.registries.deletes = "immutable"
    with pytest.raises(SharedDigestError, match=r"release.*immutable tag"):
        world.delete(shared)
    assert shared.rejected_tag not in world.tags(world.source)
    assert [shared] == listed()


def test_a_deletion_that_ends_half_way_in_the_registry_is_none(world, shared, listed, monkeypatch):
    """R12, W12: the manifest is gone, its tag is listed: what is told as deleted has to be so."""
    delete = world.registries.delete_manifest
    digest = world.registries.shelf(world.source).tags[str(shared)]
    failing = [True]

    def fail(reference, **options):
        shelf = world.registries.shelf(reference.repository)
        found = shelf.manifests.get(reference.digest)
        if failing and found is not None and is_placeholder(found.annotations):
            del shelf.manifests[reference.digest]
            raise NotFoundError("unknown", status=404)  # the first answer was a 500, and it was sent again
        delete(reference, **options)

    monkeypatch.setattr(world.registries, "delete_manifest", fail)
    with pytest.raises(RegistryUnavailableError, match="listed still"):
        world.delete(shared)
    assert (digest, [shared]) == (world.registries.shelf(world.source).tags[str(shared)], listed())
    failing.clear()
    world.delete(shared)
    assert {"release"} == world.tags(world.source)


def test_a_rejection_that_is_listed_and_gone_hides_nothing_and_is_cleared_away(world, left, listed):
    """R12, W12: as a withdrawal leaves it that ended half way."""
    shelf = world.registries.shelf(world.source)
    del shelf.manifests[shelf.tags[left.rejected_tag]]
    assert [left] == listed()
    other = world.stage(2)
    world.registries.push(world.source, str(other))
    world.delete(other)
    assert {str(left)} == world.tags(world.source)


# Readers after a kill


@pytest.fixture
def left(world, reject):
    """A stage whose deletion was killed before its tag was moved."""
    stage_id = world.stage(1)
    world.registries.push(world.source, str(stage_id))
    reject(stage_id)
    return stage_id


def test_readers_take_a_deletions_rejection_for_none_while_the_stage_is_there(world, left, listed):
    """R12: list, describe, look-up by digest, copy, custom tags."""
    assert [left] == listed()
    assert left == world.manager.describe_stage(world.source, left).stage_id
    lookup = world.manager.project(Roles.alone(world.source)).lookup
    assert [left] == [found.stage_id for found in lookup.by_digest(left.digest)]
    assert [left] == [found.stage_id for found in lookup.by_digest_as_known(left.digest)]
    assert not world.copy(left).skipped
    world.manager.records.add_custom_tag(world.source, "app", CustomTag("v1", left))
    assert "v1" in world.tags(world.source)


def test_readers_take_it_for_one_while_the_tag_is_moved_aside(world, move_aside, listed):
    """R12: what stands there is no stage."""
    stage_id = world.stage(1)
    world.registries.push(world.source, str(stage_id))
    move_aside(stage_id)
    assert [] == listed()
    for read in (world.manager.describe_stage, lambda _, stage_id: world.copy(stage_id)):
        with pytest.raises(StageNotFoundError):
            read(world.source, stage_id)


def test_a_rejection_that_is_no_deletions_stands(world, reject, listed):
    """R12: those that somebody wrote because the stage is broken."""
    stage_id = world.stage(1)
    world.registries.push(world.source, str(stage_id))
    reject(stage_id, while_deleting=False)
    assert [] == listed()
    with pytest.raises(StageNotFoundError):
        world.manager.describe_stage(world.source, stage_id)


def test_an_index_can_be_published_where_a_deletion_left_its_rejection(world, reject):
    """R12: it comes again under the same name, and other tools would take it for rejected."""
    member, index = world.stage(1), StageId(world.stage(9).digest)
    world.registries.push(world.source, str(member), config={"os": "linux", "architecture": "amd64"})
    reject(index)
    publication = IndexPublication(world.registries, world.book, world.source, run="r")
    publication.publish(index, {Platform.parse("linux/amd64"): world.source.tagged(str(member))})
    assert {str(member), str(index)} == world.tags(world.source)


def test_an_index_that_is_copied_anew_is_not_left_rejected(world):
    """R12: as a build of it by another tool would find it."""
    member = world.registries.push(world.source, None)
    index = StageId(world.stage(9).digest)
    world.registries.push_index(world.source, str(index), [member])
    record = make_rejection("app", while_deleting=True)
    tag = world.destination.tagged(index.rejected_tag)
    put_record(world.registries, tag, record, leash=UNLEASHED)
    world.copy(index)
    assert {str(index)} == world.tags(world.destination)


def test_a_damaged_rejection_hides_its_stage_and_no_other(world, reject, listed, monkeypatch):
    """R12, x1: one that answers 500 or is no JSON counts as a rejection."""
    stages = [world.stage(n) for n in (1, 2, 3)]
    for stage_id in stages:
        world.registries.push(world.source, str(stage_id))
    world.registries.push(world.source, stages[0].rejected_tag, config=[])
    reject(stages[1])
    error = RegistryUnavailableError("500", status=500)
    failing(world, monkeypatch, "fetch_manifest", error, lambda ref: ref.tag == stages[1].rejected_tag)
    assert [stages[2]] == listed()


# How much that costs


@pytest.fixture
def records_read(world):
    return lambda: [what for verb, what in world.registries.reads if verb == "get" and "rejected" in what]


def test_ordinary_rejections_are_looked_at_once_and_some_at_a_time(
    world, reject, listed, records_read, monkeypatch
):
    """R12: ten thousand rejections must not cost ten thousand requests at each list."""
    monkeypatch.setattr(rejections, "MOST_LOOKED_AT", 10)
    for number in range(1, 26):
        world.registries.push(world.source, str(world.stage(number)))
        reject(world.stage(number), while_deleting=False)
    counts = []
    for _ in range(4):
        world.registries.reads.clear()
        assert [] == listed()
        counts.append(len(records_read()))
    assert [10, 10, 5, 0] == counts


def test_the_newest_and_the_multi_platform_stages_are_looked_at_first(
    world, reject, records_read, listed, monkeypatch
):
    """R12: a deletion's rejection is found sooner there."""
    monkeypatch.setattr(rejections, "MOST_LOOKED_AT", 2)
    stages = [world.stage(number) for number in (1, 2, 3)]
    index = StageId(world.stage(9).digest)
    for stage_id in (*stages, index):
        reject(stage_id, while_deleting=False)
    listed()
    assert {index.rejected_tag, stages[2].rejected_tag} == set(records_read())


def test_a_rejection_that_is_written_or_removed_is_looked_at_anew(world, reject, listed):
    """R12: what was an ordinary one may be a deletion's next time."""
    stage_id = world.stage(1)
    world.registries.push(world.source, str(stage_id))
    records = world.manager.records
    records.write(world.source, "app", RejectedStage(stage_id))
    assert [] == listed()
    records.delete(world.source, RejectedStage(stage_id).id, run="r", asked=list)
    reject(stage_id)
    assert [stage_id] == listed()


# Who finishes it


def test_a_later_run_finishes_what_was_moved_aside_and_withdraws_the_rest(world, move_aside, reject):
    """R12: any later run that deletes in the repository."""
    moved, there, gone, index = world.stage(1), world.stage(2), world.stage(3), StageId(world.stage(9).digest)
    for stage_id in (moved, there):
        world.registries.push(world.source, str(stage_id))
    move_aside(moved)
    for stage_id in (there, gone, index):
        reject(stage_id)
    other = world.stage(5)
    world.registries.push(world.source, str(other))
    reject(world.stage(7), while_deleting=False)
    world.delete(other)
    assert {str(there), world.stage(7).rejected_tag} == world.tags(world.source)


def test_the_deletion_of_a_record_is_such_a_run_too(world, move_aside):
    """R12: as `records remove`."""
    world.registries.push(world.source, str(world.stage(1)))
    move_aside(world.stage(1))
    record = CustomTag("v1", world.stage(2))
    image = RecordImage.of("app", record.labels)
    put_record(world.registries, world.source.tagged(record.id.tag), image, leash=UNLEASHED)
    world.manager.records.delete(world.source, record.id, run="r", asked=list)
    assert set() == world.tags(world.source)


def test_a_record_or_a_custom_tag_that_was_moved_aside_goes_too(world):
    """R12: without a rejection, as a stage of which somebody took it back: the look at tags sees them."""
    tags = ("v1", CustomTag("v1", world.stage(2)).id.tag, str(world.stage(3)))
    for tag in tags:
        world.registries.put_manifest(world.source.tagged(tag), Manifest.of(make_placeholder()))
    world.registries.push_index(world.source, "release", [])  # an index without members that is none of ours
    other = world.stage(1)
    world.registries.push(world.source, str(other))
    world.delete(other)
    assert {"release"} == world.tags(world.source)


def test_a_deletion_under_way_is_left_to_those_who_are_at_it(world, move_aside):
    """R12: who has the stage's lock is at work."""
    locks = MemoryLocks()
    manager = StageManager(world.registries, world.book, locks=locks)
    stage_id, other = world.stage(1), world.stage(2)
    for some in (stage_id, other):
        world.registries.push(world.source, str(some))
    move_aside(stage_id)
    with StageLocks(locks).alone(world.source, stage_id, run="theirs", leash=UNLEASHED):
        manager.delete_stage(world.source, other, run="ours", asked=lambda: [str(other)])
    assert {str(stage_id), stage_id.rejected_tag} == world.tags(world.source)


def test_a_deletion_that_another_fleet_goes_on_with_is_left_alone(world, left, reject, monkeypatch):
    """R12: other fleets have other locks; a rejection that is not the same at the second look is theirs."""
    other = world.stage(2)
    world.registries.push(world.source, str(other))
    monkeypatch.setattr(unfinished_deletions, "pause", lambda seconds, leash: reject(left))
    world.delete(other)
    assert {str(left), left.rejected_tag} == world.tags(world.source)


def test_what_cannot_be_finished_does_not_fail_the_item(world, left, monkeypatch, caplog):
    """R12: it is nobody's item; a warning names it."""
    other = world.stage(2)
    world.registries.push(world.source, str(other))
    record = world.registries.shelf(world.source).tags[left.rejected_tag]
    error = RegistryError("412 (immutable)", status=412)
    failing(world, monkeypatch, "delete_manifest", error, lambda reference: reference.digest == record)
    world.delete(other)
    assert {str(left), left.rejected_tag} == world.tags(world.source)
    assert str(left) in caplog.text


@pytest.mark.parametrize("error", [ItemCancelledError("cancelled"), RedisUnreachableError("away")])
def test_an_item_has_done_its_own_whatever_ends_the_look_for_others(world, left, monkeypatch, error):
    """R12: what others have left is no reason to tell it as cancelled or failed."""
    other = world.stage(2)
    world.registries.push(world.source, str(other))

    def end(*_):
        raise error

    monkeypatch.setattr(unfinished_deletions, "Rejections", end)
    assert Produced() == world.delete(other)
    assert {str(left), left.rejected_tag} == world.tags(world.source)


def test_it_is_looked_for_once_a_run_and_not_where_tags_are_deleted_alone(world):
    """R12: one tag list a run, and none where nothing is ever moved aside."""
    stages = [world.stage(n) for n in range(1, 7)]
    for stage_id in stages:
        world.registries.push(world.source, str(stage_id))
    for stage_id in stages[:3]:
        world.delete(stage_id, stages[:3])
    with_digests = world.registries.reads.count(("tags", str(world.source)))
    reborn(world).registries.deletes = "tag"
    world.delete(stages[3])
    world.registries.reads.clear()
    world.delete(stages[4])
    world.delete(stages[5], run="another")
    assert 0 == world.registries.reads.count(("tags", str(world.source)))
    assert with_digests < 6


# Rejected stages that are none


def test_a_rejected_stage_that_is_none_stays_and_its_record_goes(world, left):
    """R12: `records remove rejected-stage` takes no stage that only a deletion rejected."""
    with pytest.raises(StageNotFoundError, match="not rejected"):
        world.manager.records.delete_rejected_stage(world.source, left, run="r", asked=list)
    assert {str(left)} == world.tags(world.source)


def test_one_that_was_moved_aside_goes(world, move_aside):
    """R12: it was to go anyway."""
    world.registries.push(world.source, str(world.stage(1)))
    move_aside(world.stage(1))
    world.manager.records.delete_rejected_stage(world.source, world.stage(1), run="r", asked=list)
    assert set() == world.tags(world.source)


def test_a_purge_takes_it_with_the_rest(world, left):
    """R12: everything of the project goes, whatever rejects it."""
    world.manager.records.delete_rejected_stage(world.source, left, run="r", asked=list, unfinished=True)
    assert set() == world.tags(world.source)
