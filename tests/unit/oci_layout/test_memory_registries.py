"""Registries in memory take blobs of layouts as registries over HTTP do: in pieces, and closed at the end."""

from __future__ import annotations

from stagefleet.names import Repository
from stagefleet.registry.http.adapter import CHUNK_BYTES
from stagefleet.testing.memory_registries import MemoryRegistries
from tests.unit.oci_layout.conftest import image

REPOSITORY = Repository("r.test", "app")


def test_a_blob_of_several_pieces_arrives_whole(layout):
    large = image(layers=("x" * (3 * CHUNK_BYTES + 1),)).write(layout, "tag")
    (blob,) = large.manifest.layers
    registries, opened = MemoryRegistries(), []

    def open_source():
        opened.append(layout.open_blob(blob))
        return opened[0]

    assert blob.size == registries.upload_blob(REPOSITORY, blob, open_source, mount_from=REPOSITORY)
    assert large.blobs[blob] == registries.fetch_blob(REPOSITORY, blob)
