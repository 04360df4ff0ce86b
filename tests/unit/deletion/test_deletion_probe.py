"""How a repository's registry deletes is found out on tags of our own, and none of them is left."""

from __future__ import annotations

import contextlib
import logging
import time

import pytest

from stagefleet.deletion import mode as deletion_probe
from stagefleet.deletion.mode import DeletionMode, describe_remaining_tags, detect_deletion_mode
from stagefleet.errors import (
    DigestMismatchError,
    ItemCancelledError,
    LeaseLostError,
    NotFoundError,
    RegistryError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    SharedDigestError,
)
from stagefleet.leases import NO_LEASE
from stagefleet.names import Repository
from stagefleet.shared_state.implementations import MemorySharedState
from tests.stage_tasks import StageTasks


@pytest.fixture
def push(fakes):
    def push(repository, number=1):
        fakes.registries.push(repository, str(fakes.stage(number)), layers=(b"own %d" % number,))
        return fakes.stage(number)

    return push


@pytest.fixture
def mode(fakes):
    """Finds out how a repository deletes, as a worker of the fleet whose shared state the fakes have."""

    def mode(repository=None, *, shared_state=None, lease=NO_LEASE):
        wanted = (repository or fakes.source).tagged(str(fakes.stage(1)))
        shared_state = fakes.shared_state if shared_state is None else shared_state
        return detect_deletion_mode(fakes.registries, shared_state, wanted, lease=lease).mode

    return mode


@pytest.fixture
def probes(fakes):
    return lambda: {tag for tag in fakes.tags(fakes.source) if "probe" in tag}


@pytest.fixture
def warnings(caplog):
    return lambda: [entry.message for entry in caplog.records if entry.levelno == logging.WARNING]


@pytest.fixture
def forgotten(fakes):
    """The same registries, met by commands that remember nothing, one after the other."""

    def forgotten():
        fakes.shared_state = MemorySharedState()
        fakes.stage_tasks = StageTasks(fakes.registries, fakes.shared_state)
        return fakes

    return forgotten


def probe_images(registries):
    return [what for verb, what in registries.writes if verb == "put" and "probe" in what]


# By repository, and after a second look


def test_what_one_repository_showed_is_not_believed_of_another_behind_the_same_host(fakes, push, mode):
    """R24: how a registry deletes is learnt by repository."""
    other = Repository(fakes.source.host, "mirror/app")
    for repository in (fakes.source, other):
        push(repository)
    fakes.registries.deletes = "tag"
    assert DeletionMode.TAG is mode()
    fakes.registries.deletes = "siblings"
    assert (DeletionMode.TAG, DeletionMode.DIGEST) == (mode(), mode(other))


def test_a_repository_is_tried_once_for_the_whole_fleet(fakes, push, mode):
    """R24: single flight, and remembered."""
    push(fakes.source)
    mode()
    fakes.registries.writes.clear()
    assert (DeletionMode.DIGEST, []) == (mode(), fakes.registries.writes)


@pytest.mark.parametrize("stale_looks", [1, 2])
def test_a_cache_in_front_that_still_knows_the_second_tag_is_not_believed(
    fakes, push, mode, monkeypatch, stale_looks
):
    """R24: the second tag is looked at twice, by GET, some seconds apart."""
    push(fakes.source)
    registries, remembered, waits = fakes.registries, {}, []
    registries.deletes = "siblings"
    fetch, put = registries.fetch_manifest, registries.put_manifest

    def put_and_remember(reference, manifest, **options):
        put(reference, manifest, **options)
        remembered[reference] = [manifest] * (stale_looks - 1)

    def fetch_stale(reference):
        stale = remembered.get(reference)
        return stale.pop() if stale and reference.identifier.endswith("-b") else fetch(reference)

    monkeypatch.setattr(deletion_probe, "pause", lambda seconds, lease, **_: waits.append(seconds))
    monkeypatch.setattr(registries, "put_manifest", put_and_remember)
    monkeypatch.setattr(registries, "fetch_manifest", fetch_stale)
    assert DeletionMode.DIGEST is mode()
    assert [deletion_probe.SECOND_LOOK_SECONDS] * (stale_looks - 1) == waits


