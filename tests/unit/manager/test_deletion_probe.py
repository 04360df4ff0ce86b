"""How a repository's registry deletes is found out on tags of our own, and none of them is left."""

from __future__ import annotations

import contextlib
import logging
import time

import pytest

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
from stagefleet.manager import StageManager, deletion_probe
from stagefleet.manager.deletion_way import DeletionWay, find_way, words_on_what_stays
from stagefleet.names import Repository
from stagefleet.registry.leash import UNLEASHED
from stagefleet.runs.book import MemoryBook


@pytest.fixture
def push(world):
    def push(repository, number=1):
        world.registries.push(repository, str(world.stage(number)), layers=(b"own %d" % number,))
        return world.stage(number)

    return push


@pytest.fixture
def way(world):
    """Finds out how a repository deletes, as a worker of the fleet that the world's book is of."""

    def way(repository=None, *, book=None, leash=UNLEASHED):
        wanted = (repository or world.source).tagged(str(world.stage(1)))
        book = world.book if book is None else book
        return find_way(world.registries, book, wanted, leash=leash).way

    return way


@pytest.fixture
def probes(world):
    return lambda: {tag for tag in world.tags(world.source) if "probe" in tag}


@pytest.fixture
def warnings(caplog):
    return lambda: [entry.message for entry in caplog.records if entry.levelno == logging.WARNING]


@pytest.fixture
def forgotten(world):
    """The same registries, met by commands that remember nothing, one after the other."""

    def forgotten():
        world.book = MemoryBook()
        world.manager = StageManager(world.registries, world.book)
        return world

    return forgotten


def probe_images(registries):
    return [what for verb, what in registries.writes if verb == "put" and "probe" in what]


# By repository, and after a second look


def test_what_one_repository_showed_is_not_believed_of_another_behind_the_same_host(world, push, way):
    """R24: how a registry deletes is learnt by repository."""
    other = Repository(world.source.host, "mirror/app")
    for repository in (world.source, other):
        push(repository)
    world.registries.deletes = "tag"
    assert DeletionWay.TAG is way()
    world.registries.deletes = "siblings"
    assert (DeletionWay.TAG, DeletionWay.DIGEST) == (way(), way(other))


def test_a_repository_is_tried_once_for_the_whole_fleet(world, push, way):
    """R24: single flight, and remembered."""
    push(world.source)
    way()
    world.registries.writes.clear()
    assert (DeletionWay.DIGEST, []) == (way(), world.registries.writes)


@pytest.mark.parametrize("stale_looks", [1, 2])
def test_a_cache_in_front_that_still_knows_the_second_tag_is_not_believed(
    world, push, way, monkeypatch, stale_looks
):
    """R24: the second tag is looked at twice, by GET, some seconds apart."""
    push(world.source)
    registries, remembered, waits = world.registries, {}, []
    registries.deletes = "siblings"
    fetch, put = registries.fetch_manifest, registries.put_manifest

    def put_and_remember(reference, manifest, **options):
        put(reference, manifest, **options)
        remembered[reference] = [manifest] * (stale_looks - 1)

    def fetch_stale(reference):
        stale = remembered.get(reference)
        return stale.pop() if stale and reference.identifier.endswith("-b") else fetch(reference)

    monkeypatch.setattr(deletion_probe, "pause", lambda seconds, leash, **_: waits.append(seconds))
    monkeypatch.setattr(registries, "put_manifest", put_and_remember)
    monkeypatch.setattr(registries, "fetch_manifest", fetch_stale)
    assert DeletionWay.DIGEST is way()
    assert [deletion_probe.SECOND_LOOK_SECONDS] * (stale_looks - 1) == waits


def test_by_tag_is_believed_after_some_seconds_and_not_by_a_head(world, push, way, monkeypatch):
    """R24: HEAD alone says nothing."""
    push(world.source)
    waits = []
    monkeypatch.setattr(deletion_probe, "pause", lambda seconds, leash, **_: waits.append(seconds))
    monkeypatch.setattr(deletion_probe, "SECOND_LOOK_SECONDS", 5.0)
    world.registries.deletes = "tag"
    assert (DeletionWay.TAG, [5.0]) == (way(), waits)
    looked = [verb for verb, what in world.registries.reads if "probe" in what]
    assert ["get", "get", "get", "head"] == looked  # the HEAD: whether it is gone at last


def test_a_registry_that_says_it_deleted_a_tag_and_did_not_deletes_by_digest(world, push, way, monkeypatch):
    """R24: the tag that was deleted has to be gone at the second look."""
    push(world.source)
    delete = world.registries.delete_manifest

    def pretend(reference, **options):
        if reference.tag is None:
            delete(reference, **options)

    monkeypatch.setattr(world.registries, "delete_manifest", pretend)
    assert DeletionWay.DIGEST is way()


