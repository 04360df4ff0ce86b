"""Manifests and indexes of Docker and OCI, parsed once and kept byte for byte, and the members of indexes.

OCI image specification 1.1, "Image Manifest" and "Image Index"; Docker's "Image Manifest V 2, Schema 2".
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Self

from stagefleet.errors import InvalidNameError, UnsupportedManifestError
from stagefleet.leases import current_lease
from stagefleet.names import Digest, StorageAddress

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
ACCEPTED = ", ".join(sorted(MANIFESTS | INDEXES))
"""The header `Accept` of a request for one of any kind."""

MANIFEST_BYTES = 4 * 1024 * 1024
"""Most bytes of a manifest that are read; registries should take so many ("Pushing Manifests")."""
_MOST_DESCRIPTORS = 10_000
_MOST_BYTES = 2**48  # of one blob: 256 TiB; sums of such sizes still fit into 64 bits
_FOREIGN_LAYERS = (
    "application/vnd.docker.image.rootfs.foreign.",
    "application/vnd.oci.image.layer.nondistributable.",
)
"""Layers stored elsewhere for legal reasons (OCI image specification 1.1, "Non-Distributable Layers")."""
_IMAGE_CONFIGS = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
_IMAGE_LAYER = re.compile(
    r"application/vnd\.(docker\.image\.rootfs\.(foreign\.)?diff\.tar|oci\.image\.layer\.(nondistributable\.)?v1\.tar)"
    r"([.+](gzip|zstd))?"
)


def digest_of(content: bytes, algorithm: str = "sha256") -> Digest:
    """Compute the digest of content."""
    return Digest(algorithm, hashlib.new(algorithm, content).hexdigest())


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Reference to content by digest (OCI image specification 1.1, "Content Descriptors").

    `size` is in bytes. `urls` are other places of the content; the media type alone decides if a registry
    may store it. `platform` is that of an index's member, `artifact_type` that of a referrer.
    """

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    platform: Mapping[str, Any] | None = field(default=None, hash=False)
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str = ""

    @property
    def is_manifest(self) -> bool:
        """True if it refers to a manifest or an index of any kind, not to a blob.

        An index may refer to anything: BuildKit's caches refer to layers and a configuration (moby/buildkit
        #2251).
        """
        kind = self.media_type.lower()
        return not kind or ".manifest." in kind or ".index." in kind

    @property
    def is_distributable(self) -> bool:
        """True if its media type lets a registry store it."""
        return not self.media_type.startswith(_FOREIGN_LAYERS)

    @property
    def is_image_config(self) -> bool:
        """True for the configuration of an image; artifacts have others."""
        return self.media_type in _IMAGE_CONFIGS

    @property
    def is_image_layer(self) -> bool:
        """True for a layer that an engine unpacks; artifacts have others."""
        return _IMAGE_LAYER.fullmatch(self.media_type) is not None

    @classmethod
    def parse(cls, document: object) -> Self:
        """Parse a descriptor; raise `UnsupportedManifestError` if it is malformed."""
        if not isinstance(document, Mapping):
            raise UnsupportedManifestError("the manifest has a descriptor that is no object")
        size, urls, platform = document.get("size"), document.get("urls") or [], document.get("platform")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MOST_BYTES:
            raise UnsupportedManifestError("the manifest has a descriptor without a size that can be")
        if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
            raise UnsupportedManifestError("the manifest has a descriptor with malformed urls")
        try:
            digest = Digest.parse(str(document.get("digest")))
        except InvalidNameError as error:
            raise UnsupportedManifestError(f"the manifest has a malformed descriptor: {error}") from error
        return cls(
            media_type=str(document.get("mediaType") or ""),
            digest=digest,
            size=size,
            urls=tuple(urls),
            platform=platform if isinstance(platform, Mapping) else None,
            annotations=_texts(document.get("annotations")),
            artifact_type=str(document.get("artifactType") or ""),
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest, with a configuration and layers, the lowest first, or an index, with members.

    `raw` are the exact bytes of the digest, `media_type` is one of `MANIFESTS` or `INDEXES`, and `subject`
    the manifest that this one refers to.
    """

    raw: bytes = field(repr=False)
    media_type: str
    digest: Digest
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    members: tuple[Descriptor, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    subject: Descriptor | None = None

    @property
    def size(self) -> int:
        """Size in bytes."""
        return len(self.raw)

    @property
    def is_index(self) -> bool:
        """True for an index."""
        return self.media_type in INDEXES

    @classmethod
    def parse(cls, raw: bytes, media_type: str = "", *, algorithm: str = "sha256") -> Self:
        """Parse a manifest or index; `media_type` is the header's, which counts least.

        `UnsupportedManifestError` if it is of another kind, or malformed.
        """
        try:
            return cls._of(json.loads(raw), raw, media_type, algorithm)
        except (ValueError, RecursionError):
            raise UnsupportedManifestError("the manifest is no JSON that can be read") from None

    @classmethod
    def _of(cls, document: object, raw: bytes, media_type: str, algorithm: str) -> Self:
        if not isinstance(document, dict):
            raise UnsupportedManifestError("the manifest is no JSON object")
        kind = _kind(document, media_type)
        is_index = kind in INDEXES
        config, subject = document.get("config"), document.get("subject")
        if not is_index and config is None:
            raise UnsupportedManifestError(f"the manifest of type {kind} has no config")
        return cls(
            raw=raw,
            media_type=kind,
            digest=digest_of(raw, algorithm),
            config=None if is_index else Descriptor.parse(config),
            layers=() if is_index else _descriptors(document, "layers"),
            members=_descriptors(document, "manifests") if is_index else (),
            annotations=_texts(document.get("annotations")),
            subject=None if subject is None else Descriptor.parse(subject),
        )

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Create a manifest from a document of our own; it must have a `mediaType`."""
        return cls.parse(json.dumps(document, separators=(",", ":")).encode())


def _texts(annotations: object) -> Mapping[str, str]:
    """Keep the annotations that are valid: string keys with string values."""
    found = annotations if isinstance(annotations, dict) else {}
    return {name: text for name, text in found.items() if isinstance(text, str)}


def _kind(document: Mapping[str, Any], header: str) -> str:
    """Return the media type: what the document says, else its shape, else what the header says.

    Registries and static stores send headers of another kind (buildah #2266, containers/image #1150), and a
    destination compares its header with the document.
    """
    known = MANIFESTS | INDEXES
    told, said = str(document.get("mediaType") or ""), header.partition(";")[0].strip().lower()
    if told in known:
        return told
    is_index = "manifests" in document
    is_image = "layers" in document and "config" in document
    if document.get("schemaVersion") == 2 and not told and is_index != is_image:  # noqa: PLR2004 - schema 2
        return OCI_INDEX if is_index else OCI_MANIFEST  # Docker's have a `mediaType`, OCI's need none
    if said in known:
        return said
    told = told or said
    what = repr(told[:100]) if told else f"schema version {document.get('schemaVersion')!r}"[:100]
    raise UnsupportedManifestError(
        f"the manifest is of type {what}, which is neither Docker's (schema 2) nor OCI's: "
        "push it again with a current tool"
    )


def _descriptors(document: Mapping[str, Any], name: str) -> tuple[Descriptor, ...]:
    listed = document.get(name) or []
    if not isinstance(listed, list) or len(listed) > _MOST_DESCRIPTORS:
        raise UnsupportedManifestError(f"the manifest's {name} are no list, or too long a one")
    return tuple(Descriptor.parse(entry) for entry in listed)


# Members of an index and of its nested indexes: each read once, with limits for number and depth.
#
# A small index can refer to ten thousand others, each of which refers to ten thousand more. All code that
# follows an index uses this module, so that such a document costs a bounded number of requests and bytes.

MAX_DEPTH = 4
"""Deepest nesting of indexes; only mistakes and attacks nest deeper."""
MAX_MANIFESTS = 500
"""Most manifests that an index may lead to in all; an image for every known platform has some 50."""
MAX_BLOBS = 10_000
"""Most blobs that an index may refer to in all, as BuildKit's caches refer to their layers."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an index, and its manifest or index; None for a blob."""

    descriptor: Descriptor
    manifest: Manifest | None


class MemberReader:
    """Read all members of one index; create a new reader for each document. Thread-safe."""

    def __init__(self, fetch_manifest: Callable[[Digest], Manifest], address: StorageAddress) -> None:
        self._fetch_manifest = fetch_manifest
        self._address = address
        self._lock = Lock()
        self._seen: set[Digest] = set()
        self._manifests_left = MAX_MANIFESTS
        self._blobs_left = MAX_BLOBS

    def members(self, index: Manifest, depth: int = 1) -> Iterator[Member]:
        """Yield the members of an index that were not yielded before; an image has none.

        Raises:
            UnsupportedManifestError: As of `descriptors`.
            NotFoundError: A registry lacks a member; the error names it.
            StagefleetError: As `fetch_manifest` raises.
        """
        for descriptor in self.descriptors(index, depth):
            if descriptor.is_manifest:
                current_lease().check()
                yield Member(descriptor, self._fetch_manifest(descriptor.digest))
            else:
                yield Member(descriptor, None)

    def descriptors(self, index: Manifest, depth: int = 1) -> Iterator[Descriptor]:
        """Yield the descriptors of an index's members that were not yielded before, without a request.

        `depth` is 1 for the top document, and one more for each index around this one.
        `UnsupportedManifestError` if it is nested too deep, or leads to too many manifests or blobs.
        """
        if depth > MAX_DEPTH and index.members:
            raise UnsupportedManifestError(
                f"{self._address}@{index.digest}: indexes are nested more than {MAX_DEPTH} deep"
            )
        for descriptor in index.members:
            with self._lock:
                if descriptor.digest in self._seen:
                    continue
                self._seen.add(descriptor.digest)
                if descriptor.is_manifest:
                    self._manifests_left -= 1
                else:
                    self._blobs_left -= 1
                if self._manifests_left < 0 or self._blobs_left < 0:
                    raise UnsupportedManifestError(
                        f"{self._address}@{index.digest} leads to more than {MAX_MANIFESTS} manifests or "
                        f"{MAX_BLOBS} blobs"
                    )
            yield descriptor

    def walk(self, index: Manifest, depth: int = 1) -> Iterator[Member]:
        """Yield direct and indirect members, an index before its own; arguments and errors as `members`."""
        for member in self.members(index, depth):
            yield member
            if member.manifest is not None:
                yield from self.walk(member.manifest, depth + 1)
