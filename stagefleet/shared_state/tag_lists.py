"""Tag lists: the stages of a storage at its last listing, cached for the whole fleet.

The fleet's own copies, deletions and rejections update it; changes by others show up at the next listing. So
a stage on a list has to be checked, and a stage not on it may still exist. A lost list costs one request.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict
from typing import Any

from stagefleet.names import StageId
from stagefleet.redis_client import TAG_LIST, TAG_LISTS, DeferredCall, milliseconds
from stagefleet.settings import SharedStateSettings
from stagefleet.shared_state.best_effort import BestEffortStore
from stagefleet.stage_lists import StageIdList, pack_id

_COUNT = b"count"
_BUCKET_BYTES = 1


class TagLists(ABC):
    """Bounded cache of the last known tag list of each storage; thread-safe.

    No method raises if the cache is unreachable: then no list is known.
    """

    @abstractmethod
    def remember(self, storage: str, listed: StageIdList) -> None:
        """Store the stages of a fresh listing, unless there are too many."""

    @abstractmethod
    def last_known(self, storage: str) -> StageIdList | None:
        """Return the stages of the last known list, None if none is known."""

    @abstractmethod
    def find(self, storage: str, digest: str) -> list[StageId]:
        """Return the stages of a digest on the last known list, the oldest first; empty without a list."""

    @abstractmethod
    def add(self, storage: str, stage_id: StageId) -> None:
        """Add a stage that came to a storage to its list, if one is known."""

    def adding(self, storage: str, stage_id: StageId) -> DeferredCall | None:  # noqa: ARG002 - as others need
        """Return `add` as a call for an item's last step, None if it cannot be put off."""
        return None

    @abstractmethod
    def forget(self, storage: str, stage_id: StageId) -> None:
        """Drop a stage that was deleted or rejected from its list."""


class RedisTagLists(BestEffortStore, TagLists):
    """The cache of a fleet: a hash per storage, with packed ids grouped by their first byte."""

    _what, _keys = "tag_lists", TAG_LIST

    def remember(self, storage: str, listed: StageIdList) -> None:
        key, index = self._key(storage), TAG_LISTS.of(self._prefix)
        lifetime_ms = milliseconds(self._settings.list_lifetime_seconds)
        with self._calls(), self._redis.pipeline(transaction=True) as pipe:
            pipe.unlink(key)
            if len(listed) <= self._settings.listed_stages:
                pipe.hset(key, mapping=_buckets_of(listed))
                pipe.pexpire(key, lifetime_ms)
            pipe.zadd(index, {storage: time.time()})
            pipe.pexpire(index, lifetime_ms)
            pipe.zcard(index)
            surplus = pipe.execute()[-1] - self._settings.lists
            if surplus > 0:
                old = [name.decode() for name, _ in self._redis.zpopmin(index, surplus)]
                self._redis.unlink(*(self._key(name) for name in old))

    def last_known(self, storage: str) -> StageIdList | None:
        buckets: dict[bytes, bytes] = {}
        with self._calls():
            buckets = self._redis.hgetall(self._key(storage))
        known = buckets.pop(_COUNT, None) is not None
        return _unpacked(b"".join(buckets.values())) if known else None

    def find(self, storage: str, digest: str) -> list[StageId]:
        bucket: bytes | None = None
        with self._calls():
            bucket = self._redis.hget(self._key(storage), bytes.fromhex(digest)[:_BUCKET_BYTES])
        listed = _unpacked(bucket or b"")
        return [] if listed is None else listed.of_digest(digest)

    def add(self, storage: str, stage_id: StageId) -> None:
        self._change(storage, stage_id, self._settings.listed_stages)

    def adding(self, storage: str, stage_id: StageId) -> DeferredCall | None:
        arguments = _change(storage, stage_id, self._settings.listed_stages)
        call = self.scripts.prepare("change_tag_list", *arguments)
        return DeferredCall(prepare=lambda: call, done=self._note, instead=lambda: None)

    def forget(self, storage: str, stage_id: StageId) -> None:
        self._change(storage, stage_id, "")

    def _change(self, storage: str, stage_id: StageId, most: int | str) -> None:
        with self._calls():
            self.scripts.call("change_tag_list", *_change(storage, stage_id, most))

    def _note(self, answer: Any) -> None:
        with self._calls():
            self.scripts.checked(answer)


class MemoryTagLists(TagLists):
    """The cache of this process, for embedded commands and tests."""

    def __init__(self, settings: SharedStateSettings | None = None) -> None:
        self._settings = SharedStateSettings() if settings is None else settings
        self._lock = threading.Lock()
        self._lists: OrderedDict[str, tuple[StageIdList, float]] = OrderedDict()  # each with its expiry

    def close(self) -> None:
        """Do nothing."""

    def remember(self, storage: str, listed: StageIdList) -> None:
        settings = self._settings
        with self._lock:
            self._lists.pop(storage, None)
            if len(listed) <= settings.listed_stages:
                self._lists[storage] = (listed, time.monotonic() + settings.list_lifetime_seconds)
            while len(self._lists) > settings.lists:
                self._lists.popitem(last=False)

    def last_known(self, storage: str) -> StageIdList | None:
        with self._lock:
            listed, until = self._lists.get(storage, (None, 0.0))
            return listed if time.monotonic() < until else None

    def find(self, storage: str, digest: str) -> list[StageId]:
        return (self.last_known(storage) or StageIdList()).of_digest(digest)

    def add(self, storage: str, stage_id: StageId) -> None:
        self._change(storage, stage_id, pack_id(stage_id))

    def forget(self, storage: str, stage_id: StageId) -> None:
        self._change(storage, stage_id, b"")

    def _change(self, storage: str, stage_id: StageId, entry: bytes) -> None:
        with self._lock:
            if storage in self._lists:
                listed, until = self._lists[storage]
                self._lists[storage] = (listed.replacing(stage_id, entry), until)
                if len(self._lists[storage][0]) > self._settings.listed_stages:
                    del self._lists[storage]


def _change(storage: str, stage_id: StageId, most: int | str) -> tuple[str | bytes | int, ...]:
    entry = pack_id(stage_id)
    return storage, entry[:_BUCKET_BYTES], entry, most


def _buckets_of(listed: StageIdList) -> dict[bytes, bytes | bytearray | int]:
    buckets: defaultdict[bytes, bytearray] = defaultdict(bytearray)
    for entry in listed.entries:
        buckets[entry[:_BUCKET_BYTES]] += entry
    return {_COUNT: len(listed), **{name: bytes(bucket) for name, bucket in buckets.items()}}


def _unpacked(packed: bytes) -> StageIdList | None:
    try:
        return StageIdList.unpack(packed)
    except ValueError:
        return None  # of another version: listed again
