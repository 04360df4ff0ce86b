"""What a verification finds wrong with a stage, and what proves nothing."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable

import pytest

from stagefleet.attempt import Attempt
from stagefleet.errors import (
    AlteredContentError,
    ForbiddenError,
    ItemCancelledError,
    MissingContentError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    ShortContentError,
    StageNotFoundError,
    StorageStateChangedError,
    TruncatedError,
    UnreadableContentError,
    UsageError,
)
from stagefleet.leases import NO_LEASE
from stagefleet.manifests import digest_of
from stagefleet.names import StageId
from stagefleet.storages import verification
from tests.unit.storages.conftest import OCI_INDEX, OCI_LAYER, OCI_MANIFEST, entry

BASE, OWN = b"base layer", b"own layer"


@pytest.fixture
def between(monkeypatch):
    """Functions that are called between two looks."""
    changes: list[Callable[[], object]] = []

    def pause(seconds, lease, *_told):
        assert seconds >= 5
        lease.check()
        for change in changes:
            change()

    monkeypatch.setattr(verification, "pause", pause)
    return changes


def naming(*layers):
    """The configuration of an image."""
    return {"rootfs": {"type": "layers", "diff_ids": [str(digest_of(layer)) for layer in layers]}}


def image(fakes, number, *layers, diff_ids=None, **more):
    stage_id = fakes.stage(number)
    named = [str(digest_of(layer)) for layer in layers] if diff_ids is None else diff_ids
    config = {"rootfs": {"type": "layers", "diff_ids": named}, "number": number}
    fakes.registries.push(fakes.source, str(stage_id), layers=layers, config=config, **more)
    return stage_id


@pytest.fixture
def stage(fakes, between):
    return image(fakes, 1, BASE, OWN)


def verify(fakes, stage_id, *, shallow=False, lease=NO_LEASE, run_id="r"):
    storage = fakes.stage_tasks.storages.open(fakes.source)
    return storage.verify(
        stage_id, Attempt(run_id, str(stage_id), lease=lease), fakes.shared_state, shallow=shallow
    )


def told(result):
    return [text for _, text in result.faults]


def blobs(fakes):
    return fakes.registries.stored(fakes.source).blobs


def parts(fakes, stage_id):
    manifest = fakes.manifest(fakes.source, str(stage_id))
    return {"config": manifest.config.digest, "layer": manifest.layers[1].digest}


def reads(fakes, verb, digest):
    return sum((verb, str(digest)) == read for read in fakes.registries.reads)


def test_a_stage_that_is_whole_is_read_once(fakes, stage):
    result = verify(fakes, stage)
    assert ([], None, True) == (result.faults, result.error, result.is_image)
    assert {"manifests": 1, "blobs": 3} == result.item_result.result
    assert result.read_bytes == result.item_result.bytes > len(BASE + OWN)
    assert [1, 1] == [reads(fakes, "blob", digest) for digest in parts(fakes, stage).values()]


@pytest.mark.parametrize("part", ["config", "layer"])
@pytest.mark.parametrize(
    ("there", "error", "fault"),
    [
        (None, MissingContentError, "missing"),
        (b"altered", AlteredContentError, "altered"),
        (b"", AlteredContentError, "altered"),
    ],
    ids=["missing", "altered", "empty"],
)
def test_what_two_looks_miss_or_find_altered_is_named(fakes, stage, part, there, error, fault):
    digest = parts(fakes, stage)[part]
    blobs(fakes).pop(digest)
    if there is not None:
        blobs(fakes)[digest] = there
    result = verify(fakes, stage)
    detail = "" if there is None else f" ({digest_of(there)})"
    assert [f"the {part} {digest} is {fault}{detail}"] == told(result)
    assert type(result.error) is error
    assert result.is_damaged
    assert not result.error.retryable
    assert str(digest) in str(result.error)


@pytest.mark.parametrize("part", ["config", "layer"])
def test_a_shallow_one_asks_and_reads_no_blob(fakes, stage, part):
    assert [] == verify(fakes, stage, shallow=True).faults
    digest = parts(fakes, stage)[part]
    blobs(fakes).pop(digest)
    assert [f"the {part} {digest} is missing"] == told(verify(fakes, stage, shallow=True, run_id="other"))
    assert {"get", "has", "head"} == {verb for verb, _ in fakes.registries.reads}


def test_a_shared_blob_is_read_once_a_run_and_named_by_each_stage_that_has_it(fakes, between):
    stages = [image(fakes, number, BASE, f"layer {number}".encode()) for number in range(5)]
    for stage_id in stages:
        assert [] == verify(fakes, stage_id).faults
    assert 1 == reads(fakes, "blob", digest_of(BASE))
    blobs(fakes)[digest_of(BASE)] = b"other"
    for stage_id in stages:
        assert [f"the layer {digest_of(BASE)} is altered ({digest_of(b'other')})"] == told(
            verify(fakes, stage_id, run_id="next")
        )
    assert 3 == reads(fakes, "blob", digest_of(BASE))  # the two looks of the second run


def test_a_blob_that_another_thread_reads_is_waited_for(fakes, between):
    stages = [image(fakes, number, BASE, f"layer {number}".encode()) for number in range(4)]
    begun, go_on = threading.Event(), threading.Event()
    open_blob = fakes.registries.open_blob

    def wait_in_base(repository, descriptor, **options):
        if descriptor.digest == digest_of(BASE):
            begun.set()
            assert go_on.wait(20)
        return open_blob(repository, descriptor, **options)

    fakes.registries.open_blob = wait_in_base
    results = []
    threads = [threading.Thread(target=lambda s=s: results.append(verify(fakes, s))) for s in stages]
    for thread in threads:
        thread.start()
    assert begun.wait(20)
    go_on.set()
    for thread in threads:
        thread.join()
    assert [[]] * 4 == [result.faults for result in results]
    assert 1 == reads(fakes, "blob", digest_of(BASE))


@pytest.mark.parametrize(
    "error",
    [
        RegistryUnavailableError("503", status=503),
        RegistryUnreachableError("connection reset"),
        TruncatedError("broke off"),
        ForbiddenError("denied", status=403),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("look", [1, 2])
def test_a_look_that_fails_proves_nothing_and_is_not_remembered(fakes, stage, between, error, look):
    layer = parts(fakes, stage)["layer"]
    content = blobs(fakes).pop(layer)
    open_blob = fakes.registries.open_blob

    def fail(*_, **__):
        raise error

    def break_down():
        fakes.registries.open_blob = fail

    if look == 1:
        break_down()
    between.append(break_down)
    with pytest.raises(type(error)):
        verify(fakes, stage)
    fakes.registries.open_blob = open_blob
    blobs(fakes)[layer] = content
    assert [] == verify(fakes, stage).faults


def test_a_fault_that_does_not_stay_is_none(fakes, stage, between):
    layer = parts(fakes, stage)["layer"]
    blobs(fakes).pop(layer)
    between.append(lambda: blobs(fakes).update({layer: OWN}))
    assert [] == verify(fakes, stage).faults


def test_two_looks_that_differ_prove_nothing(fakes, stage, between):
    layer = parts(fakes, stage)["layer"]
    blobs(fakes)[layer] = b"half"
    between.append(lambda: blobs(fakes).update({layer: b"another half"}))
    with pytest.raises(TruncatedError, match="differ") as caught:
        verify(fakes, stage)
    assert caught.value.retryable


def test_a_blob_that_ends_early_twice_is_altered(fakes, stage):
    def end_early(*_, **__):
        raise ShortContentError("sends only 3 of its 9 bytes")

    fakes.registries.open_blob = end_early
    result = verify(fakes, stage)
    assert 3 == len(result.faults)
    assert isinstance(result.error, AlteredContentError)
    assert "3 of its 9 bytes" in str(result.error)


def test_a_stage_that_was_deleted_or_replaced_meanwhile_is_not_broken(fakes, stage, between):
    blobs(fakes).pop(parts(fakes, stage)["layer"])
    between.append(lambda: fakes.registries.push(fakes.source, str(stage), layers=(b"new",)))
    with pytest.raises(StorageStateChangedError):
        verify(fakes, stage)
    between[:] = [fakes.registries.stored(fakes.source).tags.clear]
    blobs(fakes).pop(digest_of(b"new"))
    with pytest.raises(StageNotFoundError):
        verify(fakes, stage, run_id="next")


def test_a_tag_without_its_manifest_is_broken_and_a_stage_without_a_tag_is_gone(fakes, stage):
    fakes.registries.unknown.add(str(stage))
    result = verify(fakes, stage)
    assert [f"the manifest of {stage} is missing"] == told(result)
    assert not result.is_image
    fakes.registries.stored(fakes.source).tags.clear()
    with pytest.raises(StageNotFoundError):
        verify(fakes, stage)


def test_a_manifest_of_another_kind_is_unreadable(fakes, between):
    stage_id = fakes.stage(1)
    fakes.registries.push_odd(fakes.source, str(stage_id), b"{}", media_type="application/x")
    result = verify(fakes, stage_id)
    assert isinstance(result.error, UnreadableContentError)
    assert (False, 0) == (result.is_damaged, fakes.registries.fresh)


@pytest.mark.parametrize("packed", [gzip.compress(OWN), OWN], ids=["gzip", "plain"])
def test_diff_ids_are_those_of_the_unpacked_layers(fakes, between, packed):
    right = image(fakes, 1, BASE, packed, diff_ids=[str(digest_of(BASE)), str(digest_of(OWN))])
    wrong = image(fakes, 2, BASE, packed, diff_ids=[str(digest_of(BASE)), str(digest_of(b"other"))])
    assert [] == verify(fakes, right).faults
    result = verify(fakes, wrong)
    assert isinstance(result.error, AlteredContentError)
    found, named = str(digest_of(OWN))[:24], str(digest_of(b"other"))[:24]
    assert f"unpacks to {found}..., its config says {named}..." in str(result.error)
    assert 1 == reads(fakes, "blob", digest_of(packed))


def test_a_layer_that_cannot_be_unpacked_is_unreadable(fakes, between):
    stage_id = image(fakes, 1, gzip.compress(OWN)[:-5])
    assert isinstance(verify(fakes, stage_id).error, UnreadableContentError)


def test_a_config_is_held_against_the_layers(fakes, between):
    few = image(fakes, 1, BASE, OWN, diff_ids=[str(digest_of(BASE))])
    assert "it names 1 diff ids for 2 layers" in str(verify(fakes, few).error)
    stage_id = fakes.stage(2)
    fakes.registries.push(fakes.source, str(stage_id), layers=(BASE,), config=b"no JSON")
    assert "it is no JSON object" in str(verify(fakes, stage_id).error)


@pytest.mark.parametrize(
    ("rootfs", "told"),
    [
        (None, "it names 0 diff ids for 1 layers"),
        ({"type": "layers"}, "it names 0 diff ids for 1 layers"),
        ({"type": "layers", "diff_ids": None}, "it names 0 diff ids for 1 layers"),
        ({"type": "layers", "diff_ids": {}}, "it names 0 diff ids for 1 layers"),
        ({"type": "layers", "diff_ids": "sha256:"}, "its diff ids are no list of text"),
        ({"type": "layers", "diff_ids": [5]}, "its diff ids are no list of text"),
        ({"type": "layers", "diff_ids": [""]}, "its diff ids are no list of text"),
    ],
)
def test_a_config_of_an_image_names_its_layers(fakes, between, rootfs, told):
    """OCI image specification 1.1, "Image Configuration": `rootfs` and `diff_ids` are required."""
    stage_id = fakes.stage(1)
    fakes.registries.push(fakes.source, str(stage_id), layers=(BASE,), config={"rootfs": rootfs})
    error = verify(fakes, stage_id).error
    assert isinstance(error, UnreadableContentError)
    assert told in str(error)


def test_an_artifact_has_content_of_any_kind(fakes, between):
    """No diff ids, no JSON, no archive: digests and sizes alone."""
    stage_id, config, layer = fakes.stage(1), b"{}", gzip.compress(OWN)[:-5]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example",
        "config": entry(config, "application/vnd.oci.empty.v1+json"),
        "layers": [
            entry(layer, "application/vnd.example.tar+gzip"),
            entry(config, "text/x"),
        ],
    }
    blobs(fakes).update({digest_of(layer): layer, digest_of(config): config})
    fakes.registries.push_odd(fakes.source, str(stage_id), document, media_type=OCI_MANIFEST)
    assert [] == verify(fakes, stage_id).faults
    assert 1 == reads(fakes, "blob", digest_of(config))
    del blobs(fakes)[digest_of(config)]
    assert f"the config {digest_of(config)} is missing" in told(verify(fakes, stage_id, run_id="next"))


@pytest.mark.parametrize("shallow", [False, True])
def test_non_distributable_layers_may_be_absent(fakes, between, shallow):
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    stage_id = fakes.stage(1)
    config = naming(BASE)
    fakes.registries.push(fakes.source, str(stage_id), layers=(BASE,), config=config, mediaType=kind)
    assert [] == verify(fakes, stage_id, shallow=shallow).absent
    del blobs(fakes)[digest_of(BASE)]
    result = verify(fakes, stage_id, shallow=shallow, run_id="next")
    assert (None, [digest_of(BASE)]) == (result.error, result.absent)
    assert [f"the non-distributable layer {digest_of(BASE)} is absent"] == result.item_result.result["notes"]


def test_members_of_an_index_are_verified_whatever_they_are(fakes, between):
    sound, broken, missing = (
        fakes.registries.push(fakes.source, None, layers=(one,), config=naming(one))
        for one in (b"1", b"2", b"3")
    )
    index = StageId(fakes.stage(1).digest)
    cache = (b"blob of a cache", OCI_LAYER)
    fakes.registries.push_index(fakes.source, str(index), [sound, broken, missing], blobs=[cache])
    assert [] == verify(fakes, index).faults
    blobs(fakes).pop(digest_of(b"2"))
    blobs(fakes).pop(digest_of(cache[0]))
    del fakes.registries.stored(fakes.source).manifests[missing]
    result = verify(fakes, index, run_id="next")
    assert [
        f"the layer {digest_of(b'2')} of the member {broken} is missing",
        f"the member {missing} is missing",
        f"the blob {digest_of(cache[0])} is missing",
    ] == told(result)
    assert not result.is_image


def test_an_index_that_leads_too_far_is_unreadable(fakes, between):
    index = StageId(fakes.stage(1).digest)
    members = [
        {"mediaType": OCI_MANIFEST, "size": 1, "digest": f"sha256:{number:064x}"} for number in range(501)
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": members}
    fakes.registries.push_odd(fakes.source, str(index), json.dumps(document).encode())
    result = verify(fakes, index, shallow=True)
    assert "leads to more than 500 manifests" in told(result)[-1]


def test_a_cancelled_item_waits_for_no_second_look(fakes, stage, between):
    class Lease:
        ended = False

        def check(self):
            if self.ended:
                raise ItemCancelledError("cancelled")

        def require(self, seconds):
            raise NotImplementedError

    lease = Lease()
    blobs(fakes).pop(parts(fakes, stage)["layer"])
    between.append(lambda: setattr(lease, "ended", True))
    with pytest.raises(ItemCancelledError):
        verify(fakes, stage, lease=lease)


def test_many_faults_are_told_in_part(fakes, between):
    layers = [f"layer {number}".encode() for number in range(50)]
    stage_id = image(fakes, 1, *layers)
    for layer in layers:
        del blobs(fakes)[digest_of(layer)]
    assert str(verify(fakes, stage_id).error).endswith("; 30 more")


def test_a_storage_without_rejections_says_so(fakes):
    storage = fakes.stage_tasks.storages.open(fakes.source)
    with pytest.raises(UsageError, match="keeps no rejections"):
        super(type(storage), storage).reject(fakes.stage(1), project="app", lease=NO_LEASE)
