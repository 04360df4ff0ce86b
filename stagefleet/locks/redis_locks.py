"""Locks on Redis: each step is one Lua script in `lua/`; `lua/common.lua` explains the keys."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stagefleet.locks.manager import HeldLock, LockHolder, LockInfo, LockManager
from stagefleet.redis_client import RedisScripts, connect_redis, map_redis_errors, milliseconds
from stagefleet.redis_keys import LOCK_WAKE
from stagefleet.settings import LockSettings, Settings

if TYPE_CHECKING:
    import redis


class RedisLocks(LockManager):
    """The locks of a fleet."""

    def __init__(self, client: redis.Redis, *, prefix: str, settings: LockSettings) -> None:
        super().__init__(settings)
        self.scripts = RedisScripts(client, "stagefleet.locks", prefix=prefix)
        self._redis: Any = client  # redis-py types each reply as the union over all its settings
        self._prefix = prefix
        self._lease_ms = milliseconds(settings.lease_seconds)

    @classmethod
    def connect(cls, redis_url: str, settings: Settings) -> RedisLocks:
        """Create the lock manager for a URL; it connects at the first call.

        Raises:
            SettingsError: The URL is malformed.
        """
        return cls(connect_redis(redis_url), prefix=settings.key_prefix, settings=settings.locks)

    def close(self) -> None:
        super().close()
        self._redis.close()

    def locks(self) -> list[LockInfo]:
        return [_info(*entry) for entry in json.loads(self.scripts.call("lock_info"))]

    def force_release(self, name: str, ticket: str | None = None) -> int:
        return int(self.scripts.call("release", name, ticket or ""))

    def _request(self, name: str, ticket: str, label: str, *, shared: bool) -> int:
        lease_ms = self._lease_ms
        return int(
            self.scripts.call("acquire", name, ticket, "1" if shared else "", label, lease_ms, lease_ms)
        )

    def _request_free(self, wanted: Mapping[str, bool], ticket: str, label: str) -> Sequence[int]:
        pairs = ((name, "1" if shared else "") for name, shared in wanted.items())
        fences = self.scripts.call("acquire_free", ticket, label, self._lease_ms, *itertools.chain(*pairs))
        return [int(fence) for fence in fences]

    @contextlib.contextmanager
    def _changes_for(self, ticket: str) -> Iterator[Callable[[float], None]]:
        subscription: Any = None

        def nap(seconds: float) -> None:
            nonlocal subscription
            with map_redis_errors(self._redis):
                if subscription is None:
                    subscription = self._redis.pubsub(ignore_subscribe_messages=True)
                    subscription.subscribe(LOCK_WAKE.of(self._prefix, ticket))
                    return  # the next attempt sees changes from before the subscription
                subscription.get_message(timeout=seconds)

        try:
            yield nap
        finally:
            if subscription is not None:
                subscription.close()

    def _info_of(self, name: str) -> LockInfo:
        found = json.loads(self.scripts.call("lock_info", name))
        return _info(*found[0]) if found else LockInfo(name)

    def _renew(self, locks: Sequence[HeldLock]) -> list[bool]:
        return [bool(answer) for answer in self.scripts.call("renew", self._lease_ms, *_pairs(locks))]

    def _release(self, locks: Sequence[HeldLock]) -> None:
        self.scripts.call("release", *_pairs(locks))


def _pairs(locks: Iterable[HeldLock]) -> Iterable[str]:
    return itertools.chain.from_iterable((lock.name, lock.ticket) for lock in locks)


def _info(name: str, holders: Sequence[Sequence[Any]], waiting: Sequence[Sequence[Any]]) -> LockInfo:
    return LockInfo(name, tuple(map(_holder, holders)), tuple(map(_holder, waiting)))


def _holder(entry: Sequence[Any]) -> LockHolder:
    ticket, label, shared, fence, left_ms = entry
    return LockHolder(ticket, label, shared=shared, fence=int(fence), seconds_left=left_ms / 1000)
