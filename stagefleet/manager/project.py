"""Storage manager of one project, whose storages have roles."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stagefleet.manager.deployed import DeployedImage, TagRule, deployed_image, deployed_repository
from stagefleet.manager.eviction import evict_stage
from stagefleet.manager.final_list import FinalLists
from stagefleet.manager.lookup import StageLookup
from stagefleet.manager.memory import StageMemory
from stagefleet.manager.produced import Produced
from stagefleet.manager.publish import Publication
from stagefleet.manager.reach import Reach
from stagefleet.manager.secondary import SecondaryCopy, Select, oldest
from stagefleet.names import DockerDaemon, Repository, StageId
from stagefleet.registry.leash import UNLEASHED, Leash
from stagefleet.roles import Roles

__all__ = ["ProjectManager"]


class ProjectManager:
    """Operations on a project's stages, in all its storages; thread-safe.

    Args:
        reach: Access to stages.
        lists: Lists of final storages, by run.
        roles: The project's storages.
        memory: The fleet's memory of storages.

    Attributes:
        roles: The project's storages.
        lookup: Finds and describes stages.
    """

    def __init__(self, reach: Reach, lists: FinalLists, roles: Roles, *, memory: StageMemory) -> None:
        self.roles = roles
        self.lookup = StageLookup(reach, roles, memory=memory)
        self._reach = reach
        self._lists = lists

    def count_stages(self, address: Repository | DockerDaemon) -> int:
        """Count the stages of one of the storages.

        Raises:
            UnreachableError: It does not answer.
            UsageError: Its registry refuses the login.
        """
        return len(self._reach.list_stages(address))

    def publish_stage(
        self,
        stage_id: StageId,
        *,
        run: str,
        should_be_built: bool = False,
        image: str | None = None,
        leash: Leash = UNLEASHED,
    ) -> Produced:
        """Copy a stage into the final storage; see `Publication.publish`."""
        return self._publication(run, leash).publish(stage_id, should_be_built=should_be_built, image=image)

    def cache_stage(self, stage_id: StageId, *, run: str, leash: Leash = UNLEASHED) -> Produced:
        """Copy a stage into each cache; failures are warnings, and part of the result.

        Raises:
            StageNotFoundError: The primary does not have it.
            BrokenStageError: The primary cannot deliver all of it.
        """
        states, sent = self._publication(run, leash).fill_caches(stage_id)
        return Produced(
            {"caches": states}, bytes=sent, skipped=all(state == "present" for state in states.values())
        )

    def take_stage(self, stage_id: StageId, *, run: str, leash: Leash = UNLEASHED) -> Produced:
        """Copy a stage from a secondary into the primary; see `SecondaryCopy.take`."""
        return self._secondary(run, leash).take(stage_id)

    def take_suitable(
        self, digest: str, *, run: str, select: Select = oldest, leash: Leash = UNLEASHED
    ) -> Produced | None:
        """Copy a stage of a digest from a secondary; see `SecondaryCopy.take_suitable`."""
        return self._secondary(run, leash).take_suitable(digest, select)

    def evict_stage(
        self, stage_id: StageId, *, run: str, asked: Callable[[], Iterable[str]], leash: Leash = UNLEASHED
    ) -> None:
        """Delete a stage from every cache; failures are warnings."""
        evict_stage(self._reach.stages, self.roles.caches, stage_id, run=run, asked=asked, leash=leash)

    def deployed_repository(self) -> str:
        """Return the repository that a deployment pulls from."""
        return deployed_repository(self.roles)

    def deployed_image(self, image: str, stage_id: StageId, tag_rule: TagRule | None = None) -> DeployedImage:
        """Return the deployment's name of an image; see `manager.deployed`."""
        return deployed_image(self.roles, image, stage_id, tag_rule)

    def _publication(self, run: str, leash: Leash) -> Publication:
        return Publication(self._reach, self._lists, self.roles, run=run, leash=leash)

    def _secondary(self, run: str, leash: Leash) -> SecondaryCopy:
        return SecondaryCopy(self._reach, self.roles, run=run, leash=leash)
