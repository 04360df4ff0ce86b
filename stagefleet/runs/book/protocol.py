"""Contract of the shared book; `RedisBook` and `MemoryBook` implement it.

A book has one page per run, and one for the whole fleet. Its loss does no harm: lost data is found out again.

Blobs: `ask_blobs` makes the caller the *sender* of each blob that nobody has sent or is sending. A sender's
lease expires unless it is renewed while bytes flow, so that a dead sender delays others for one lease at
most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from stagefleet.names import Digest, Repository
from stagefleet.registry.leash import UNLEASHED, Leash

__all__ = ["FLEET", "OWNER_BYTES", "Dated", "SharedBook", "Verdict", "blob_field"]

FLEET = "fleet"
"""The page for data of no run."""

OWNER_BYTES = 8
"""Length of a sender's token: unique enough for one run, and small."""


@dataclass(frozen=True, slots=True)
class Dated:
    """A value and its age.

    Attributes:
        value: The value.
        since: Latest possible beginning of the work on it, on this machine's `elapsed_seconds`.
    """

    value: Any
    since: float


class Verdict(StrEnum):
    """Answer for one blob: upload it or not."""

    KNOWN = "known"
    """The destination has it."""
    SEND = "send"
    """The caller is its sender now."""
    WAIT = "wait"
    """Another worker is sending it: ask again soon."""


class SharedBook(Protocol):
    """Data that the workers of a run find out together; safe for many threads and processes."""

    def ask_blobs(
        self, run: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> list[Verdict]:
        """Ask for all blobs of a manifest at once; the same owner may repeat the call.

        Args:
            run: The run's id.
            destination: The repository that gets the blobs.
            digests: The blobs, each once.
            owner: Token of `OWNER_BYTES` for one attempt at one item.

        Returns:
            A verdict for each blob, in their order.
        """

    def mark_sent(self, run: str, destination: Repository, digests: Sequence[Digest]) -> None:
        """Record that the destination has these blobs."""

    def renew(self, run: str, destination: Repository, digests: Sequence[Digest], owner: bytes) -> None:
        """Extend the owner's leases as a sender to a full lease from now; skip those it has lost."""

    def give_up(self, run: str, destination: Repository, digests: Sequence[Digest], owner: bytes) -> None:
        """End the owner's leases, so that others send the blobs that it has not sent."""

    def forget(self, run: str, destination: Repository, digests: Sequence[Digest]) -> None:
        """Forget that the destination has these blobs, so that they are sent again."""

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
        """Return a value that one worker computes for all: single flight over the fleet, with a local cache.

        A caller that finds another worker computing it waits up to `wait_seconds`, then computes it itself.
        The worker that computes has a lease that is renewed meanwhile, so a dead one delays the others for
        one lease at most. An error of `build` is raised here, and the next caller tries again.

        Args:
            page: A run's id, or `FLEET`.
            key: The value's key.
            build: Computes the value, which JSON must be able to hold. Do not change it afterwards.
            ttl_seconds: Lifetime of the value, from the beginning of the work on it.
            wait_seconds: Longest wait for another worker.
            leash: Lease to check between look-ups.
        """

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
        """Return a value as `once` does, with the time since when it holds, whichever machine computed it.

        Between machines the age is measured by the clock of the book's server: it is never too small, unless
        that clock is set back.
        """

    def peek(self, page: str, key: str) -> Any | None:
        """Return a value of `once` if it is stored, else None."""

    def drop(self, page: str, key: str) -> None:
        """Drop a value of `once` that turned out to be wrong."""

    def put_parts(self, page: str, parts: Mapping[str, bytes]) -> None:
        """Store byte strings on a page, each under a key, for the life of the page."""

    def parts(self, page: str, keys: Sequence[str]) -> list[bytes | None]:
        """Return byte strings stored by `put_parts`, None for each that is lost."""

    def close_run(self, run: str) -> None:
        """Delete a run's page."""


def blob_field(destination: bytes, digest: Digest) -> bytes:
    """Return the name of a blob on a page; as short as possible, since a run may have millions.

    Args:
        destination: A short fingerprint of the destination.
        digest: The blob.
    """
    return destination + bytes.fromhex(digest.hex)
