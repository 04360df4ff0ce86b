"""Repositories that do not exist: refused where somebody named them, and empty where they may be new."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from stagefleet.errors import RepositoryNotFoundError, StagefleetError
from stagefleet.names import DockerDaemon, Repository, StageId
from stagefleet.records import RecordId, RecordKind

if TYPE_CHECKING:
    from stagefleet.client.services import Registries

__all__ = ["NamedStorages"]

Place = Repository | DockerDaemon


class NamedStorages:
    """The storages that a caller names, as a `Catalogue`.

    Args:
        registries: Has them.
        notice: Tells a person that one is taken for empty.
        missing_ok: Whether all that do not exist are taken for empty.
        beside: The other storages of a project: while one of them exists, one that does not is new.
    """

    def __init__(
        self,
        registries: Registries,
        notice: Callable[[str], None],
        *,
        missing_ok: bool = False,
        beside: Iterable[Place] = (),
    ) -> None:
        self._registries = registries
        self._notice = notice
        self._missing_ok = missing_ok
        self._beside = tuple(beside)

    def stage_ids(self, place: Place) -> Iterator[StageId]:
        return self._registries.stage_ids(place)

    def record_ids(self, place: Place, kind: RecordKind) -> Iterator[RecordId]:
        return self._registries.record_ids(place, kind)

    def ping(self, repository: Repository) -> None:
        self._registries.ping(repository)

    def expect(self, place: Place) -> None:
        if isinstance(place, DockerDaemon) or self._registries.exists(place):
            return
        if not self._missing_ok and not any(self.may_exist(other) for other in self._beside):
            raise RepositoryNotFoundError(
                f"there is no repository {place}: mind the spelling; --missing-ok (missing_ok=True) takes it "
                "for empty"
            )
        self._notice(f"there is no repository {place}: it is taken for empty")

    def may_exist(self, other: Place) -> bool:
        """Say whether another storage of the project exists; of one that cannot be asked nobody knows."""
        if isinstance(other, DockerDaemon):
            return True
        try:
            return self._registries.exists(other)
        except StagefleetError:
            return True
