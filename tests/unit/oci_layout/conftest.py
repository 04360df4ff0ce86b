"""Images without a registry, and layouts as other tools write them."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field

import pytest

from stagefleet.manifests import OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest
from stagefleet.names import Digest
from stagefleet.oci_layout.layout import OciLayout

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
REF_NAME = "org.opencontainers.image.ref.name"


def descriptor_of(content, media_type=OCI_LAYER):
    return Descriptor(media_type, Digest("sha256", hashlib.sha256(content).hexdigest()), len(content))


def entry(descriptor, **more):
    return {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
        **more,
    }


@dataclass
class Image:
    """A manifest, and its blobs by descriptor."""

    manifest: Manifest
    blobs: dict[Descriptor, bytes] = field(default_factory=dict)

    @property
    def descriptor(self):
        return Descriptor(self.manifest.media_type, self.manifest.digest, self.manifest.size)

    def write(self, layout, tag=""):
        with layout.writing() as directory:
            for descriptor, content in self.blobs.items():
                directory.write_blob(descriptor, io.BytesIO(content))
            directory.put_manifest(self.manifest, tag)
        return self

    def name_alone(self, path):
        """Name it in index.json without a tag, as other tools name signatures."""
        document = json.loads((path / "index.json").read_text())
        document["manifests"].append(entry(self.descriptor))
        (path / "index.json").write_text(json.dumps(document))
        return self


def image(name="stage", layers=("shared", "own"), subject=None):
    config = json.dumps({"name": name}).encode()
    contents = [f"{layer} of {name}".encode() if layer == "own" else layer.encode() for layer in layers]
    parts = [descriptor_of(content) for content in contents]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": entry(descriptor_of(config, OCI_CONFIG)),
        "layers": [entry(part) for part in parts],
    }
    if subject is not None:
        document["subject"] = entry(subject)
    blobs = {descriptor_of(config, OCI_CONFIG): config, **dict(zip(parts, contents, strict=True))}
    return Image(Manifest.of(document), blobs)


def index(*members):
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [entry(member.descriptor) for member in members],
    }
    blobs: dict[Descriptor, bytes] = {}
    for member in members:
        blobs |= {**member.blobs, member.descriptor: member.manifest.raw}
    return Image(Manifest.of(document), blobs)


def blobs_of(path):
    return {f"{found.parent.name}:{found.name}" for found in (path / "blobs").glob("*/*")}


def digests_of(*images):
    return {str(part.digest) for one in images for part in (one.descriptor, *one.blobs)}


@pytest.fixture
def layout(tmp_path):
    return OciLayout(tmp_path / "layout")


@pytest.fixture
def path(layout, tmp_path):
    return tmp_path / "layout"