def test_by_tag_is_believed_after_some_seconds_and_not_by_a_head(fakes, push, mode, monkeypatch):
    """R24: HEAD alone says nothing."""
    push(fakes.source)
    waits = []
    monkeypatch.setattr(deletion_probe, "pause", lambda seconds, lease, **_: waits.append(seconds))
    monkeypatch.setattr(deletion_probe, "SECOND_LOOK_SECONDS", 5.0)
    fakes.registries.deletes = "tag"
    assert (DeletionMode.TAG, [5.0]) == (mode(), waits)
    looked = [verb for verb, what in fakes.registries.reads if "probe" in what]
    assert ["get", "get", "get", "head"] == looked  # the HEAD: whether it is gone at last


def test_a_registry_that_says_it_deleted_a_tag_and_did_not_deletes_by_digest(fakes, push, mode, monkeypatch):
    """R24: the tag that was deleted has to be gone at the second look."""
    push(fakes.source)
    delete = fakes.registries.delete_manifest

    def pretend(reference, **options):
        if reference.tag is None:
            delete(reference, **options)

    monkeypatch.setattr(fakes.registries, "delete_manifest", pretend)
    assert DeletionMode.DIGEST is mode()


def test_the_wait_for_the_second_look_ends_with_the_item(fakes, push, mode, probes, monkeypatch):
    """R24, R48: a cancelled run waits no longer, and its probe leaves nothing."""
    push(fakes.source)
    fakes.registries.deletes = "tag"
    monkeypatch.setattr(deletion_probe, "SECOND_LOOK_SECONDS", 60)

    class Cancelled:
        """Cancelled as soon as the first tag is deleted."""

        def check(self):
            if any(verb == "delete" for verb, _ in fakes.registries.writes):
                raise ItemCancelledError("cancelled")

        def require(self, seconds):
            self.check()

    with pytest.raises(ItemCancelledError):
        mode(lease=Cancelled())
    assert set() == probes()


# No tag of ours is left


def test_a_registry_that_deletes_the_probe_slowly_costs_no_lease(fakes, push, mode, probes, monkeypatch):
    """R8: distribution 2.8 reads all tags at each DELETE by digest: 100,000 take longer than an undo may."""
    push(fakes.source)
    monkeypatch.setattr(deletion_probe, "_UNDO_SECONDS", -1)
    assert (DeletionMode.DIGEST, set()) == (mode(), probes())


def test_a_cancelled_probe_that_cannot_be_undone_in_time_is_no_lost_lease(
    fakes, push, mode, probes, monkeypatch
):
    """R8, R48: the item ends as cancelled, not by the sweep; the next probe removes the tags."""
    push(fakes.source)
    with monkeypatch.context() as short:
        short.setattr(deletion_probe, "_UNDO_SECONDS", -1)
        with pytest.raises(ItemCancelledError):
            mode(lease=CancelledAfter(fakes.registries, "put"))
    assert 1 == len(probes())
    assert (DeletionMode.DIGEST, set()) == (mode(), probes())


class CancelledAfter:
    """A lease that is cancelled after the first write of a kind."""

    def __init__(self, registries, verb):
        self.registries = registries
        self.verb = verb

    def check(self):
        if any(verb == self.verb for verb, _ in self.registries.writes):
            raise ItemCancelledError("cancelled")

    def require(self, seconds):
        self.check()


def test_where_nothing_can_be_deleted_one_warning_names_the_tags_and_no_more_are_added(
    fakes, push, probes, warnings, forgotten
):
    """W37, R48: in a repository of immutable tags each embedded command left two more, and named none."""
    stages = [push(fakes.source, number) for number in (1, 2, 3)]
    fakes.registries.deletes = "immutable"
    for stage_id in stages[:2]:
        with pytest.raises(RegistryError, match="immutable tag"):
            fakes.delete(stage_id, stages)
    left = probes()
    assert 2 == len(left)
    (warning,) = warnings()
    assert all(tag in warning for tag in left)
    assert [warning] == describe_remaining_tags(fakes.shared_state, [fakes.source, fakes.destination])


def test_tags_that_cannot_be_removed_are_tried_again_and_not_added_to(
    fakes, push, probes, warnings, forgotten
):
    """W37: three commands that remember nothing leave what the first one left."""
    stage_id = push(fakes.source)
    fakes.registries.deletes = "immutable"
    for _ in range(3):
        with pytest.raises(RegistryError, match="immutable tag"):
            forgotten().delete(stage_id)
    assert (2, 2) == (len(probes()), len(probe_images(fakes.registries)))
    assert 1 == len({*warnings()})
    assert [warnings()[0]] == describe_remaining_tags(fakes.shared_state, [fakes.source])
    fakes.registries.deletes = "digest"
    forgotten().delete(stage_id)
    assert (set(), []) == (
        fakes.tags(fakes.source),
        describe_remaining_tags(fakes.shared_state, [fakes.source]),
    )


