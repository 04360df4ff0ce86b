"""What refers to a stage goes with it, once no tag keeps the image, and nothing that somebody keeps."""

from __future__ import annotations

import json

import pytest

from stagefleet.attempt import NOT_THERE
from stagefleet.deletion import checks, reference_scan
from stagefleet.errors import LockTimeoutError, RegistryUnavailableError, UsageError
from stagefleet.leases import NO_LEASE
from stagefleet.names import StageId, parse_address
from stagefleet.operations.delete import DeleteOperation
from stagefleet.registry import referrers
from stagefleet.registry.referrers import cosign_tags, fallback_tag
from stagefleet.shared_state.base import FLEET_NAMESPACE
from stagefleet.shared_state.implementations import MemorySharedState
from tests.stage_tasks import RecordTasks, StageTasks

MODES = ["digest", "tag", "siblings"]


@pytest.fixture(params=[True, False], ids=["api", "fallback tag"])
def has_api(request, fakes):
    if not request.param:
        fakes.registries.without_referrers.add(fakes.source.host)
    return request.param


@pytest.fixture
def sign(fakes):
    """A stage with a signature, a bill of materials, the signature of that, and two tags of cosign."""

    def sign(number=1, tag=None):
        registries, source = fakes.registries, fakes.source
        image = registries.push(source, tag or str(fakes.stage(number)), layers=(b"of %d" % number,))
        name = b"%d" % number
        bill = registries.push_referrer(source, image, b"bill " + name)
        signature = registries.push_referrer(source, image, b"signature " + name)
        of_bill = registries.push_referrer(source, bill, b"signature of bill " + name)
        for cosigns in cosign_tags(image)[:2]:
            registries.push_referrer(source, image, cosigns.encode(), tag=cosigns)
        return image, [bill, signature, of_bill]

    return sign


def delete(fakes, *numbers, run_id="r", **options):
    stages = [fakes.stage(number) for number in numbers]
    return [fakes.delete(each, stages, run_id=run_id, referrers=True, **options) for each in stages]


def left(fakes):
    return set(fakes.registries.stored(fakes.source).manifests)


@pytest.mark.parametrize("deletes", MODES)
def test_what_refers_to_a_stage_goes_with_it(fakes, sign, has_api, deletes):
    fakes.registries.deletes = deletes
    _, gone = sign(1)
    _, kept = sign(2)
    (deleted,) = delete(fakes, 1)
    assert {"referrers": 5} == deleted.result
    assert not set(gone) & left(fakes)
    assert set(kept) <= left(fakes)
    fallback_tags = 0 if has_api else 2
    assert 3 + fallback_tags == len(fakes.tags(fakes.source))


@pytest.mark.parametrize("deletes", MODES)
@pytest.mark.parametrize("is_purge", [False, True])
def test_a_tag_that_the_same_purge_deletes_keeps_no_referrers(fakes, sign, has_api, deletes, is_purge):
    """As it keeps no digest: a custom tag of the stage goes with a later group."""
    fakes.registries.deletes = deletes
    image, signed = sign(1)
    fakes.registries.stored(fakes.source).tags["latest"] = image
    (deleted,) = delete(fakes, 1, also=["latest"] if is_purge else [])
    assert (5 if is_purge else 0) == deleted.result["referrers"]
    assert (set() if is_purge else set(signed)) == set(signed) & left(fakes)


@pytest.mark.parametrize("referrers", [{}, {"referrers": True}])
def test_a_rejected_stage_takes_them_along_where_that_is_asked_for(fakes, sign, has_api, referrers):
    stage_id = fakes.stage(1)
    _, signed = sign(1)
    storages = fakes.stage_tasks.storages
    storages.open(fakes.source).reject(stage_id, project="app", lease=NO_LEASE)
    deleted = RecordTasks(storages).delete_rejected_stage(
        fakes.source, stage_id, run_id="r", to_delete=lambda: [str(stage_id)], **referrers
    )
    assert ({"referrers": 5} if referrers else None) == deleted.result
    assert (set() if referrers else set(signed)) == set(signed) & left(fakes)


def test_the_stage_goes_first_and_the_index_after_what_it_lists(fakes, sign):
    """A stage without its signatures would be worse than signatures without a stage."""
    fakes.registries.without_referrers.add(fakes.source.host)
    image, (bill, signature, of_bill) = sign()
    delete(fakes, 1)
    gone = [name for verb, name in fakes.registries.writes if verb == "delete" and "probe" not in name]
    order = [str(each) for each in (image, of_bill, bill, signature)]
    assert order == [name for name in gone if name in order]
    assert gone.index(str(signature)) < len(gone) - 3


def test_without_the_option_they_stay(fakes, sign):
    _, expected = sign()
    fakes.delete(fakes.stage(1))
    assert set(expected) <= left(fakes)


