"""Stages in an engine are exported and held against their diff ids; nothing of them touches the disk here."""

from __future__ import annotations

import json

import pytest

from stagefleet.attempt import Attempt
from stagefleet.errors import AlteredContentError, EngineError, ItemCancelledError, StageNotFoundError
from stagefleet.leases import NO_LEASE
from stagefleet.names import StageId
from stagefleet.shared_state.implementations import MemorySharedState
from tests.integration.engine.conftest import LABELS
from tests.services import stage_id_of

ONE = StageId.parse(stage_id_of("one"))
CONTENT = b"content of this one image"


@pytest.fixture
def image_id(engine):
    return engine.import_image(f"app:{ONE}", labels=LABELS, content=CONTENT)


def verify(storage, *, shallow=False, lease=NO_LEASE):
    return storage.verify(ONE, Attempt("r", str(ONE), lease=lease), MemorySharedState(), shallow=shallow)


def test_a_stage_that_is_whole_is_exported_once(storage, image_id):
    result = verify(storage)
    assert ([], 1, 1, False) == (result.faults, result.manifests, result.blobs, result.is_image)
    assert result.read_bytes > 1_000_000


def test_a_shallow_one_only_inspects(storage, image_id):
    result = verify(storage, shallow=True)
    assert ([], 1, 1, 0) == (result.faults, result.manifests, result.blobs, result.read_bytes)


def test_a_stage_that_is_not_there_is_not_found(storage):
    with pytest.raises(StageNotFoundError):
        verify(storage)


def test_a_layer_of_another_diff_id_is_altered(storage, image_id, monkeypatch):
    named = "sha256:" + "0" * 64
    found = storage.engine.find(image_id)
    monkeypatch.setattr(
        storage.engine, "find", lambda _: {**found, "RootFS": {"Type": "layers", "Layers": [named]}}
    )
    result = verify(storage)
    assert [f"the layer {named} of {image_id} is altered"] == [text for _, text in result.faults]
    assert isinstance(result.error, AlteredContentError)


def test_a_blob_that_containerd_keeps_altered_is_found(engine, storage, image_id):
    """It exports what it has, and checks nothing: its archive is an OCI layout, of compressed layers."""
    if not engine.keeps_manifests:
        pytest.skip("this engine has no containerd image store: name one that has with TEST_DOCKERD")
    blobs = engine.folder / "data/containerd/daemon/io.containerd.content.v1.content/blobs/sha256"
    (layer,) = json.loads((blobs / image_id.partition(":")[2]).read_bytes())["layers"]
    file = blobs / layer["digest"].partition(":")[2]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    result = verify(storage)
    assert ["altered" in text for _, text in result.faults] == [True]
    assert isinstance(result.error, AlteredContentError)


def test_what_the_engine_itself_finds_broken_is_told_in_its_words(engine, storage, image_id):
    if engine.keeps_manifests:
        pytest.skip("containerd's image store exports what it has, and checks nothing")
    (file,) = [
        path
        for path in (engine.folder / "data").rglob("content")
        if path.is_file() and path.read_bytes() == CONTENT
    ]
    file.write_bytes(CONTENT.swapcase())
    with pytest.raises(EngineError) as caught:
        verify(storage)
    assert not caught.value.retryable


def test_a_cancelled_item_waits_for_no_export(engine, storage, image_id):
    class Lease:
        checks = 0

        def check(self):
            self.checks += 1
            if self.checks > 2:
                raise ItemCancelledError("cancelled")

        def require(self, seconds):
            raise NotImplementedError

    with pytest.raises(ItemCancelledError):
        verify(storage, lease=Lease())
