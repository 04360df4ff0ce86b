"""Storage manager of one project, whose storages have roles."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from stagefleet.attempt import ItemResult
from stagefleet.leases import NO_LEASE, Lease
from stagefleet.names import StageId, StorageAddress
from stagefleet.project import Project
from stagefleet.projects.circuit_breakers import delete_from_caches
from stagefleet.projects.final_list import FinalLists
from stagefleet.projects.lookup import StageLookup
from stagefleet.projects.publish import Publication, SecondaryCopy, Select, oldest
from stagefleet.storages.remembered_stages import RememberedStages
from stagefleet.storages.router import StorageRouter

__all__ = ["DeployedImage", "ProjectManager", "TagRule", "deployed_image", "deployed_repository"]


class ProjectManager:
    """Operations on a project's stages, in all its storages; thread-safe.

    Args:
        router: Access to stages.
        lists: Lists of final storages, by run.
        project: The project's storages.
        memory: The fleet's memory of storages.

    Attributes:
        project: The project's storages.
        lookup: Finds and describes stages.
    """

    def __init__(
        self, router: StorageRouter, lists: FinalLists, project: Project, *, memory: RememberedStages
    ) -> None:
        self.project = project
        self.lookup = StageLookup(router, project, memory=memory)
        self._router = router
        self._lists = lists

    def count_stages(self, address: StorageAddress) -> int:
        """Count the stages of one of the storages.

        Raises:
            UnreachableError: It does not answer.
            UsageError: Its registry refuses the login.
        """
        return len(self._router.list_stages(address))

    def publish_stage(
        self,
        stage_id: StageId,
        *,
        run_id: str,
        should_be_built: bool = False,
        image: str | None = None,
        lease: Lease = NO_LEASE,
    ) -> ItemResult:
        """Copy a stage into the final storage; see `Publication.publish`."""
        return self._publication(run_id, lease).publish(
            stage_id, should_be_built=should_be_built, image=image
        )

    def cache_stage(self, stage_id: StageId, *, run_id: str, lease: Lease = NO_LEASE) -> ItemResult:
        """Copy a stage into each cache; failures are warnings, and part of the result.

        Raises:
            StageNotFoundError: The primary does not have it.
            BrokenStageError: The primary cannot deliver all of it.
        """
        states, sent = self._publication(run_id, lease).fill_caches(stage_id)
        return ItemResult(
            {"caches": states}, bytes=sent, skipped=all(state == "present" for state in states.values())
        )

    def take_stage(self, stage_id: StageId, *, run_id: str, lease: Lease = NO_LEASE) -> ItemResult:
        """Copy a stage from a secondary into the primary; see `SecondaryCopy.take`."""
        return self._secondary(run_id, lease).take(stage_id)

    def take_suitable(
        self, digest: str, *, run_id: str, select: Select = oldest, lease: Lease = NO_LEASE
    ) -> ItemResult | None:
        """Copy a stage of a digest from a secondary; see `SecondaryCopy.take_suitable`."""
        return self._secondary(run_id, lease).take_suitable(digest, select)

    def delete_from_caches(
        self,
        stage_id: StageId,
        *,
        run_id: str,
        to_delete: Callable[[], Iterable[str]],
        lease: Lease = NO_LEASE,
    ) -> None:
        """Delete a stage from every cache; failures are warnings."""
        delete_from_caches(
            self._router.stages,
            self.project.caches,
            stage_id,
            run_id=run_id,
            to_delete=to_delete,
            lease=lease,
        )

    def deployed_repository(self) -> str:
        """Return the repository that a deployment pulls from."""
        return deployed_repository(self.project)

    def deployed_image(self, image: str, stage_id: StageId, tag_rule: TagRule | None = None) -> DeployedImage:
        """Return the deployment's name of an image; see `manager.deployed_names`."""
        return deployed_image(self.project, image, stage_id, tag_rule)

    def _publication(self, run_id: str, lease: Lease) -> Publication:
        return Publication(self._router, self._lists, self.project, run_id=run_id, lease=lease)

    def _secondary(self, run_id: str, lease: Lease) -> SecondaryCopy:
        return SecondaryCopy(self._router, self.project, run_id=run_id, lease=lease)


# Image names for deployments: of the final storage if there is one, else of the primary.

TagRule = Callable[[str, str], str]
"""Makes a custom tag of an image's name and the tag of its stage."""


@dataclass(frozen=True, slots=True)
class DeployedImage:
    """An image as a deployment names it.

    Attributes:
        image: The project's name for it; "" for the nameless image.
        repository: The repository to pull from.
        tag: Its tag there.
    """

    image: str
    repository: str
    tag: str

    @property
    def name(self) -> str:
        """The full name."""
        return f"{self.repository}:{self.tag}"


def deployed_repository(project: Project) -> str:
    """Return the repository that a deployment pulls from; for a Docker Engine, the project's name there."""
    return project.deployed.image_name


def deployed_image(
    project: Project, image: str, stage_id: StageId, tag_rule: TagRule | None = None
) -> DeployedImage:
    """Return the deployment's name of the image whose last stage is `stage_id`.

    Args:
        project: The project's storages.
        image: The project's name for the image.
        stage_id: The stage.
        tag_rule: Makes a custom tag; the stage's own tag if None.
    """
    tag = str(stage_id)
    return DeployedImage(
        image, deployed_repository(project), tag if tag_rule is None else tag_rule(image, tag)
    )