@pytest.mark.parametrize("deletes", MODES)
def test_the_referrers_of_an_image_that_another_tag_keeps_stay(fakes, sign, has_api, deletes):
    fakes.registries.deletes = deletes
    _, expected = sign()
    stored = fakes.registries.stored(fakes.source)
    stored.tags["latest"] = stored.tags[str(fakes.stage(1))]
    before = fakes.tags(fakes.source)
    (deleted,) = delete(fakes, 1)
    assert 0 == deleted.result["referrers"]
    assert ["latest uses it" in note for note in deleted.result["notes"]] == [True]
    assert set(expected) <= left(fakes)
    assert before - fakes.tags(fakes.source) == {str(fakes.stage(1))}


@pytest.mark.parametrize("deletes", MODES)
def test_of_two_stages_with_one_image_the_last_takes_them(fakes, sign, has_api, deletes):
    fakes.registries.deletes = deletes
    _, gone = sign()
    stored = fakes.registries.stored(fakes.source)
    stored.tags[str(fakes.stage(2))] = stored.tags[str(fakes.stage(1))]
    results = delete(fakes, 1, 2)
    assert 5 == sum((each.result or {}).get("referrers", 0) for each in results)
    assert not set(gone) & left(fakes)


@pytest.mark.parametrize("deletes", MODES)
def test_a_referrer_that_somebody_tagged_stays_with_its_own(fakes, sign, has_api, deletes):
    fakes.registries.deletes = deletes
    _, (bill, signature, of_bill) = sign()
    fakes.registries.stored(fakes.source).tags["the-bill"] = bill
    (deleted,) = delete(fakes, 1)
    assert 3 == deleted.result["referrers"]
    assert {bill, of_bill} <= left(fakes)
    assert signature not in left(fakes)
    assert any("the-bill" in note for note in deleted.result["notes"])
    if not has_api:
        index = fakes.manifest(fakes.source, fallback_tag(subject_of(fakes, bill)))
        assert [str(bill)] == [entry["digest"] for entry in json.loads(index.raw)["manifests"]]


def subject_of(fakes, digest):
    return fakes.registries.stored(fakes.source).manifests[digest].subject.digest


def test_what_an_index_that_stays_has_as_a_member_stays(fakes, sign, has_api):
    _, (bill, signature, _) = sign()
    fakes.registries.push_index(fakes.source, "attested", [signature])
    delete(fakes, 1)
    assert signature in left(fakes)
    assert bill not in left(fakes)


def test_an_entry_that_refers_to_something_else_stays(fakes, sign):
    """Anybody may write the index under the fallback tag: a manifest has to name its subject itself."""
    fakes.registries.without_referrers.add(fakes.source.host)
    image, _ = sign()
    other = fakes.registries.push(fakes.source, None, layers=(b"somebody's",))
    stored = fakes.registries.stored(fakes.source)
    listed = stored.manifests[stored.tags[fallback_tag(image)]].members
    fakes.registries.push_index(fakes.source, fallback_tag(image), [*(each.digest for each in listed), other])
    (deleted,) = delete(fakes, 1)
    assert 5 == deleted.result["referrers"]
    assert other in left(fakes)
    index = fakes.manifest(fakes.source, fallback_tag(image))
    assert [other] == [member.digest for member in index.members]


def test_two_bills_under_tags_of_cosign_may_be_one_image(fakes):
    """Of a digest with two tags one tag goes: by a placeholder, as for stages."""
    first, second = (
        fakes.registries.push(fakes.source, str(fakes.stage(number)), layers=(b"%d" % number,))
        for number in (1, 2)
    )
    for image in (first, second):
        fakes.registries.push_referrer(fakes.source, image, b"the same", tag=cosign_tags(image)[2])
    (deleted,) = delete(fakes, 1)
    assert {"referrers": 1} == deleted.result
    assert {str(fakes.stage(2)), cosign_tags(second)[2]} == fakes.tags(fakes.source)


@pytest.mark.parametrize("deletes", MODES)
@pytest.mark.parametrize("is_new_run", [True, False])
def test_a_repetition_finishes_what_a_killed_one_left(fakes, sign, has_api, deletes, is_new_run):
    """Killed after each of its writes; a later attempt, or run, finds the digest in the fleet's memory."""
    fakes.registries.deletes = deletes
    for crash_at in range(1, 40):
        number = crash_at + 1
        _, gone = sign(number)
        fakes.registries.writes.clear()
        fakes.registries.crash_at = crash_at
        try:
            delete(fakes, number, run_id=f"r{number}")
        except fakes.registries.crash:
            fakes.registries.crash_at = None
            delete(fakes, number, run_id=f"{number if is_new_run else f'r{number}'}")
        else:
            break
        assert not set(gone) & left(fakes)
    fakes.registries.crash_at = None
    assert crash_at > 5
    assert set() == fakes.tags(fakes.source)
    stage = fakes.source.tagged(str(fakes.stage(number)))
    assert fakes.shared_state.peek(FLEET_NAMESPACE, f"subjects {stage}") is None


