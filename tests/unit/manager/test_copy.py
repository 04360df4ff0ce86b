from __future__ import annotations

import hashlib
import json

import pytest

from stagefleet.errors import (
    BrokenStageError,
    ItemCancelledError,
    LeaseLostError,
    ManifestRefusedError,
    RegistryUnavailableError,
    StageNotFoundError,
    UnsupportedManifestError,
)
from stagefleet.manager.blobs import Blob, Consignment
from stagefleet.names import Digest, Reference, StageId
from stagefleet.records import make_placeholder
from stagefleet.registry import Manifest
from stagefleet.registry.leash import UNLEASHED
from stagefleet.runs.model import ItemState, Outcome
from stagefleet.runs.wire import encode_outcome

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
        {
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "urls": ["https://e.com"],
        },
        {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "urls": ["https://e.com"]},
    ],
)
def test_layers_that_must_not_be_pushed_are_not(world, fields):
    stage_id, _ = push(world, layers=(BASE,), **fields)
    world.copy(stage_id)
    assert digest_of(BASE) not in world.registries.shelf(world.destination).blobs


def test_urls_alone_keep_no_layer_back(world):
    """W5: the media type decides."""
    stage_id, _ = push(world, layers=(BASE,), urls=["https://example.com/layer"])
    world.copy(stage_id)
    assert digest_of(BASE) in world.registries.shelf(world.destination).blobs


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


ODD_CONFIGS = {
    "text": b"hello",
    "yaml": b"a: 1",
    "list": b"[]",
    "nested brackets": b"[" * 100_000,
    "nested in its place": b'{"config": ' + b"[" * 100_000,
    "no UTF-8": b"\xff\xfe{}",
    "digits": b"1" * 10_000,
    "labels of other types": b'{"config": {"Labels": ["a"], "Env": {"A": 1}, "Volumes": 7}, "created": []}',
    "half a surrogate pair": b'{"config": {"Labels": {"\\ud800": "\\udfff"}, "Env": ["\\ud800"]}}',
}


@pytest.mark.parametrize("config", ODD_CONFIGS.values(), ids=ODD_CONFIGS)
def test_a_stage_is_copied_whatever_its_configuration_is(world, config):
    """W21, R11: what the configuration holds, of whatever kind, fails no copy; and the outcome encodes."""
    stage_id, digest = push(world, config=config)
    produced = world.copy(stage_id)
    assert digest == world.registries.shelf(world.destination).tags[str(stage_id)]
    assert world.manager.describe_stage(world.source, stage_id).info.size == len(BASE) + len(OWN)
    assert f"{world.destination}@{digest}" == produced.result["repo_digest"]
    encode_outcome(Outcome(item=str(stage_id), state=ItemState.SUCCEEDED, result=produced.result))


def test_a_configuration_too_large_to_be_read_is_sent_as_it_comes(world):
    """W21: a configuration of 9 MiB is copied, and the description goes without labels."""
    config = b"x" * (9 << 20)
    stage_id, _ = push(world, config=config)
    produced = world.copy(stage_id)
    assert config == world.registries.shelf(world.destination).blobs[digest_of(config)]
    assert ({}, True) == (produced.result["labels"], produced.result["truncated"])


def test_nothing_is_sent_of_a_stage_that_cannot_be_described(world):
    """W21: what may fail is read before anything is put."""
    stage_id, _ = push(world)
    world.registries.fetch_blob = failing = Failing(RegistryUnavailableError("500"))
    with pytest.raises(RegistryUnavailableError):
        world.copy(stage_id)
    assert ([], 1) == (world.registries.writes, failing.calls)


class Failing:
    def __init__(self, error):
        self.error, self.calls = error, 0

    def __call__(self, *_, **__):
        self.calls += 1
        raise self.error


CACHE_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"


def test_a_build_cache_is_copied_whole_and_described(world):
    """W19: members that are no manifests are copied as blobs, and weigh in the description."""
    stage_id = StageId(world.stage(1).digest)
    blobs = [(b"layer one", CACHE_LAYER), (b"layer two", CACHE_LAYER), (b"{}", CACHE_CONFIG)]
    index = world.registries.push_index(world.source, str(stage_id), [], blobs=blobs)
    produced = world.copy(stage_id)
    there = world.registries.shelf(world.destination)
    assert index == there.tags[str(stage_id)]
    assert {content for content, _ in blobs} == set(there.blobs.values())
    assert sum(len(content) for content, _ in blobs) == produced.result["size"]
    assert world.manager.describe_stage(world.destination, stage_id).as_json() == produced.result


