"""See that what a registry said it deleted is gone: an accepted `DELETE` is a promise, and no proof.

OCI distribution specification 1.1, "Content Management", answers 202: accepted. Gateways and rules that keep
images answer so, too, and do nothing.
"""

from __future__ import annotations

from stagefleet.errors import ContentError, NotFoundError, RegistryUnavailableError
from stagefleet.names import Digest, Reference
from stagefleet.registry import RegistryClient
from stagefleet.registry.leash import Leash
from stagefleet.registry.pauses import pause

__all__ = ["PAUSES_SECONDS", "see_gone"]

PAUSES_SECONDS = (0.5, 1.5)
"""Between the looks: some registries delete a moment later; the next attempts come after longer ones."""


def see_gone(client: RegistryClient, tag: Reference, digest: Digest, *, leash: Leash) -> None:
    """See that a tag is gone after its digest was deleted, or names something else by now.

    Args:
        client: Speaks to registries.
        tag: The tag.
        digest: What was deleted.
        leash: Ends the pauses between the looks.

    Raises:
        RegistryUnavailableError: It is there still; to be tried again.
        StagefleetError: The registry does not answer.
    """
    for seconds in (*PAUSES_SECONDS, None):
        if not _names(client, tag, digest):
            return
        if seconds is not None:
            pause(seconds, leash)
    raise RegistryUnavailableError(
        f"{tag} is there still, though the registry accepted its deletion: does a rule or a cache keep it?",
        method="DELETE",
        repository=str(tag.repository),
    )


def _names(client: RegistryClient, tag: Reference, digest: Digest) -> bool:
    """Whether a tag names a digest; a HEAD that says so may be what somebody remembers, so a GET decides."""
    try:
        return client.head_manifest(tag).digest == digest == client.fetch_manifest(tag).digest
    except NotFoundError:
        return False
    except ContentError:
        return True  # it is there, and damaged
