"""A registry in memory, with the client's methods: every branch and every crash point in milliseconds."""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from stagefleet.deletion import mode as deletion_probe
from stagefleet.errors import (
    DigestMismatchError,
    ForbiddenError,
    NotFoundError,
    RegistryError,
    RegistryUnavailableError,
)
from stagefleet.leases import NO_LEASE, current_lease, elapsed_seconds
from stagefleet.manifests import Descriptor, Manifest
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.shared_state.implementations import MemorySharedState
from stagefleet.storages import transfer
from stagefleet.testing.memory_registries import MemoryRegistries
from stagefleet.threads import RequestThreads
from tests.stage_tasks import StageTasks
from tests.unit.storages.far import Course

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
    subject: None = None

    @property
    def digest(self):
        return digest_of(self.raw)

    @property
    def size(self):
        return len(self.raw)


class VerifiedBytes(io.BytesIO):
    """The content of a blob, which raises at its end if it is other content."""

    def __init__(self, content, descriptor):
        super().__init__(content)
        self._found, self._descriptor = digest_of(content), descriptor

    def read(self, size=-1, /):
        piece = super().read(size)
        if self.tell() == len(self.getvalue()) and self._found != self._descriptor.digest:
            raise DigestMismatchError("other content", found=str(self._found))
        return piece


class FakeRegistries(MemoryRegistries):
    """Registries in memory that note what is asked of them, and fail as they are told.

    Attributes:
        deletes: "digest" as distribution 2, "tag" as distribution 3, "siblings" for a registry that takes all
            tags of a tag's digest along, "off", "only tags" for one that deletes no digest, "immutable" for
            one that refuses to delete what has a tag.
        writes: What was written or deleted, in order.
        reads: What was read.
        crash_at: The number of the write after whose effect the worker dies.
        stale: Blobs that are said to be there and are not.
        forbidden: Tags that nobody may push.
        damaged: Tags and digests that are answered with 500.
        unknown: Tags that are listed, and whose manifest is not there.
        on_request: Called with verb and name before each request; may raise.
        without_referrers: Hosts that have no API for referrers.
    """

    crash = Crash

    def __init__(self):
        super().__init__()
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
        self.without_referrers = set()
        self.threads = RequestThreads(4)

    def _written(self, verb, what):
        self.writes.append((verb, what))
        if self.crash_at is not None and len(self.writes) == self.crash_at:
            raise Crash

    def push(self, repository, tag, *, layers=(b"base",), labels=(), config=None, **layer_fields):
        """An image, as any tool pushes it; its configuration may be any bytes."""
        content = config if isinstance(config, bytes) else b""
        if not content:
            content = json.dumps({"config": {"Labels": dict(labels)}} if config is None else config).encode()
        stored = self.stored(repository)
        stored.blobs.update({digest_of(blob): blob for blob in (content, *layers)})
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": entry(content, OCI_CONFIG),
            "layers": [entry(layer, OCI_LAYER, **layer_fields) for layer in layers],
        }
        return self._store(stored, tag, Manifest.of(document))

    def push_referrer(self, repository, subject, content, *, tag=None, layers=()):
        """An artifact that refers to a digest, as cosign and oras push them; by the fallback index, too."""
        stored, config = self.stored(repository), b"{}"
        stored.blobs.update({digest_of(blob): blob for blob in (config, content, *layers)})
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": "application/vnd.example.sbom",
            "config": entry(config, "application/vnd.oci.empty.v1+json"),
            "layers": [entry(layer, OCI_LAYER) for layer in (*layers, content)],
            "subject": {"mediaType": OCI_MANIFEST, "digest": str(subject), "size": 2},
        }
        if tag is not None:
            del document["subject"]  # as cosign's tags have none
        digest = self._store(stored, tag, Manifest.of(document))
        if tag is None and repository.host in self.without_referrers:
            name = f"sha256-{subject.hex}"
            known = stored.manifests[stored.tags[name]].members if name in stored.tags else ()
            self.push_index(repository, name, [*(member.digest for member in known), digest])
        return digest

    def push_index(self, repository, tag, members, *, blobs=(), platforms=()):
        """An index of manifests that are there, and of blobs: content and media type of each."""
        stored = self.stored(repository)
        entries = [
            {"mediaType": m.media_type, "size": m.size, "digest": str(m.digest)}
            for m in (stored.manifests[digest] for digest in members)
        ]
        for member, platform in zip(entries, platforms, strict=False):
            member["platform"] = platform
        stored.blobs.update({digest_of(blob): blob for blob, _ in blobs})
        entries += [entry(blob, media_type) for blob, media_type in blobs]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        return self._store(stored, tag, Manifest.of(document))

    def push_odd(self, repository, tag, document, *, media_type=OCI_INDEX):
        """A manifest that no honest tool pushes."""
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self._store(self.stored(repository), tag, OddManifest(raw, media_type))

    def _store(self, stored, tag, manifest):
        self.damaged.discard(tag)
        self.unknown.discard(tag)
        super()._store(stored, tag, manifest)
        return manifest.digest

    def _find(self, reference):
        if {reference.tag, str(reference.digest)} & self.damaged:
            raise RegistryUnavailableError("broken inside", method="GET", status=500)
        if reference.tag in self.unknown:
            raise NotFoundError("gone", method="GET", repository=str(reference.repository), status=404)
        return super()._find(reference)

    # The client's methods

    def tags(self, repository, *, lease=NO_LEASE):
        self.reads.append(("tags", str(repository)))
        return super().tags(repository, lease=lease)

    def head_manifest(self, reference, *, lease=NO_LEASE):
        current_lease(lease).check()
        self.reads.append(("head", reference.identifier))
        self.on_request("HEAD", reference.identifier)
        found = self._find(reference)
        return Descriptor(media_type=found.media_type, digest=found.digest, size=found.size)

    def fetch_manifest(self, reference, *, lease=NO_LEASE):
        self.reads.append(("get", reference.identifier))
        self.on_request("GET", reference.identifier)
        found = super().fetch_manifest(reference, lease=lease)
        return Manifest.parse(found.raw, found.media_type) if isinstance(found, OddManifest) else found

    def referrers(self, repository, subject, *, lease=NO_LEASE):
        self.reads.append(("referrers", str(subject)))
        if repository.host in self.without_referrers:
            return None
        return super().referrers(repository, subject, lease=lease)

    def put_manifest(self, reference, manifest, *, lease=NO_LEASE):
        lease.require(15)
        if reference.tag in self.forbidden or "*" in self.forbidden:
            raise ForbiddenError("denied", method="PUT", repository=str(reference.repository), status=403)
        super().put_manifest(reference, manifest, lease=lease)
        self._written("put", reference.identifier)

    def delete_manifest(self, reference, *, lease=NO_LEASE, precheck=None):
        lease.require(15)
        if precheck is not None:
            assert elapsed_seconds() <= precheck()
        self.on_request("DELETE", reference.identifier)
        stored = self.stored(reference.repository)
        if self.deletes == "off" or (self.deletes == "only tags" and reference.digest is not None):
            raise RegistryError("unsupported", method="DELETE", status=405, codes=("UNSUPPORTED",))
        if reference.tag is not None and self.deletes == "digest":
            raise RegistryError("invalid digest", method="DELETE", status=400, codes=("DIGEST_INVALID",))
        digest = self._find(reference).digest
        if self.deletes == "immutable" and digest in stored.tags.values():
            raise RegistryError(
                f"{reference}: DELETE answered 412 (immutable tag)", method="DELETE", status=412
            )
        takes_siblings = reference.tag is not None and self.deletes not in {"tag", "only tags"}
        gone = Reference.of(reference.repository, digest) if takes_siblings else reference
        super().delete_manifest(gone, lease=lease)
        self._written("delete", reference.identifier)

    def fetch_blob(self, repository, descriptor, *, limit_bytes=8 << 20, lease=NO_LEASE):
        self.reads.append(("blob", str(descriptor.digest)))
        assert descriptor.size <= limit_bytes, "the client reads no more at once"
        return super().fetch_blob(repository, descriptor, lease=lease)

    def reopened(self):
        """As a client on connections of its own; `fresh` counts them."""
        self.fresh += 1
        return super().reopened()

    def has_blob(self, repository, digest, *, size=None, lease=NO_LEASE):
        self.reads.append(("has", str(digest)))
        return super().has_blob(repository, digest, size=size, lease=lease)

    def hash_blob(self, repository, descriptor, *, lease=NO_LEASE):
        self.reads.append(("blob", str(descriptor.digest)))
        return super().hash_blob(repository, descriptor, lease=lease)

    def begin_upload(self, repository, digest, *, mount_from, lease=NO_LEASE):
        if mount_from is not None and digest in self.stale:
            return None
        return super().begin_upload(repository, digest, mount_from=mount_from, lease=lease)

    def upload_bytes(self, upload, content, *, lease=NO_LEASE):
        super().upload_bytes(upload, content, lease=lease)
        self._written("upload", str(upload.digest))

    def open_blob(self, repository, descriptor, *, lease=NO_LEASE, on_bytes=None, seconds=None):
        lease.check()
        content = self.fetch_blob(repository, descriptor, limit_bytes=descriptor.size)
        if on_bytes is not None:
            on_bytes(len(content))
        return VerifiedBytes(content, descriptor)


