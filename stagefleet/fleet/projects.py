"""The projects of the settings, and the states of their storages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stagefleet.errors import StagefleetError
from stagefleet.fleet.base import FleetBase
from stagefleet.fleet.descriptions import describe_all
from stagefleet.images import StageDescription
from stagefleet.names import Repository, StageId, StorageAddress
from stagefleet.operations.base import PlanStorages
from stagefleet.operations.projects import final_of
from stagefleet.project import Project
from stagefleet.storages.isolation import OnLeftOut

if TYPE_CHECKING:
    from stagefleet.fleet.services import ProjectAccess

__all__ = ["ProjectOrName", "Projects", "StorageState"]

ProjectOrName = str | Project
"""The name of a project in the settings, or the storages of one."""

_THREADS = 8


@dataclass(frozen=True, slots=True)
class StorageState:
    """The state of one storage of a project.

    Attributes:
        project: The project.
        role: `primary`, `final`, `cache` or `secondary`.
        address: The storage.
        stages: The number of its stages; None after an error.
        error: The error.
    """

    project: str
    role: str
    address: StorageAddress
    stages: int | None = None
    error: StagefleetError | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the state as commands print it."""
        return {
            "role": self.role,
            "address": str(self.address),
            "reachable": self.error is None,
            "stages": self.stages,
            "error": None
            if self.error is None
            else {"type": type(self.error).__name__, "message": str(self.error)},
        }


class Projects(FleetBase):
    """List projects, their storages and the stages in them; needs no worker."""

    def projects(self) -> list[str]:
        """List the names of the projects in the settings."""
        return sorted(self.settings.projects)

    def resolve_project(self, project: ProjectOrName) -> Project:
        """Return the storages of a project.

        Raises:
            SettingsError: The settings have no such project.
        """
        return (
            project if isinstance(project, Project) else Project.of(project, self.settings.project(project))
        )

    def final_repository(self, project: ProjectOrName) -> Repository:
        """Return the final storage of a project.

        Raises:
            UsageError: The project has none, or the settings have no such project.
        """
        return final_of(self.resolve_project(project))

    def project(self, project: ProjectOrName) -> ProjectAccess:
        """Return the storage manager of a project, in this process, which finds, selects and names stages.

        Raises:
            SettingsError: The settings have no such project.
        """
        return self._services.registries.project(self.resolve_project(project))

    def project_stage_ids(self, project: ProjectOrName, *, missing_ok: bool = False) -> Iterator[StageId]:
        """Iterate over the stages of a project's primary storage, from its tag list.

        Raises:
            RepositoryNotFoundError: None of the project's storages exists; while one does, others may be new.
            SettingsError: The settings have no such project.
        """
        found = iter(self.project(project).lookup.stage_ids())
        beside = self._beside(project)
        return self._listed(
            self.resolve_project(project).primary, found, missing_ok=missing_ok, beside=beside
        )

    def has_storage(self, project: ProjectOrName) -> bool:
        """Return True if one of a project's storages exists, is an engine, or does not answer."""
        may_exist = self._plan_storages().may_exist
        return any(may_exist(address) for _, address in _storages(self.resolve_project(project)))

    def _storages_of(self, project: ProjectOrName, *, missing_ok: bool) -> PlanStorages:
        """Create the view that plans have of a project's storages."""
        return self._plan_storages(missing_ok=missing_ok, beside=self._beside(project))

    def _beside(self, project: ProjectOrName) -> tuple[StorageAddress, ...]:
        """Return the storages of a project in the settings; none for storages given on a command line."""
        found = self.resolve_project(project)
        is_set_up = isinstance(project, str) or found.secondaries
        return tuple(address for _, address in _storages(found)) if is_set_up else ()

    def storage_states(self, project: ProjectOrName) -> list[StorageState]:
        """Return the state of each storage of a project; the storages are read in parallel.

        Raises:
            SettingsError: The settings have no such project.
        """
        from stagefleet.registry.members import LeaseBoundThreads  # noqa: PLC0415 - its package imports the registry client

        project = self.resolve_project(project)
        manager = self._services.registries.project(project)

        def look(role: str, address: StorageAddress) -> StorageState:
            try:
                return StorageState(project.name, role, address, manager.count_stages(address))
            except StagefleetError as error:
                return StorageState(project.name, role, address, error=error)

        with LeaseBoundThreads(_THREADS, "states") as pool:
            return list(pool.map(lambda storage: look(*storage), _storages(project)))

    def describe_project_stages(
        self,
        project: ProjectOrName,
        stage_ids: Iterator[StageId] | None = None,
        *,
        parallel: int | None = None,
        on_left_out: OnLeftOut | None = None,
        missing_ok: bool = False,
    ) -> Iterator[StageDescription]:
        """Describe stages of the primary storage, through the caches, in threads of this process.

        Args:
            project: See the class.
            stage_ids: The stages; all if None.
            parallel: Stages at once; from the settings if None.
            on_left_out: As in `describe_stages`.
            missing_ok: Treat missing storages as empty.

        Raises:
            StagefleetError: An error that would affect the other stages too, such as an unreachable registry.
        """
        lookup, primary = self.project(project).lookup, self.resolve_project(project).primary
        registries = self._services.registries

        def known(stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
            if primary.is_on_host:
                return [None] * len(stage_ids)
            return registries.known_descriptions(primary, stage_ids)

        def ping() -> None:
            if not primary.is_on_host:
                registries.ping(primary)

        return describe_all(
            lookup.describe,
            self.project_stage_ids(project, missing_ok=missing_ok) if stage_ids is None else stage_ids,
            parallel=self._parallel(parallel),
            on_left_out=on_left_out or self._tell_left_out,
            # Named stages have not been checked for rejections yet.
            find=known if stage_ids is None else None,
            ping=ping,
        )


def _storages(project: Project) -> Iterator[tuple[str, StorageAddress]]:
    yield "primary", project.primary
    if project.final is not None:
        yield "final", project.final
    yield from (("cache", cache) for cache in project.caches)
    yield from (("secondary", secondary) for secondary in project.secondaries)