def test_the_wait_for_the_second_look_ends_with_the_item(world, push, way, probes, monkeypatch):
    """R24, R48: a cancelled run waits no longer, and its probe leaves nothing."""
    push(world.source)
    world.registries.deletes = "tag"
    monkeypatch.setattr(deletion_probe, "SECOND_LOOK_SECONDS", 60)

    class Cancelled:
        """Cancelled as soon as the first tag is deleted."""

        def check(self):
            if any(verb == "delete" for verb, _ in world.registries.writes):
                raise ItemCancelledError("cancelled")

        def require(self, seconds):
            self.check()

    with pytest.raises(ItemCancelledError):
        way(leash=Cancelled())
    assert set() == probes()


# No tag of ours is left


def test_where_nothing_can_be_deleted_one_warning_names_the_tags_and_no_more_are_added(
    world, push, probes, warnings, forgotten
):
    """W37, R48: in a repository of immutable tags each embedded command left two more, and named none."""
    stages = [push(world.source, number) for number in (1, 2, 3)]
    world.registries.deletes = "immutable"
    for stage_id in stages[:2]:
        with pytest.raises(RegistryError, match="immutable tag"):
            world.delete(stage_id, stages)
    left = probes()
    assert 2 == len(left)
    (warning,) = warnings()
    assert all(tag in warning for tag in left)
    assert [warning] == words_on_what_stays(world.book, [world.source, world.destination])


def test_tags_that_cannot_be_removed_are_tried_again_and_not_added_to(
    world, push, probes, warnings, forgotten
):
    """W37: three commands that remember nothing leave what the first one left."""
    stage_id = push(world.source)
    world.registries.deletes = "immutable"
    for _ in range(3):
        with pytest.raises(RegistryError, match="immutable tag"):
            forgotten().delete(stage_id)
    assert (2, 2) == (len(probes()), len(probe_images(world.registries)))
    assert 1 == len({*warnings()})
    assert [warnings()[0]] == words_on_what_stays(world.book, [world.source])
    world.registries.deletes = "digest"
    forgotten().delete(stage_id)
    assert (set(), []) == (world.tags(world.source), words_on_what_stays(world.book, [world.source]))


def test_tags_that_may_be_of_a_probe_under_way_are_left_until_that_would_be_done(
    world, push, way, probes, monkeypatch
):
    """R48: commands at the same time do not spoil each other's probe."""
    push(world.source)
    world.registries.crash_at = 4  # both tags are there, and the worker is dead
    with pytest.raises(world.registries.crash):
        way()
    world.registries.crash_at = None
    assert 2 == len(found := probes())
    waits = []

    def wait(seconds, leash, **_):
        waits.append(seconds)
        assert found <= probes()

    monkeypatch.setattr(deletion_probe, "UNDER_WAY_SECONDS", 15)
    monkeypatch.setattr(deletion_probe, "pause", wait)
    assert DeletionWay.DIGEST is way(book=MemoryBook())
    assert (1, set()) == (len(waits), probes())
    assert 0 < waits[0] <= deletion_probe.UNDER_WAY_SECONDS


def test_a_probe_that_ends_meanwhile_is_not_disturbed(world, push, way, probes, monkeypatch):
    """R48: what came while one waited for others is theirs."""
    push(world.source)
    name = f"stagefleet-probe-{int(time.time())}-{'0' * 15}"
    for tag in (f"{name}1-a", f"{name}1-b"):
        world.registries.push(world.source, tag, labels={"io.stagefleet.probe": "1"})

    def wait(seconds, leash, **_):
        del world.registries.shelf(world.source).tags[f"{name}1-a"]
        world.registries.push(world.source, f"{name}2-a", labels={"io.stagefleet.probe": "2"})

    monkeypatch.setattr(deletion_probe, "UNDER_WAY_SECONDS", 15)
    monkeypatch.setattr(deletion_probe, "pause", wait)
    way()
    assert {f"{name}2-a"} == probes()


@pytest.mark.parametrize("deletes_by", ["digest", "tag", "siblings"])
@pytest.mark.parametrize("crash_at", range(1, 8))
def test_what_a_killed_probe_left_is_removed_by_the_next(world, push, way, probes, deletes_by, crash_at):
    """R48: a process that is killed at any step of a probe."""
    push(world.source)
    world.registries.deletes = deletes_by
    world.registries.crash_at = crash_at
    with contextlib.suppress(world.registries.crash):
        way()
    world.registries.crash_at = None
    way(book=MemoryBook())
    assert {str(world.stage(1))} == world.tags(world.source)


def test_what_earlier_releases_left_is_removed_too(world, push, way, probes):
    """R48: their names had no time, so nobody is at it."""
    push(world.source)
    for letter in "ab":
        tag = f"stagefleet-probe-0123456789abcdef-{letter}"
        world.registries.push(world.source, tag, labels={"io.stagefleet.probe": "0123456789abcdef"})
    way()
    assert set() == probes()


def test_a_tag_that_only_looks_like_one_of_ours_stays(world, push, way):
    """R48: no image goes that says of itself that it is something else, nor its other tags."""
    push(world.source)
    for tag in ("stagefleet-probe-0123456789abcdef-a", "release"):
        world.registries.push(world.source, tag, layers=(b"theirs",))
    way()
    assert {"stagefleet-probe-0123456789abcdef-a", "release"} <= world.tags(world.source)


