"""Cache of rejections that were read and do not belong to a deletion: they need no second read.

Entries live for a day at most, for others may withdraw a rejection and write another. Only rejections that
the fleet itself has read are stored. A lost entry costs one read.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection

from stagefleet.names import StageId
from stagefleet.redis_keys import REJECTIONS
from stagefleet.settings import SharedStateSettings
from stagefleet.shared_state.best_effort import BestEffortStore
from stagefleet.shared_state.id_list import pack_id

_DAY_SECONDS = 24 * 3600
_IDS_A_CALL = 1000


class KnownRejections(ABC):
    """Cache, by storage, of stages whose rejection belongs to no deletion; thread-safe. Nothing raises."""

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
