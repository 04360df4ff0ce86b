"""The archives of `docker save` hold an image's layers, in the classic form and in containerd's."""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
from contextlib import contextmanager
from typing import Any

import pytest

from stagefleet.leases import NO_LEASE
from stagefleet.storages.docker_engine import StageImages
from stagefleet.storages.engine_verification import verify_images
from tests.unit.storages.conftest import OCI_INDEX, OCI_MANIFEST, digest_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LAYERS = [b"a layer" * 1000, b"another" * 1000]
PACKED = [gzip.compress(LAYERS[0]), zstd.compress(LAYERS[1])]


def archive(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as written:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            written.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def classic(layers=LAYERS):
    """As of the Docker image specification 1.2."""
    return archive({f"{n}/layer.tar": layer for n, layer in enumerate(layers)} | {"manifest.json": b"[]"})


def layout(layers=PACKED):
    """As of the OCI image layout, with Docker's file beside its index."""
    blobs = {
        f"blobs/sha256/{digest_of(packed).hex}": layer for packed, layer in zip(PACKED, layers, strict=True)
    }
    return archive({**blobs, "index.json": b"{}", "manifest.json": b"[]", "oci-layout": b"{}"})


class FakeEngine:
    address = "unix:///run/docker.sock"

    def __init__(self, content):
        self.content = content

    def find(self, name):
        del name
        return {"RootFS": {"Layers": [str(digest_of(layer)) for layer in LAYERS]}}

    @contextmanager
    def export(self, name):
        del name
        yield io.BytesIO(self.content)


def faults(content):
    engine: Any = FakeEngine(content)
    return [text for _, text in verify_images(engine, ["sha256:1"], NO_LEASE, shallow=False).faults]


@pytest.mark.parametrize("whole", [classic(), layout()], ids=["classic", "containerd"])
def test_the_layers_of_either_form_are_found(whole):
    assert [] == faults(whole)


@pytest.mark.parametrize(
    "damaged",
    [
        classic([LAYERS[0], LAYERS[1].swapcase()]),
        layout([PACKED[0], PACKED[1][:-9] + b"xxxxxxxxx"]),
        layout([PACKED[0], PACKED[1][: len(PACKED[1]) // 2]]),
        layout([PACKED[0], gzip.compress(b"something else")]),
    ],
    ids=["classic", "damaged blob", "cut blob", "other blob"],
)
def test_a_damaged_layer_is_altered_and_the_rest_is_read(damaged):
    """containerd exports what it has, and checks nothing."""
    assert [f"the layer {digest_of(LAYERS[1])} of sha256:1 is altered"] == faults(damaged)


@pytest.mark.parametrize(("kind", "is_there"), [(OCI_INDEX, False), (OCI_MANIFEST, True), (None, True)])
def test_an_index_of_which_nothing_was_pulled_for_the_platform_is_not_there(fakes, kind, is_there):
    """containerd describes such a name without a platform, a size and a configuration."""
    image = {
        "Id": "sha256:1",
        "Os": "",
        "Architecture": "",
        **({"Descriptor": {"mediaType": kind}} if kind else {}),
    }
    engine: Any = FakeEngine(b"")
    engine.platform = None
    engine.find = lambda _: image
    assert is_there == (StageImages(engine, "app", fakes.stage(1)).find() is not None)
