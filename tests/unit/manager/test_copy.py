from __future__ import annotations

import hashlib

import pytest

from stagefleet.errors import (
    BrokenStageError,
    ItemCancelledError,
    LeaseLostError,
    ManifestRefusedError,
    StageNotFoundError,
)
from stagefleet.manager.blobs import Blob, Consignment
from stagefleet.names import Digest, Reference, StageId
from stagefleet.records import make_placeholder
from stagefleet.registry import Manifest
from stagefleet.registry.leash import UNLEASHED

BASE, OWN = b"base layer", b"own layer"


def digest_of(content):
    return Digest("sha256", hashlib.sha256(content).hexdigest())


def push(world, number=1, **image):
    stage_id = world.stage(number)
    digest = world.registries.push(world.source, str(stage_id), **({"layers": (BASE, OWN)} | image))
    return stage_id, digest


def test_a_stage_arrives_with_the_digest_of_the_source_and_is_described_where_it_is(world):
    stage_id, digest = push(world, labels={"a": "b"})
    produced = world.copy(stage_id)
    assert world.registries.shelf(world.source).manifests[digest].raw == (
        world.manifest(world.destination, str(stage_id)).raw
    )
    assert produced.result is not None
    assert f"{world.destination}:{stage_id}" == produced.result["name"]
    assert f"{world.destination}@{digest}" == produced.result["repo_digest"]
    assert {"a": "b"} == produced.result["labels"]
    assert len(BASE) + len(OWN) == produced.result["size"]


def test_the_manifest_goes_last(world):
    stage_id, _ = push(world)
    world.copy(stage_id)
    assert ["upload", "upload", "upload", "put"] == [verb for verb, _ in world.registries.writes]


def test_a_blob_that_stages_share_is_sent_once_a_run(world):
    for number in (1, 2, 3):
        stage_id, _ = push(world, number, layers=(BASE, f"own {number}".encode()), labels={"n": str(number)})
        world.copy(stage_id)
    uploads = [what for verb, what in world.registries.writes if verb == "upload"]
    assert 1 == uploads.count(str(digest_of(BASE)))
    assert 7 == len(uploads)


def test_bytes_count_what_was_sent_and_nothing_else(world):
    first, _ = push(world, 1)
    second, _ = push(world, 2)
    sent = world.copy(first).bytes
    assert sent > len(BASE) + len(OWN)
    assert 0 == world.copy(second).bytes


def test_a_layer_twice_in_an_image_is_sent_once(world):
    stage_id, _ = push(world, layers=(BASE, BASE))
    world.copy(stage_id)
    assert 2 == sum(verb == "upload" for verb, _ in world.registries.writes)


@pytest.mark.parametrize(
    "fields",
    [
        {"urls": ["https://example.com/layer"]},
        {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "urls": ["https://e.com"]},
    ],
)
def test_layers_that_must_not_be_pushed_are_not(world, fields):
    stage_id, _ = push(world, layers=(BASE,), **fields)
    world.copy(stage_id)
    assert digest_of(BASE) not in world.registries.shelf(world.destination).blobs


def test_on_one_registry_blobs_are_mounted(world):
    world.destination = type(world.source)(world.source.host, "elsewhere")
    stage_id, _ = push(world)
    assert 0 == world.copy(stage_id).bytes
    assert [("put", str(stage_id))] == world.registries.writes


def test_an_index_goes_whole_its_members_first(world):
    members = [world.registries.push(world.source, None, layers=(BASE, own)) for own in (b"arm", b"amd")]
    stage_id = StageId(world.stage(1).digest)
    index = world.registries.push_index(world.source, str(stage_id), members)
    produced = world.copy(stage_id)
    puts = [what for verb, what in world.registries.writes if verb == "put"]
    assert [*map(str, members), str(stage_id)] == puts
    assert index == world.registries.shelf(world.destination).tags[str(stage_id)]
    assert produced.result is not None
    assert str(index) == produced.result["image_id"]


def test_a_stage_that_the_source_has_not_got_is_not_found(world):
    with pytest.raises(StageNotFoundError, match="has no stage"):
        world.copy(world.stage(1))


def test_a_rejected_stage_is_not_found(world):
    stage_id, _ = push(world)
    world.registries.push(world.source, stage_id.rejected_tag)
    with pytest.raises(StageNotFoundError, match="rejected"):
        world.copy(stage_id)
    with pytest.raises(StageNotFoundError, match="rejected"):
        world.manager.describe_stage(world.source, stage_id)


def test_a_placeholder_is_never_a_stage(world):
    stage_id = StageId(world.stage(1).digest)
    world.registries.put_manifest(world.source.tagged(str(stage_id)), Manifest.of(make_placeholder()))
    with pytest.raises(StageNotFoundError, match="being deleted"):
        world.copy(stage_id)
    with pytest.raises(StageNotFoundError, match="being deleted"):
        world.manager.describe_stage(world.source, stage_id)


@pytest.mark.parametrize("lost", ["layer", "config"])
def test_a_stage_whose_blob_is_gone_is_broken(world, lost):
    stage_id, digest = push(world)
    manifest = world.registries.shelf(world.source).manifests[digest]
    gone = manifest.config if lost == "config" else manifest.layers[1]
    del world.registries.shelf(world.source).blobs[gone.digest]
    with pytest.raises(BrokenStageError, match="build it again"):
        world.copy(stage_id)
    assert set() == world.tags(world.destination)


