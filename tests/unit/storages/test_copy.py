from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext

import pytest

from stagefleet.attempt import Attempt, ItemResult
from stagefleet.errors import (
    BrokenStageError,
    ItemCancelledError,
    LeaseLostError,
    ManifestRefusedError,
    NotFoundError,
    RegistryError,
    RegistryUnavailableError,
    StageNotFoundError,
    UnsupportedManifestError,
)
from stagefleet.leases import NO_LEASE
from stagefleet.manifests import Manifest
from stagefleet.names import Digest, Reference, StageId
from stagefleet.records.image import make_placeholder
from stagefleet.redis_client import DeferredCall, LastStep
from stagefleet.runs.models import ItemState, Outcome
from stagefleet.runs.snapshots import encode_outcome
from stagefleet.storages import blob_transfer
from stagefleet.storages.blob_transfer import BlobTransfer, Config

BASE, OWN = b"base layer", b"own layer"


def digest_of(content):
    return Digest("sha256", hashlib.sha256(content).hexdigest())


def push(fakes, number=1, **image):
    stage_id = fakes.stage(number)
    digest = fakes.registries.push(fakes.source, str(stage_id), **({"layers": (BASE, OWN)} | image))
    return stage_id, digest


def test_a_stage_arrives_with_the_digest_of_the_source_and_is_described_where_it_is(fakes):
    stage_id, digest = push(fakes, labels={"a": "b"})
    item_result = fakes.copy(stage_id)
    assert fakes.registries.stored(fakes.source).manifests[digest].raw == (
        fakes.manifest(fakes.destination, str(stage_id)).raw
    )
    assert item_result.result is not None
    assert f"{fakes.destination}:{stage_id}" == item_result.result["name"]
    assert f"{fakes.destination}@{digest}" == item_result.result["repo_digest"]
    assert {"a": "b"} == item_result.result["labels"]
    assert len(BASE) + len(OWN) == item_result.result["size"]


def test_the_manifest_goes_last(fakes):
    stage_id, _ = push(fakes)
    fakes.copy(stage_id)
    assert ["upload", "upload", "upload", "put"] == [verb for verb, _ in fakes.registries.writes]


def test_a_blob_that_stages_share_is_sent_once_a_run(fakes):
    for number in (1, 2, 3):
        stage_id, _ = push(fakes, number, layers=(BASE, f"own {number}".encode()), labels={"n": str(number)})
        fakes.copy(stage_id)
    uploads = [what for verb, what in fakes.registries.writes if verb == "upload"]
    assert 1 == uploads.count(str(digest_of(BASE)))
    assert 7 == len(uploads)


def test_bytes_count_what_was_sent_and_nothing_else(fakes):
    first, _ = push(fakes, 1)
    second, _ = push(fakes, 2)
    sent = fakes.copy(first).bytes
    assert sent > len(BASE) + len(OWN)
    assert 0 == fakes.copy(second).bytes


class Telling:
    """A lease that adds up the bytes that it is told of."""

    def __init__(self) -> None:
        self.moved = self.expected = 0

    def check(self) -> None: ...

    def require(self, seconds: float) -> None: ...

    def waiting(self, seconds: float, host: str, text: str):
        return nullcontext()

    def note_bytes(self, moved: int, expected: int = 0) -> None:
        self.moved += moved
        self.expected += expected

    def note_progress(self, seconds: float, text: str) -> None:
        pass

    def check_run(self) -> None:
        self.check()


def test_bytes_of_a_large_layer_are_told_while_it_is_sent_and_of_small_ones_none(fakes, monkeypatch):
    monkeypatch.setattr(blob_transfer, "_LARGE_BYTES", 1000)
    lease = Telling()
    stage_id, _ = push(fakes, layers=(BASE, b"large" * 1000))
    fakes.copy(stage_id, lease=lease)
    assert (5000, 5000) == (lease.moved, lease.expected)


def test_a_layer_twice_in_an_image_is_sent_once(fakes):
    stage_id, _ = push(fakes, layers=(BASE, BASE))
    fakes.copy(stage_id)
    assert 2 == sum(verb == "upload" for verb, _ in fakes.registries.writes)


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
def test_layers_that_must_not_be_pushed_are_not(fakes, fields):
    stage_id, _ = push(fakes, layers=(BASE,), **fields)
    fakes.copy(stage_id)
    assert digest_of(BASE) not in fakes.registries.stored(fakes.destination).blobs


