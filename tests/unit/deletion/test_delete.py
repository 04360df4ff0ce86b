from __future__ import annotations

import contextlib

import pytest

from stagefleet.attempt import NOT_THERE, ItemResult
from stagefleet.errors import DeletionDisabledError, LeaseLostError, RegistryError, SharedDigestError
from stagefleet.leases import NO_LEASE
from stagefleet.records.image import make_rejection, put_record
from stagefleet.shared_state.implementations import MemorySharedState
from tests.stage_tasks import StageTasks

SHARED = {"layers": (b"shared",)}


@pytest.fixture
def repository(fakes):
    return fakes.source


def push(fakes, number, **image):
    stage_id = fakes.stage(number)
    fakes.registries.push(fakes.source, str(stage_id), **(image or {"layers": (f"own {number}".encode(),)}))
    return stage_id


def reborn(fakes):
    """The same registries, seen by a worker and a fleet that remember nothing."""
    fakes.registries.crash_at = None
    fakes.shared_state = MemorySharedState()
    fakes.stage_tasks = StageTasks(fakes.registries, fakes.shared_state)
    return fakes


def test_a_digest_of_one_tag_goes_by_digest(fakes, repository):
    stage_id, other = push(fakes, 1), push(fakes, 2)
    assert ItemResult() == fakes.delete(stage_id)
    assert {str(other)} == fakes.tags(repository)


def test_a_stage_that_is_gone_is_not_said_to_be_deleted(fakes, repository):
    other = push(fakes, 2)
    assert NOT_THERE == fakes.delete(fakes.stage(1))
    assert {str(other)} == fakes.tags(repository)
    assert [] == fakes.registries.writes


def test_a_stage_of_a_repository_that_does_not_exist_was_not_there_and_the_repository_is_not_made(
    fakes, repository
):
    assert NOT_THERE == fakes.delete(fakes.stage(1))
    assert [] == fakes.registries.writes


def test_a_custom_tag_on_the_same_digest_stays_with_its_content(fakes, repository):
    stage_id = push(fakes, 1, **SHARED)
    digest = fakes.registries.push(repository, "release", **SHARED)
    fakes.delete(stage_id)
    assert {"release"} == fakes.tags(repository)
    assert digest == fakes.manifest(repository, "release").digest


def test_a_custom_tag_that_came_after_the_first_look_stays(fakes, repository):
    first, second = push(fakes, 1), push(fakes, 2, **SHARED)
    fakes.delete(first, [first, second])
    fakes.registries.push(repository, "release", **SHARED)
    fakes.shared_state.clock_offset_ms += 9000
    fakes.shared_state._forget_cached("r", f"fresh scan {repository}")
    fakes.delete(second, [second])
    assert {"release"} == fakes.tags(repository)


def test_two_stages_of_one_digest_both_asked_for_go_at_once(fakes, repository):
    first, second = push(fakes, 1, **SHARED), push(fakes, 2, **SHARED)
    fakes.delete(first, [first, second])
    assert set() == fakes.tags(repository)
    assert ItemResult() == fakes.delete(second, [second])


def test_a_stage_of_the_same_digest_that_nobody_asked_for_stays(fakes, repository):
    first, second = push(fakes, 1, **SHARED), push(fakes, 2, **SHARED)
    fakes.delete(first)
    assert {str(second)} == fakes.tags(repository)


def test_a_stage_that_is_a_member_of_an_index_that_stays_is_not_taken_from_under_it(fakes, repository):
    stage_id = push(fakes, 1)
    digest = fakes.registries.stored(repository).tags[str(stage_id)]
    index = fakes.registries.push_index(repository, fakes.stage(9).digest, [digest])
    fakes.delete(stage_id)
    assert {fakes.stage(9).digest} == fakes.tags(repository)
    assert {digest, index} <= set(fakes.registries.stored(repository).manifests)


def test_a_member_of_an_index_in_a_foreign_index_is_not_taken_either(fakes, repository):
    stage_id = push(fakes, 1)
    digest = fakes.registries.stored(repository).tags[str(stage_id)]
    inner = fakes.registries.push_index(repository, None, [digest])
    fakes.registries.push_index(repository, "release", [inner])
    fakes.delete(stage_id)
    assert digest in fakes.registries.stored(repository).manifests
    assert {"release"} == fakes.tags(repository)


def test_an_index_and_its_member_both_asked_for_go_by_digest(fakes, repository):
    member = push(fakes, 1)
    digest = fakes.registries.stored(repository).tags[str(member)]
    index = type(member)(fakes.stage(9).digest)
    fakes.registries.push_index(repository, str(index), [digest])
    fakes.delete(member, [member, index])
    fakes.delete(index, [index])
    assert set() == fakes.tags(repository)
    assert digest not in fakes.registries.stored(repository).manifests


