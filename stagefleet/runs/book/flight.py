"""Single flight: of all workers that need a value, one computes it and the others wait."""

from __future__ import annotations

import json
import secrets
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any, Protocol

from stagefleet.backoff import jittered
from stagefleet.clock import elapsed_seconds
from stagefleet.errors import StagefleetError
from stagefleet.registry.leash import SLICE_SECONDS, Leash, current_leash
from stagefleet.renewal import keep_renewing
from stagefleet.runs.book.protocol import OWNER_BYTES, Dated

__all__ = ["MIN_TTL_SECONDS", "Flights", "Glance", "Shelf", "unpack_value"]

_CACHED_VALUES = 64
MIN_TTL_SECONDS = 1.0
"""Shortest lifetime of a value: if it expired at once, each waiting worker would compute it again."""
_LEASE_SECONDS = 15.0  # of the owner; a dead owner delays the others for so long
_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Glance:
    """Result of one look-up.

    Attributes:
        payload: The value, None if there is none.
        seconds: Remaining lifetime of the value.
        age_seconds: Time since the work on the value began, at the moment of the look-up.
        is_ours: Without a value: True if the caller has to compute it.
        clock: Without a value: the store's time, in seconds.
    """

    payload: bytes | None = None
    seconds: float = 0.0
    age_seconds: float = 0.0
    is_ours: bool = False
    clock: float = 0.0


class Shelf(Protocol):
    """Shared store of the values."""

    def look(self, page: str, key: str, owner: bytes, lease_seconds: float) -> Glance:
        """Read a value; without one, and if nobody computes it, the caller becomes its owner."""

    def keep(self, page: str, key: str, payload: bytes, ttl_seconds: float, began: float) -> None:
        """Store a computed value and end the ownership.

        Args:
            page: As in `look`.
            key: As in `look`.
            payload: The value.
            ttl_seconds: Its lifetime, from the beginning of the work on it.
            began: That beginning on the store's clock, so that a late arrival does not extend the lifetime. A
                value that took longer than its lifetime is kept for one more second.
        """

    def release(self, page: str, key: str, owner: bytes) -> None:
        """Give up the work on a value, if the caller owns it."""


class Flights:
    """`SharedBook.once` on a shared store, with a cache of this process in front.

    Args:
        shelf: The shared store.
        sleep: Waits so many seconds; for tests.
    """

    def __init__(self, shelf: Shelf, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._shelf = shelf
        self._sleep = sleep
        self._guard = Lock()
        self._cache: OrderedDict[tuple[str, str], tuple[Dated, float]] = OrderedDict()
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
        return self.once_dated(
            page, key, build, ttl_seconds=ttl_seconds, wait_seconds=wait_seconds, leash=leash
        ).value

    def once_dated(
        self,
        page: str,
        key: str,
        build: Callable[[], Any],
        *,
        ttl_seconds: float,
        wait_seconds: float,
        leash: Leash,
    ) -> Dated:
        found = self._cached(page, key)
        if found is not None:
            return found
        leash = current_leash(leash)
        deadline = elapsed_seconds() + wait_seconds
        with self._alone(page, key, deadline, leash):  # one thread asks Redis for all
            found = self._cached(page, key)
            if found is not None:
                return found
            owner = secrets.token_bytes(OWNER_BYTES)
            glance, looked_at = self._wait(page, key, owner, deadline, leash)
            if glance.payload is None:
                return self._build((page, key, owner), build, ttl_seconds, glance.clock)
            # The store computed the age after the look-up began: so the value is younger than we assume.
            found = Dated(unpack_value(glance.payload), looked_at - glance.age_seconds)
            self._remember(page, key, found, looked_at + glance.seconds)
            return found

    def forget(self, page: str, key: str | None = None) -> None:
        """Drop a page, or one value of it, from the cache of this process."""
        with self._guard:
            for name in [name for name in self._cache if name[0] == page and key in {None, name[1]}]:
                del self._cache[name]

    def _wait(self, page: str, key: str, owner: bytes, deadline: float, leash: Leash) -> tuple[Glance, float]:
        """Wait for a value, the ownership, or `deadline`; also return when the last look-up began."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            leash.check()
            looked_at = elapsed_seconds()
            glance = self._shelf.look(page, key, owner, _LEASE_SECONDS)
            left = deadline - elapsed_seconds()
            if glance.payload is not None or glance.is_ours or left <= 0:
                return glance, looked_at
            self._sleep(min(left, jittered(pause)))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _build(
        self, name: tuple[str, str, bytes], build: Callable[[], Any], ttl_seconds: float, clock: float
    ) -> Dated:
        """Compute a value that this process owns since `clock`, on the store's clock."""
        page, key, owner = name
        began = elapsed_seconds()
        try:
            with self._renewed(page, key, owner):
                value = build()
        except BaseException:
            with suppress(StagefleetError):  # the first error counts; the lease expires
                self._shelf.release(page, key, owner)
            raise
        with suppress(StagefleetError):  # then others compute it again
            self._shelf.keep(page, key, zlib.compress(json.dumps(value).encode(), 1), ttl_seconds, clock)
        found = Dated(value, began)
        self._remember(page, key, found, max(began + ttl_seconds, elapsed_seconds() + MIN_TTL_SECONDS))
        return found

    @contextmanager
    def _renewed(self, page: str, key: str, owner: bytes) -> Iterator[None]:
        """Renew the owner's lease in a thread: a look-up by the owner extends it."""
        done = Event()

        def renew() -> None:  # without a lease others compute it, too: slower, but correct
            self._shelf.look(page, key, owner, _LEASE_SECONDS)

        def keep() -> None:
            keep_renewing(renew, done, what="flight", seconds=_LEASE_SECONDS / 3)

        thread = Thread(target=keep, name=f"book-{page}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()  # a late look-up would take the lease again

    def _cached(self, page: str, key: str) -> Dated | None:
        with self._guard:
            found, until = self._cache.get((page, key), (None, 0.0))
            return found if elapsed_seconds() < until else None

    def _remember(self, page: str, key: str, found: Dated, until: float) -> None:
        with self._guard:
            self._cache[page, key] = (found, until)
            self._cache.move_to_end((page, key))
            while len(self._cache) > _CACHED_VALUES:
                self._cache.popitem(last=False)

    @contextmanager
    def _alone(self, page: str, key: str, deadline: float, leash: Leash) -> Iterator[None]:
        """Serialize the threads of this process for one value, at most until `deadline`."""
        name = (page, key)
        with self._guard:
            lock, users = self._under_way.get(name, (Lock(), 0))
            self._under_way[name] = (lock, users + 1)
        held = lock.acquire(blocking=False)
        try:
            while not held and (left := deadline - elapsed_seconds()) > 0:
                held = lock.acquire(timeout=min(left, SLICE_SECONDS))
                leash.check()
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
    """Decode a value from the shared store."""
    return json.loads(zlib.decompress(payload))
