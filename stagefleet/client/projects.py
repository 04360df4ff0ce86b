"""The projects of the settings, and how their storages stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stagefleet.client.describing import describe_all
from stagefleet.client.desk import Desk
from stagefleet.client.project_work import final_of
from stagefleet.client.work import Catalogue
from stagefleet.errors import StagefleetError
from stagefleet.isolation import OnLeftOut
from stagefleet.names import DockerDaemon, Repository, StageId
from stagefleet.roles import Roles
from stagefleet.stages import StageDescription

if TYPE_CHECKING:
    from stagefleet.manager.project import ProjectManager  # brings the client of registries

__all__ = ["Project", "Projects", "StorageState"]

Project = str | Roles
"""The name of a project in the settings, or the storages of one."""

_THREADS = 8


@dataclass(frozen=True, slots=True)
class StorageState:
    """How a storage of a project stands.

    Attributes:
        project: The project.
        role: `primary`, `final`, `cache` or `secondary`.
        address: The storage.
        stages: How many stages it has; None if it was not to be found out.
        error: Why it was not.
    """

    project: str
    role: str
    address: Repository | DockerDaemon
    stages: int | None = None
    error: StagefleetError | None = None

    def as_json(self) -> dict[str, Any]:
        """The state as commands print it."""
        return {
            "role": self.role,
            "address": str(self.address),
            "reachable": self.error is None,
            "stages": self.stages,
            "error": None
            if self.error is None
            else {"type": type(self.error).__name__, "message": str(self.error)},
        }


class Projects(Desk):
    """Projects, their storages and what is known of their stages; no worker is needed."""

    def projects(self) -> list[str]:
        """The names of the projects in the settings."""
        return sorted(self.settings.projects)

    def roles(self, project: Project) -> Roles:
        """The storages of a project.

        Raises:
            SettingsError: There is no such project in the settings.
        """
        return project if isinstance(project, Roles) else Roles.of(project, self.settings.project(project))

    def final_repository(self, project: Project) -> Repository:
        """The final storage of a project.

        Raises:
            UsageError: It has none, or there is no such project in the settings.
        """
        return final_of(self.roles(project))

    def project(self, project: Project) -> ProjectManager:
        """The storage manager of a project, in this process: looks up, selects, names for deployments.

        Raises:
            SettingsError: There is no such project in the settings.
        """
        return self._services.registries.project(self.roles(project))

    def project_stage_ids(self, project: Project, *, missing_ok: bool = False) -> Iterator[StageId]:
        """The stages of the primary storage of a project, from its tag list.

        Raises:
            RepositoryNotFoundError: None of the project's storages exists; while one does, others may be new.
            SettingsError: There is no such project in the settings.
        """
        found = iter(self.project(project).lookup.stage_ids())
        beside = self._beside(project)
        return self._listed(self.roles(project).primary, found, missing_ok=missing_ok, beside=beside)

    def has_storage(self, project: Project) -> bool:
        """Say whether one of a project's storages exists, or may: what cannot be asked, and an engine."""
        may_exist = self._catalogue().may_exist
        return any(may_exist(address) for _, address in _storages(self.roles(project)))

    def _storages_of(self, project: Project, *, missing_ok: bool) -> Catalogue:
        """The storages of a project, as plans see them."""
        return self._catalogue(missing_ok=missing_ok, beside=self._beside(project))

    def _beside(self, project: Project) -> tuple[Repository | DockerDaemon, ...]:
        """The storages of a project that is set up; of one that a command line made up, each was named."""
        roles = self.roles(project)
        is_set_up = isinstance(project, str) or roles.secondaries
        return tuple(address for _, address in _storages(roles)) if is_set_up else ()

    def storage_states(self, project: Project) -> list[StorageState]:
        """How each storage of a project stands; all are asked at once.

        Raises:
            SettingsError: There is no such project in the settings.
        """
        from stagefleet.registry.threads import LeashedThreads  # noqa: PLC0415 - its package brings the client of registries

        roles = self.roles(project)
        manager = self._services.registries.project(roles)

        def look(role: str, address: Repository | DockerDaemon) -> StorageState:
            try:
                return StorageState(roles.project, role, address, manager.count_stages(address))
            except StagefleetError as error:
                return StorageState(roles.project, role, address, error=error)

        with LeashedThreads(_THREADS, "states") as pool:
            return list(pool.map(lambda storage: look(*storage), _storages(roles)))

    def describe_project_stages(
        self,
        project: Project,
        stage_ids: Iterator[StageId] | None = None,
        *,
        parallel: int | None = None,
        on_left_out: OnLeftOut | None = None,
        missing_ok: bool = False,
    ) -> Iterator[StageDescription]:
        """Describe stages of the primary storage, through the caches, in threads of this process.

        Args:
            project: See the class.
            stage_ids: Which; all if None.
            parallel: Stages at once; from the settings if None.
            on_left_out: As for `describe_stages`.
            missing_ok: Take storages that do not exist for empty.

        Raises:
            StagefleetError: What the other stages would meet too, as a registry that is out of reach.
        """
        lookup, primary = self.project(project).lookup, self.roles(project).primary
        registries = self._services.registries

        def known(stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
            if isinstance(primary, DockerDaemon):
                return [None] * len(stage_ids)
            return registries.known_descriptions(primary, stage_ids)

        def ping() -> None:
            if isinstance(primary, Repository):
                registries.ping(primary)

        return describe_all(
            lookup.describe,
            self.project_stage_ids(project, missing_ok=missing_ok) if stage_ids is None else stage_ids,
            parallel=self._parallel(parallel),
            on_left_out=on_left_out or self._tell_left_out,
            # Of those that are named nobody has looked yet whether they are rejected.
            find=known if stage_ids is None else None,
            ping=ping,
        )


def _storages(roles: Roles) -> Iterator[tuple[str, Repository | DockerDaemon]]:
    yield "primary", roles.primary
    if roles.final is not None:
        yield "final", roles.final
    yield from (("cache", cache) for cache in roles.caches)
    yield from (("secondary", secondary) for secondary in roles.secondaries)