def test_urls_alone_keep_no_layer_back(fakes):
    """W5: the media type decides."""
    stage_id, _ = push(fakes, layers=(BASE,), urls=["https://example.com/layer"])
    fakes.copy(stage_id)
    assert digest_of(BASE) in fakes.registries.stored(fakes.destination).blobs


def test_on_one_registry_blobs_are_mounted(fakes):
    fakes.destination = type(fakes.source)(fakes.source.host, "elsewhere")
    stage_id, _ = push(fakes)
    assert 0 == fakes.copy(stage_id).bytes
    assert [("put", str(stage_id))] == fakes.registries.writes


def test_an_index_goes_whole_its_members_first(fakes):
    members = [fakes.registries.push(fakes.source, None, layers=(BASE, own)) for own in (b"arm", b"amd")]
    stage_id = StageId(fakes.stage(1).digest)
    index = fakes.registries.push_index(fakes.source, str(stage_id), members)
    item_result = fakes.copy(stage_id)
    puts = [what for verb, what in fakes.registries.writes if verb == "put"]
    assert {*map(str, members)} == {*puts[:-1]}
    assert (3, str(stage_id)) == (len(puts), puts[-1])
    assert index == fakes.registries.stored(fakes.destination).tags[str(stage_id)]
    assert item_result.result is not None
    assert str(index) == item_result.result["image_id"]


def test_a_stage_that_the_source_has_not_got_is_not_found(fakes):
    with pytest.raises(StageNotFoundError, match="has no stage"):
        fakes.copy(fakes.stage(1))


def test_a_rejected_stage_is_not_found(fakes):
    stage_id, _ = push(fakes)
    fakes.registries.push(fakes.source, stage_id.rejected_tag)
    with pytest.raises(StageNotFoundError, match="rejected"):
        fakes.copy(stage_id)
    with pytest.raises(StageNotFoundError, match="rejected"):
        fakes.stage_tasks.describe_stage(fakes.source, stage_id)


def test_a_placeholder_is_never_a_stage(fakes):
    stage_id = StageId(fakes.stage(1).digest)
    fakes.registries.put_manifest(fakes.source.tagged(str(stage_id)), Manifest.of(make_placeholder()))
    with pytest.raises(StageNotFoundError, match="being deleted"):
        fakes.copy(stage_id)
    with pytest.raises(StageNotFoundError, match="being deleted"):
        fakes.stage_tasks.describe_stage(fakes.source, stage_id)


@pytest.mark.parametrize("lost", ["layer", "config"])
def test_a_stage_whose_blob_is_gone_is_broken(fakes, lost):
    stage_id, digest = push(fakes)
    manifest = fakes.registries.stored(fakes.source).manifests[digest]
    gone = manifest.config if lost == "config" else manifest.layers[1]
    del fakes.registries.stored(fakes.source).blobs[gone.digest]
    with pytest.raises(BrokenStageError, match="build it again"):
        fakes.copy(stage_id)
    assert set() == fakes.tags(fakes.destination)


def test_verified_and_the_same_is_skipped_without_a_pull(fakes):
    stage_id, _ = push(fakes)
    fakes.copy(stage_id)
    fakes.registries.reads.clear()
    assert fakes.copy(stage_id, verify=True).skipped
    assert {"head"} == {verb for verb, _ in fakes.registries.reads}


def test_verified_and_different_is_copied_again(fakes):
    stage_id, digest = push(fakes)
    fakes.registries.push(fakes.destination, str(stage_id), layers=(b"other",))
    assert not fakes.copy(stage_id, verify=True).skipped
    assert digest == fakes.registries.stored(fakes.destination).tags[str(stage_id)]


def test_verified_and_missing_is_copied(fakes):
    stage_id, digest = push(fakes)
    assert not fakes.copy(stage_id, verify=True).skipped
    assert digest == fakes.registries.stored(fakes.destination).tags[str(stage_id)]


def test_a_stale_answer_about_a_blob_is_healed(fakes):
    stage_id, digest = push(fakes)
    fakes.registries.stale = {digest_of(BASE)}
    fakes.copy(stage_id)
    assert digest == fakes.registries.stored(fakes.destination).tags[str(stage_id)]
    assert BASE == fakes.registries.stored(fakes.destination).blobs[digest_of(BASE)]


