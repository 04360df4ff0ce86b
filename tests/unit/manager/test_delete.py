from __future__ import annotations

import contextlib

import pytest

from stagefleet.errors import DeletionDisabledError, LeaseLostError, RegistryError, SharedDigestError
from stagefleet.manager import Produced, StageManager
from stagefleet.runs.book import MemoryBook

SHARED = {"layers": (b"shared",)}


@pytest.fixture
def repository(world):
    return world.source


def push(world, number, **image):
    stage_id = world.stage(number)
    world.registries.push(world.source, str(stage_id), **(image or {"layers": (f"own {number}".encode(),)}))
    return stage_id


def reborn(world):
    """The same registries, seen by a worker and a fleet that remember nothing."""
    world.registries.crash_at = None
    world.book = MemoryBook()
    world.manager = StageManager(world.registries, world.book)
    return world


def test_a_digest_of_one_tag_goes_by_digest(world, repository):
    stage_id, other = push(world, 1), push(world, 2)
    assert Produced() == world.delete(stage_id)
    assert {str(other)} == world.tags(repository)


def test_a_stage_that_is_gone_is_deleted(world, repository):
    other = push(world, 2)
    assert Produced() == world.delete(world.stage(1))
    assert {str(other)} == world.tags(repository)
    assert [] == world.registries.writes


def test_a_stage_of_a_repository_that_does_not_exist_is_deleted_and_the_repository_not_made(
    world, repository
):
    assert Produced() == world.delete(world.stage(1))
    assert [] == world.registries.writes


def test_a_custom_tag_on_the_same_digest_stays_with_its_content(world, repository):
    stage_id = push(world, 1, **SHARED)
    digest = world.registries.push(repository, "release", **SHARED)
    world.delete(stage_id)
    assert {"release"} == world.tags(repository)
    assert digest == world.manifest(repository, "release").digest


def test_a_custom_tag_that_came_after_the_first_look_stays(world, repository):
    first, second = push(world, 1), push(world, 2, **SHARED)
    world.delete(first, [first, second])
    world.registries.push(repository, "release", **SHARED)
    world.book.clock_offset_ms += 9000
    world.book._flights.forget("r", f"fresh survey {repository}")
    world.delete(second, [second])
    assert {"release"} == world.tags(repository)


def test_two_stages_of_one_digest_both_asked_for_go_at_once(world, repository):
    first, second = push(world, 1, **SHARED), push(world, 2, **SHARED)
    world.delete(first, [first, second])
    assert set() == world.tags(repository)
    assert Produced() == world.delete(second, [second])


def test_a_stage_of_the_same_digest_that_nobody_asked_for_stays(world, repository):
    first, second = push(world, 1, **SHARED), push(world, 2, **SHARED)
    world.delete(first)
    assert {str(second)} == world.tags(repository)


def test_a_stage_that_is_a_member_of_an_index_that_stays_is_not_taken_from_under_it(world, repository):
    stage_id = push(world, 1)
    digest = world.registries.shelf(repository).tags[str(stage_id)]
    index = world.registries.push_index(repository, world.stage(9).digest, [digest])
    world.delete(stage_id)
    assert {world.stage(9).digest} == world.tags(repository)
    assert {digest, index} <= set(world.registries.shelf(repository).manifests)


def test_a_member_of_an_index_in_a_foreign_index_is_not_taken_either(world, repository):
    stage_id = push(world, 1)
    digest = world.registries.shelf(repository).tags[str(stage_id)]
    inner = world.registries.push_index(repository, None, [digest])
    world.registries.push_index(repository, "release", [inner])
    world.delete(stage_id)
    assert digest in world.registries.shelf(repository).manifests
    assert {"release"} == world.tags(repository)


def test_an_index_and_its_member_both_asked_for_go_by_digest(world, repository):
    member = push(world, 1)
    digest = world.registries.shelf(repository).tags[str(member)]
    index = type(member)(world.stage(9).digest)
    world.registries.push_index(repository, str(index), [digest])
    world.delete(member, [member, index])
    world.delete(index, [index])
    assert set() == world.tags(repository)
    assert digest not in world.registries.shelf(repository).manifests


@pytest.mark.parametrize("crash_at", range(1, 14))
def test_a_worker_that_dies_after_any_step_is_finished_by_the_next(world, repository, crash_at):
    stage_id = push(world, 1, **SHARED)
    digest = world.registries.push(repository, "release", **SHARED)
    for at in (crash_at, crash_at + 1, None):
        world.registries.writes.clear()
        world.registries.crash_at = at
        with contextlib.suppress(world.registries.crash):
            world.delete(stage_id)
        assert digest == world.manifest(repository, "release").digest
        seen = list(world.manager.stage_ids(repository))
        manifest = world.registries.shelf(repository).tags.get(str(stage_id))
        assert ([stage_id] if manifest == digest and seen else []) == seen
        reborn(world)
    assert {"release"} == {tag for tag in world.tags(repository) if "probe" not in tag}


def test_a_rejection_left_by_a_crash_goes_also_when_the_other_tag_has_gone_meanwhile(world, repository):
    stage_id = push(world, 1, **SHARED)
    world.registries.push(repository, "release", **SHARED)
    put = world.registries.put_manifest

    def die_before_the_placeholder(reference, manifest, **options):
        if reference.tag == str(stage_id):
            raise world.registries.crash
        put(reference, manifest, **options)

    world.registries.put_manifest = die_before_the_placeholder
    with pytest.raises(world.registries.crash):
        world.delete(stage_id)
    assert {str(stage_id), stage_id.rejected_tag, "release"} == world.tags(repository)
    del world.registries.put_manifest
    del world.registries.shelf(repository).tags["release"]
    reborn(world).delete(stage_id)
    assert set() == world.tags(repository)


