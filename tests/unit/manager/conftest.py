"""A registry in memory, with the client's methods: every branch and every crash point in milliseconds."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest

from stagefleet.clock import elapsed_seconds
from stagefleet.errors import (
    ForbiddenError,
    ManifestRefusedError,
    NotFoundError,
    RegistryError,
    RegistryUnavailableError,
)
from stagefleet.manager import StageManager, deletion_probe
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.registry import Descriptor, Manifest, RegistryClient
from stagefleet.registry.leash import UNLEASHED, current_leash
from stagefleet.runs.book import MemoryBook

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


class Crash(BaseException):
    """The worker's end, as no code of the worker can catch it."""


def digest_of(content):
    return Digest("sha256", hashlib.sha256(content).hexdigest())


def entry(content, media_type, **more):
    return {"mediaType": media_type, "size": len(content), "digest": str(digest_of(content)), **more}


@dataclass(frozen=True)
class OddManifest:
    """A manifest that is kept as it came, whatever it is."""

    raw: bytes
    media_type: str

    @property
    def digest(self):
        return digest_of(self.raw)

    @property
    def size(self):
        return len(self.raw)


@dataclass
class Shelf:
    """One repository."""

    tags: dict[str, Digest] = field(default_factory=dict)
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    blobs: dict[Digest, bytes] = field(default_factory=dict)


class FakeRegistries(RegistryClient):
    """All registries of the world, and the client to them.

    Attributes:
        deletes: "digest" as distribution 2, "tag" as distribution 3, "siblings" for a registry that takes all
            tags of a tag's digest along, "off", "immutable" for one that refuses to delete what has a tag.
        writes: What was written or deleted, in order.
        reads: What was read.
        crash_at: The number of the write after whose effect the worker dies.
        stale: Blobs that are said to be there and are not.
        forbidden: Tags that nobody may push.
        damaged: Tags and digests that are answered with 500.
        unknown: Tags that are listed, and whose manifest is not there.
        on_request: Called with verb and name before each request; may raise.
    """

    crash = Crash

    def __init__(self):
        self.shelves = {}
        self.deletes = "digest"
        self.writes = []
        self.reads = []
        self.crash_at = None
        self.stale = set()
        self.forbidden = set()
        self.damaged = set()
        self.unknown = set()
        self.on_request = lambda verb, name: None
        self.fresh = 0

    def shelf(self, repository):
        return self.shelves.setdefault(repository, Shelf())

    def _written(self, verb, what):
        self.writes.append((verb, what))
        if self.crash_at is not None and len(self.writes) == self.crash_at:
            raise Crash

    def push(self, repository, tag, *, layers=(b"base",), labels=(), config=None, **layer_fields):
        """An image, as any tool pushes it; its configuration may be any bytes."""
        content = config if isinstance(config, bytes) else b""
        if not content:
            content = json.dumps({"config": {"Labels": dict(labels)}} if config is None else config).encode()
        shelf = self.shelf(repository)
        shelf.blobs.update({digest_of(blob): blob for blob in (content, *layers)})
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": entry(content, OCI_CONFIG),
            "layers": [entry(layer, OCI_LAYER, **layer_fields) for layer in layers],
        }
        return self._shelve(shelf, tag, Manifest.of(document))

    def push_index(self, repository, tag, members, *, blobs=()):
        """An index of manifests that are there, and of blobs: content and media type of each."""
        shelf = self.shelf(repository)
        entries = [
            {"mediaType": m.media_type, "size": m.size, "digest": str(m.digest)}
            for m in (shelf.manifests[digest] for digest in members)
        ]
        shelf.blobs.update({digest_of(blob): blob for blob, _ in blobs})
        entries += [entry(blob, media_type) for blob, media_type in blobs]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        return self._shelve(shelf, tag, Manifest.of(document))

    def push_odd(self, repository, tag, document, *, media_type=OCI_INDEX):
        """A manifest that no honest tool pushes."""
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self._shelve(self.shelf(repository), tag, OddManifest(raw, media_type))

    def _shelve(self, shelf, tag, manifest):
        self.damaged.discard(tag)
        self.unknown.discard(tag)
        shelf.manifests[manifest.digest] = manifest
        if tag is not None:
            shelf.tags[tag] = manifest.digest
        return manifest.digest

    # The client's methods

    def tags(self, repository, *, leash=UNLEASHED):
        current_leash(leash).check()
        self.reads.append(("tags", str(repository)))
        if repository not in self.shelves:
            raise NotFoundError("no such repository", method="GET", repository=str(repository), status=404)
        return iter(sorted(self.shelves[repository].tags))

    def _found(self, reference):
        if {reference.tag, str(reference.digest)} & self.damaged:
            raise RegistryUnavailableError("broken inside", method="GET", status=500)
        shelf = self.shelf(reference.repository)
        digest = shelf.tags.get(reference.tag) if reference.tag else reference.digest
        if digest not in shelf.manifests or reference.tag in self.unknown:
            raise NotFoundError("gone", method="GET", repository=str(reference.repository), status=404)
        return shelf.manifests[digest]

    def head_manifest(self, reference, *, leash=UNLEASHED):
        current_leash(leash).check()
        self.reads.append(("head", reference.identifier))
        self.on_request("HEAD", reference.identifier)
        found = self._found(reference)
        return Descriptor(media_type=found.media_type, digest=found.digest, size=found.size)

    def fetch_manifest(self, reference, *, leash=UNLEASHED):
        current_leash(leash).check()
        self.reads.append(("get", reference.identifier))
        self.on_request("GET", reference.identifier)
        found = self._found(reference)
        return Manifest.parse(found.raw, found.media_type) if isinstance(found, OddManifest) else found

    def put_manifest(self, reference, manifest, *, leash=UNLEASHED):
        leash.require(15)
        shelf = self.shelf(reference.repository)
        if reference.tag in self.forbidden or "*" in self.forbidden:
            raise ForbiddenError("denied", method="PUT", repository=str(reference.repository), status=403)
        needed = [] if manifest.is_index else [manifest.config, *manifest.layers]
        missing = [d.digest for d in needed if d.digest not in shelf.blobs and not d.urls]
        missing += [m.digest for m in manifest.members if m.digest not in {**shelf.manifests, **shelf.blobs}]
        if missing:
            raise ManifestRefusedError("unknown", missing=tuple(map(str, missing)), status=400)
        self._shelve(shelf, reference.tag, manifest)
        self._written("put", reference.identifier)

    def delete_manifest(self, reference, *, leash=UNLEASHED, look=None):
        leash.require(15)
        if look is not None:
            assert elapsed_seconds() <= look()
        self.on_request("DELETE", reference.identifier)
        shelf = self.shelf(reference.repository)
        if self.deletes == "off":
            raise RegistryError("unsupported", method="DELETE", status=405, codes=("UNSUPPORTED",))
        if reference.tag is not None and self.deletes == "digest":
            raise RegistryError("invalid digest", method="DELETE", status=400, codes=("DIGEST_INVALID",))
        manifest = self._found(reference)
        if self.deletes == "immutable" and manifest.digest in shelf.tags.values():
            raise RegistryError(
                f"{reference}: DELETE answered 412 (immutable tag)", method="DELETE", status=412
            )
        if reference.tag is not None and self.deletes == "tag":
            del shelf.tags[reference.tag]
        else:
            del shelf.manifests[manifest.digest]
            shelf.tags = {tag: digest for tag, digest in shelf.tags.items() if digest != manifest.digest}
        self._written("delete", reference.identifier)

    def fetch_blob(self, repository, descriptor, *, limit_bytes=8 << 20, leash=UNLEASHED):
        current_leash(leash).check()
        self.reads.append(("blob", str(descriptor.digest)))
        assert descriptor.size <= limit_bytes, "the client reads no more at once"
        try:
            return self.shelf(repository).blobs[descriptor.digest]
        except KeyError:
            raise NotFoundError("gone", method="GET", repository=str(repository), status=404) from None

    def afresh(self):
        """As a client on connections of its own; `fresh` counts them."""
        self.fresh += 1
        return nullcontext(self)

    def has_blob(self, repository, descriptor, *, leash=UNLEASHED):
        self.reads.append(("has", str(descriptor.digest)))
        return descriptor.digest in self.shelf(repository).blobs

    def hash_blob(self, repository, descriptor, *, leash=UNLEASHED):
        return digest_of(self.fetch_blob(repository, descriptor, limit_bytes=descriptor.size))

    def begin_upload(self, repository, digest, *, mount_from, leash=UNLEASHED):
        shelf = self.shelf(repository)
        if mount_from is not None and digest in self.stale:
            return None
        if mount_from is not None and digest in self.shelf(mount_from).blobs:
            shelf.blobs[digest] = self.shelf(mount_from).blobs[digest]
            return None
        return shelf, digest

    def upload_bytes(self, upload, content, *, leash=UNLEASHED):
        shelf, digest = upload
        shelf.blobs[digest] = content
        self._written("upload", str(digest))

    def copy_blob(self, source, destination, descriptor, *, mount_from, leash=UNLEASHED, on_bytes=None):
        upload = self.begin_upload(destination, descriptor.digest, mount_from=mount_from)
        if upload is None:
            return 0
        leash.check()
        content = self.fetch_blob(source, descriptor, limit_bytes=descriptor.size)
        if on_bytes is not None:
            on_bytes(len(content))
        self.upload_bytes(upload, content)
        return len(content)


