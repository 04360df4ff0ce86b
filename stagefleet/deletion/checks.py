"""Checks around a deletion: their age, the proof that a tag is gone, and the run's other deletions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from stagefleet.attempt import TagsToDelete
from stagefleet.errors import ContentError, NotFoundError, RegistryUnavailableError
from stagefleet.leases import Lease, elapsed_seconds
from stagefleet.names import Digest, Reference, Repository
from stagefleet.registry.client import RegistryClient
from stagefleet.registry.http.waits import pause
from stagefleet.runs.models import ItemState
from stagefleet.shared_state.base import SharedState

# Age limit of the checks that allow a deletion, and their repetition before each request.

FRESH_SECONDS = 10.0
"""Oldest check that allows a DELETE to leave."""

Check = Callable[[], float]
"""Raises to prevent a deletion; returns since when its result is valid, on `elapsed_seconds`."""


def checked(check: Callable[[], object]) -> Check:
    """Check now, and return a `Check` that reuses this result once and then checks again."""
    began = elapsed_seconds()
    check()
    return _again(check, began)


def recheck(look: Callable[[], object], seen_at: float) -> Callable[[], float]:
    """Create the `look` of `RegistryClient.delete_manifest` from a check that was just made."""
    again = _again(look, seen_at)
    return lambda: again() + FRESH_SECONDS


def _again(check: Callable[[], object], since: float) -> Check:
    known: list[float] = [since]

    def again() -> float:
        if known:
            return known.pop()
        began = elapsed_seconds()
        check()
        return began

    return again


# Check that a deleted tag is gone: an accepted `DELETE` is a promise, not a proof.
#
# OCI distribution specification 1.1, "Content Management", answers 202: accepted. Gateways and retention
# rules answer so, too, and do nothing.

PAUSES_SECONDS = (0.5, 1.5)
"""Pauses between the checks: some registries delete a moment later; retries come after longer pauses."""


def confirm_deleted(client: RegistryClient, tag: Reference, digest: Digest, *, lease: Lease) -> None:
    """Check that a tag is gone or names another digest; `RegistryUnavailableError` if not: retry later."""
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


# Tags that a run deletes together with others: who finds one gone then knows that the run deleted it.
#
# Shared state is lost without harm: such a tag is then reported as one that was not there.


class DeletedTags:
    """The tags of one repository that a run has deleted beside their own items."""

    def __init__(self, shared_state: SharedState, repository: Repository, run_id: str) -> None:
        self._shared_state = shared_state
        self._repository = repository
        self._run = run_id

    def add(self, tags: Iterable[str]) -> None:
        """Record tags before the request that deletes them."""
        parts = {self._key(tag): b"1" for tag in tags}
        if parts:
            self._shared_state.put_parts(self._run, parts)

    def __contains__(self, tag: str) -> bool:
        """Return True if the run has deleted a tag."""
        return self._shared_state.parts(self._run, [self._key(tag)]) != [None]

    def _key(self, tag: str) -> str:
        return f"deleted {self._repository}:{tag}"


# Tags and items of a run's other deletions, as one deletion has to know them.


@dataclass(frozen=True, slots=True)
class RunItems:
    """The tags that a run deletes, and the items that delete them.

    Attributes:
        items: Yields the items that have not succeeded yet, each with its index in the run.
        tags: Returns the tags that an item deletes.
        item_states: Returns the states of items by index, None for each that has not ended.
        own: Index of the current item.
        also: Tags that later runs of the same plan delete.
    """

    items: Callable[[], Iterable[tuple[int, str]]]
    tags: Callable[[str], Iterable[str]]
    item_states: Callable[[Sequence[int]], list[ItemState | None]]
    own: int
    also: Iterable[str] = ()

    def __call__(self) -> Iterator[str]:
        """Yield the tags."""
        return (tag for tag, _ in self.numbered())

    def numbered(self) -> Iterator[tuple[str, int | None]]:
        """Yield the tags, each with the index of the item that deletes it; None for a later run's."""
        for index, item in self.items():
            for tag in self.tags(item):
                yield tag, index
        for tag in self.also:
            yield tag, None


def numbered(to_delete: TagsToDelete) -> Iterable[tuple[str, int | None]]:
    """Yield requested tags with the indexes of their items, None if those are unknown."""
    return to_delete.numbered() if isinstance(to_delete, RunItems) else ((tag, None) for tag in to_delete())