def test_a_registry_that_deletes_tags_alone_keeps_the_manifests(fakes, sign):
    """Its collection of untagged manifests may take them: that is told."""
    fakes.registries.deletes = "only tags"
    fakes.registries.without_referrers.add(fakes.source.host)
    _, kept = sign()
    (deleted,) = delete(fakes, 1)
    assert 2 == deleted.result["referrers"]
    assert 3 == sum("deletes no digest" in note for note in deleted.result["notes"])
    assert set(kept) <= left(fakes)
    assert set() == fakes.tags(fakes.source)


def test_an_error_that_passes_is_tried_again(fakes, sign, has_api):
    _, (bill, *_) = sign()

    def fail(verb, name):
        if (verb, name) == ("DELETE", str(bill)):
            raise RegistryUnavailableError("503", method="DELETE", status=503)

    fakes.registries.on_request = fail
    with pytest.raises(RegistryUnavailableError):
        delete(fakes, 1)
    fakes.registries.on_request = lambda *_: None
    (deleted,) = delete(fakes, 1)
    assert deleted.result["referrers"] > 0
    assert bill not in left(fakes)


def test_a_deletion_that_was_accepted_and_not_done_is_tried_again(fakes, sign, has_api, monkeypatch):
    """An accepted DELETE is a promise, no proof: nothing is counted, and the index keeps its entry."""
    monkeypatch.setattr(checks, "PAUSES_SECONDS", (0.0,))
    image, (bill, *_) = sign()
    delete_manifest = fakes.registries.delete_manifest

    def promise(reference, **options):
        if reference.digest != bill:
            delete_manifest(reference, **options)

    monkeypatch.setattr(fakes.registries, "delete_manifest", promise)
    with pytest.raises(RegistryUnavailableError, match="is there still"):
        delete(fakes, 1)
    assert has_api or fallback_tag(image) in fakes.tags(fakes.source)
    monkeypatch.undo()
    (deleted,) = delete(fakes, 1)
    assert deleted.result["referrers"] > 0
    assert bill not in left(fakes)


def test_where_other_tags_are_too_many_to_look_at_they_stay(fakes, sign, has_api, monkeypatch):
    _, expected = sign()
    monkeypatch.setattr(reference_scan, "SLOW_SECONDS", -1)
    (deleted,) = delete(fakes, 1)
    assert 0 == deleted.result["referrers"]
    assert "too many other tags" in deleted.result["notes"][0]
    assert set(expected) <= left(fakes)


def test_more_than_one_look_finds_go_too(fakes, monkeypatch):
    monkeypatch.setattr(referrers, "MAX_REFERRERS", 4)
    image = fakes.registries.push(fakes.source, str(fakes.stage(1)))
    for number in range(9):
        fakes.registries.push_referrer(fakes.source, image, b"%d" % number)
    (deleted,) = delete(fakes, 1)
    assert {"referrers": 9} == deleted.result


def test_those_of_an_indexs_members_go(fakes, has_api):
    registries = fakes.registries
    member = registries.push(fakes.source, None)
    index_id = StageId(f"{9:056x}")
    registries.push_index(fakes.source, str(index_id), [member])
    signature = registries.push_referrer(fakes.source, member, b"signature")
    deleted = fakes.delete(index_id, referrers=True)
    assert {"referrers": 1} == deleted.result
    assert signature not in left(fakes)


def test_a_stage_without_any_costs_little_more(fakes, has_api):
    """The digest, and its list where there is the API; no tag is asked for that is not there."""
    fakes.registries.deletes = "tag"
    for number in (1, 2):
        fakes.registries.push(fakes.source, str(fakes.stage(number)), layers=(b"%d" % number,))
    delete(fakes, 1)
    fakes.registries.reads.clear()
    assert [{"referrers": 0}] == [each.result for each in delete(fakes, 2)]
    reads = [verb for verb, _ in fakes.registries.reads]
    assert ["head", "referrers"] == reads


def test_a_stage_that_was_not_there_has_none(fakes, sign):
    sign()
    assert [NOT_THERE] == delete(fakes, 5)


def test_a_run_without_memory_leaves_no_wrong_word(fakes, sign):
    """Another process, as embedded commands are: what it cannot know, it does not count."""
    sign()
    delete(fakes, 1)
    again = StageTasks(fakes.registries, MemorySharedState())
    result = again.delete_stage(fakes.source, fakes.stage(1), run_id="s", referrers=True)
    assert result == NOT_THERE


def test_the_lists_lock_is_kept(fakes, sign, monkeypatch):
    """The index is read, changed and written again: not while somebody else does."""
    fakes.registries.without_referrers.add(fakes.source.host)
    image, _ = sign()

    def refuse(*_):
        raise LockTimeoutError("held")

    monkeypatch.setattr(type(fakes.stage_tasks.stage_locks), "lock_referrers", refuse)
    with pytest.raises(LockTimeoutError):
        delete(fakes, 1)
    assert fallback_tag(image) in fakes.tags(fakes.source)


@pytest.mark.parametrize("address", ["docker-daemon:app", "oci:/tmp/layout"])
def test_only_repositories_have_referrers(address):
    with pytest.raises(UsageError, match="leave out --referrers"):
        DeleteOperation(repository=parse_address(address), referrers=True)