def test_a_stale_memory_of_the_run_is_healed(fakes):
    stage_id, digest = push(fakes)
    fakes.shared_state.mark_uploaded("r", fakes.destination, [digest_of(BASE), digest_of(OWN)])
    fakes.copy(stage_id)
    assert digest == fakes.registries.stored(fakes.destination).tags[str(stage_id)]


def test_a_registry_that_refuses_for_ever_is_tried_a_bounded_number_of_times(fakes, monkeypatch):
    stage_id, _ = push(fakes)
    tries = []

    def refuse(*_, **__):
        tries.append(1)
        raise ManifestRefusedError("unknown", status=400)

    monkeypatch.setattr(fakes.registries, "put_manifest", refuse)
    with pytest.raises(ManifestRefusedError):
        fakes.copy(stage_id)
    assert 3 == len(tries)


@pytest.fixture
def refuse_puts(fakes, monkeypatch):
    """Refuses the first PUTs of manifests with an error; returns the references of all."""

    def refuse(error, *, times):
        put, asked = fakes.registries.put_manifest, []

        def put_manifest(reference, manifest, **options):
            asked.append(reference)
            if len(asked) <= times:
                raise error
            put(reference, manifest, **options)

        monkeypatch.setattr(fakes.registries, "put_manifest", put_manifest)
        return asked

    return refuse


@pytest.mark.parametrize(("error", "status"), [(RegistryError, 400), (NotFoundError, 404)])
def test_a_manifest_that_is_called_invalid_is_put_once_more(fakes, refuse_puts, error, status):
    """Registries check what a manifest names where a blob that they took may not be visible yet."""
    stage_id, digest = push(fakes)
    asked = refuse_puts(error("invalid", status=status, codes=("MANIFEST_INVALID",)), times=1)
    fakes.copy(stage_id)
    assert digest == fakes.registries.stored(fakes.destination).tags[str(stage_id)]
    assert 2 == len(asked)


@pytest.mark.parametrize(
    ("status", "code", "puts"),
    [(400, "MANIFEST_INVALID", 2), (415, "MANIFEST_INVALID", 1), (400, "TAG_INVALID", 1)],
)
def test_a_manifest_that_stays_invalid_is_told_so(fakes, refuse_puts, status, code, puts):
    stage_id, _ = push(fakes)
    asked = refuse_puts(RegistryError("invalid", status=status, codes=(code,)), times=10)
    with pytest.raises(RegistryError, match="invalid"):
        fakes.copy(stage_id)
    assert puts == len(asked)


def test_a_member_that_vanished_meanwhile_is_put_again(fakes):
    member = fakes.registries.push(fakes.source, None, layers=(BASE,))
    stage_id = StageId(fakes.stage(1).digest)
    fakes.registries.push_index(fakes.source, str(stage_id), [member])
    put = fakes.registries.put_manifest
    there = fakes.registries.stored(fakes.destination).manifests

    def put_once_in_vain(reference, manifest, **options):
        put(reference, manifest, **options)
        if sum(verb == "put" for verb, _ in fakes.registries.writes) == 1:
            del there[member]

    fakes.registries.put_manifest = put_once_in_vain
    fakes.copy(stage_id)
    assert member in there
    assert {str(stage_id)} == fakes.tags(fakes.destination)


def transfer_of(fakes, sleep, *, lease=NO_LEASE):
    return BlobTransfer(
        fakes.stage_tasks.storages.registries,
        fakes.stage_tasks.storages.open(fakes.source),
        fakes.destination,
        Attempt("r", lease=lease),
        sleep=sleep,
    )


@pytest.fixture
def layer(fakes):
    _, digest = push(fakes)
    return fakes.registries.stored(fakes.source).manifests[digest].layers[0]


def test_what_another_sends_is_waited_for(fakes, layer):
    fakes.shared_state.request_uploads("r", fakes.destination, [layer.digest], b"somebody")
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            fakes.shared_state.mark_uploaded("r", fakes.destination, [layer.digest])

    transfer_of(fakes, sleep).send([layer])
    assert 3 == len(slept)
    assert [] == fakes.registries.writes


