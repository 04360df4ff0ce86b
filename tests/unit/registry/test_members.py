"""What an index leads to, read within bounds."""

from __future__ import annotations

import pytest

from stagefleet import manifests as bounds
from stagefleet.errors import ItemCancelledError, NotFoundError, UnsupportedManifestError
from stagefleet.leases import under_lease
from stagefleet.manifests import OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest, MemberReader, digest_of
from stagefleet.names import Repository

REPOSITORY = Repository("a.example", "app")
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


class StoredManifests:
    """Manifests by digest, and which were asked for."""

    def __init__(self):
        self.manifests, self.asked = {}, []

    def fetch_manifest(self, digest):
        self.asked.append(digest)
        if digest not in self.manifests:
            raise NotFoundError(f"{digest} is gone", status=404)
        return self.manifests[digest]

    def image(self, seed):
        config = {"mediaType": "x", "digest": str(digest_of(seed.encode())), "size": 1}
        return self._keep({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []})

    def index(self, *members, blobs=()):
        entries = [
            {"mediaType": member.media_type, "digest": str(member.digest), "size": member.size}
            for member in members
        ]
        entries += [{"mediaType": kind, "digest": str(digest_of(blob)), "size": 1} for blob, kind in blobs]
        return self._keep({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})

    def _keep(self, document):
        manifest = Manifest.of(document)
        self.manifests[manifest.digest] = manifest
        return manifest


@pytest.fixture
def stored():
    return StoredManifests()


def walk(stored, index):
    return [
        member.descriptor.digest for member in MemberReader(stored.fetch_manifest, REPOSITORY).walk(index)
    ]


def test_each_member_is_read_once_wherever_it_is_named(stored):
    """R17: ten thousand names of one member are one request."""
    image = stored.image("one")
    inner = stored.index(*[image] * 2000)
    assert [inner.digest, image.digest] == walk(stored, stored.index(inner, *[image] * 3000, inner))
    assert [inner.digest, image.digest] == stored.asked


def test_an_index_comes_before_its_members(stored):
    first, second = stored.image("one"), stored.image("two")
    inner = stored.index(second)
    assert [first.digest, inner.digest, second.digest] == walk(stored, stored.index(first, inner))


def test_no_more_than_so_many_manifests_are_read(stored, monkeypatch):
    """R17: the bound holds for all indexes of one document together."""
    monkeypatch.setattr(bounds, "MAX_MANIFESTS", 10)
    indexes = [stored.index(*(stored.image(f"{n} {m}") for m in range(4))) for n in range(4)]
    with pytest.raises(UnsupportedManifestError, match="leads to more than 10 manifests"):
        walk(stored, stored.index(*indexes))
    assert 10 == len(stored.asked)


def test_no_more_than_so_many_blobs_are_given(stored, monkeypatch):
    """R17: an index of indexes of blobs is bounded too."""
    monkeypatch.setattr(bounds, "MAX_BLOBS", 10)
    indexes = [stored.index(blobs=[(bytes([n, m]), LAYER) for m in range(4)]) for n in range(4)]
    with pytest.raises(UnsupportedManifestError, match="or 10 blobs"):
        walk(stored, stored.index(*indexes))


def test_indexes_are_nested_four_deep_and_no_deeper(stored):
    """R17: what is nested deeper is refused, and not passed over."""
    index = stored.image("ground")
    for _ in range(4):
        index = stored.index(index)
    assert 4 == len(walk(stored, index))
    with pytest.raises(UnsupportedManifestError, match="nested more than 4 deep"):
        walk(stored, stored.index(index))


def test_blobs_are_given_without_a_request(stored):
    """W19: the members of a build cache are layers and a configuration."""
    blobs = [(b"layer", LAYER), (b"config", "application/vnd.buildkit.cacheconfig.v0")]
    index = stored.index(blobs=blobs)
    found = list(MemberReader(stored.fetch_manifest, REPOSITORY).members(index))
    assert [(digest_of(blob), None) for blob, _ in blobs] == [
        (member.descriptor.digest, member.manifest) for member in found
    ]
    assert [] == stored.asked


def test_a_member_that_is_not_there_is_named(stored):
    image = stored.image("one")
    index = stored.index(image)
    del stored.manifests[image.digest]
    with pytest.raises(NotFoundError, match=str(image.digest)):
        walk(stored, index)


def test_the_lease_is_asked_before_each_request(stored):
    """R17: a cancelled run reads no further."""

    class Lease:
        left = 3

        def check(self):
            if not self.left:
                raise ItemCancelledError("cancelled")
            self.left -= 1

        def require(self, seconds):
            raise NotImplementedError

    index = stored.index(*(stored.image(str(n)) for n in range(9)))
    with under_lease(Lease()), pytest.raises(ItemCancelledError):
        walk(stored, index)
    assert 3 == len(stored.asked)


@pytest.mark.parametrize(
    ("media_type", "is_manifest"),
    [
        ("", True),
        (OCI_MANIFEST, True),
        (OCI_INDEX.upper(), True),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", True),
        ("application/vnd.docker.distribution.manifest.list.v2+json", True),
        ("application/vnd.oci.artifact.manifest.v1+json", True),
        (LAYER, False),
        ("application/vnd.buildkit.cacheconfig.v0", False),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", False),
        ("application/octet-stream", False),
    ],
)
def test_what_is_a_manifest_is_told_by_its_media_type(media_type, is_manifest):
    """W19: anything else among the members of an index is a blob."""
    assert is_manifest == Descriptor(media_type, digest_of(b""), 0).is_manifest