def test_a_build_cache_beside_images_is_copied_with_them(world):
    """W19: an index may name images and blobs."""
    member = world.registries.push(world.source, None, layers=(BASE,))
    stage_id = StageId(world.stage(1).digest)
    world.registries.push_index(world.source, str(stage_id), [member], blobs=[(b"cached", CACHE_LAYER)])
    assert len(BASE) + len(b"cached") == world.copy(stage_id).result["size"]
    assert member in world.registries.shelf(world.destination).manifests


def test_a_blob_of_an_index_that_the_destination_lost_is_sent_again(world):
    """W19: what a refused index lacks is sent again, blobs too."""
    stage_id = StageId(world.stage(1).digest)
    index = world.registries.push_index(world.source, str(stage_id), [], blobs=[(b"cached", CACHE_LAYER)])
    world.registries.stale = {digest_of(b"cached")}
    world.copy(stage_id)
    assert index == world.registries.shelf(world.destination).tags[str(stage_id)]


def test_a_member_named_many_times_is_copied_and_weighed_once(world):
    """R17: an index names the same member again and again."""
    member = world.registries.push(world.source, None, layers=(BASE,))
    stage_id = StageId(world.stage(1).digest)
    world.registries.push_index(world.source, str(stage_id), [member] * 5000)
    assert len(BASE) == world.copy(stage_id).result["size"]
    assert 2 == sum(verb == "put" for verb, _ in world.registries.writes)


def test_a_bomb_of_indexes_is_refused_after_a_bounded_number_of_requests(world, monkeypatch):
    """R17: indexes of indexes lead to more than anybody reads."""
    monkeypatch.setattr("stagefleet.registry.members.MAX_MANIFESTS", 20)
    images = [world.registries.push(world.source, None, layers=(bytes([n]),)) for n in range(10)]
    indexes = [world.registries.push_index(world.source, None, images[: n + 1]) for n in range(10)]
    indexes += [world.registries.push_index(world.source, None, images[n:]) for n in range(1, 10)]
    stage_id = StageId(world.stage(1).digest)
    world.registries.push_index(world.source, str(stage_id), indexes)
    for attempt in (world.copy, lambda stage_id: world.manager.describe_stage(world.source, stage_id)):
        world.registries.reads.clear()
        with pytest.raises(UnsupportedManifestError, match="leads to more than"):
            attempt(stage_id)
        assert sum(verb == "get" for verb, _ in world.registries.reads) <= 22
    assert set() == world.tags(world.destination)


def test_of_all_configurations_of_an_index_so_much_is_read(world, monkeypatch):
    """R17: a thousand members with one large configuration are no thousand times as much to read."""
    monkeypatch.setattr("stagefleet.storages.stage_reader._CONFIGS_BYTES", 2500)
    config = json.dumps({"config": {"Labels": {"a": "b" * 950}}}).encode()
    members = [
        world.registries.push(world.source, None, layers=(bytes([n]),), config=config) for n in range(6)
    ]
    stage_id = StageId(world.stage(1).digest)
    world.registries.push_index(world.source, str(stage_id), members)
    info = world.manager.describe_stage(world.source, stage_id).info
    assert [False] * 2 + [True] * 4 == [member.truncated for member in info.members]
    assert 2 == sum(verb == "blob" for verb, _ in world.registries.reads)
    world.copy(stage_id)
    assert set(members) < set(world.registries.shelf(world.destination).manifests)


def test_a_damaged_tag_in_the_destination_is_overwritten_by_a_verified_copy(world):
    """x1: the destination fails at what is there; a copy heals it."""
    stage_id, digest = push(world)
    head = world.registries.head_manifest

    def damaged(reference):
        if reference.repository == world.destination:
            raise RegistryUnavailableError("500", status=500)
        return head(reference)

    world.registries.head_manifest = damaged
    assert not world.copy(stage_id, verify=True).skipped
    assert digest == world.registries.shelf(world.destination).tags[str(stage_id)]