@pytest.mark.parametrize("crash_at", range(1, 14))
def test_a_worker_that_dies_after_any_step_is_finished_by_the_next(fakes, repository, crash_at):
    stage_id = push(fakes, 1, **SHARED)
    digest = fakes.registries.push(repository, "release", **SHARED)
    for at in (crash_at, crash_at + 1, None):
        fakes.registries.writes.clear()
        fakes.registries.crash_at = at
        with contextlib.suppress(fakes.registries.crash):
            fakes.delete(stage_id)
        assert digest == fakes.manifest(repository, "release").digest
        seen = list(fakes.stage_tasks.stage_ids(repository))
        manifest = fakes.registries.stored(repository).tags.get(str(stage_id))
        assert ([stage_id] if manifest == digest and seen else []) == seen
        reborn(fakes)
    assert {"release"} == {tag for tag in fakes.tags(repository) if "probe" not in tag}


def test_a_rejection_left_by_a_crash_goes_also_when_the_other_tag_has_gone_meanwhile(fakes, repository):
    stage_id = push(fakes, 1, **SHARED)
    fakes.registries.push(repository, "release", **SHARED)
    put = fakes.registries.put_manifest

    def die_before_the_placeholder(reference, manifest, **options):
        if reference.tag == str(stage_id):
            raise fakes.registries.crash
        put(reference, manifest, **options)

    fakes.registries.put_manifest = die_before_the_placeholder
    with pytest.raises(fakes.registries.crash):
        fakes.delete(stage_id)
    assert {str(stage_id), stage_id.rejected_tag, "release"} == fakes.tags(repository)
    del fakes.registries.put_manifest
    del fakes.registries.stored(repository).tags["release"]
    reborn(fakes).delete(stage_id)
    assert set() == fakes.tags(repository)


def test_the_crash_points_reach_to_the_last_step(fakes, repository):
    stage_id = push(fakes, 1, **SHARED)
    fakes.registries.push(repository, "release", **SHARED)
    fakes.delete(stage_id)
    assert 14 > len(fakes.registries.writes) >= 10


def test_the_rejection_stands_while_the_tag_leads_to_the_placeholder(fakes, repository):
    stage_id = push(fakes, 1, **SHARED)
    fakes.registries.push(repository, "release", **SHARED)
    fakes.delete(stage_id)
    verbs = [
        (verb, what) for verb, what in fakes.registries.writes if verb != "upload" and "probe" not in what
    ]
    rejected, placeholder = verbs.index(("put", stage_id.rejected_tag)), verbs.index(("put", str(stage_id)))
    assert rejected < placeholder
    assert ["delete", "delete"] == [verb for verb, _ in verbs[placeholder + 1 :]]


def test_a_rejection_that_others_wrote_stays(fakes, repository):
    stage_id = push(fakes, 1, **SHARED)
    fakes.registries.push(repository, stage_id.rejected_tag, labels={"werf": "app"})
    fakes.registries.push(repository, "release", **SHARED)
    fakes.delete(stage_id)
    assert {"release", stage_id.rejected_tag} == fakes.tags(repository)


def test_a_registry_that_deletes_tags_gets_one_request_a_stage(fakes, repository):
    fakes.registries.deletes = "tag"
    first, second = push(fakes, 1, **SHARED), push(fakes, 2, **SHARED)
    fakes.delete(first)
    fakes.registries.reads.clear()
    fakes.registries.writes.clear()
    fakes.delete(second)
    assert [] == fakes.registries.reads
    assert [("delete", str(second))] == fakes.registries.writes
    assert set() == fakes.tags(repository)


def test_a_registry_that_takes_siblings_along_is_found_out_on_our_own_tags(fakes, repository):
    fakes.registries.deletes = "siblings"
    stage_id = push(fakes, 1, **SHARED)
    fakes.registries.push(repository, "release", **SHARED)
    fakes.delete(stage_id)
    assert {"release"} == fakes.tags(repository)


@pytest.mark.parametrize("deletes_by", ["digest", "tag", "siblings"])
def test_the_trial_leaves_nothing(fakes, repository, deletes_by):
    fakes.registries.deletes = deletes_by
    stage_id, kept = push(fakes, 1), push(fakes, 2)
    digests = dict(fakes.registries.stored(repository).tags)
    fakes.delete(stage_id)
    assert {str(kept)} == fakes.tags(repository)
    left = {digests[str(kept)]} | ({digests[str(stage_id)]} if deletes_by == "tag" else set())
    assert left == set(fakes.registries.stored(repository).manifests)


def test_a_registry_whose_deletion_is_off_says_which_setting_turns_it_on(fakes, repository):
    fakes.registries.deletes = "off"
    stage_id = push(fakes, 1)
    with pytest.raises(DeletionDisabledError, match="REGISTRY_STORAGE_DELETE_ENABLED=true"):
        fakes.delete(stage_id)
    assert [] == fakes.registries.writes
    fakes.registries.deletes = "digest"
    assert ItemResult() == fakes.delete(stage_id)