def test_what_another_gives_up_is_sent(fakes, layer):
    fakes.shared_state.request_uploads("r", fakes.destination, [layer.digest], b"somebody")
    transfer_of(
        fakes,
        lambda _: fakes.shared_state.release_uploads("r", fakes.destination, [layer.digest], b"somebody"),
    ).send([layer])
    assert [("upload", str(layer.digest))] == fakes.registries.writes


def test_the_wait_ends_and_the_blob_is_sent_all_the_same(fakes, layer, monkeypatch):
    monkeypatch.setattr("stagefleet.storages.blob_transfer._LONGEST_WAIT_SECONDS", -1.0)
    fakes.shared_state.request_uploads("r", fakes.destination, [layer.digest], b"somebody")
    transfer_of(fakes, lambda _: pytest.fail("it waited")).send([layer])
    assert [("upload", str(layer.digest))] == fakes.registries.writes


def test_what_failed_is_left_to_others_at_once(fakes, layer):
    del fakes.registries.stored(fakes.source).blobs[layer.digest]
    with pytest.raises(BrokenStageError):
        transfer_of(fakes, lambda _: None).send([layer])
    assert ["send"] == fakes.shared_state.request_uploads("r", fakes.destination, [layer.digest], b"somebody")


@pytest.fixture
def late(fakes, monkeypatch):
    """A shared state whose marks can be put off; the digests that each of them would have now."""
    prepared = []

    def marking_uploaded(run_id, destination, digests, instead):
        prepared.append(digests)
        return DeferredCall(lambda: None, lambda _: None, instead)

    monkeypatch.setattr(fakes.shared_state, "marking_uploaded", marking_uploaded)
    return lambda: [list(digests()) for digests in prepared]


def copying(fakes, step):
    return BlobTransfer(
        fakes.stage_tasks.storages.registries,
        fakes.stage_tasks.storages.open(fakes.source),
        fakes.destination,
        Attempt("r"),
        step,
    )


def parts_of(fakes, digest):
    image = fakes.registries.stored(fakes.source).manifests[digest]
    return image.layers, Config(image.config, lambda: None)


def decisions(fakes, blobs):
    return fakes.shared_state.request_uploads("r", fakes.destination, blobs, b"somebody")


def test_what_others_may_wait_for_is_told_at_once(fakes, late):
    step = LastStep()
    _, digest = push(fakes)
    copying(fakes, step).send(*parts_of(fakes, digest))
    assert not step
    assert ["known"] == decisions(fakes, [digest_of(BASE)])


def test_a_layer_of_its_own_is_told_with_the_outcome(fakes, late):
    fakes.shared_state.mark_uploaded("r", fakes.destination, [digest_of(BASE)])
    step = LastStep()
    _, digest = push(fakes)
    layers, config = parts_of(fakes, digest)
    copying(fakes, step).send(layers, config)
    assert step
    assert [{digest_of(OWN), config.descriptor.digest}] == [set(digests) for digests in late()]
    assert ["wait"] == decisions(fakes, [digest_of(OWN)])

    step.close()

    assert ["known"] == decisions(fakes, [digest_of(OWN)])
    assert [[]] == late()


def test_what_the_registry_lacks_after_all_is_not_told_until_it_is_sent_again(fakes, late, monkeypatch):
    """Its mark is dropped first: if it is not sent again, nobody may take it for sent."""
    fakes.shared_state.mark_uploaded("r", fakes.destination, [digest_of(BASE)])
    step = LastStep()
    _, digest = push(fakes)
    layers, config = parts_of(fakes, digest)
    blobs = copying(fakes, step)
    blobs.send(layers, config)
    del fakes.registries.stored(fakes.source).blobs[digest_of(OWN)]

    with pytest.raises(BrokenStageError):
        blobs.send_again([layer for layer in layers if layer.digest == digest_of(OWN)])

    step.close()
    assert ["send"] == decisions(fakes, [digest_of(OWN)])


def test_waiting_ends_when_the_run_is_cancelled(fakes, layer):
    class Cut:
        def check(self):
            raise ItemCancelledError("stop")

        def require(self, seconds):
            raise ItemCancelledError("stop")

    fakes.shared_state.request_uploads("r", fakes.destination, [layer.digest], b"somebody")
    with pytest.raises(ItemCancelledError):
        transfer_of(fakes, lambda _: None, lease=Cut()).send([layer])


