"""What the fleet remembers of storages, and how it stays true enough when the fleet changes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import redis

from stagefleet.names import Digest, Repository, StageId
from stagefleet.settings import Settings
from stagefleet.stages import StageDescription
from stagefleet.storages.descriptions import DescriptionCache, MemoryDescriptions, RedisDescriptions
from stagefleet.storages.known_rejections import KnownRejections, MemoryRejections, RedisRejections
from stagefleet.storages.tag_lists import MemoryTagLists, RedisTagLists, TagLists

__all__ = ["StageMemory"]


@dataclass(slots=True)
class StageMemory:
    """What is remembered of storages; what this process alone learns, until it joins a fleet.

    Attributes:
        descriptions: What was described before.
        lists: What was listed last.
        rejections: What was looked at before of what rejects stages.
    """

    descriptions: DescriptionCache = field(default_factory=MemoryDescriptions)
    lists: TagLists = field(default_factory=MemoryTagLists)
    rejections: KnownRejections = field(default_factory=MemoryRejections)

    @classmethod
    def on(cls, client: redis.Redis, settings: Settings) -> Self:
        """What the fleet remembers in its Redis."""
        made = cls()
        made.join(client, settings)
        return made

    def join(self, client: redis.Redis, settings: Settings) -> None:
        """Remember from now on what a fleet does; what this process knew alone may not hold any more."""
        prefix, caches = settings.key_prefix, settings.caches
        self.descriptions = RedisDescriptions(client, prefix=prefix, settings=caches)
        self.lists = RedisTagLists(client, prefix=prefix, settings=caches)
        self.rejections = RedisRejections(client, prefix=prefix, settings=caches)

    def known(self, repository: Repository, stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
        """Give what is known of stages of a repository without asking it, None for each that is not known.

        Of multi-platform stages nothing is: builders put their index anew under the same tag.
        """
        known = self.descriptions.find(str(repository), stage_ids)
        return [
            None if stage_id.is_multiplatform else description
            for stage_id, description in zip(stage_ids, known, strict=True)
        ]

    def add(
        self, repository: Repository, stage_id: StageId, description: StageDescription | None = None
    ) -> None:
        """Note that a stage has come to a repository; something else may have stood there under its name.

        Args:
            repository: Where it is now.
            stage_id: Which.
            description: What it is, None if that is not known.

        Raises:
            RedisUnreachableError: It cannot be told: an old description may stand there.
        """
        self.lists.add(str(repository), stage_id)
        if description is None:
            self.descriptions.forget(str(repository), [stage_id])
        else:
            self.descriptions.replace(str(repository), description)

    def confirm(self, repository: Repository, stage_id: StageId, digest: Digest) -> StageDescription | None:
        """Give what is known of a stage whose digest was just asked for; what does not fit it is dropped."""
        (known,) = self.descriptions.find(str(repository), [stage_id])
        if known is None or known.info.repo_digest.endswith(f"@{digest}"):
            return known
        self.descriptions.forget(str(repository), [stage_id])
        return None

    def forget(self, repository: Repository, stage_id: StageId) -> None:
        """Note that a stage is gone from a repository, or rejected: it must not be answered as existing.

        Raises:
            RedisUnreachableError: It cannot be told: an old description may stand there.
        """
        self.lists.forget(str(repository), stage_id)
        self.rejections.forget(str(repository), stage_id)
        self.descriptions.forget(str(repository), [stage_id])