def test_a_registry_that_deletes_tags_and_no_digests_does_so(fakes, repository):
    """OCI distribution specification 1.1, "Content Management": the probe's own tags go, too."""
    fakes.registries.deletes = "only tags"
    stage_id, kept = push(fakes, 1), push(fakes, 2)
    assert ItemResult() == fakes.delete(stage_id)
    assert {str(kept)} == fakes.tags(repository)


def test_a_registry_that_stops_deleting_tags_is_tried_again_the_next_time(fakes, repository):
    fakes.registries.deletes = "tag"
    first, second = push(fakes, 1), push(fakes, 2)
    fakes.delete(first)
    fakes.registries.deletes = "digest"
    with pytest.raises(RegistryError):
        fakes.delete(second)
    fakes.delete(second)
    assert set() == fakes.tags(repository)


def test_where_nothing_can_be_moved_aside_the_error_names_the_other_tags(fakes, repository):
    stage_id = push(fakes, 1, **SHARED)
    fakes.registries.push(repository, "release", **SHARED)
    fakes.delete(fakes.stage(5))
    fakes.registries.forbidden = {str(stage_id)}
    with pytest.raises(SharedDigestError, match="release"):
        fakes.delete(stage_id)
    assert {str(stage_id), "release"} == fakes.tags(repository)


def test_a_login_that_may_not_push_still_deletes_what_is_not_shared(fakes, repository):
    stage_id, shared = push(fakes, 1), push(fakes, 2, **SHARED)
    fakes.registries.push(repository, "release", **SHARED)
    fakes.registries.forbidden = {"*"}
    fakes.delete(stage_id, [stage_id, shared])
    with pytest.raises(SharedDigestError, match="release"):
        fakes.delete(shared, [shared])
    assert {str(shared), "release"} == fakes.tags(repository)


def test_a_lost_lease_deletes_nothing(fakes, repository):
    class Lost:
        def check(self):
            return

        def require(self, seconds):
            raise LeaseLostError("lost")

    stage_id = push(fakes, 1)
    with pytest.raises(LeaseLostError):
        fakes.delete(stage_id, lease=Lost())
    assert {str(stage_id)} == fakes.tags(repository)


def test_stages_are_looked_at_once_a_run_and_what_is_asked_for_read_once(fakes, repository):
    stages = [push(fakes, n, **SHARED) for n in range(20)]
    kept = [push(fakes, n) for n in range(30, 40)]
    questions = []

    def to_delete():
        questions.append(1)
        return [str(stage_id) for stage_id in stages]

    for stage_id in stages:
        fakes.stage_tasks.delete_stage(repository, stage_id, run_id="r", to_delete=to_delete)
    assert {str(stage_id) for stage_id in kept} == fakes.tags(repository)
    assert [1] == questions
    heads = [what for verb, what in fakes.registries.reads if verb == "head"]
    assert [1] * 10 == [heads.count(str(stage_id)) for stage_id in kept]


def test_a_second_run_says_that_the_stage_was_not_there(fakes, repository):
    stage_id, _other = push(fakes, 1), push(fakes, 2)
    assert ItemResult() == fakes.delete(stage_id)
    assert NOT_THERE == fakes.delete(stage_id, run_id="later")


def test_a_registry_that_deletes_tags_says_what_was_not_there(fakes, repository):
    fakes.registries.deletes = "tag"
    stage_id, _other = push(fakes, 1), push(fakes, 2)
    assert ItemResult() == fakes.delete(stage_id)
    assert NOT_THERE == fakes.delete(stage_id, run_id="later")


def test_a_tag_whose_first_request_got_no_answer_counts_as_deleted(fakes, repository):
    fakes.registries.deletes = "tag"
    stage_id, other = push(fakes, 1), push(fakes, 2)
    fakes.delete(other)
    delete = fakes.registries.delete_manifest

    def ask_twice(reference, *, lease, precheck):
        delete(reference, lease=lease, precheck=precheck)
        delete(reference, lease=lease, precheck=precheck)

    fakes.registries.delete_manifest = ask_twice
    assert ItemResult() == fakes.delete(stage_id)


def test_a_rejection_that_a_crash_left_counts_as_a_deletion(fakes, repository):
    stage_id = push(fakes, 1)
    put_record(
        fakes.registries,
        repository.tagged(stage_id.rejected_tag),
        make_rejection(repository.name, while_deleting=True),
        lease=NO_LEASE,
    )
    del fakes.registries.stored(repository).tags[str(stage_id)]
    assert ItemResult() == fakes.delete(stage_id)
    assert NOT_THERE == fakes.delete(stage_id, run_id="later")