def test_the_crash_points_reach_to_the_last_step(world, repository):
    stage_id = push(world, 1, **SHARED)
    world.registries.push(repository, "release", **SHARED)
    world.delete(stage_id)
    assert 14 > len(world.registries.writes) >= 10


def test_the_rejection_stands_while_the_tag_leads_to_the_placeholder(world, repository):
    stage_id = push(world, 1, **SHARED)
    world.registries.push(repository, "release", **SHARED)
    world.delete(stage_id)
    verbs = [
        (verb, what) for verb, what in world.registries.writes if verb != "upload" and "probe" not in what
    ]
    rejected, placeholder = verbs.index(("put", stage_id.rejected_tag)), verbs.index(("put", str(stage_id)))
    assert rejected < placeholder
    assert ["delete", "delete"] == [verb for verb, _ in verbs[placeholder + 1 :]]


def test_a_rejection_that_others_wrote_stays(world, repository):
    stage_id = push(world, 1, **SHARED)
    world.registries.push(repository, stage_id.rejected_tag, labels={"werf": "app"})
    world.registries.push(repository, "release", **SHARED)
    world.delete(stage_id)
    assert {"release", stage_id.rejected_tag} == world.tags(repository)


def test_a_registry_that_deletes_tags_gets_one_request_a_stage(world, repository):
    world.registries.deletes = "tag"
    first, second = push(world, 1, **SHARED), push(world, 2, **SHARED)
    world.delete(first)
    world.registries.reads.clear()
    world.registries.writes.clear()
    world.delete(second)
    assert [] == world.registries.reads
    assert [("delete", str(second))] == world.registries.writes
    assert set() == world.tags(repository)


def test_a_registry_that_takes_siblings_along_is_found_out_on_our_own_tags(world, repository):
    world.registries.deletes = "siblings"
    stage_id = push(world, 1, **SHARED)
    world.registries.push(repository, "release", **SHARED)
    world.delete(stage_id)
    assert {"release"} == world.tags(repository)


@pytest.mark.parametrize("deletes_by", ["digest", "tag", "siblings"])
def test_the_trial_leaves_nothing(world, repository, deletes_by):
    world.registries.deletes = deletes_by
    stage_id, kept = push(world, 1), push(world, 2)
    digests = dict(world.registries.shelf(repository).tags)
    world.delete(stage_id)
    assert {str(kept)} == world.tags(repository)
    left = {digests[str(kept)]} | ({digests[str(stage_id)]} if deletes_by == "tag" else set())
    assert left == set(world.registries.shelf(repository).manifests)


def test_a_registry_whose_deletion_is_off_says_which_setting_turns_it_on(world, repository):
    world.registries.deletes = "off"
    stage_id = push(world, 1)
    with pytest.raises(DeletionDisabledError, match="REGISTRY_STORAGE_DELETE_ENABLED=true"):
        world.delete(stage_id)
    assert [] == world.registries.writes
    world.registries.deletes = "digest"
    assert Produced() == world.delete(stage_id)


def test_a_registry_that_stops_deleting_tags_is_tried_again_the_next_time(world, repository):
    world.registries.deletes = "tag"
    first, second = push(world, 1), push(world, 2)
    world.delete(first)
    world.registries.deletes = "digest"
    with pytest.raises(RegistryError):
        world.delete(second)
    world.delete(second)
    assert set() == world.tags(repository)


def test_where_nothing_can_be_moved_aside_the_error_names_the_other_tags(world, repository):
    stage_id = push(world, 1, **SHARED)
    world.registries.push(repository, "release", **SHARED)
    world.delete(world.stage(5))
    world.registries.forbidden = {str(stage_id)}
    with pytest.raises(SharedDigestError, match="release"):
        world.delete(stage_id)
    assert {str(stage_id), "release"} == world.tags(repository)


def test_a_login_that_may_not_push_still_deletes_what_is_not_shared(world, repository):
    stage_id, shared = push(world, 1), push(world, 2, **SHARED)
    world.registries.push(repository, "release", **SHARED)
    world.registries.forbidden = {"*"}
    world.delete(stage_id, [stage_id, shared])
    with pytest.raises(SharedDigestError, match="release"):
        world.delete(shared, [shared])
    assert {str(shared), "release"} == world.tags(repository)


def test_a_lost_lease_deletes_nothing(world, repository):
    class Lost:
        def check(self):
            return

        def require(self, seconds):
            raise LeaseLostError("lost")

    stage_id = push(world, 1)
    with pytest.raises(LeaseLostError):
        world.delete(stage_id, leash=Lost())
    assert {str(stage_id)} == world.tags(repository)


def test_stages_are_looked_at_once_a_run_and_what_is_asked_for_read_once(world, repository):
    stages = [push(world, n, **SHARED) for n in range(20)]
    kept = [push(world, n) for n in range(30, 40)]
    questions = []

    def asked():
        questions.append(1)
        return [str(stage_id) for stage_id in stages]

    for stage_id in stages:
        world.manager.delete_stage(repository, stage_id, run="r", asked=asked)
    assert {str(stage_id) for stage_id in kept} == world.tags(repository)
    assert [1] == questions
    heads = [what for verb, what in world.registries.reads if verb == "head"]
    assert [1] * 10 == [heads.count(str(stage_id)) for stage_id in kept]
