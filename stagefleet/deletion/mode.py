"""Effect of deletions in a repository: of a tag alone, or of a digest and all its tags.

OCI distribution specification 1.1, "Deleting tags": optional, 400 or 405 if it is off. Some registries accept
it and delete the other tags of the digest, too, so a trial decides. Its result holds for one repository:
there may be several registries behind one host, by path.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from stagefleet.deletion.probe import (
    DeletionMode,
    DeletionProbe,
    ProbeResult,
    delete_manifest,
    describe_probe_tags,
)
from stagefleet.errors import RegistryError
from stagefleet.leases import Lease
from stagefleet.names import Reference, Repository
from stagefleet.registry.client import RegistryClient
from stagefleet.shared_state.base import FLEET_NAMESPACE, SharedState

__all__ = [
    "DeletionMode",
    "ProbeResult",
    "delete_manifest",
    "describe_remaining_tags",
    "detect_deletion_mode",
    "forget_deletion_mode",
    "may_use_placeholders",
    "refuses_tags",
]

_REMEMBERED_SECONDS = 24 * 3600
_REFUSED_SECONDS = 600
_PASSING_SECONDS = 60
_WAIT_SECONDS = 60
_METHOD_NOT_ALLOWED = 405
_BAD_REQUEST = 400


def detect_deletion_mode(
    client: RegistryClient, shared_state: SharedState, reference: Reference, *, lease: Lease
) -> ProbeResult:
    """Find out how a registry deletes; once per repository for the whole fleet, and remembered for a day.

    Raises:
        NotFoundError: The reference does not exist; nothing was found out.
        DeletionDisabledError: Deletion is switched off; this is not remembered.
    """
    found = _ask(client, shared_state, reference, lease)
    if found["until"] < time.time():  # a refusal that left tags may have been temporary
        forget_deletion_mode(shared_state, reference.repository)
        found = _ask(client, shared_state, reference, lease)
    return ProbeResult(DeletionMode(found["way"]), tuple(found["left"]), found["refusal"], found["passes"])


def forget_deletion_mode(shared_state: SharedState, repository: Repository) -> None:
    """Drop the result, because the registry's behaviour has changed."""
    shared_state.forget_value(FLEET_NAMESPACE, _key(repository))


def may_use_placeholders(shared_state: SharedState, repository: Repository) -> bool:
    """Return True if tags may have been moved aside: the registry is not known to delete tags."""
    found = shared_state.peek(FLEET_NAMESPACE, _key(repository))
    return found is None or DeletionMode(found["way"]) is not DeletionMode.TAG


def describe_remaining_tags(shared_state: SharedState, repositories: Iterable[Repository]) -> list[str]:
    """Report for each repository, in one line, which of our tags cannot be removed; nothing for most."""
    known = (
        (repository, shared_state.peek(FLEET_NAMESPACE, _key(repository))) for repository in repositories
    )
    return [
        describe_probe_tags(repository, found["left"], found["refusal"])
        for repository, found in known
        if found and found["left"]
    ]


def refuses_tags(error: RegistryError) -> bool:
    """Return True if an error means that tags cannot be deleted (400 on distribution 2, else 405)."""
    return error.status in {_BAD_REQUEST, _METHOD_NOT_ALLOWED}


def _ask(client: RegistryClient, shared_state: SharedState, reference: Reference, lease: Lease) -> Any:
    def try_it() -> dict[str, Any]:
        probe_result = DeletionProbe(client, reference, lease).execute()
        found = asdict(probe_result)
        return {"way": found.pop("mode"), "until": time.time() + _seconds_of(probe_result), **found}

    return shared_state.get_or_compute(
        FLEET_NAMESPACE,
        _key(reference.repository),
        try_it,
        ttl_seconds=_REMEMBERED_SECONDS,
        wait_seconds=_WAIT_SECONDS,
        lease=lease,
    )


def _seconds_of(probe_result: ProbeResult) -> float:
    """Return the lifetime of a trial's result."""
    if not probe_result.left:
        return _REMEMBERED_SECONDS
    return _PASSING_SECONDS if probe_result.passes else _REFUSED_SECONDS


def _key(repository: Repository) -> str:
    return f"deletion {repository}"
