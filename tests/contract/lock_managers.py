"""The two lock managers behind one handle: several clients of one store, and a clock that can be moved."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any, Protocol

from stagefleet.locks import MemoryLocks, RedisLocks
from stagefleet.redis_client import connect_redis
from stagefleet.settings import LockSettings

__all__ = ["LEASE_SECONDS", "SETTINGS", "AnyLocks", "LockHarness", "MemoryLockHarness", "RedisLockHarness"]

LEASE_SECONDS = 30.0
SETTINGS = LockSettings(lease_seconds=LEASE_SECONDS, renewal_seconds=10, wait_seconds=20)

AnyLocks = RedisLocks | MemoryLocks


class LockHarness(Protocol):
    def client(self) -> AnyLocks: ...
    def advance(self, seconds: float) -> None: ...
    def close(self) -> None: ...


class MemoryLockHarness:
    """One manager: there is but one process."""

    def __init__(self, make: Callable[..., MemoryLocks] = MemoryLocks) -> None:
        self._ahead = 0.0
        self._locks = make(SETTINGS, clock=lambda: time.monotonic() + self._ahead)

    def client(self) -> MemoryLocks:
        return self._locks

    def advance(self, seconds: float) -> None:
        self._ahead += seconds

    def close(self) -> None:
        self._locks.close()


class RedisLockHarness:
    """Each client has connections and a renewal thread of its own."""

    def __init__(self, url: str) -> None:
        self.prefix = f"t{secrets.token_hex(4)}:"
        self.redis: Any = connect_redis(url)
        self._url = url
        self._clients: list[RedisLocks] = []
        self._ahead_ms = 0

    def client(self) -> RedisLocks:
        made = RedisLocks(connect_redis(self._url), prefix=self.prefix, settings=SETTINGS)
        made.scripts.clock_offset_ms = self._ahead_ms
        self._clients.append(made)
        return made

    def advance(self, seconds: float) -> None:
        self._ahead_ms += round(seconds * 1000)
        for client in self._clients:
            client.scripts.clock_offset_ms = self._ahead_ms

    def keys(self) -> set[str]:
        return {key.decode().removeprefix(self.prefix) for key in self.redis.scan_iter(f"{self.prefix}*")}

    def close(self) -> None:
        for client in self._clients:
            client.close()
        if keys := self.keys():
            self.redis.delete(*(self.prefix + key for key in keys))
        self.redis.close()