@pytest.mark.parametrize("step", ["second put", "first delete"])
@pytest.mark.parametrize(
    "error",
    [RegistryUnavailableError("503", status=503), RegistryUnreachableError("away"), LeaseLostError("l")],
)
def test_a_probe_that_fails_removes_what_it_pushed(world, push, way, probes, monkeypatch, step, error):
    """R48: on any error, and the error is the item's."""
    push(world.source)
    put, delete, calls = world.registries.put_manifest, world.registries.delete_manifest, []

    def failing_put(reference, manifest, **options):
        if step == "second put" and reference.identifier.endswith("-b"):
            raise error
        put(reference, manifest, **options)

    def failing_delete(reference, **options):
        calls.append(reference)
        if step == "first delete" and len(calls) == 2:
            raise error
        delete(reference, **options)

    monkeypatch.setattr(world.registries, "put_manifest", failing_put)
    monkeypatch.setattr(world.registries, "delete_manifest", failing_delete)
    with pytest.raises(type(error)):
        way()
    assert set() == probes()


def test_a_registry_that_fails_at_every_deletion_is_said_to_keep_the_tags(
    world, push, probes, warnings, monkeypatch
):
    """R48, W37: 500 to every DELETE of what is there, as with an empty tag link in distribution 2.8."""
    stages = [push(world.source, number) for number in (1, 2)]
    delete = world.registries.delete_manifest

    def fail(reference, **options):
        if reference.tag is not None:
            return delete(reference, **options)
        world.registries._found(reference)
        raise RegistryUnavailableError("DELETE answered 500 (UNKNOWN)", method="DELETE", status=500)

    monkeypatch.setattr(world.registries, "delete_manifest", fail)
    for stage_id in stages:
        with pytest.raises(RegistryUnavailableError, match="UNKNOWN"):
            world.delete(stage_id)
    assert (2, 1) == (len(probes()), len(warnings()))


def test_a_damaged_stage_keeps_nobody_from_finding_out(world, push, way, monkeypatch):
    """x2, W19: HEAD of the stage itself answers 500: it is there, and so is the repository."""
    push(world.source)

    def fail(reference):
        raise RegistryUnavailableError("500", status=500)

    monkeypatch.setattr(world.registries, "head_manifest", fail)
    assert DeletionWay.DIGEST is way()


@pytest.mark.parametrize("method", ["head_manifest", "fetch_manifest"])
def test_content_that_cannot_be_read_fails_no_trial(world, push, way, probes, monkeypatch, method):
    """x2, R24: neither the stage's own, nor what a gateway makes of the probe's."""
    push(world.source)
    world.registries.deletes = "tag"
    call = getattr(world.registries, method)

    def spoil(reference, **options):
        call(reference, **options)
        raise DigestMismatchError("another manifest")

    monkeypatch.setattr(world.registries, method, spoil)
    assert (DeletionWay.TAG if method == "head_manifest" else DeletionWay.DIGEST) is way()
    assert set() == probes()


def test_a_registry_that_does_not_list_tags_can_be_tried(world, push, way, probes, monkeypatch):
    """R48: the look for what others left is no condition."""
    push(world.source)
    world.registries.deletes = "tag"

    def refuse(repository):
        raise NotFoundError("no list here", status=404)

    monkeypatch.setattr(world.registries, "tags", refuse)
    assert (DeletionWay.TAG, set()) == (way(), probes())


@pytest.fixture
def half_way(world, monkeypatch):
    """A registry that takes a manifest away and fails then, so its tags are left (distribution #3191)."""

    def half_way(is_meant=lambda digest: True):
        delete = world.registries.delete_manifest

        def fail(reference, **options):
            if reference.tag is not None or not is_meant(reference.digest):
                return delete(reference, **options)
            shelf = world.registries.shelf(reference.repository)
            if shelf.manifests.pop(reference.digest, None) is None:
                raise NotFoundError("unknown", status=404)
            # As the caller sees it whose client has tried again: the manifest is gone by then.
            raise NotFoundError("unknown", status=404)

        monkeypatch.setattr(world.registries, "delete_manifest", fail)

    return half_way


def test_tags_that_are_listed_without_their_image_are_named_too(world, push, probes, warnings, half_way):
    """R48, W37: an empty tag link makes distribution 2.8 end each DELETE half way."""
    stages = [push(world.source, number) for number in (1, 2)]
    half_way()
    for stage_id in stages:
        with pytest.raises(SharedDigestError, match="ends half way"):
            world.delete(stage_id)
    assert 2 == len(left := probes())
    assert all(tag in warnings()[0] for tag in left)


def test_tags_that_were_left_without_their_image_are_removed_by_the_next_probe(
    world, push, way, probes, monkeypatch, half_way
):
    """R48: their name says whose they are."""
    push(world.source)
    with monkeypatch.context() as patched:
        half_way()
        way()
        patched.undo()
    monkeypatch.undo()
    monkeypatch.setattr(deletion_probe, "SECOND_LOOK_SECONDS", 0)
    monkeypatch.setattr(deletion_probe, "UNDER_WAY_SECONDS", 0)
    assert 2 == len(probes())
    way(book=MemoryBook())
    assert set() == probes()
