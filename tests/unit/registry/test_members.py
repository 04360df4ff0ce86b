"""What an index leads to, read within bounds."""

from __future__ import annotations

import pytest

from stagefleet.errors import ItemCancelledError, NotFoundError, UnsupportedManifestError
from stagefleet.names import Repository
from stagefleet.registry import members as bounds
from stagefleet.registry.leash import under
from stagefleet.registry.manifests import OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest, digest_of
from stagefleet.registry.members import MemberReader

REPOSITORY = Repository("a.example", "app")
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


class Shelf:
    """Manifests by digest, and which were asked for."""

    def __init__(self):
        self.manifests, self.asked = {}, []

    def fetch_manifest(self, reference):
        self.asked.append(reference.digest)
        if reference.digest not in self.manifests:
            raise NotFoundError(f"{reference} is gone", status=404)
        return self.manifests[reference.digest]

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
def shelf():
    return Shelf()


def walk(shelf, index):
    return [member.descriptor.digest for member in MemberReader(shelf, REPOSITORY).walk(index)]


def test_each_member_is_read_once_wherever_it_is_named(shelf):
    """R17: ten thousand names of one member are one request."""
    image = shelf.image("one")
    inner = shelf.index(*[image] * 2000)
    assert [inner.digest, image.digest] == walk(shelf, shelf.index(inner, *[image] * 3000, inner))
    assert [inner.digest, image.digest] == shelf.asked


def test_an_index_comes_before_its_members(shelf):
    first, second = shelf.image("one"), shelf.image("two")
    inner = shelf.index(second)
    assert [first.digest, inner.digest, second.digest] == walk(shelf, shelf.index(first, inner))


def test_no_more_than_so_many_manifests_are_read(shelf, monkeypatch):
    """R17: the bound holds for all indexes of one document together."""
    monkeypatch.setattr(bounds, "MAX_MANIFESTS", 10)
    indexes = [shelf.index(*(shelf.image(f"{n} {m}") for m in range(4))) for n in range(4)]
    with pytest.raises(UnsupportedManifestError, match="leads to more than 10 manifests"):
        walk(shelf, shelf.index(*indexes))
    assert 10 == len(shelf.asked)


def test_no_more_than_so_many_blobs_are_given(shelf, monkeypatch):
    """R17: an index of indexes of blobs is bounded too."""
    monkeypatch.setattr(bounds, "MAX_BLOBS", 10)
    indexes = [shelf.index(blobs=[(bytes([n, m]), LAYER) for m in range(4)]) for n in range(4)]
    with pytest.raises(UnsupportedManifestError, match="or 10 blobs"):
        walk(shelf, shelf.index(*indexes))


def test_indexes_are_nested_four_deep_and_no_deeper(shelf):
    """R17: what is nested deeper is refused, and not passed over."""
    index = shelf.image("ground")
    for _ in range(4):
        index = shelf.index(index)
    assert 4 == len(walk(shelf, index))
    with pytest.raises(UnsupportedManifestError, match="nested more than 4 deep"):
        walk(shelf, shelf.index(index))


def test_blobs_are_given_without_a_request(shelf):
    """W19: the members of a build cache are layers and a configuration."""
    blobs = [(b"layer", LAYER), (b"config", "application/vnd.buildkit.cacheconfig.v0")]
    index = shelf.index(blobs=blobs)
    found = list(MemberReader(shelf, REPOSITORY).members(index))
    assert [(digest_of(blob), None) for blob, _ in blobs] == [
        (member.descriptor.digest, member.manifest) for member in found
    ]
    assert [] == shelf.asked


def test_a_member_that_is_not_there_is_named(shelf):
    image = shelf.image("one")
    index = shelf.index(image)
    del shelf.manifests[image.digest]
    with pytest.raises(NotFoundError, match=str(image.digest)):
        walk(shelf, index)


def test_the_leash_is_asked_before_each_request(shelf):
    """R17: a cancelled run reads no further."""

    class Leash:
        left = 3

        def check(self):
            if not self.left:
                raise ItemCancelledError("cancelled")
            self.left -= 1

        def require(self, seconds):
            raise NotImplementedError

    index = shelf.index(*(shelf.image(str(n)) for n in range(9)))
    with under(Leash()), pytest.raises(ItemCancelledError):
        walk(shelf, index)
    assert 3 == len(shelf.asked)


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
