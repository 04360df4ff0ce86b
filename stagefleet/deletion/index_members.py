"""Direct and indirect members of a tag's manifest, as digests, for deletions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from stagefleet import errors
from stagefleet.leases import Lease
from stagefleet.manifests import DOCKER_MANIFEST, MAX_DEPTH, MAX_MANIFESTS, OCI_MANIFEST, Descriptor, Manifest
from stagefleet.names import Digest, Reference, Repository
from stagefleet.records.image import is_placeholder
from stagefleet.registry.client import RegistryClient
from stagefleet.threads import LeaseBoundThreads

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
"""Media types of manifests without members; any other manifest may be an index."""
_SAYS_NOTHING = frozenset(
    {"application/octet-stream", "binary/octet-stream", "application/json", "text/json", "text/plain"}
)
"""Media types of both blobs and manifests."""


@dataclass(frozen=True, slots=True)
class IndexMembers:
    """Content that an index leads to; `is_placeholder` is for a tag to be deleted.

    Attributes:
        digests: Manifests that it leads to, an index before its members; empty for an image.
        others: Other digests in it, of blobs or manifests: it uses them, and none is deleted with it.
        is_whole: True if these are all. Content that cannot be read here may be readable elsewhere, and use
            anything.
    """

    digests: tuple[Digest, ...] = ()
    is_whole: bool = True
    is_placeholder: bool = False
    others: tuple[Digest, ...] = ()

    @property
    def used(self) -> tuple[Digest, ...]:
        """Return all digests that must not be deleted while it exists."""
        return self.digests + self.others


def read_members(
    client: RegistryClient, repository: Repository, named: Descriptor, *, lease: Lease
) -> IndexMembers:
    """Read all that a manifest leads to: each index once, with limits for number and depth."""
    if named.media_type.lower() in _IMAGES:
        return IndexMembers()
    named_in_it: dict[Digest, bool] = {}  # True if as a manifest
    waiting = deque([(named.digest, 1)])
    is_whole, read = True, 0
    while waiting:
        digest, depth = waiting.popleft()
        if depth > MAX_DEPTH or read == _MOST_INDEXES:
            return _members(named_in_it, is_whole=False)
        lease.check()
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


def is_damaged(client: RegistryClient, reference: Reference, error: errors.StagefleetError) -> bool:
    """Return True if an error concerns one manifest, not the registry, its limits or the login.

    After a broken connection, as from a registry that crashes on the manifest, the registry is asked for
    something else.
    """
    if isinstance(error, errors.ForbiddenError | errors.RateLimitedError | errors.CertificateError):
        return False
    if not isinstance(error, errors.RegistryUnreachableError):
        return isinstance(error, errors.RegistryError | errors.ContentError)
    try:
        next(iter(client.tags(reference.repository)), None)
    except errors.StagefleetError:
        return False
    return True


def _members(named: dict[Digest, bool], *, is_whole: bool) -> IndexMembers:
    """Build the result from digests, each with whether it was named as a manifest."""
    digests = tuple(digest for digest, is_manifest in named.items() if is_manifest)
    others = tuple(digest for digest, is_manifest in named.items() if not is_manifest)
    return IndexMembers(digests, is_whole, others=others)


def _may_be_manifest(member: Descriptor) -> bool:
    return member.is_manifest or member.media_type.partition(";")[0].strip().lower() in _SAYS_NOTHING


def _fetch(client: RegistryClient, reference: Reference) -> Manifest | None:
    """Fetch a manifest; None if it is gone, damaged or of an unsupported kind."""
    try:
        return client.fetch_manifest(reference)
    except errors.StagefleetError as error:
        if not is_damaged(client, reference, error):
            raise
        return None


# Parallel reads of tags: the digest of each, and its direct and indirect members.

_THREADS = 16
_TAGS_A_TIME = 1000  # bounds the responses under way


@dataclass(frozen=True, slots=True)
class SeenTag:
    """Content of one tag: its digest, None if it cannot be read, and the members that it leads to."""

    tag: str
    digest: Digest | None
    members: IndexMembers

    @property
    def is_readable(self) -> bool:
        """True if all content that it uses is known."""
        return self.digest is not None and self.members.is_whole


class TagReads:
    """Read the tags of a repository."""

    def __init__(self, client: RegistryClient, repository: Repository, lease: Lease) -> None:
        self._client = client
        self._repository = repository
        self._lease = lease

    def list(self) -> Iterator[str]:
        """List the tags; empty if the repository does not exist."""
        try:
            yield from self._client.tags(self._repository)
        except errors.NotFoundError:
            return

    def read(self, tags: Iterable[str]) -> Iterator[SeenTag]:
        """Read tags, in their order; tags that are gone meanwhile are left out."""
        waiting = iter(tags)
        with LeaseBoundThreads(_THREADS, "reference-scan") as pool:
            while some := list(islice(waiting, _TAGS_A_TIME)):
                yield from filter(None, pool.map(self._look_at, some))

    def _look_at(self, tag: str) -> SeenTag | None:
        self._lease.check()
        reference = self._repository.tagged(tag)
        try:
            named = self._client.head_manifest(reference)
        except errors.NotFoundError:
            return None
        except errors.StagefleetError as error:
            if not is_damaged(self._client, reference, error):
                raise
            return SeenTag(tag, None, IndexMembers())
        members = read_members(self._client, self._repository, named, lease=self._lease)
        return SeenTag(tag, named.digest, members)
