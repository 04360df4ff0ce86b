"""Shared state: what the workers of a run find out together.

It has one namespace per run, and one for the whole fleet. Its loss does no harm: lost data is found again.

Single flight: of all workers that need a value, one computes it and the others wait.

Sessions: an upload that broke off goes on where the registry has it, in whichever worker comes next. Their
addresses work like tokens: they are in no log, bounded in number and size, and forgotten after some hours.

Blobs: `request_uploads` makes the caller the *sender* of each blob that nobody has sent or is sending. A
sender's lease expires unless it is renewed while bytes flow, so that a dead sender delays others for one
lease at most.
"""

from __future__ import annotations

import json
import secrets
import time
import zlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import Any

from stagefleet import leases
from stagefleet.backoff import Backoff
from stagefleet.errors import StagefleetError
from stagefleet.names import Digest, Repository
from stagefleet.redis_client import DeferredCall

_CACHED_VALUES = 64
MIN_TTL_SECONDS = 1.0
"""Shortest lifetime of a value: if it expired at once, each waiting worker would compute it again."""
_LEASE_SECONDS = 15.0  # of the owner; a dead owner delays the others for so long
_BACKOFF = Backoff(0.02, 0.5)
RUN_TTL_SECONDS = 24 * 3600
"""Lifetime of the values of a run; one that lasts longer finds out again."""
OWNER_BYTES = 8
"""Length of an owner's token: unique enough for one run, and small. The scripts know it, too."""


@dataclass(frozen=True, slots=True)
class DatedValue:
    """A value, and the latest possible beginning of the work on it, on this machine's `elapsed_seconds`."""

    value: Any
    since: float


@dataclass(frozen=True, slots=True)
class StoredValue:
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