def test_a_lost_lease_puts_no_manifest(fakes):
    class Lost:
        def check(self):
            return

        def require(self, seconds):
            raise LeaseLostError("lost")

    stage_id, _ = push(fakes)
    with pytest.raises(LeaseLostError):
        fakes.copy(stage_id, lease=Lost())
    assert set() == fakes.tags(fakes.destination)


def test_the_sources_manifest_is_read_once(fakes):
    stage_id, _ = push(fakes)
    fakes.copy(stage_id)
    assert 1 == sum(verb == "get" for verb, _ in fakes.registries.reads)
    assert Reference.of(fakes.destination, str(stage_id)).tag in fakes.tags(fakes.destination)


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
def test_a_stage_is_copied_whatever_its_configuration_is(fakes, config):
    """W21, R11: what the configuration holds, of whatever kind, fails no copy; and the outcome encodes."""
    stage_id, digest = push(fakes, config=config)
    item_result = fakes.copy(stage_id)
    assert digest == fakes.registries.stored(fakes.destination).tags[str(stage_id)]
    assert fakes.stage_tasks.describe_stage(fakes.source, stage_id).info.size == len(BASE) + len(OWN)
    assert f"{fakes.destination}@{digest}" == item_result.result["repo_digest"]
    encode_outcome(Outcome(item=str(stage_id), state=ItemState.SUCCEEDED, result=item_result.result))


def test_a_configuration_too_large_to_be_read_is_sent_as_it_comes(fakes):
    """W21: a configuration of 9 MiB is copied, and the description goes without labels."""
    config = b"x" * (9 << 20)
    stage_id, _ = push(fakes, config=config)
    item_result = fakes.copy(stage_id)
    assert config == fakes.registries.stored(fakes.destination).blobs[digest_of(config)]
    assert ({}, True) == (item_result.result["labels"], item_result.result["truncated"])


def test_nothing_is_sent_of_a_stage_that_cannot_be_described(fakes):
    """W21: what may fail is read before anything is put."""
    stage_id, _ = push(fakes)
    fakes.registries.fetch_blob = failing = Failing(RegistryUnavailableError("500"))
    with pytest.raises(RegistryUnavailableError):
        fakes.copy(stage_id)
    assert ([], 1) == (fakes.registries.writes, failing.calls)


class Failing:
    def __init__(self, error):
        self.error, self.calls = error, 0

    def __call__(self, *_, **__):
        self.calls += 1
        raise self.error


CACHE_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"


def test_a_build_cache_is_copied_whole_and_described(fakes):
    """W19: members that are no manifests are copied as blobs, and weigh in the description."""
    stage_id = StageId(fakes.stage(1).digest)
    blobs = [(b"layer one", CACHE_LAYER), (b"layer two", CACHE_LAYER), (b"{}", CACHE_CONFIG)]
    index = fakes.registries.push_index(fakes.source, str(stage_id), [], blobs=blobs)
    item_result = fakes.copy(stage_id)
    there = fakes.registries.stored(fakes.destination)
    assert index == there.tags[str(stage_id)]
    assert {content for content, _ in blobs} == set(there.blobs.values())
    assert sum(len(content) for content, _ in blobs) == item_result.result["size"]
    assert fakes.stage_tasks.describe_stage(fakes.destination, stage_id).as_json() == item_result.result


def test_a_build_cache_beside_images_is_copied_with_them(fakes):
    """W19: an index may name images and blobs."""
    member = fakes.registries.push(fakes.source, None, layers=(BASE,))
    stage_id = StageId(fakes.stage(1).digest)
    fakes.registries.push_index(fakes.source, str(stage_id), [member], blobs=[(b"cached", CACHE_LAYER)])
    assert len(BASE) + len(b"cached") == fakes.copy(stage_id).result["size"]
    assert member in fakes.registries.stored(fakes.destination).manifests


def test_a_blob_of_an_index_that_the_destination_lost_is_sent_again(fakes):
    """W19: what a refused index lacks is sent again, blobs too."""
    stage_id = StageId(fakes.stage(1).digest)
    index = fakes.registries.push_index(fakes.source, str(stage_id), [], blobs=[(b"cached", CACHE_LAYER)])
    fakes.registries.stale = {digest_of(b"cached")}
    fakes.copy(stage_id)
    assert index == fakes.registries.stored(fakes.destination).tags[str(stage_id)]


