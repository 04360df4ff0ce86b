"""Shared book in the memory of one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from stagefleet.clock import elapsed_seconds
from stagefleet.names import Digest, Repository
from stagefleet.registry.leash import UNLEASHED, Leash
from stagefleet.runs.book.flight import MIN_TTL_SECONDS, Flights, Glance, unpack_value
from stagefleet.runs.book.protocol import Dated, Verdict, blob_field

__all__ = ["MemoryBook"]


@dataclass(slots=True)
class _Page:
    known: set[bytes] = field(default_factory=set)
    senders: dict[bytes, tuple[bytes, float]] = field(default_factory=dict)
    values: dict[str, tuple[bytes, float, float]] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    builders: dict[str, tuple[bytes, float]] = field(default_factory=dict)


class MemoryBook:
    """`SharedBook` for one process: for tests, and for work outside of a fleet.

    Args:
        lease_seconds: Duration of a sender's lease on a blob.

    Attributes:
        clock_offset_ms: Added to the clock; for tests, which cannot wait for leases.
    """

    def __init__(self, *, lease_seconds: float = 30) -> None:
        self.clock_offset_ms = 0
        self._lease_seconds = lease_seconds
        self._lock = Lock()
        self._pages: dict[str, _Page] = {}
        self._flights = Flights(self)

    def _now(self) -> float:
        return elapsed_seconds() + self.clock_offset_ms / 1000

    def _page(self, name: str) -> _Page:
        return self._pages.setdefault(name, _Page())

    def ask_blobs(
        self, run: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> list[Verdict]:
        verdicts = []
        with self._lock:
            page, now = self._page(run), self._now()
            for name in _names(destination, digests):
                sender, until = page.senders.get(name, (owner, 0.0))
                if name in page.known:
                    verdicts.append(Verdict.KNOWN)
                elif sender != owner and until > now:
                    verdicts.append(Verdict.WAIT)
                else:
                    page.senders[name] = (owner, now + self._lease_seconds)
                    verdicts.append(Verdict.SEND)
        return verdicts

    def mark_sent(self, run: str, destination: Repository, digests: Sequence[Digest]) -> None:
        with self._lock:
            for name in _names(destination, digests):
                self._page(run).known.add(name)
                self._page(run).senders.pop(name, None)

    def renew(self, run: str, destination: Repository, digests: Sequence[Digest], owner: bytes) -> None:
        with self._lock:
            senders, until = self._page(run).senders, self._now() + self._lease_seconds
            for name in _names(destination, digests):
                if name in senders and senders[name][0] == owner:
                    senders[name] = (owner, until)

    def give_up(self, run: str, destination: Repository, digests: Sequence[Digest], owner: bytes) -> None:
        with self._lock:
            senders = self._page(run).senders
            for name in _names(destination, digests):
                if name in senders and senders[name][0] == owner:
                    del senders[name]

    def forget(self, run: str, destination: Repository, digests: Sequence[Digest]) -> None:
        with self._lock:
            for name in _names(destination, digests):
                self._page(run).known.discard(name)
                self._page(run).senders.pop(name, None)

    def once(
        self,
        page: str,
        key: str,
        build: Callable[[], Any],
        *,
        ttl_seconds: float,
        wait_seconds: float,
        leash: Leash = UNLEASHED,
    ) -> Any:
        return self._flights.once(
            page, key, build, ttl_seconds=ttl_seconds, wait_seconds=wait_seconds, leash=leash
        )

    def once_dated(
        self,
        page: str,
        key: str,
        build: Callable[[], Any],
        *,
        ttl_seconds: float,
        wait_seconds: float,
        leash: Leash = UNLEASHED,
    ) -> Dated:
        return self._flights.once_dated(
            page, key, build, ttl_seconds=ttl_seconds, wait_seconds=wait_seconds, leash=leash
        )

    def peek(self, page: str, key: str) -> Any | None:
        with self._lock:
            payload, until, _ = self._page(page).values.get(key, (b"", 0.0, 0.0))
            return unpack_value(payload) if until > self._now() else None

    def drop(self, page: str, key: str) -> None:
        self._flights.forget(page, key)
        with self._lock:
            self._page(page).values.pop(key, None)

    def put_parts(self, page: str, parts: Mapping[str, bytes]) -> None:
        with self._lock:
            self._page(page).parts.update(parts)

    def parts(self, page: str, keys: Sequence[str]) -> list[bytes | None]:
        with self._lock:
            return [self._page(page).parts.get(key) for key in keys]

    def close_run(self, run: str) -> None:
        self._flights.forget(run)
        with self._lock:
            self._pages.pop(run, None)

    def look(self, page: str, key: str, owner: bytes, lease_seconds: float) -> Glance:
        with self._lock:
            there, now = self._page(page), self._now()
            payload, until, began = there.values.get(key, (b"", 0.0, 0.0))
            if until > now:
                return Glance(payload, until - now, now - began)
            builder, until = there.builders.get(key, (owner, 0.0))
            if builder != owner and until > now:
                return Glance(clock=now)
            there.builders[key] = (owner, now + lease_seconds)
            return Glance(is_ours=True, clock=now)

    def keep(self, page: str, key: str, payload: bytes, ttl_seconds: float, began: float) -> None:
        with self._lock:
            until = max(began + ttl_seconds, self._now() + MIN_TTL_SECONDS)
            self._page(page).values[key] = (payload, until, began)
            self._page(page).builders.pop(key, None)

    def release(self, page: str, key: str, owner: bytes) -> None:
        with self._lock:
            builders = self._page(page).builders
            if key in builders and builders[key][0] == owner:
                del builders[key]


def _names(destination: Repository, digests: Sequence[Digest]) -> list[bytes]:
    return [blob_field(str(destination).encode(), digest) for digest in digests]
