"""Parallel reads of tags: the digest of each, and its direct and indirect members."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from stagefleet.errors import NotFoundError, StagefleetError
from stagefleet.manager.index_members import IndexMembers, is_damaged, read_members
from stagefleet.names import Digest, Repository
from stagefleet.registry import RegistryClient
from stagefleet.registry.lease import Lease
from stagefleet.registry.thread_pool import LeaseBoundThreads

__all__ = ["SeenTag", "TagReads"]

T = TypeVar("T")

_THREADS = 16
_TAGS_A_TIME = 1000  # bounds the responses under way


@dataclass(frozen=True, slots=True)
class SeenTag:
    """Content of one tag.

    Attributes:
        tag: The tag.
        digest: Its digest; None if it cannot be read.
        members: Members that the digest leads to.
    """

    tag: str
    digest: Digest | None
    members: IndexMembers

    @property
    def is_readable(self) -> bool:
        """True if all content that it uses is known."""
        return self.digest is not None and self.members.is_whole


class TagReads:
    """Read the tags of a repository.

    Args:
        client: Client for registries.
        repository: The repository.
        lease: Lease to check before each read.
    """

    def __init__(self, client: RegistryClient, repository: Repository, lease: Lease) -> None:
        self._client = client
        self._repository = repository
        self._lease = lease

    def list(self) -> Iterator[str]:
        """List the tags; empty if the repository does not exist."""
        try:
            yield from self._client.tags(self._repository)
        except NotFoundError:
            return

    def read(self, tags: Iterable[str]) -> Iterator[SeenTag]:
        """Read tags, in their order; tags that are gone meanwhile are left out.

        Raises:
            StagefleetError: The registry does not answer, or refuses the login.
        """
        with LeaseBoundThreads(_THREADS, "reference-scan") as pool:
            for some in _batches(tags, _TAGS_A_TIME):
                found = pool.map(self._look_at, some)
                yield from (seen for seen in found if seen is not None)

    def _look_at(self, tag: str) -> SeenTag | None:
        self._lease.check()
        reference = self._repository.tagged(tag)
        try:
            named = self._client.head_manifest(reference)
        except NotFoundError:
            return None
        except StagefleetError as error:
            if not is_damaged(self._client, reference, error):
                raise
            return SeenTag(tag, None, IndexMembers())
        members = read_members(self._client, self._repository, named, lease=self._lease)
        return SeenTag(tag, named.digest, members)


def _batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(values)
    while batch := list(islice(iterator, size)):
        yield batch
