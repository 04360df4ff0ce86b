"""Tags that a run deletes together with others: who finds one gone then knows that the run deleted it.

Shared state is lost without harm: such a tag is then reported as one that was not there.
"""

from __future__ import annotations

from collections.abc import Iterable

from stagefleet.names import Repository
from stagefleet.runs.shared_state import SharedState

__all__ = ["DeletedTags"]


class DeletedTags:
    """The tags of one repository that a run has deleted beside their own items.

    Args:
        shared_state: Stores them for all workers.
        repository: The repository.
        run_id: The run's id.
    """

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
