"""Single flight: of many that need a value, one works it out and the others wait for it."""

from __future__ import annotations

import json
import random
import secrets
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any, Protocol

from stagefleet.errors import RedisUnreachableError
from stagefleet.registry.leash import Leash
from stagefleet.runs.book.protocol import OWNER_BYTES

__all__ = ["Flights", "Glance", "Shelf", "unpack_value"]

_CACHED_VALUES = 64
_MIN_TTL_SECONDS = 1.0  # or those who waited for a slow build would each build again, as slowly
_LEASE_SECONDS = 15.0  # of who builds; so long a builder that dies holds the others up
_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Glance:
    """What one look at a shelf showed.

    Attributes:
        payload: The value, None if it is not there.
        seconds: How long the value still holds.
        is_ours: Without a value: whether it is for the one who looked to work it out.
    """

    payload: bytes | None = None
    seconds: float = 0.0
    is_ours: bool = False


class Shelf(Protocol):
    """Where the values are kept for all."""

    def look(self, page: str, key: str, owner: bytes, lease_seconds: float) -> Glance:
        """Read a value; where there is none and nobody else is at work on it, the owner is from now on."""

    def keep(self, page: str, key: str, payload: bytes, ttl_seconds: float) -> None:
        """Write a value; the work on it is over."""

    def release(self, page: str, key: str, owner: bytes) -> None:
        """Give the work up, if it is the owner's."""


class Flights:
    """`SharedBook.once` over a shelf, with a cache of this process in front.

    Args:
        shelf: Where the values are kept for all.
        sleep: Waits so many seconds; for tests.
    """

    def __init__(self, shelf: Shelf, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._shelf = shelf
        self._sleep = sleep
        self._guard = Lock()
        self._cache: OrderedDict[tuple[str, str], tuple[Any, float]] = OrderedDict()
        self._under_way: dict[tuple[str, str], tuple[Lock, int]] = {}

    def once(
        self,
        page: str,
        key: str,
        build: Callable[[], Any],
        *,
        ttl_seconds: float,
        wait_seconds: float,
        leash: Leash,
    ) -> Any:
        """See `SharedBook.once`."""
        found = self._cached(page, key)
        if found is not None:
            return found[0]
        deadline = time.monotonic() + wait_seconds
        with self._alone(page, key, wait_seconds):  # threads of one process need not ask Redis each
            found = self._cached(page, key)
            if found is not None:
                return found[0]
            owner = secrets.token_bytes(OWNER_BYTES)
            glance = self._wait(page, key, owner, deadline, leash)
            if glance.payload is None:
                return self._build(page, key, owner, build, ttl_seconds)
            value = unpack_value(glance.payload)
            self._remember(page, key, value, glance.seconds)
            return value

    def forget(self, page: str, key: str | None = None) -> None:
        """Forget in this process what is cached of a page, or one value of it."""
        with self._guard:
            for name in [name for name in self._cache if name[0] == page and key in {None, name[1]}]:
                del self._cache[name]

    def _wait(self, page: str, key: str, owner: bytes, deadline: float, leash: Leash) -> Glance:
        """Look until there is a value, the work is ours, or the wait is over."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            leash.check()
            glance = self._shelf.look(page, key, owner, _LEASE_SECONDS)
            left = deadline - time.monotonic()
            if glance.payload is not None or glance.is_ours or left <= 0:
                return glance
            self._sleep(min(left, pause * random.uniform(0.5, 1.0)))  # noqa: S311 - jitter, no secret
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _build(self, page: str, key: str, owner: bytes, build: Callable[[], Any], ttl_seconds: float) -> Any:
        began = time.monotonic()
        try:
            with self._renewed(page, key, owner):
                value = build()
        except BaseException:
            self._shelf.release(page, key, owner)
            raise
        left = max(_MIN_TTL_SECONDS, ttl_seconds - (time.monotonic() - began))
        self._shelf.keep(page, key, zlib.compress(json.dumps(value).encode(), 1), left)
        self._remember(page, key, value, left)
        return value

    @contextmanager
    def _renewed(self, page: str, key: str, owner: bytes) -> Iterator[None]:
        """Keep the lease of the one who builds, by a thread: a look by the owner extends it."""
        done = Event()

        def renew() -> None:
            while not done.wait(_LEASE_SECONDS / 3):
                with suppress(RedisUnreachableError):  # without a lease others build too: slower, as right
                    self._shelf.look(page, key, owner, _LEASE_SECONDS)

        thread = Thread(target=renew, name=f"book-{page}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()  # or a last look would take the lease again

    def _cached(self, page: str, key: str) -> tuple[Any] | None:
        with self._guard:
            value, until = self._cache.get((page, key), (None, 0.0))
            return (value,) if time.monotonic() < until else None

    def _remember(self, page: str, key: str, value: Any, seconds: float) -> None:
        with self._guard:
            self._cache[page, key] = (value, time.monotonic() + seconds)
            self._cache.move_to_end((page, key))
            while len(self._cache) > _CACHED_VALUES:
                self._cache.popitem(last=False)

    @contextmanager
    def _alone(self, page: str, key: str, wait_seconds: float) -> Iterator[None]:
        """One thread of this process at a time for one value; after the wait, all the same."""
        name = (page, key)
        with self._guard:
            lock, users = self._under_way.get(name, (Lock(), 0))
            self._under_way[name] = (lock, users + 1)
        held = lock.acquire(timeout=wait_seconds)
        try:
            yield
        finally:
            if held:
                lock.release()
            with self._guard:
                users = self._under_way[name][1] - 1
                if users:
                    self._under_way[name] = (lock, users)
                else:
                    del self._under_way[name]


def unpack_value(payload: bytes) -> Any:
    """A value as a shelf keeps it."""
    return json.loads(zlib.decompress(payload))
