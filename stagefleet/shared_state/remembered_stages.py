"""The fleet's memory of storages, and its update by the fleet's own changes."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from stagefleet.images import StageDescription
from stagefleet.names import Digest, Repository, StageId
from stagefleet.redis_keys import REJECTIONS
from stagefleet.settings import Settings, SharedStateSettings
from stagefleet.shared_state.best_effort import BestEffortStore
from stagefleet.shared_state.descriptions import DescriptionStore, MemoryDescriptions, RedisDescriptions
from stagefleet.shared_state.tag_lists import MemoryTagLists, RedisTagLists, TagLists, pack_id

if TYPE_CHECKING:
    import redis

_DAY_SECONDS = 24 * 3600
_IDS_A_CALL = 1000


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
        chunks = [asked[n : n + _IDS_A_CALL] for n in range(0, len(asked), _IDS_A_CALL)]
        found: list[bytes | None] = []
        if chunks:
            with self._calls():
                pipe = self._redis.pipeline(transaction=False)
                for chunk in chunks:
                    pipe.hmget(self._key(storage), [pack_id(stage_id) for stage_id in chunk])
                found = [value for answer in pipe.execute() for value in answer]
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
        self, repository: Repository, stage_id: StageId, description: StageDescription | None = None
    ) -> None:
        """Record that a stage came to a repository; its tag may have named something else before.

        Raises:
            RedisUnreachableError: It was not recorded: an old description may remain.
        """
        self.lists.add(str(repository), stage_id)
        if description is None:
            self.descriptions.forget(str(repository), [stage_id])
        else:
            self.descriptions.replace(str(repository), description)

    def confirm(self, repository: Repository, stage_id: StageId, digest: Digest) -> StageDescription | None:
        """Return the remembered description if it has this digest, which was just read; else drop it."""
        (known,) = self.descriptions.find(str(repository), [stage_id])
        if known is None or known.info.repo_digest.endswith(f"@{digest}"):
            return known
        self.descriptions.forget(str(repository), [stage_id])
        return None

    def forget(self, repository: Repository, stage_id: StageId) -> None:
        """Record that a stage was deleted or rejected, so that it is not reported as existing.

        Raises:
            RedisUnreachableError: It was not recorded: an old description may remain.
        """
        self.lists.forget(str(repository), stage_id)
        self.rejections.forget(str(repository), stage_id)
        self.descriptions.forget(str(repository), [stage_id])
