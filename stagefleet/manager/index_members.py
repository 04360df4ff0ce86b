"""The members of what a tag names, in whatever depth: their digests, as a deletion has to know them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from stagefleet.errors import (
    CertificateError,
    ContentError,
    ForbiddenError,
    RateLimitedError,
    RegistryError,
    RegistryUnreachableError,
    StagefleetError,
)
from stagefleet.names import Digest, Reference, Repository
from stagefleet.records import is_placeholder
from stagefleet.registry import Descriptor, Manifest, RegistryClient
from stagefleet.registry.leash import Leash
from stagefleet.registry.manifests import DOCKER_MANIFEST, OCI_MANIFEST
from stagefleet.registry.members import MAX_DEPTH, MAX_MANIFESTS

__all__ = ["IndexMembers", "is_damaged", "read_members"]

_MOST_MEMBERS = MAX_MANIFESTS
_MOST_INDEXES = 100
_IMAGES = frozenset(
    {
        OCI_MANIFEST,
        DOCKER_MANIFEST,
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.oci.artifact.manifest.v1+json",
    }
)
"""Kinds of manifests that name no others; whatever else is a manifest may be an index."""
_SAYS_NOTHING = frozenset(
    {"application/octet-stream", "binary/octet-stream", "application/json", "text/json", "text/plain"}
)
"""Kinds that a blob may have as well as a manifest."""


@dataclass(frozen=True, slots=True)
class IndexMembers:
    """What an index leads to.

    Attributes:
        digests: All that it was found to lead to, an index before its members; none for an image.
        others: What it names besides, which may be blobs or manifests: it uses them, and none goes with it.
        is_whole: Whether these are all. What cannot be read here may be read by others, and use anything.
        is_placeholder: Whether it is one of ours, that a tag was moved to which is to go.
    """

    digests: tuple[Digest, ...] = ()
    is_whole: bool = True
    is_placeholder: bool = False
    others: tuple[Digest, ...] = ()

    @property
    def used(self) -> tuple[Digest, ...]:
        """All that must not be deleted by digest while it stands."""
        return self.digests + self.others


def read_members(
    client: RegistryClient, repository: Repository, named: Descriptor, *, leash: Leash
) -> IndexMembers:
    """Read what a manifest leads to: each index in it once, in bounded number and depth.

    Args:
        client: Speaks to registries.
        repository: Where it is.
        named: The manifest, of whatever kind.
        leash: Asked before each request.

    Raises:
        StagefleetError: The registry does not answer, or refuses the login.
    """
    if named.media_type.lower() in _IMAGES:
        return IndexMembers()
    named_in_it: dict[Digest, bool] = {}  # and whether as a manifest
    waiting = deque([(named.digest, 1)])
    is_whole, read = True, 0
    while waiting:
        digest, depth = waiting.popleft()
        if depth > MAX_DEPTH or read == _MOST_INDEXES:
            return _members(named_in_it, is_whole=False)
        leash.check()
        read += 1
        manifest = _fetch(client, Reference.of(repository, digest))
        if manifest is None:
            is_whole = False
            continue
        if is_placeholder(manifest.annotations):
            return IndexMembers(is_placeholder=True)
        for member in filter(_may_be_manifest, manifest.members):
            if named_in_it.get(member.digest):
                continue
            if len(named_in_it) >= _MOST_MEMBERS:
                return _members(named_in_it, is_whole=False)
            named_in_it[member.digest] = member.is_manifest
            if member.is_manifest and member.media_type.lower() not in _IMAGES:
                waiting.append((member.digest, depth + 1))
    return _members(named_in_it, is_whole=is_whole)


def is_damaged(client: RegistryClient, reference: Reference, error: StagefleetError) -> bool:
    """Tell whether an error is about one manifest, and not about the registry, its limits or the login.

    Args:
        client: Speaks to registries.
        reference: What was asked for.
        error: What it was answered with. Of a connection that was cut, as by a registry that dies of it, the
            registry is asked for something else.
    """
    if isinstance(error, ForbiddenError | RateLimitedError | CertificateError):
        return False
    if not isinstance(error, RegistryUnreachableError):
        return isinstance(error, RegistryError | ContentError)
    try:
        next(iter(client.tags(reference.repository)), None)
    except StagefleetError:
        return False
    return True


def _members(named: dict[Digest, bool], *, is_whole: bool) -> IndexMembers:
    """Give what was found; each with whether it was named as a manifest."""
    digests = tuple(digest for digest, is_manifest in named.items() if is_manifest)
    others = tuple(digest for digest, is_manifest in named.items() if not is_manifest)
    return IndexMembers(digests, is_whole, others=others)


def _may_be_manifest(member: Descriptor) -> bool:
    return member.is_manifest or member.media_type.partition(";")[0].strip().lower() in _SAYS_NOTHING


def _fetch(client: RegistryClient, reference: Reference) -> Manifest | None:
    """Fetch a manifest, None where it is gone, damaged or of a kind that nobody here can read."""
    try:
        return client.fetch_manifest(reference)
    except StagefleetError as error:
        if not is_damaged(client, reference, error):
            raise
        return None