def test_tags_that_may_be_of_a_probe_under_way_are_left_until_that_would_be_done(
    fakes, push, mode, probes, monkeypatch
):
    """R48: commands at the same time do not spoil each other's probe."""
    push(fakes.source)
    fakes.registries.crash_at = 4  # both tags are there, and the worker is dead
    with pytest.raises(fakes.registries.crash):
        mode()
    fakes.registries.crash_at = None
    assert 2 == len(found := probes())
    waits = []

    def wait(seconds, lease, **_):
        waits.append(seconds)
        assert found <= probes()

    monkeypatch.setattr(deletion_probe, "UNDER_WAY_SECONDS", 15)
    monkeypatch.setattr(deletion_probe, "pause", wait)
    assert DeletionMode.DIGEST is mode(shared_state=MemorySharedState())
    assert (1, set()) == (len(waits), probes())
    assert 0 < waits[0] <= deletion_probe.UNDER_WAY_SECONDS


def test_a_probe_that_ends_meanwhile_is_not_disturbed(fakes, push, mode, probes, monkeypatch):
    """R48: what came while one waited for others is theirs."""
    push(fakes.source)
    name = f"stagefleet-probe-{int(time.time())}-{'0' * 15}"
    for tag in (f"{name}1-a", f"{name}1-b"):
        fakes.registries.push(fakes.source, tag, labels={"io.stagefleet.probe": "1"})

    def wait(seconds, lease, **_):
        del fakes.registries.stored(fakes.source).tags[f"{name}1-a"]
        fakes.registries.push(fakes.source, f"{name}2-a", labels={"io.stagefleet.probe": "2"})

    monkeypatch.setattr(deletion_probe, "UNDER_WAY_SECONDS", 15)
    monkeypatch.setattr(deletion_probe, "pause", wait)
    mode()
    assert {f"{name}2-a"} == probes()


@pytest.mark.parametrize("deletes_by", ["digest", "tag", "siblings"])
@pytest.mark.parametrize("crash_at", range(1, 8))
def test_what_a_killed_probe_left_is_removed_by_the_next(fakes, push, mode, probes, deletes_by, crash_at):
    """R48: a process that is killed at any step of a probe."""
    push(fakes.source)
    fakes.registries.deletes = deletes_by
    fakes.registries.crash_at = crash_at
    with contextlib.suppress(fakes.registries.crash):
        mode()
    fakes.registries.crash_at = None
    mode(shared_state=MemorySharedState())
    assert {str(fakes.stage(1))} == fakes.tags(fakes.source)


def test_what_earlier_releases_left_is_removed_too(fakes, push, mode, probes):
    """R48: their names had no time, so nobody is at it."""
    push(fakes.source)
    for letter in "ab":
        tag = f"stagefleet-probe-0123456789abcdef-{letter}"
        fakes.registries.push(fakes.source, tag, labels={"io.stagefleet.probe": "0123456789abcdef"})
    mode()
    assert set() == probes()


def test_a_tag_that_only_looks_like_one_of_ours_stays(fakes, push, mode):
    """R48: no image goes that says of itself that it is something else, nor its other tags."""
    push(fakes.source)
    for tag in ("stagefleet-probe-0123456789abcdef-a", "release"):
        fakes.registries.push(fakes.source, tag, layers=(b"theirs",))
    mode()
    assert {"stagefleet-probe-0123456789abcdef-a", "release"} <= fakes.tags(fakes.source)


@pytest.mark.parametrize("step", ["second put", "first delete"])
@pytest.mark.parametrize(
    "error",
    [RegistryUnavailableError("503", status=503), RegistryUnreachableError("away"), LeaseLostError("l")],
)
def test_a_probe_that_fails_removes_what_it_pushed(fakes, push, mode, probes, monkeypatch, step, error):
    """R48: on any error, and the error is the item's."""
    push(fakes.source)
    put, delete, calls = fakes.registries.put_manifest, fakes.registries.delete_manifest, []

    def failing_put(reference, manifest, **options):
        if step == "second put" and reference.identifier.endswith("-b"):
            raise error
        put(reference, manifest, **options)

    def failing_delete(reference, **options):
        calls.append(reference)
        if step == "first delete" and len(calls) == 2:
            raise error
        delete(reference, **options)

    monkeypatch.setattr(fakes.registries, "put_manifest", failing_put)
    monkeypatch.setattr(fakes.registries, "delete_manifest", failing_delete)
    with pytest.raises(type(error)):
        mode()
    assert set() == probes()


