"""Missing repositories: an error if the caller named them, empty if they may be new."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from stagefleet.errors import RepositoryNotFoundError, StagefleetError
from stagefleet.names import Repository, StageId, StorageAddress
from stagefleet.records import RecordId, RecordKind

if TYPE_CHECKING:
    from stagefleet.fleet.services import Registries

__all__ = ["NamedStorages"]


class NamedStorages:
    """The storages that a caller names; a `PlanStorages`.

    Args:
        registries: Lists the storages.
        notice: Called with a message when a missing storage is treated as empty.
        missing_ok: Treat all missing storages as empty.
        beside: The other storages of a project: while one of them exists, a missing one is new.
    """

    def __init__(
        self,
        registries: Registries,
        notice: Callable[[str], None],
        *,
        missing_ok: bool = False,
        beside: Iterable[StorageAddress] = (),
    ) -> None:
        self._registries = registries
        self._notice = notice
        self._missing_ok = missing_ok
        self._beside = tuple(beside)

    def stage_ids(self, address: StorageAddress) -> Iterator[StageId]:
        return self._registries.stage_ids(address)

    def record_ids(self, address: StorageAddress, kind: RecordKind) -> Iterator[RecordId]:
        return self._registries.record_ids(address, kind)

    def ping(self, repository: Repository) -> None:
        self._registries.ping(repository)

    def expect(self, address: StorageAddress) -> None:
        if address.is_on_host or self._registries.exists(address):
            return
        if not self._missing_ok and not any(self.may_exist(other) for other in self._beside):
            raise RepositoryNotFoundError(
                f"there is no repository {address}: mind the spelling; commands that get --missing-ok "
                "(missing_ok=True) take it for empty"
            )
        self._notice(f"there is no repository {address}: it is taken for empty")

    def may_exist(self, other: StorageAddress) -> bool:
        """Return True if another storage of the project exists, or does not answer."""
        if other.is_on_host:
            return True
        try:
            return self._registries.exists(other)
        except StagefleetError:
            return True
