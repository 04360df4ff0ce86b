"""Shared state: what the workers of a run find out together.

It has one namespace per run, and one for the whole fleet. Its loss does no harm: lost data is found again.

Blobs: `request_uploads` makes the caller the *sender* of each blob that nobody has sent or is sending. A
sender's lease expires unless it is renewed while bytes flow, so that a dead sender delays others for one
lease at most.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from stagefleet.names import Digest, Repository
from stagefleet.shared_state.single_flight import SingleFlight, unpack_value

FLEET_NAMESPACE = "fleet"
"""The namespace for data of no run."""


class UploadDecision(StrEnum):
    """Answer for one blob: upload it or not."""

    KNOWN = "known"
    """The destination has it."""
    SEND = "send"
    """The caller is its sender now."""
    WAIT = "wait"
    """Another worker is sending it: ask again soon."""


class SharedState(SingleFlight):
    """Data that the workers of a run find out together; safe for many threads and processes."""

    @abstractmethod
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
            A decision for each blob, in their order.
        """

    @abstractmethod
    def mark_uploaded(self, run_id: str, destination: Repository, digests: Sequence[Digest]) -> None:
        """Record that the destination has these blobs."""

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

    def drop_run(self, run_id: str) -> None:
        """Delete a run's namespace."""
        self._forget_cached(run_id)
        self._drop_namespace(run_id)

    @abstractmethod
    def _peek(self, namespace: str, key: str) -> bytes | None: ...

    @abstractmethod
    def _drop_value(self, namespace: str, key: str) -> None: ...

    @abstractmethod
    def _drop_namespace(self, namespace: str) -> None: ...


def blob_field(destination: bytes, digest: Digest) -> bytes:
    """Return the name of a blob in a namespace; as short as possible, since a run may have millions.

    Args:
        destination: A short fingerprint of the destination.
        digest: The blob.
    """
    return destination + bytes.fromhex(digest.hex)