class SharedValues(ABC):
    """Compute values once for all, over a shared store, with a cache of this process in front."""

    def __init__(self) -> None:
        self._guard = Lock()
        self._cache: OrderedDict[tuple[str, str], tuple[DatedValue, float]] = OrderedDict()
        self._under_way: dict[tuple[str, str], tuple[Lock, int]] = {}

    def get_or_compute(
        self,
        namespace: str,
        key: str,
        build: Callable[[], Any],
        *,
        ttl_seconds: float,
        wait_seconds: float,
        lease: leases.Lease = leases.NO_LEASE,
    ) -> Any:
        """Return a value that one worker computes for all: single flight over the fleet.

        A caller that finds another worker computing it waits up to `wait_seconds`, then computes it itself.
        The worker that computes has a lease that is renewed meanwhile, so a dead one delays the others for
        one lease at most. An error of `build` is raised here, and the next caller tries again.

        Args:
            namespace: A run's id, or `FLEET_NAMESPACE`.
            build: Computes the value, which JSON must be able to hold. Do not change it afterwards.
            ttl_seconds: Lifetime of the value, from the beginning of the work on it.
        """
        return self.get_or_compute_dated(
            namespace, key, build, ttl_seconds=ttl_seconds, wait_seconds=wait_seconds, lease=lease
        ).value

    def get_or_compute_dated(
        self,
        namespace: str,
        key: str,
        build: Callable[[], Any],
        *,
        ttl_seconds: float,
        wait_seconds: float,
        lease: leases.Lease = leases.NO_LEASE,
    ) -> DatedValue:
        """Return a value as `get_or_compute` does, with the time since when it holds.

        Between machines the age is measured by the clock of its server: it is never too small, unless
        that clock is set back.
        """
        found = self._cached(namespace, key)
        if found is not None:
            return found
        lease = leases.current_lease(lease)
        deadline = leases.elapsed_seconds() + wait_seconds
        with self._alone(namespace, key, deadline, lease):  # one thread asks Redis for all
            found = self._cached(namespace, key)
            if found is not None:
                return found
            owner = secrets.token_bytes(OWNER_BYTES)
            stored, looked_at = self._wait(namespace, key, owner, deadline, lease)
            if stored.payload is None:
                return self._build((namespace, key, owner), build, ttl_seconds, stored.clock)
            # The store computed the age after the look-up began: so the value is younger than we assume.
            found = DatedValue(unpack_value(stored.payload), looked_at - stored.age_seconds)
            self._remember(namespace, key, found, looked_at + stored.seconds)
            return found

    @abstractmethod
    def _read_or_claim(self, namespace: str, key: str, owner: bytes, lease_seconds: float) -> StoredValue:
        """Read a value; without one, and if nobody computes it, the caller becomes its owner."""

    @abstractmethod
    def _write(self, namespace: str, key: str, payload: bytes, ttl_seconds: float, began: float) -> None:
        """Store a computed value and end the ownership.

        Its lifetime counts from `began` on the store's clock, so that a late arrival does not extend it. A
        value that took longer than its lifetime is kept for one more second.
        """

    @abstractmethod
    def _release_claim(self, namespace: str, key: str, owner: bytes) -> None:
        """Give up the work on a value, if the caller owns it."""

    def _forget_cached(self, namespace: str, key: str) -> None:
        """Drop a value from the cache of this process."""
        with self._guard:
            self._cache.pop((namespace, key), None)

    def _wait(
        self, namespace: str, key: str, owner: bytes, deadline: float, lease: leases.Lease
    ) -> tuple[StoredValue, float]:
        """Wait for a value, the ownership, or `deadline`; also return when the last look-up began."""
        looks = 0
        while True:
            lease.check()
            looked_at = leases.elapsed_seconds()
            stored = self._read_or_claim(namespace, key, owner, _LEASE_SECONDS)
            left = deadline - leases.elapsed_seconds()
            if stored.payload is not None or stored.is_ours or left <= 0:
                return stored, looked_at
            looks += 1
            time.sleep(min(left, _BACKOFF.pause_seconds(looks)))

    def _build(
        self, name: tuple[str, str, bytes], build: Callable[[], Any], ttl_seconds: float, clock: float
    ) -> DatedValue:
        """Compute a value that this process owns since `clock`, on the store's clock."""
        namespace, key, owner = name
        began = leases.elapsed_seconds()
        try:
            lease = leases.RenewedLease(_LEASE_SECONDS, time.monotonic())
            with leases.renewed("single_flight", lease, lambda: self._renew(namespace, key, owner)):
                value = build()  # at its end no look-up may be under way: it would take the lease again
        except BaseException:
            with suppress(StagefleetError):  # the first error counts; the lease expires
                self._release_claim(namespace, key, owner)
            raise
        with suppress(StagefleetError):  # then others compute it again
            self._write(namespace, key, zlib.compress(json.dumps(value).encode(), 1), ttl_seconds, clock)
        found = DatedValue(value, began)
        self._remember(
            namespace, key, found, max(began + ttl_seconds, leases.elapsed_seconds() + MIN_TTL_SECONDS)
        )
        return found

    def _renew(self, namespace: str, key: str, owner: bytes) -> bool:
        """Extend the lease by a look-up; without one others compute the value, too: slower, but correct."""
        self._read_or_claim(namespace, key, owner, _LEASE_SECONDS)
        return True

    def _cached(self, namespace: str, key: str) -> DatedValue | None:
        with self._guard:
            found, until = self._cache.get((namespace, key), (None, 0.0))
            return found if leases.elapsed_seconds() < until else None

    def _remember(self, namespace: str, key: str, found: DatedValue, until: float) -> None:
        with self._guard:
            self._cache[namespace, key] = (found, until)
            self._cache.move_to_end((namespace, key))
            while len(self._cache) > _CACHED_VALUES:
                self._cache.popitem(last=False)

    @contextmanager
    def _alone(self, namespace: str, key: str, deadline: float, lease: leases.Lease) -> Iterator[None]:
        """Serialize the threads of this process for one value, at most until `deadline`."""
        name = (namespace, key)
        with self._guard:
            lock, users = self._under_way.get(name, (Lock(), 0))
            self._under_way[name] = (lock, users + 1)
        held = lock.acquire(blocking=False)
        try:
            while not held and (left := deadline - leases.elapsed_seconds()) > 0:
                held = lock.acquire(timeout=min(left, leases.SLICE_SECONDS))
                lease.check()
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