def test_a_registry_that_fails_at_every_deletion_is_said_to_keep_the_tags(
    fakes, push, probes, warnings, monkeypatch
):
    """R48, W37: 500 to every DELETE of what is there, as with an empty tag link in distribution 2.8."""
    stages = [push(fakes.source, number) for number in (1, 2)]
    delete = fakes.registries.delete_manifest

    def fail(reference, **options):
        if reference.tag is not None:
            return delete(reference, **options)
        fakes.registries._find(reference)
        raise RegistryUnavailableError("DELETE answered 500 (UNKNOWN)", method="DELETE", status=500)

    monkeypatch.setattr(fakes.registries, "delete_manifest", fail)
    for stage_id in stages:
        with pytest.raises(RegistryUnavailableError, match="UNKNOWN"):
            fakes.delete(stage_id)
    assert (2, 1) == (len(probes()), len(warnings()))


def test_a_damaged_stage_keeps_nobody_from_finding_out(fakes, push, mode, monkeypatch):
    """x2, W19: HEAD of the stage itself answers 500: it is there, and so is the repository."""
    push(fakes.source)

    def fail(reference):
        raise RegistryUnavailableError("500", status=500)

    monkeypatch.setattr(fakes.registries, "head_manifest", fail)
    assert DeletionMode.DIGEST is mode()


@pytest.mark.parametrize("method", ["head_manifest", "fetch_manifest"])
def test_content_that_cannot_be_read_fails_no_trial(fakes, push, mode, probes, monkeypatch, method):
    """x2, R24: neither the stage's own, nor what a gateway makes of the probe's."""
    push(fakes.source)
    fakes.registries.deletes = "tag"
    call = getattr(fakes.registries, method)

    def spoil(reference, **options):
        call(reference, **options)
        raise DigestMismatchError("another manifest")

    monkeypatch.setattr(fakes.registries, method, spoil)
    assert (DeletionMode.TAG if method == "head_manifest" else DeletionMode.DIGEST) is mode()
    assert set() == probes()


def test_a_registry_that_does_not_list_tags_can_be_tried(fakes, push, mode, probes, monkeypatch):
    """R48: the look for what others left is no condition."""
    push(fakes.source)
    fakes.registries.deletes = "tag"

    def refuse(repository):
        raise NotFoundError("no list here", status=404)

    monkeypatch.setattr(fakes.registries, "tags", refuse)
    assert (DeletionMode.TAG, set()) == (mode(), probes())


@pytest.fixture
def half_way(fakes, monkeypatch):
    """A registry that takes a manifest away and fails then, so its tags are left (distribution #3191)."""

    def half_way(is_meant=lambda digest: True):
        delete = fakes.registries.delete_manifest

        def fail(reference, **options):
            if reference.tag is not None or not is_meant(reference.digest):
                return delete(reference, **options)
            stored = fakes.registries.stored(reference.repository)
            if stored.manifests.pop(reference.digest, None) is None:
                raise NotFoundError("unknown", status=404)
            # As the caller sees it whose client has tried again: the manifest is gone by then.
            raise NotFoundError("unknown", status=404)

        monkeypatch.setattr(fakes.registries, "delete_manifest", fail)

    return half_way


def test_tags_that_are_listed_without_their_image_are_named_too(fakes, push, probes, warnings, half_way):
    """R48, W37: an empty tag link makes distribution 2.8 end each DELETE half way."""
    stages = [push(fakes.source, number) for number in (1, 2)]
    half_way()
    for stage_id in stages:
        with pytest.raises(SharedDigestError, match="ends half way"):
            fakes.delete(stage_id)
    assert 2 == len(left := probes())
    assert all(tag in warnings()[0] for tag in left)


def test_tags_that_were_left_without_their_image_are_removed_by_the_next_probe(
    fakes, push, mode, probes, monkeypatch, half_way
):
    """R48: their name says whose they are."""
    push(fakes.source)
    with monkeypatch.context() as patched:
        half_way()
        mode()
        patched.undo()
    monkeypatch.undo()
    monkeypatch.setattr(deletion_probe, "SECOND_LOOK_SECONDS", 0)
    monkeypatch.setattr(deletion_probe, "UNDER_WAY_SECONDS", 0)
    assert 2 == len(probes())
    mode(shared_state=MemorySharedState())
    assert set() == probes()