def test_a_member_named_many_times_is_copied_and_weighed_once(fakes):
    """R17: an index names the same member again and again."""
    member = fakes.registries.push(fakes.source, None, layers=(BASE,))
    stage_id = StageId(fakes.stage(1).digest)
    fakes.registries.push_index(fakes.source, str(stage_id), [member] * 5000)
    assert len(BASE) == fakes.copy(stage_id).result["size"]
    assert 2 == sum(verb == "put" for verb, _ in fakes.registries.writes)


def test_a_bomb_of_indexes_is_refused_after_a_bounded_number_of_requests(fakes, monkeypatch):
    """R17: indexes of indexes lead to more than anybody reads."""
    monkeypatch.setattr("stagefleet.manifests.MAX_MANIFESTS", 20)
    images = [fakes.registries.push(fakes.source, None, layers=(bytes([n]),)) for n in range(10)]
    indexes = [fakes.registries.push_index(fakes.source, None, images[: n + 1]) for n in range(10)]
    indexes += [fakes.registries.push_index(fakes.source, None, images[n:]) for n in range(1, 10)]
    stage_id = StageId(fakes.stage(1).digest)
    fakes.registries.push_index(fakes.source, str(stage_id), indexes)
    for attempt in (fakes.copy, lambda stage_id: fakes.stage_tasks.describe_stage(fakes.source, stage_id)):
        fakes.registries.reads.clear()
        with pytest.raises(UnsupportedManifestError, match="leads to more than"):
            attempt(stage_id)
        assert sum(verb == "get" for verb, _ in fakes.registries.reads) <= 22
    assert set() == fakes.tags(fakes.destination)


def test_of_all_configurations_of_an_index_so_much_is_read(fakes, monkeypatch):
    """R17: a thousand members with one large configuration are no thousand times as much to read."""
    monkeypatch.setattr("stagefleet.storages.base._CONFIGS_BYTES", 2500)
    config = json.dumps({"config": {"Labels": {"a": "b" * 950}}}).encode()
    members = [
        fakes.registries.push(fakes.source, None, layers=(bytes([n]),), config=config) for n in range(6)
    ]
    stage_id = StageId(fakes.stage(1).digest)
    fakes.registries.push_index(fakes.source, str(stage_id), members)
    info = fakes.stage_tasks.describe_stage(fakes.source, stage_id).info
    assert [False] * 2 + [True] * 4 == [member.truncated for member in info.members]
    assert 2 == sum(verb == "blob" for verb, _ in fakes.registries.reads)
    fakes.copy(stage_id)
    assert set(members) < set(fakes.registries.stored(fakes.destination).manifests)


def test_a_damaged_tag_in_the_destination_is_overwritten_by_a_verified_copy(fakes):
    """x1: the destination fails at what is there; a copy heals it."""
    stage_id, digest = push(fakes)
    head = fakes.registries.head_manifest

    def damaged(reference):
        if reference.repository == fakes.destination:
            raise RegistryUnavailableError("500", status=500)
        return head(reference)

    fakes.registries.head_manifest = damaged
    assert not fakes.copy(stage_id, verify=True).skipped
    assert digest == fakes.registries.stored(fakes.destination).tags[str(stage_id)]


def test_a_run_that_goes_on_skips_what_somebody_else_copied_meanwhile(fakes):
    """Its plan has not looked: the task does, as the plan of a fresh copy, with one request."""
    stage_id = fakes.stage(1)
    fakes.registries.push(fakes.source, str(stage_id))
    assert not fakes.copy(stage_id, continues=True).skipped
    fakes.registries.writes.clear()
    assert ItemResult(skipped=True) == fakes.copy(stage_id, continues=True)
    assert [] == fakes.registries.writes


def test_a_run_that_goes_on_copies_what_differs_or_is_rejected(fakes):
    """The first where digests are compared, the second as its list does not name it."""
    differs, rejected = fakes.stage(1), fakes.stage(2)
    for stage_id in (differs, rejected):
        fakes.registries.push(fakes.source, str(stage_id), layers=(b"here",))
        fakes.registries.push(fakes.destination, str(stage_id), layers=(b"there",))
    fakes.stage_tasks.storages.open(fakes.destination).reject(rejected, project="app", lease=NO_LEASE)
    assert not fakes.copy(differs, continues=True, verify=True).skipped
    assert not fakes.copy(rejected, continues=True).skipped