FLEET_NAMESPACE = "fleet"
"""The namespace for data of no run."""


UPLOADS_NAMESPACE = "uploads"
"""The namespace for sessions of uploads, of all runs."""
MOST_SESSIONS = 1000
LONGEST_ADDRESS = 4096
SESSION_SECONDS = 6 * 3600.0
"""Registries drop an unfinished upload at some time; distribution after a week."""


class UploadDecision(StrEnum):
    """Answer for one blob: upload it or not."""

    KNOWN = "known"
    """The destination has it."""
    SEND = "send"
    """The caller is its sender now."""
    WAIT = "wait"
    """Another worker is sending it: ask again soon."""


class SharedState(SharedValues):
    """Data that the workers of a run find out together; safe for many threads and processes."""

    @abstractmethod
    def request_uploads(
        self, run_id: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> list[UploadDecision]:
        """Decide for all blobs of a manifest at once, in their order; the same owner may repeat it.

        The owner is a token of `OWNER_BYTES` for one attempt at one item.
        """

    @abstractmethod
    def mark_uploaded(self, run_id: str, destination: Repository, digests: Sequence[Digest]) -> None:
        """Record that the destination has these blobs."""

    def marking_uploaded(
        self,
        run_id: str,  # noqa: ARG002 - as others need
        destination: Repository,  # noqa: ARG002
        digests: Callable[[], Sequence[Digest]],  # noqa: ARG002
        instead: Callable[[], None],  # noqa: ARG002
    ) -> DeferredCall | None:
        """Return `mark_uploaded` as a call for an item's last step, None if it cannot be put off."""
        return None

    @abstractmethod
    def renew_uploads(
        self, run_id: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> None:
        """Extend the owner's leases as a sender to a full lease from now; skip those it has lost."""

    @abstractmethod
    def release_uploads(
        self, run_id: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> None:
        """End the owner's leases, so that others send the blobs that it has not sent."""

    @abstractmethod
    def forget_blobs(self, run_id: str, destination: Repository, digests: Sequence[Digest]) -> None:
        """Forget that the destination has these blobs, so that they are sent again."""

    @abstractmethod
    def keep_session(self, destination: Repository, digest: Digest, address: str) -> None:
        """Remember where the upload of a blob is, without scheme and host; "", or a long one, forgets it."""

    @abstractmethod
    def take_session(self, destination: Repository, digest: Digest) -> str | None:
        """Return where the upload of a blob was left, and forget it; None if there is none."""

    def peek(self, namespace: str, key: str) -> Any | None:
        """Return a value of `get_or_compute` if it is stored, else None."""
        payload = self._peek(namespace, key)
        return None if payload is None else unpack_value(payload)

    def forget_value(self, namespace: str, key: str) -> None:
        """Drop a value of `get_or_compute` that turned out to be wrong."""
        self._forget_cached(namespace, key)
        self._drop_value(namespace, key)

    @abstractmethod
    def put_parts(self, namespace: str, parts: Mapping[str, bytes]) -> None:
        """Store byte strings in a namespace, each under a key, for the life of the namespace."""

    @abstractmethod
    def parts(self, namespace: str, keys: Sequence[str]) -> list[bytes | None]:
        """Return byte strings stored by `put_parts`, None for each that is lost."""

    @abstractmethod
    def _peek(self, namespace: str, key: str) -> bytes | None: ...

    @abstractmethod
    def _drop_value(self, namespace: str, key: str) -> None: ...


def blob_field(destination: bytes, digest: Digest) -> bytes:
    """Return the name of a blob in a namespace, from a short fingerprint of the destination.

    It is as short as possible, since a run may have millions.
    """
    return destination + bytes.fromhex(digest.hex)