def test_verified_and_the_same_is_skipped_without_a_pull(world):
    stage_id, _ = push(world)
    world.copy(stage_id)
    world.registries.reads.clear()
    assert world.copy(stage_id, verify=True).skipped
    assert {"head"} == {verb for verb, _ in world.registries.reads}


def test_verified_and_different_is_copied_again(world):
    stage_id, digest = push(world)
    world.registries.push(world.destination, str(stage_id), layers=(b"other",))
    assert not world.copy(stage_id, verify=True).skipped
    assert digest == world.registries.shelf(world.destination).tags[str(stage_id)]


def test_verified_and_missing_is_copied(world):
    stage_id, digest = push(world)
    assert not world.copy(stage_id, verify=True).skipped
    assert digest == world.registries.shelf(world.destination).tags[str(stage_id)]


def test_a_stale_answer_about_a_blob_is_healed(world):
    stage_id, digest = push(world)
    world.registries.stale = {digest_of(BASE)}
    world.copy(stage_id)
    assert digest == world.registries.shelf(world.destination).tags[str(stage_id)]
    assert BASE == world.registries.shelf(world.destination).blobs[digest_of(BASE)]


def test_a_stale_memory_of_the_run_is_healed(world):
    stage_id, digest = push(world)
    world.book.mark_sent("r", world.destination, [digest_of(BASE), digest_of(OWN)])
    world.copy(stage_id)
    assert digest == world.registries.shelf(world.destination).tags[str(stage_id)]


def test_a_registry_that_refuses_for_ever_is_tried_a_bounded_number_of_times(world, monkeypatch):
    stage_id, _ = push(world)
    tries = []

    def refuse(*_, **__):
        tries.append(1)
        raise ManifestRefusedError("unknown", status=400)

    monkeypatch.setattr(world.registries, "put_manifest", refuse)
    with pytest.raises(ManifestRefusedError):
        world.copy(stage_id)
    assert 3 == len(tries)


def test_a_member_that_vanished_meanwhile_is_put_again(world):
    member = world.registries.push(world.source, None, layers=(BASE,))
    stage_id = StageId(world.stage(1).digest)
    world.registries.push_index(world.source, str(stage_id), [member])
    put = world.registries.put_manifest
    there = world.registries.shelf(world.destination).manifests

    def put_once_in_vain(reference, manifest, **options):
        put(reference, manifest, **options)
        if sum(verb == "put" for verb, _ in world.registries.writes) == 1:
            del there[member]

    world.registries.put_manifest = put_once_in_vain
    world.copy(stage_id)
    assert member in there
    assert {str(stage_id)} == world.tags(world.destination)


def consign(world, sleep, *, leash=UNLEASHED):
    return Consignment(
        world.registries,
        world.book,
        world.source,
        world.destination,
        run="r",
        leash=leash,
        sleep=sleep,
    )


@pytest.fixture
def layer(world):
    _, digest = push(world)
    return world.registries.shelf(world.source).manifests[digest].layers[0]


def test_what_another_sends_is_waited_for(world, layer):
    world.book.ask_blobs("r", world.destination, [layer.digest], b"somebody")
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            world.book.mark_sent("r", world.destination, [layer.digest])

    consign(world, sleep).send([Blob(layer)])
    assert 3 == len(slept)
    assert [] == world.registries.writes


def test_what_another_gives_up_is_sent(world, layer):
    world.book.ask_blobs("r", world.destination, [layer.digest], b"somebody")
    consign(world, lambda _: world.book.give_up("r", world.destination, [layer.digest], b"somebody")).send(
        [Blob(layer)]
    )
    assert [("upload", str(layer.digest))] == world.registries.writes


def test_patience_ends_and_the_blob_is_sent_all_the_same(world, layer, monkeypatch):
    monkeypatch.setattr("stagefleet.manager.blobs._PATIENCE_SECONDS", -1.0)
    world.book.ask_blobs("r", world.destination, [layer.digest], b"somebody")
    consign(world, lambda _: pytest.fail("it waited")).send([Blob(layer)])
    assert [("upload", str(layer.digest))] == world.registries.writes


def test_what_failed_is_left_to_others_at_once(world, layer):
    del world.registries.shelf(world.source).blobs[layer.digest]
    with pytest.raises(BrokenStageError):
        consign(world, lambda _: None).send([Blob(layer)])
    assert ["send"] == world.book.ask_blobs("r", world.destination, [layer.digest], b"somebody")


def test_waiting_ends_when_the_run_is_cancelled(world, layer):
    class Cut:
        def check(self):
            raise ItemCancelledError("stop")

        def require(self, seconds):
            raise ItemCancelledError("stop")

    world.book.ask_blobs("r", world.destination, [layer.digest], b"somebody")
    with pytest.raises(ItemCancelledError):
        consign(world, lambda _: None, leash=Cut()).send([Blob(layer)])


def test_a_lost_lease_puts_no_manifest(world):
    class Lost:
        def check(self):
            return

        def require(self, seconds):
            raise LeaseLostError("lost")

    stage_id, _ = push(world)
    with pytest.raises(LeaseLostError):
        world.copy(stage_id, leash=Lost())
    assert set() == world.tags(world.destination)


def test_the_sources_manifest_is_read_once(world):
    stage_id, _ = push(world)
    world.copy(stage_id)
    assert 1 == sum(verb == "get" for verb, _ in world.registries.reads)
    assert Reference.of(world.destination, str(stage_id)).tag in world.tags(world.destination)
