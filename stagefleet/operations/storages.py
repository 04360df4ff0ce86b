"""The reads of storages that a plan needs: a missing one is an error if the caller named it, else new."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagefleet.errors import RepositoryNotFoundError, StagefleetError
from stagefleet.names import Repository, StageId, StorageAddress

if TYPE_CHECKING:
    from stagefleet.records.ids import RecordId, RecordKind


@dataclass(frozen=True, slots=True)
class PlanStorages:
    """The storages that a caller names.

    Attributes:
        stage_ids: Iterates over the stages of a storage; there are none if it does not exist.
        record_ids: The same for records of one kind.
        ping: Checks that a registry answers, is a registry, and accepts the login; raises if not.
        exists: Returns True if a registry has a repository, even an empty one.
        notice: Called with a message when a missing storage is treated as empty.
        missing_ok: Treat all missing storages as empty.
        beside: The other storages of a project: while one of them exists, a missing one is new.
    """

    stage_ids: Callable[[StorageAddress], Iterator[StageId]]
    record_ids: Callable[[StorageAddress, RecordKind], Iterator[RecordId]]
    ping: Callable[[Repository], object]
    exists: Callable[[Repository], bool]
    notice: Callable[[str], object]
    host_name: str
    missing_ok: bool = False
    beside: tuple[StorageAddress, ...] = ()

    def expect(self, address: StorageAddress) -> None:
        """Refuse a missing repository that must exist; called if nothing was found in it."""
        if address.is_on_host or self.exists(address):
            return
        if not self.missing_ok and not any(map(self.may_exist, self.beside)):
            raise RepositoryNotFoundError(
                f"there is no repository {address}: mind the spelling; commands that get --missing-ok "
                "(missing_ok=True) take it for empty"
            )
        self.notice(f"there is no repository {address}: it is taken for empty")

    def may_exist(self, address: StorageAddress) -> bool:
        """Return True if a storage exists, or does not answer."""
        if address.is_on_host:
            return True
        try:
            return self.exists(address)
        except StagefleetError:
            return True
