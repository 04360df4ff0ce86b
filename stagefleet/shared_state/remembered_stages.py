"""The fleet's memory of storages, and its update by the fleet's own changes."""

from __future__ import annotations

import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from stagefleet.bounds import compress_json, decompress_json
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.names import Digest, Repository, StageId
from stagefleet.redis_client import DeferredCall, LastStep, milliseconds, put_off
from stagefleet.redis_keys import DESCRIPTIONS, REJECTIONS
from stagefleet.settings import Settings, SharedStateSettings
from stagefleet.shared_state.best_effort import BestEffortStore, MemoryTagLists, RedisTagLists, TagLists
from stagefleet.stage_lists import pack_id

if TYPE_CHECKING:
    import redis

# Cache of descriptions: one look-up serves all workers and clients of a fleet.
#
# An entry is dropped when its stage is deleted or rejected, and replaced when the fleet writes a stage under
# its name. Another process may have read the old stage just before and be about to store that. So for a while
# after a change only the process that made it may store a description.
#
# A lost entry costs one request to the registry. So the cache drops random entries to stay bounded, and reads
# ignore an unreachable Redis. A change that cannot be stored is an error: the old entry would stay for weeks.

_UNSETTLED_SECONDS = 120.0
"""Time after a change during which other processes' descriptions are refused; longer than a look-up takes."""


