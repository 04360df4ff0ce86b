"""Locks on Redis: each step is one Lua script in `lua/`; `lua/common.lua` explains the keys."""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from stagefleet.locks.lock_wait import default_label, wait_for
from stagefleet.locks.protocol import LockHolder, LockInfo, OnWait
from stagefleet.locks.renewer import LockRenewer, RenewedLock
from stagefleet.redis_client import connect_redis, map_redis_errors
from stagefleet.settings import LockSettings, Settings

if TYPE_CHECKING:
    import redis

__all__ = ["RedisLocks"]

_SCRIPTS = ("acquire", "acquire_free", "release", "renew", "lock_info")


class RedisLocks:
    """`LockManager` for a fleet.

    Attributes:
        clock_offset_ms: Added to the server's clock; for tests, which cannot wait for leases.
    """

    def __init__(self, client: redis.Redis, *, prefix: str, settings: LockSettings) -> None:
        self.clock_offset_ms = 0
        self._redis: Any = client  # redis-py types each reply as the union over all its settings
        self._prefix = prefix
        self._settings = settings
        source = resources.files("stagefleet.locks") / "lua"
        common = (source / "common.lua").read_text()
        self._scripts = {
            name: client.register_script(common + (source / f"{name}.lua").read_text()) for name in _SCRIPTS
        }
        self._renewer = LockRenewer(
            self._renew,
            self._release,
            lease_seconds=settings.lease_seconds,
            renewal_seconds=settings.renewal_seconds,
        )

    @classmethod
    def connect(cls, redis_url: str, settings: Settings) -> RedisLocks:
        """Create the lock manager for a URL; it connects at the first call.

        Raises:
            SettingsError: The URL is malformed.
        """
        return cls(connect_redis(redis_url), prefix=settings.key_prefix, settings=settings.locks)

    def close(self) -> None:
        self._renewer.close()
        self._redis.close()

    @property
    def longest_wait_seconds(self) -> float:
        return self._settings.wait_seconds

    def acquire(
        self,
        name: str,
        *,
        shared: bool = False,
        wait_seconds: float | None = None,
        on_wait: OnWait | None = None,
        label: str | None = None,
        check: Callable[[], None] | None = None,
    ) -> RenewedLock:
        ticket, asked_at = secrets.token_hex(8), 0.0
        subscription: Any = None

        def attempt() -> int:
            nonlocal asked_at
            asked_at = time.monotonic()
            return self._attempt(name, ticket, label or default_label(), shared=shared)

        def nap(seconds: float) -> None:
            nonlocal subscription
            with map_redis_errors(self._redis):
                if subscription is None:
                    subscription = self._redis.pubsub(ignore_subscribe_messages=True)
                    subscription.subscribe(f"{self._prefix}lock-wake:{ticket}")
                    return  # the next attempt sees changes from before the subscription
                subscription.get_message(timeout=seconds)

        try:
            fence = wait_for(
                attempt,
                nap,
                lambda: self._info_of(name),
                wait_seconds=self._settings.wait_seconds if wait_seconds is None else wait_seconds,
                lease_seconds=self._settings.lease_seconds,
                on_wait=on_wait,
                check=check,
            )
        except BaseException:
            with contextlib.suppress(Exception):  # without a renewal its request expires
                self._call("release", name, ticket)
            raise
        finally:
            if subscription is not None:
                subscription.close()
        return self._renewer.add(name, ticket, fence, asked_at)

    @contextlib.contextmanager
    def acquire_free(
        self, wanted: Mapping[str, bool], *, label: str | None = None
    ) -> Iterator[list[RenewedLock]]:
        ticket, asked_at = secrets.token_hex(8), time.monotonic()
        pairs = itertools.chain.from_iterable(
            (name, "1" if shared else "") for name, shared in wanted.items()
        )
        lease_ms = _ms(self._settings.lease_seconds)
        try:
            fences = self._call("acquire_free", ticket, label or default_label(), lease_ms, *pairs)
        except BaseException:
            with contextlib.suppress(Exception):  # without a renewal its lease expires
                self._call("release", *itertools.chain.from_iterable((name, ticket) for name in wanted))
            raise
        with self._renewer.releasing(
            self._renewer.add(name, ticket, int(fence), asked_at)
            for name, fence in zip(wanted, fences, strict=False)
        ) as held:
            yield held

    def locks(self) -> list[LockInfo]:
        return [_info(*entry) for entry in json.loads(self._call("lock_info"))]

    def force_release(self, name: str, ticket: str | None = None) -> int:
        return int(self._call("release", name, ticket or ""))

    def _attempt(self, name: str, ticket: str, label: str, *, shared: bool) -> int:
        lease_ms = _ms(self._settings.lease_seconds)
        return int(self._call("acquire", name, ticket, "1" if shared else "", label, lease_ms, lease_ms))

    def _info_of(self, name: str) -> LockInfo:
        found = json.loads(self._call("lock_info", name))
        return _info(*found[0]) if found else LockInfo(name)

    def _renew(self, holds: Sequence[RenewedLock]) -> list[bool]:
        answers = self._call("renew", _ms(self._settings.lease_seconds), *_pairs(holds))
        return [bool(answer) for answer in answers]

    def _release(self, holds: Sequence[RenewedLock]) -> None:
        self._call("release", *_pairs(holds))

    def _call(self, script: str, *arguments: Any) -> Any:
        with map_redis_errors(self._redis):
            return self._scripts[script](args=[self._prefix, self.clock_offset_ms, *arguments])


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _pairs(holds: Iterable[RenewedLock]) -> Iterable[str]:
    return itertools.chain.from_iterable((hold.name, hold.ticket) for hold in holds)


def _info(name: str, holders: Sequence[Sequence[Any]], waiting: Sequence[Sequence[Any]]) -> LockInfo:
    return LockInfo(name, tuple(map(_holder, holders)), tuple(map(_holder, waiting)))


def _holder(entry: Sequence[Any]) -> LockHolder:
    ticket, label, shared, fence, left_ms = entry
    return LockHolder(ticket, label, shared=shared, fence=int(fence), seconds_left=left_ms / 1000)
