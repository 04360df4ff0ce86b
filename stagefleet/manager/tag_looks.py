"""Looks at tags, many at once: which digest each names, and what that leads to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from stagefleet.errors import NotFoundError, StagefleetError
from stagefleet.manager.index_members import IndexMembers, is_damaged, read_members
from stagefleet.names import Digest, Repository
from stagefleet.registry import RegistryClient
from stagefleet.registry.leash import Leash
from stagefleet.registry.threads import LeashedThreads

__all__ = ["SeenTag", "TagLooks"]

T = TypeVar("T")

_THREADS = 16
_TAGS_A_TIME = 1000  # bounds the answers under way


@dataclass(frozen=True, slots=True)
class SeenTag:
    """What one tag names.

    Attributes:
        tag: The tag.
        digest: What it names; None if nobody can tell.
        members: What that leads to.
    """

    tag: str
    digest: Digest | None
    members: IndexMembers

    @property
    def is_readable(self) -> bool:
        """Whether all is known that it uses."""
        return self.digest is not None and self.members.is_whole


class TagLooks:
    """Look at the tags of a repository.

    Args:
        client: Speaks to registries.
        repository: Which.
        leash: Asked before each look.
    """

    def __init__(self, client: RegistryClient, repository: Repository, leash: Leash) -> None:
        self._client = client
        self._repository = repository
        self._leash = leash

    def list(self) -> Iterator[str]:
        """List the tags; none where the repository does not exist."""
        try:
            yield from self._client.tags(self._repository)
        except NotFoundError:
            return

    def look(self, tags: Iterable[str]) -> Iterator[SeenTag]:
        """Look at tags, in their order; those that are gone meanwhile are left out.

        Raises:
            StagefleetError: The registry does not answer, or refuses the login.
        """
        with LeashedThreads(_THREADS, "survey") as pool:
            for some in _batches(tags, _TAGS_A_TIME):
                found = pool.map(self._look_at, some)
                yield from (seen for seen in found if seen is not None)

    def _look_at(self, tag: str) -> SeenTag | None:
        self._leash.check()
        reference = self._repository.tagged(tag)
        try:
            named = self._client.head_manifest(reference)
        except NotFoundError:
            return None
        except StagefleetError as error:
            if not is_damaged(self._client, reference, error):
                raise
            return SeenTag(tag, None, IndexMembers())
        members = read_members(self._client, self._repository, named, leash=self._leash)
        return SeenTag(tag, named.digest, members)


def _batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(values)
    while batch := list(islice(iterator, size)):
        yield batch
