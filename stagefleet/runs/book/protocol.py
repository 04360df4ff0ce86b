"""What a shared book promises; `RedisBook` and `MemoryBook` keep the promises.

A book has one page a run, and one for what holds for the whole fleet. Losing it loses no truth: whatever is
not in it is found out again.

Blobs: `ask_blobs` makes the caller the *sender* of each blob that nobody has sent or is sending. The lease
of a sender ends by itself unless it is renewed while bytes flow, so a sender that dies holds nobody up for
longer than a lease.
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
"""The page of what belongs to no run."""

OWNER_BYTES = 8
"""The length of a sender's own token: unique enough for one run, and small."""


@dataclass(frozen=True, slots=True)
class Dated:
    """A value, and how old it is.

    Attributes:
        value: The value.
        since: When the work on it began at the latest, on this machine's `elapsed_seconds`.
    """

    value: Any
    since: float


class Verdict(StrEnum):
    """What to do about a blob."""

    KNOWN = "known"
    """It is in the destination."""
    SEND = "send"
    """The caller is its sender now."""
    WAIT = "wait"
    """Somebody else is sending it: ask again soon."""


class SharedBook(Protocol):
    """What the workers of a run find out together; from many threads and processes."""

    def ask_blobs(
        self, run: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> list[Verdict]:
        """Ask for all blobs of a manifest at once; repeating the question as the same owner is harmless.

        Args:
            run: The run's id.
            destination: The repository that the blobs go to.
            digests: The blobs, each once.
            owner: `OWNER_BYTES` that stand for one attempt at one item.

        Returns:
            A verdict for each, in their order.
        """

    def mark_sent(self, run: str, destination: Repository, digests: Sequence[Digest]) -> None:
        """Say that blobs are in the destination."""

    def renew(self, run: str, destination: Repository, digests: Sequence[Digest], owner: bytes) -> None:
        """Extend the sender's leases that are still the owner's to a full lease from now."""

    def give_up(self, run: str, destination: Repository, digests: Sequence[Digest], owner: bytes) -> None:
        """Let somebody else send what this owner was to send and has not sent."""

    def forget(self, run: str, destination: Repository, digests: Sequence[Digest]) -> None:
        """Take back all that is said of blobs (the destination lacks them): who asks next sends them."""

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
        """A value that one worker works out for all: single flight over the fleet, and a cache in front.

        Who finds somebody else at work waits up to `wait_seconds`, then works it out itself. Who works has a
        lease that is renewed meanwhile, so one who dies costs the others no more than a lease. What `build`
        raises is raised here, and the next who asks tries again.

        Args:
            page: A run's id, or `FLEET`.
            key: What is asked for.
            build: Works the value out: something that JSON can hold. Do not change it afterwards.
            ttl_seconds: How long the value holds, counted from the moment that the work on it began.
            wait_seconds: How long to wait for somebody else's work.
            leash: Asked between looks.
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
        """As `once`, and tells since when the value holds, whoever on whatever machine worked it out.

        Between machines the age counts on the clock of where the book is kept: it is never told too small,
        unless that clock is set back.
        """

    def peek(self, page: str, key: str) -> Any | None:
        """A value of `once` if somebody has worked it out already, else None."""

    def drop(self, page: str, key: str) -> None:
        """Forget a value of `once`, because it turned out to be wrong."""

    def put_parts(self, page: str, parts: Mapping[str, bytes]) -> None:
        """Keep pieces of bytes on a page, each under a key, for as long as the page lasts."""

    def parts(self, page: str, keys: Sequence[str]) -> list[bytes | None]:
        """Give pieces of `put_parts`, None for each that is lost."""

    def close_run(self, run: str) -> None:
        """Throw a run's page away."""


def blob_field(destination: bytes, digest: Digest) -> bytes:
    """The name of a blob on a page: as short as it can be, since a run may have millions.

    Args:
        destination: A short fingerprint of the destination.
        digest: The blob.
    """
    return destination + bytes.fromhex(digest.hex)
