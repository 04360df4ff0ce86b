"""The fleet's memory of storages, and its update by the fleet's own changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from stagefleet.images import StageDescription
from stagefleet.names import Digest, Repository, StageId
from stagefleet.settings import Settings
from stagefleet.shared_state.descriptions import DescriptionStore, MemoryDescriptions, RedisDescriptions
from stagefleet.shared_state.known_rejections import KnownRejections, MemoryRejections, RedisRejections
from stagefleet.shared_state.tag_lists import MemoryTagLists, RedisTagLists, TagLists

if TYPE_CHECKING:
    import redis


@dataclass(slots=True)
class RememberedStages:
    """Memory of storages; local to this process until it joins a fleet.

    Attributes:
        descriptions: Cache of descriptions.
        lists: Cache of tag lists.
        rejections: Cache of rejections.
    """

    descriptions: DescriptionStore = field(default_factory=MemoryDescriptions)
    lists: TagLists = field(default_factory=MemoryTagLists)
    rejections: KnownRejections = field(default_factory=MemoryRejections)

    @classmethod
    def on(cls, client: redis.Redis, settings: Settings) -> Self:
        """Create the fleet's memory in its Redis."""
        made = cls()
        made.join(client, settings)
        return made

    def join(self, client: redis.Redis, settings: Settings) -> None:
        """Switch to a fleet's memory; drop the local one, which may be outdated."""
        prefix, caches = settings.key_prefix, settings.caches
        self.descriptions = RedisDescriptions(client, prefix=prefix, settings=caches)
        self.lists = RedisTagLists(client, prefix=prefix, settings=caches)
        self.rejections = RedisRejections(client, prefix=prefix, settings=caches)

    def known(self, repository: Repository, stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
        """Return the remembered descriptions of stages of a repository, None for each that is not known.

        Multi-platform stages are never remembered: builders push their index again under the same tag.
        """
        known = self.descriptions.find(str(repository), stage_ids)
        return [
            None if stage_id.is_multiplatform else description
            for stage_id, description in zip(stage_ids, known, strict=True)
        ]

    def add(
        self, repository: Repository, stage_id: StageId, description: StageDescription | None = None
    ) -> None:
        """Record that a stage came to a repository; its tag may have named something else before.

        Raises:
            RedisUnreachableError: It was not recorded: an old description may remain.
        """
        self.lists.add(str(repository), stage_id)
        if description is None:
            self.descriptions.forget(str(repository), [stage_id])
        else:
            self.descriptions.replace(str(repository), description)

    def confirm(self, repository: Repository, stage_id: StageId, digest: Digest) -> StageDescription | None:
        """Return the remembered description if it has this digest, which was just read; else drop it."""
        (known,) = self.descriptions.find(str(repository), [stage_id])
        if known is None or known.info.repo_digest.endswith(f"@{digest}"):
            return known
        self.descriptions.forget(str(repository), [stage_id])
        return None

    def forget(self, repository: Repository, stage_id: StageId) -> None:
        """Record that a stage was deleted or rejected, so that it is not reported as existing.

        Raises:
            RedisUnreachableError: It was not recorded: an old description may remain.
        """
        self.lists.forget(str(repository), stage_id)
        self.rejections.forget(str(repository), stage_id)
        self.descriptions.forget(str(repository), [stage_id])