@dataclass
class World:
    """What a test works with."""

    registries: FakeRegistries
    book: MemoryBook
    manager: StageManager
    source: Repository
    destination: Repository

    def stage(self, number):
        return StageId(f"{number:056x}", 1700000000000 + number)

    def tags(self, repository, *, leash=UNLEASHED):
        return set(self.registries.shelf(repository).tags)

    def copy(self, stage_id, *, run="r", **options):
        return self.manager.copy_stage(self.source, self.destination, stage_id, run=run, **options)

    def delete(self, stage_id, asked=None, *, run="r", **options):
        tags = [str(stage_id) for stage_id in ([stage_id] if asked is None else asked)]
        return self.manager.delete_stage(self.source, stage_id, run=run, asked=lambda: tags, **options)

    def manifest(self, repository, tag):
        return self.registries.fetch_manifest(Reference.of(repository, tag))


@pytest.fixture
def world():
    registries, book = FakeRegistries(), MemoryBook()
    manager = StageManager(registries, book)
    return World(
        registries, book, manager, Repository("a.example", "team/app"), Repository("b.example", "team/app")
    )


@pytest.fixture(autouse=True)
def _short_looks(monkeypatch):
    """The two looks at a probe follow each other at once, and what is found of one was left."""
    monkeypatch.setattr(deletion_probe, "SECOND_LOOK_SECONDS", 0)
    monkeypatch.setattr(deletion_probe, "UNDER_WAY_SECONDS", 0)
