"""What the fleet remembers of storages, and how it stays true enough when the fleet changes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import redis

from stagefleet.names import Repository, StageId
from stagefleet.settings import Settings
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

    def add(self, repository: Repository, stage_id: StageId) -> None:
        """A stage has come to a repository."""
        self.lists.add(str(repository), stage_id)

    def forget(self, repository: Repository, stage_id: StageId) -> None:
        """A stage is gone from a repository, or rejected there: it must not be answered as existing."""
        self.lists.forget(str(repository), stage_id)
        self.descriptions.forget(str(repository), [stage_id])
        self.rejections.forget(str(repository), stage_id)
