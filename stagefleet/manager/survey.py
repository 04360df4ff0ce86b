"""Which tags share which digest: what must be known before anything is deleted by digest.

Two rounds, each by one worker for the whole fleet. The first, once a run, looks at stages and records: their
tags never move. The second is never older than some seconds and looks at everything else: foreign tags, which
anybody may move at any time, and stages and records that are new. Between the second round and a DELETE a
foreign tag may still come to share the digest; no registry offers a way to close that gap of
`FRESH_SECONDS` (where one round takes longer, of so long).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from stagefleet.errors import BrokenStageError, NotFoundError, UnsupportedManifestError
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.records import is_record_tag
from stagefleet.registry import Descriptor, Manifest, RegistryClient
from stagefleet.registry.leash import Leash, with_current_leash
from stagefleet.runs.book import SharedBook

__all__ = ["FRESH_SECONDS", "Survey"]

T = TypeVar("T")

FRESH_SECONDS = 8.0
"""The age of the second round when a DELETE is decided on; it starts within ten."""

_RUN_SECONDS = 24 * 3600
_WAIT_SECONDS = 600
_THREADS = 8
_TAGS_A_TIME = 1000  # bounds the answers under way, and how late a lost lease is noticed
_MAX_DEPTH = 4
_SHORT_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class _Round:
    """One look at some tags.

    Attributes:
        tags: By digest, the tags looked at.
        members: By digest, the tags of the indexes that have it as a member.
    """

    tags: dict[str, list[str]]
    members: dict[str, list[str]]


class Survey:
    """Tells what shares a digest in a repository.

    Args:
        client: Speaks to registries.
        book: Keeps the rounds for all.
        repository: Where.
        run: The run's id.
        asked: Gives the tags that the run deletes; called once a run.
        leash: Holds the work back.
    """

    def __init__(
        self,
        client: RegistryClient,
        book: SharedBook,
        repository: Repository,
        *,
        run: str,
        asked: Callable[[], Iterable[str]],
        leash: Leash,
    ) -> None:
        self._client = client
        self._book = book
        self._repository = repository
        self._run = run
        self._asked = asked
        self._leash = leash

    def staying(self, digest: Digest, tag: str) -> list[str]:
        """The tags that a DELETE of a digest would harm and that nobody asked for, besides `tag`.

        Tags of the digest itself, and of indexes that have it as a member.
        """
        return sorted(self.users(digest) - {tag} - set(self._first_round()["asked"]))

    def users(self, digest: Digest) -> set[str]:
        """The tags of a digest, and those of the indexes that have it as a member."""
        first, second = self._first_round(), self._second_round()
        name = str(digest)
        return {
            *first["known"].get(_short(name), ()),
            *first["members"].get(name, ()),
            *second["tags"].get(name, ()),
            *second["members"].get(name, ()),
        }

    def members(self, index: Descriptor) -> list[Digest]:
        """The members of an index and theirs, an index before its members; none of anything else."""
        return [Digest.parse(member) for member in dict.fromkeys(self._members(index))]

    def _first_round(self) -> Any:
        return self._book.once(
            self._run,
            f"survey {self._repository}",
            self._look_at_stages,
            ttl_seconds=_RUN_SECONDS,
            wait_seconds=_WAIT_SECONDS,
            leash=self._leash,
        )

    def _second_round(self) -> Any:
        return self._book.once(
            self._run,
            f"fresh survey {self._repository}",
            self._look_at_the_rest,
            ttl_seconds=FRESH_SECONDS,
            wait_seconds=_WAIT_SECONDS,
            leash=self._leash,
        )

    def _look_at_stages(self) -> dict[str, Any]:
        found = self._look(tag for tag in self._tags() if _is_fixed(tag))
        shared = [tags for tags in found.tags.values() if len(tags) > 1]
        touched = {tag for tags in (*shared, *found.members.values()) for tag in tags}
        return {
            # All of them, also those that are alone: what is to be deleted may be a tag of the second round.
            "known": _shortened(found.tags),
            "members": found.members,
            # Of foreign tags nothing is known yet: those that are asked for are all kept in mind.
            "asked": [tag for tag in self._asked() if tag in touched or not _is_fixed(tag)],
        }

    def _look_at_the_rest(self) -> dict[str, Any]:
        known = {tag for tags in self._first_round()["known"].values() for tag in tags}
        found = self._look(tag for tag in self._tags() if tag not in known)
        return {"tags": found.tags, "members": found.members}

    def _tags(self) -> Iterator[str]:
        try:
            yield from self._client.tags(self._repository)
        except NotFoundError:
            return

    def _look(self, tags: Iterable[str]) -> _Round:
        found = _Round({}, {})
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="survey") as pool:
            for some in _batches(tags, _TAGS_A_TIME):
                self._leash.check()
                for tag, descriptor in zip(some, pool.map(with_current_leash(self._head), some), strict=True):
                    if descriptor is None:
                        continue
                    found.tags.setdefault(str(descriptor.digest), []).append(tag)
                    for member in self._members(descriptor):
                        found.members.setdefault(member, []).append(tag)
        return found

    def _head(self, tag: str) -> Descriptor | None:
        try:
            return self._client.head_manifest(self._repository.tagged(tag))
        except NotFoundError:
            return None  # gone meanwhile

    def _members(self, descriptor: Descriptor, depth: int = 1) -> Iterator[str]:
        """The digests of an index's members, and of theirs."""
        if not descriptor.media_type.endswith(("image.index.v1+json", "manifest.list.v2+json")):
            return
        index = self._fetch(descriptor.digest)
        for member in index.members if index else ():
            yield str(member.digest)
            if depth < _MAX_DEPTH:
                yield from self._members(member, depth + 1)

    def _fetch(self, digest: Digest) -> Manifest | None:
        try:
            return self._client.fetch_manifest(Reference.of(self._repository, digest))
        except (NotFoundError, BrokenStageError, UnsupportedManifestError):
            return None  # gone, or broken: nobody can read it, so nothing is taken from under it


def _is_fixed(tag: str) -> bool:
    """Whether what a tag names never changes: stages and their records."""
    return StageId.from_tag(tag) is not None or is_record_tag(tag)


def _short(digest: str) -> str:
    """Enough of a digest to find it by: a million stages are kept so. A wrong match only keeps a tag."""
    return digest.rpartition(":")[2][:_SHORT_CHARACTERS]


def _shortened(tags: Mapping[str, list[str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for digest, some in tags.items():
        found.setdefault(_short(digest), []).extend(some)
    return found


def _batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(values)
    while batch := list(islice(iterator, size)):
        yield batch
