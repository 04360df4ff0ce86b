"""Check that a deleted tag is gone: an accepted `DELETE` is a promise, not a proof.

OCI distribution specification 1.1, "Content Management", answers 202: accepted. Gateways and retention rules
answer so, too, and do nothing.
"""

from __future__ import annotations

from stagefleet.errors import ContentError, NotFoundError, RegistryUnavailableError
from stagefleet.names import Digest, Reference
from stagefleet.registry import RegistryClient
from stagefleet.registry.lease import Lease
from stagefleet.registry.pauses import pause

__all__ = ["PAUSES_SECONDS", "confirm_deleted"]

PAUSES_SECONDS = (0.5, 1.5)
"""Pauses between the checks: some registries delete a moment later; retries come after longer pauses."""


def confirm_deleted(client: RegistryClient, tag: Reference, digest: Digest, *, lease: Lease) -> None:
    """Check that a tag is gone after its digest was deleted, or names another one.

    Args:
        client: Client for registries.
        tag: The tag.
        digest: The deleted digest.
        lease: Lease to check in the pauses.

    Raises:
        RegistryUnavailableError: It still exists; retry later.
        StagefleetError: The registry does not answer.
    """
    for seconds in (*PAUSES_SECONDS, None):
        if not _names(client, tag, digest):
            return
        if seconds is not None:
            pause(seconds, lease)
    raise RegistryUnavailableError(
        f"{tag} is there still, though the registry accepted its deletion: does a rule or a cache keep it?",
        method="DELETE",
        repository=str(tag.repository),
    )


def _names(client: RegistryClient, tag: Reference, digest: Digest) -> bool:
    """Return True if a tag names a digest; a HEAD that says so may come from a cache, so a GET decides."""
    try:
        return client.head_manifest(tag).digest == digest == client.fetch_manifest(tag).digest
    except NotFoundError:
        return False
    except ContentError:
        return True  # it exists, but is damaged
