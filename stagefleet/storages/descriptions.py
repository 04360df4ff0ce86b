"""The description cache: one look-up serves all workers and clients of a fleet.

A stage's name never changes its content, so an entry never goes stale: it goes with the stage's deletion or
rejection. Losing entries loses nothing but a request to the registry, so the cache is bounded by dropping
some at random, and is silent where Redis is out of reach.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

from pydantic import ValidationError

from stagefleet.names import StageId
from stagefleet.packing import pack, unpack
from stagefleet.settings import CacheSettings
from stagefleet.stages import ImageInfo, StageDescription
from stagefleet.storages.lossy import LossyStore

__all__ = ["DescriptionCache", "MemoryDescriptions", "RedisDescriptions"]

_NAMES_A_CALL = 1000


class DescriptionCache(Protocol):
    """Keeps descriptions by storage and stage; from many threads. None raises for a cache out of reach."""

    def find(self, storage: str, stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
        """What is known of some stages of a storage, None for each that is not known."""

    def remember(self, storage: str, descriptions: Sequence[StageDescription]) -> None:
        """Keep descriptions of stages of a storage."""

    def forget(self, storage: str, stage_ids: Sequence[StageId]) -> None:
        """Drop what is known of stages that were deleted or rejected."""


class RedisDescriptions(LossyStore):
    """Descriptions in the fleet's Redis: a hash a storage, the stage's tag to its packed description."""

    _what = _keys = "descriptions"

    def find(self, storage: str, stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
        """See `DescriptionCache.find`; one round trip for all."""
        found: Sequence[bytes | None] = [None] * len(stage_ids)
        chunks = [stage_ids[n : n + _NAMES_A_CALL] for n in range(0, len(stage_ids), _NAMES_A_CALL)]
        if chunks:
            with self._calls():
                pipe = self._redis.pipeline(transaction=False)
                for chunk in chunks:
                    pipe.hmget(self._prefix + storage, [str(stage_id) for stage_id in chunk])
                found = [data for answer in pipe.execute() for data in answer]
        return [_decoded(stage_id, data) for stage_id, data in zip(stage_ids, found, strict=True)]

    def remember(self, storage: str, descriptions: Sequence[StageDescription]) -> None:
        """See `DescriptionCache.remember`."""
        if not descriptions:
            return
        entries = {str(entry.stage_id): _encoded(entry) for entry in descriptions}
        name, settings = self._prefix + storage, self._settings
        with self._calls():
            pipe = self._redis.pipeline(transaction=False)
            pipe.hset(name, mapping=entries)
            pipe.expire(name, round(settings.lifetime_seconds))
            pipe.hlen(name)
            surplus = pipe.execute()[2] - settings.entries
            if surplus > 0:
                self._redis.hdel(name, *self._redis.hrandfield(name, surplus))

    def forget(self, storage: str, stage_ids: Sequence[StageId]) -> None:
        """See `DescriptionCache.forget`."""
        if stage_ids:
            with self._calls():
                self._redis.hdel(self._prefix + storage, *map(str, stage_ids))


class MemoryDescriptions:
    """Descriptions in this process, for embedded commands and tests."""

    def __init__(self, settings: CacheSettings | None = None) -> None:
        self._entries = (CacheSettings() if settings is None else settings).entries
        self._lock = threading.Lock()
        self._known: dict[str, dict[StageId, StageDescription]] = {}

    def find(self, storage: str, stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
        """See `DescriptionCache.find`."""
        with self._lock:
            known: Mapping[StageId, StageDescription] = self._known.get(storage, {})
            return [known.get(stage_id) for stage_id in stage_ids]

    def remember(self, storage: str, descriptions: Sequence[StageDescription]) -> None:
        """See `DescriptionCache.remember`; the oldest entries go."""
        with self._lock:
            known = self._known.setdefault(storage, {})
            known.update({entry.stage_id: entry for entry in descriptions})
            while len(known) > self._entries:
                del known[next(iter(known))]

    def forget(self, storage: str, stage_ids: Sequence[StageId]) -> None:
        """See `DescriptionCache.forget`."""
        with self._lock:
            for stage_id in stage_ids:
                self._known.get(storage, {}).pop(stage_id, None)


def _encoded(description: StageDescription) -> bytes:
    return pack(description.info.model_dump_json(exclude_defaults=True).encode())


def _decoded(stage_id: StageId, data: bytes | None) -> StageDescription | None:
    if data is None:
        return None
    try:
        info = ImageInfo.model_validate_json(unpack(data))
    except (ValueError, ValidationError):
        return None  # of another version: asked anew
    return StageDescription(stage_id=stage_id, info=info)