@dataclass
class Fakes:
    """What a test works with."""

    registries: FakeRegistries
    shared_state: MemorySharedState
    stage_tasks: StageTasks
    source: Repository
    destination: Repository

    def stage(self, number):
        return StageId(f"{number:056x}", 1700000000000 + number)

    def tags(self, repository, *, lease=NO_LEASE):
        return set(self.registries.stored(repository).tags)

    def copy(self, stage_id, *, run_id="r", **options):
        return self.stage_tasks.copy_stage(self.source, self.destination, stage_id, run_id=run_id, **options)

    def delete(self, stage_id, to_delete=None, *, run_id="r", **options):
        tags = [str(stage_id) for stage_id in ([stage_id] if to_delete is None else to_delete)]
        return self.stage_tasks.delete_stage(
            self.source, stage_id, run_id=run_id, to_delete=lambda: tags, **options
        )

    def manifest(self, repository, tag):
        return self.registries.fetch_manifest(Reference.of(repository, tag))


@pytest.fixture
def fakes():
    registries, shared_state = FakeRegistries(), MemorySharedState()
    stage_tasks = StageTasks(registries, shared_state)
    return Fakes(
        registries,
        shared_state,
        stage_tasks,
        Repository("a.example", "team/app"),
        Repository("b.example", "team/app"),
    )


@pytest.fixture(autouse=True)
def _short_looks(monkeypatch):
    """The two looks at a probe follow each other at once, and what is found of one was left.

    A manifest that is called invalid is put again at once.
    """
    monkeypatch.setattr(transfer, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(deletion_probe, "SECOND_LOOK_SECONDS", 0)
    monkeypatch.setattr(deletion_probe, "UNDER_WAY_SECONDS", 0)


@pytest.fixture
def course():
    with ExitStack() as stack:
        yield Course(stack)
