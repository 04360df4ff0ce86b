"""Data in the fleet's Redis that may be lost: times of last use, and tag lists. Callers go on without it."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from stagefleet import redis_client, redis_keys
from stagefleet.errors import StagefleetError
from stagefleet.logs import EventLogger
from stagefleet.names import StageId
from stagefleet.settings import Settings, SharedStateSettings
from stagefleet.stage_lists import StageIdList, pack_id

if TYPE_CHECKING:
    import redis

_FIELDS_A_CALL = 1000

_log = EventLogger(__name__)


class BestEffortStore:
    """Base class of stores in the fleet's Redis whose loss does no harm.

    It warns once per outage, not once per call.
    """

    _what: ClassVar[str]
    """Name of the data, for the warning."""
    _keys: ClassVar[redis_keys.RedisKey]

    def __init__(self, client: redis.Redis, *, prefix: str, settings: SharedStateSettings) -> None:
        self.scripts = redis_client.RedisScripts(client, "stagefleet.shared_state", prefix=prefix)
        self._redis: Any = client  # redis-py types each reply as the union over all its settings
        self._prefix = prefix
        self._settings = settings
        self._was_told = False

    @classmethod
    def connect(cls, redis_url: str, settings: Settings) -> Self:
        """Create the store for a URL, connected at the first call; `SettingsError` if it is malformed."""
        return cls(
            redis_client.connect_redis(redis_url), prefix=settings.key_prefix, settings=settings.caches
        )

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _key(self, name: str) -> str:
        return self._keys.of(self._prefix, name)

    def _read_fields(self, name: str, fields: Sequence[str | bytes]) -> list[bytes | None]:
        """Return the values of fields of a hash, or of none in an outage."""
        found: list[bytes | None] = []
        with self._calls():
            pipe = self._redis.pipeline(transaction=False)
            for first in range(0, len(fields), _FIELDS_A_CALL):
                pipe.hmget(self._key(name), fields[first : first + _FIELDS_A_CALL])
            found.extend(value for answer in pipe.execute() for value in answer)
        return found

    def _drop_surplus(self, name: str, count: int) -> None:
        """Drop random entries of a hash that has more than the settings allow."""
        surplus = count - self._settings.entries
        if surplus > 0:
            with redis_client.map_redis_errors(self._redis):
                self._redis.hdel(name, *self._redis.hrandfield(name, surplus))

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """Run calls to Redis; an outage ends the block without an error."""
        try:
            with redis_client.map_redis_errors(self._redis):
                yield
        except Exception as error:
            if not isinstance(error, StagefleetError) and not redis_client.is_redis_error(error):
                raise
            if not self._was_told:
                self._was_told = True
                _log.warning(f"{self._what}_out_of_reach", action="cache", error=str(error))
        else:
            self._was_told = False


# Times at which the engines of hosts last used an image.


@dataclass(frozen=True, slots=True)
class UsedImage:
    """An image in a host's engine, and the time of its last use, in milliseconds since 1970."""

    image: str
    last_used_ms: int


class LastUsed(ABC):
    """Last-used times of images by host, for clean-up; thread-safe.

    It is bounded: the longest unused are dropped first. An image without a time counts as of unknown use.
    """

    @abstractmethod
    def note(self, host: str, image: str) -> None:
        """Record that an image is used now; ignores an unreachable store."""

    @abstractmethod
    def forget(self, host: str, image: str) -> None:
        """Record that an image was removed from a host; ignores an unreachable store."""

    @abstractmethod
    def used_images(self, host: str) -> list[UsedImage]:
        """List the images of a host, the longest unused first; raises if the store is unreachable."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""


class RedisLastUsed(BestEffortStore, LastUsed):
    """The records of a fleet: a sorted set per host, by the server's clock."""

    _what, _keys = "last_used", redis_keys.LAST_USED

    def note(self, host: str, image: str) -> None:
        settings = self._settings
        with self._calls():
            lifetime_ms = redis_client.milliseconds(settings.lifetime_seconds)
            self.scripts.call("note_used", host, image, settings.used_images, lifetime_ms)

    def forget(self, host: str, image: str) -> None:
        with self._calls():
            self._redis.zrem(self._key(host), image)

    def used_images(self, host: str) -> list[UsedImage]:
        with redis_client.map_redis_errors(self._redis):
            found = self._redis.zrange(self._key(host), 0, -1, withscores=True)
        return [UsedImage(image.decode(), round(score)) for image, score in found]


class MemoryLastUsed(LastUsed):
    """Last-used records of one process; the clock returns seconds since 1970."""

    def __init__(
        self, settings: SharedStateSettings | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._bound = (SharedStateSettings() if settings is None else settings).used_images
        self._clock = clock
        self._lock = threading.Lock()
        self._used: dict[str, dict[str, int]] = {}  # the images of each host in the order of their last use

    def note(self, host: str, image: str) -> None:
        with self._lock:
            used = self._used.setdefault(host, {})
            used.pop(image, None)
            used[image] = round(self._clock() * 1000)
            while len(used) > self._bound:
                del used[next(iter(used))]

    def forget(self, host: str, image: str) -> None:
        with self._lock:
            self._used.get(host, {}).pop(image, None)

    def used_images(self, host: str) -> list[UsedImage]:
        with self._lock:
            return [UsedImage(image, used_ms) for image, used_ms in self._used.get(host, {}).items()]

    def close(self) -> None:
        """Do nothing: there are no connections."""


# Tag lists: the stages of a storage at its last listing.
#
# The fleet's own copies, deletions and rejections update it; changes by others show up at the next listing.
# So a stage on a list has to be checked, and a stage not on it may still exist. A lost list costs one
# request.

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

    def adding(self, storage: str, stage_id: StageId) -> redis_client.DeferredCall | None:  # noqa: ARG002 - as others need
        """Return `add` as a call for an item's last step, None if it cannot be put off."""
        return None

    @abstractmethod
    def forget(self, storage: str, stage_id: StageId) -> None:
        """Drop a stage that was deleted or rejected from its list."""


class RedisTagLists(BestEffortStore, TagLists):
    """The cache of a fleet: a hash per storage, with packed ids grouped by their first byte."""

    _what, _keys = "tag_lists", redis_keys.TAG_LIST

    def remember(self, storage: str, listed: StageIdList) -> None:
        key, index = self._key(storage), redis_keys.TAG_LISTS.of(self._prefix)
        lifetime_ms = redis_client.milliseconds(self._settings.list_lifetime_seconds)
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

    def adding(self, storage: str, stage_id: StageId) -> redis_client.DeferredCall | None:
        arguments = _change(storage, stage_id, self._settings.listed_stages)
        call = self.scripts.prepare("change_tag_list", *arguments)
        return redis_client.DeferredCall(prepare=lambda: call, done=self._note, instead=lambda: None)

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