class DescriptionStore(ABC):
    """Bounded cache of descriptions, by storage and stage; thread-safe."""

    @abstractmethod
    def find(self, storage: str, stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
        """Return the cached descriptions of some stages of a storage, None for each that is not cached."""

    @abstractmethod
    def remember(self, storage: str, descriptions: Sequence[StageDescription]) -> None:
        """Store descriptions that were just read, except of stages that have just changed; never raises."""

    @abstractmethod
    def replace(self, storage: str, description: StageDescription) -> None:
        """Store the description of a stage that was just written into a storage.

        `RedisUnreachableError` if it was not stored: an old description may remain.
        """

    def replacing(self, storage: str, description: StageDescription) -> DeferredCall | None:  # noqa: ARG002 - as others need
        """Return `replace` as a call for an item's last step, None if it cannot be put off."""
        return None

    @abstractmethod
    def forget(self, storage: str, stage_ids: Sequence[StageId]) -> None:
        """Drop descriptions of stages that were deleted, rejected or replaced; errors as of `replace`."""


class RedisDescriptions(BestEffortStore, DescriptionStore):
    """The cache of a fleet.

    Each storage has two keys: a hash from a stage's tag to its packed description, and a sorted set of recent
    changes, a stage's tag by the server's time in milliseconds.
    """

    _what, _keys = "descriptions", DESCRIPTIONS

    def find(self, storage: str, stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
        found = self._read_fields(storage, list(map(str, stage_ids)))
        return list(map(_decoded, stage_ids, found or [None] * len(stage_ids)))

    def remember(self, storage: str, descriptions: Sequence[StageDescription]) -> None:
        if descriptions:
            with self._calls():
                pairs = ((entry.stage_id, _encoded(entry)) for entry in descriptions)
                self._write("remember_descriptions", storage, pairs)

    def replace(self, storage: str, description: StageDescription) -> None:
        self._write("change_descriptions", storage, [(description.stage_id, _encoded(description))])

    def replacing(self, storage: str, description: StageDescription) -> DeferredCall | None:
        stage_id = description.stage_id
        arguments = self._arguments(storage, [(stage_id, _encoded(description))])
        call = self.scripts.prepare("change_descriptions", *arguments, is_needed=True)
        return DeferredCall(
            prepare=lambda: call,
            done=lambda answer: self._drop_surplus(self._key(storage), self.scripts.checked(answer)),
            instead=partial(self.forget, storage, [stage_id]),  # another may have changed the stage by then
        )

    def forget(self, storage: str, stage_ids: Sequence[StageId]) -> None:
        if stage_ids:
            self._write("change_descriptions", storage, [(stage_id, b"") for stage_id in stage_ids])

    def _write(self, script: str, storage: str, pairs: Iterable[tuple[StageId, bytes]]) -> None:
        count = self.scripts.call(script, *self._arguments(storage, pairs))
        self._drop_surplus(self._key(storage), count)

    def _arguments(self, storage: str, pairs: Iterable[tuple[StageId, bytes]]) -> Iterator[Any]:
        yield storage
        yield from map(milliseconds, (_UNSETTLED_SECONDS, self._settings.lifetime_seconds))
        yield from itertools.chain.from_iterable((str(stage_id), data) for stage_id, data in pairs)


class MemoryDescriptions(DescriptionStore):
    """The cache of this process, for embedded commands and tests."""

    def __init__(
        self, settings: SharedStateSettings | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._entries = (SharedStateSettings() if settings is None else settings).entries
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, dict[StageId, StageDescription]] = {}
        self._changed: dict[tuple[str, StageId], float] = {}

    def find(self, storage: str, stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
        with self._lock:
            known: Mapping[StageId, StageDescription] = self._known.get(storage, {})
            return [known.get(stage_id) for stage_id in stage_ids]

    def remember(self, storage: str, descriptions: Sequence[StageDescription]) -> None:
        with self._lock:
            self._settle()
            for entry in descriptions:
                if (storage, entry.stage_id) not in self._changed:
                    self._keep(storage, entry)

    def replace(self, storage: str, description: StageDescription) -> None:
        with self._lock:
            self._note_change(storage, description.stage_id)
            self._keep(storage, description)

    def forget(self, storage: str, stage_ids: Sequence[StageId]) -> None:
        with self._lock:
            for stage_id in stage_ids:
                self._note_change(storage, stage_id)
                self._known.get(storage, {}).pop(stage_id, None)

    def _keep(self, storage: str, description: StageDescription) -> None:
        known = self._known.setdefault(storage, {})
        known[description.stage_id] = description.bounded()
        while len(known) > self._entries:
            del known[next(iter(known))]

    def _note_change(self, storage: str, stage_id: StageId) -> None:
        self._settle()
        self._changed.pop((storage, stage_id), None)  # the latest change is the last entry
        self._changed[storage, stage_id] = self._clock()

    def _settle(self) -> None:
        over = self._clock() - _UNSETTLED_SECONDS
        while self._changed and next(iter(self._changed.values())) <= over:
            del self._changed[next(iter(self._changed))]


def _encoded(description: StageDescription) -> bytes:
    return compress_json(description.bounded().info.model_dump_json(exclude_defaults=True).encode())


def _decoded(stage_id: StageId, data: bytes | None) -> StageDescription | None:
    if data is None:
        return None
    try:
        info = ImageInfo.model_validate_json(decompress_json(data))
    except ValueError:
        return None  # of another version: read again
    return StageDescription(stage_id=stage_id, info=info)


# Rejections, and all of it together.


_DAY_SECONDS = 24 * 3600


class KnownRejections(ABC):
    """Cache, by storage, of stages whose rejection was read and belongs to no deletion; thread-safe.

    Entries live for a day at most, for others may withdraw a rejection and write another. A lost entry costs
    one read; nothing raises.
    """

    @abstractmethod
    def find(self, storage: str, stage_ids: Collection[StageId]) -> set[StageId]:
        """Return the cached ones among some stages."""

    @abstractmethod
    def remember(self, storage: str, stage_ids: Collection[StageId]) -> None:
        """Store stages; beyond the size limit some are left out."""

    @abstractmethod
    def forget(self, storage: str, stage_id: StageId) -> None:
        """Drop a stage: it or its rejection was deleted, or written again."""


class RedisRejections(BestEffortStore, KnownRejections):
    """The cache of a fleet: a hash per storage, with packed ids as fields."""

    _what, _keys = "rejections", REJECTIONS

    def find(self, storage: str, stage_ids: Collection[StageId]) -> set[StageId]:
        asked = list(stage_ids)
        found = self._read_fields(storage, list(map(pack_id, asked)))
        return {stage_id for stage_id, value in zip(asked, found, strict=False) if value is not None}

    def remember(self, storage: str, stage_ids: Collection[StageId]) -> None:
        if not stage_ids:
            return
        name = self._key(storage)
        with self._calls():
            pipe = self._redis.pipeline(transaction=False)
            pipe.hset(name, mapping={pack_id(stage_id): b"" for stage_id in stage_ids})
            pipe.ttl(name)
            pipe.hlen(name)
            _, left_seconds, count = pipe.execute()
            if left_seconds < 0:  # not extended: after a day rejections are read again
                self._redis.expire(name, _DAY_SECONDS)
            self._drop_surplus(name, count)

    def forget(self, storage: str, stage_id: StageId) -> None:
        with self._calls():
            self._redis.hdel(self._key(storage), pack_id(stage_id))


class MemoryRejections(KnownRejections):
    """The cache of this process, for embedded commands and tests."""

    def __init__(self, settings: SharedStateSettings | None = None) -> None:
        self._entries = (SharedStateSettings() if settings is None else settings).entries
        self._lock = threading.Lock()
        self._known: dict[str, dict[StageId, float]] = {}

    def find(self, storage: str, stage_ids: Collection[StageId]) -> set[StageId]:
        with self._lock:
            known, now = self._known.get(storage, {}), time.monotonic()
            return {stage_id for stage_id in stage_ids if known.get(stage_id, 0.0) > now}

    def remember(self, storage: str, stage_ids: Collection[StageId]) -> None:
        with self._lock:
            known = self._known.setdefault(storage, {})
            known.update(dict.fromkeys(stage_ids, time.monotonic() + _DAY_SECONDS))
            while len(known) > self._entries:
                del known[next(iter(known))]

    def forget(self, storage: str, stage_id: StageId) -> None:
        with self._lock:
            self._known.get(storage, {}).pop(stage_id, None)


@dataclass(slots=True)
class RememberedStages:
    """Memory of storages; local to this process until it joins a fleet."""

    descriptions: DescriptionStore = field(default_factory=MemoryDescriptions)
    lists: TagLists = field(default_factory=MemoryTagLists)
    rejections: KnownRejections = field(default_factory=MemoryRejections)

    @classmethod
    def on(cls, client: redis.Redis, settings: Settings) -> Self:
        """Create the fleet's memory in its Redis."""
        made = cls()
        made.join(client, settings)
        return made

    def join(self, client: redis.Redis, settings: Settings) -> None:
        """Switch to a fleet's memory; drop the local one, which may be outdated."""
        prefix, caches = settings.key_prefix, settings.caches
        self.descriptions = RedisDescriptions(client, prefix=prefix, settings=caches)
        self.lists = RedisTagLists(client, prefix=prefix, settings=caches)
        self.rejections = RedisRejections(client, prefix=prefix, settings=caches)

    def known(self, repository: Repository, stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
        """Return the remembered descriptions of stages of a repository, None for each that is not known.

        Multi-platform stages are never remembered: builders push their index again under the same tag.
        """
        known = self.descriptions.find(str(repository), stage_ids)
        return [
            None if stage_id.is_multiplatform else description
            for stage_id, description in zip(stage_ids, known, strict=True)
        ]

    def add(
        self,
        repository: Repository,
        stage_id: StageId,
        description: StageDescription | None = None,
        *,
        last_step: LastStep | None = None,
    ) -> None:
        """Record that a stage came to a repository; its tag may have named something else before.

        What goes to `last_step` is recorded there. Errors are as of `DescriptionStore.replace`.
        """
        storage = str(repository)
        if not put_off(last_step, self.lists.adding(storage, stage_id)):
            self.lists.add(storage, stage_id)
        if description is None:
            self.descriptions.forget(storage, [stage_id])
        elif not put_off(last_step, self.descriptions.replacing(storage, description)):
            self.descriptions.replace(storage, description)

    def confirm(self, repository: Repository, stage_id: StageId, digest: Digest) -> StageDescription | None:
        """Return the remembered description if it has this digest, which was just read; else drop it."""
        (known,) = self.descriptions.find(str(repository), [stage_id])
        if known is None or known.info.repo_digest.endswith(f"@{digest}"):
            return known
        self.descriptions.forget(str(repository), [stage_id])
        return None

    def forget(self, repository: Repository, stage_id: StageId) -> None:
        """Record that a stage was deleted or rejected; errors are as of `DescriptionStore.replace`."""
        self.lists.forget(str(repository), stage_id)
        self.rejections.forget(str(repository), stage_id)
        self.descriptions.forget(str(repository), [stage_id])
