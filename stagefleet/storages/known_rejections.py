"""The rejections that somebody has looked at: those that are no deletion's need no second look.

Remembered for a day at most, for others may withdraw a rejection and write another; and only what the fleet
has seen itself. Losing it loses nothing but a look at each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from typing import Protocol

from stagefleet.names import StageId
from stagefleet.settings import CacheSettings
from stagefleet.storages.id_list import pack_id
from stagefleet.storages.lossy import LossyStore

__all__ = ["KnownRejections", "MemoryRejections", "RedisRejections"]

_DAY_SECONDS = 24 * 3600
_IDS_A_CALL = 1000


class KnownRejections(Protocol):
    """Keeps, by storage, the stages whose rejection is no deletion's; from many threads. Nothing raises."""

    def find(self, storage: str, stage_ids: Collection[StageId]) -> set[StageId]:
        """Those of some stages that are known."""

    def remember(self, storage: str, stage_ids: Collection[StageId]) -> None:
        """Keep stages in mind; not all, if they are too many."""

    def forget(self, storage: str, stage_id: StageId) -> None:
        """The stage or its rejection is gone, or written anew."""


class RedisRejections(LossyStore):
    """Known rejections in the fleet's Redis: a hash a storage, whose fields are packed ids."""

    _what, _keys = "rejections", "rejections"

    def find(self, storage: str, stage_ids: Collection[StageId]) -> set[StageId]:
        """See `KnownRejections.find`; one round trip for all."""
        asked = list(stage_ids)
        chunks = [asked[n : n + _IDS_A_CALL] for n in range(0, len(asked), _IDS_A_CALL)]
        found: list[bytes | None] = []
        if chunks:
            with self._calls():
                pipe = self._redis.pipeline(transaction=False)
                for chunk in chunks:
                    pipe.hmget(self._prefix + storage, [pack_id(stage_id) for stage_id in chunk])
                found = [value for answer in pipe.execute() for value in answer]
        return {stage_id for stage_id, value in zip(asked, found, strict=False) if value is not None}

    def remember(self, storage: str, stage_ids: Collection[StageId]) -> None:
        if not stage_ids:
            return
        name = self._prefix + storage
        with self._calls():
            pipe = self._redis.pipeline(transaction=False)
            pipe.hset(name, mapping={pack_id(stage_id): b"" for stage_id in stage_ids})
            pipe.ttl(name)
            pipe.hlen(name)
            _, left_seconds, count = pipe.execute()
            if left_seconds < 0:  # not extended: what is known for a day is looked at again
                self._redis.expire(name, _DAY_SECONDS)
            surplus = count - self._settings.entries
            if surplus > 0:
                self._redis.hdel(name, *self._redis.hrandfield(name, surplus))

    def forget(self, storage: str, stage_id: StageId) -> None:
        with self._calls():
            self._redis.hdel(self._prefix + storage, pack_id(stage_id))


class MemoryRejections:
    """Known rejections in this process, for embedded commands and tests."""

    def __init__(self, settings: CacheSettings | None = None) -> None:
        self._entries = (CacheSettings() if settings is None else settings).entries
        self._lock = threading.Lock()
        self._known: dict[str, dict[StageId, float]] = {}

    def find(self, storage: str, stage_ids: Collection[StageId]) -> set[StageId]:
        with self._lock:
            known, now = self._known.get(storage, {}), time.monotonic()
            return {stage_id for stage_id in stage_ids if known.get(stage_id, 0.0) > now}

    def remember(self, storage: str, stage_ids: Collection[StageId]) -> None:
        """See `KnownRejections.remember`; the oldest go."""
        with self._lock:
            known = self._known.setdefault(storage, {})
            known.update(dict.fromkeys(stage_ids, time.monotonic() + _DAY_SECONDS))
            while len(known) > self._entries:
                del known[next(iter(known))]

    def forget(self, storage: str, stage_id: StageId) -> None:
        with self._lock:
            self._known.get(storage, {}).pop(stage_id, None)
