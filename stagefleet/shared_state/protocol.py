"""Contract of the shared state; `RedisSharedState` and `MemorySharedState` implement it.

It has one namespace per run, and one for the whole fleet. Its loss does no harm: lost data is found again.

Blobs: `request_uploads` makes the caller the *sender* of each blob that nobody has sent or is sending. A
sender's lease expires unless it is renewed while bytes flow, so that a dead sender delays others for one
lease at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from stagefleet.leases import NO_LEASE, Lease
from stagefleet.names import Digest, Repository

__all__ = ["FLEET_NAMESPACE", "OWNER_BYTES", "DatedValue", "SharedState", "UploadDecision", "blob_field"]

FLEET_NAMESPACE = "fleet"
"""The page for data of no run."""

OWNER_BYTES = 8
"""Length of a sender's token: unique enough for one run, and small."""


@dataclass(frozen=True, slots=True)
class DatedValue:
    """A value and its age.

    Attributes:
        value: The value.
        since: Latest possible beginning of the work on it, on this machine's `elapsed_seconds`.
    """

    value: Any
    since: float


class UploadDecision(StrEnum):
    """Answer for one blob: upload it or not."""

    KNOWN = "known"
    """The destination has it."""
    SEND = "send"
    """The caller is its sender now."""
    WAIT = "wait"
    """Another worker is sending it: ask again soon."""


class SharedState(Protocol):
    """Data that the workers of a run find out together; safe for many threads and processes."""

    def request_uploads(
        self, run_id: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> list[UploadDecision]:
        """Ask for all blobs of a manifest at once; the same owner may repeat the call.

        Args:
            run_id: The run's id.
            destination: The repository that gets the blobs.
            digests: The blobs, each once.
            owner: Token of `OWNER_BYTES` for one attempt at one item.

        Returns:
            A verdict for each blob, in their order.
        """

    def mark_uploaded(self, run_id: str, destination: Repository, digests: Sequence[Digest]) -> None:
        """Record that the destination has these blobs."""

    def renew_uploads(
        self, run_id: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> None:
        """Extend the owner's leases as a sender to a full lease from now; skip those it has lost."""

    def release_uploads(
        self, run_id: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> None:
        """End the owner's leases, so that others send the blobs that it has not sent."""

    def forget_blobs(self, run_id: str, destination: Repository, digests: Sequence[Digest]) -> None:
        """Forget that the destination has these blobs, so that they are sent again."""

    def get_or_compute(
        self,
        namespace: str,
        key: str,
        build: Callable[[], Any],
        *,
        ttl_seconds: float,
        wait_seconds: float,
        lease: Lease = NO_LEASE,
    ) -> Any:
        """Return a value that one worker computes for all: single flight over the fleet, with a local cache.

        A caller that finds another worker computing it waits up to `wait_seconds`, then computes it itself.
        The worker that computes has a lease that is renewed meanwhile, so a dead one delays the others for
        one lease at most. An error of `build` is raised here, and the next caller tries again.

        Args:
            namespace: A run's id, or `FLEET_NAMESPACE`.
            key: The value's key.
            build: Computes the value, which JSON must be able to hold. Do not change it afterwards.
            ttl_seconds: Lifetime of the value, from the beginning of the work on it.
            wait_seconds: Longest wait for another worker.
            lease: Lease to check between look-ups.
        """

    def get_or_compute_dated(
        self,
        namespace: str,
        key: str,
        build: Callable[[], Any],
        *,
        ttl_seconds: float,
        wait_seconds: float,
        lease: Lease = NO_LEASE,
    ) -> DatedValue:
        """Return a value as `get_or_compute` does, with the time since when it holds.

        Between machines the age is measured by the clock of its server: it is never too small, unless
        that clock is set back.
        """

    def peek(self, namespace: str, key: str) -> Any | None:
        """Return a value of `get_or_compute` if it is stored, else None."""

    def forget_value(self, namespace: str, key: str) -> None:
        """Drop a value of `get_or_compute` that turned out to be wrong."""

    def put_parts(self, namespace: str, parts: Mapping[str, bytes]) -> None:
        """Store byte strings on a page, each under a key, for the life of the page."""

    def parts(self, namespace: str, keys: Sequence[str]) -> list[bytes | None]:
        """Return byte strings stored by `put_parts`, None for each that is lost."""

    def drop_run(self, run_id: str) -> None:
        """Delete a run's page."""


def blob_field(destination: bytes, digest: Digest) -> bytes:
    """Return the name of a blob on a page; as short as possible, since a run may have millions.

    Args:
        destination: A short fingerprint of the destination.
        digest: The blob.
    """
    return destination + bytes.fromhex(digest.hex)
