"""Look-up of a project's stages, through its caches, under the primary's name."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from stagefleet import errors
from stagefleet.backoff import jittered
from stagefleet.image_config import relocated
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.leases import current_lease
from stagefleet.logs import errors_as_warnings
from stagefleet.names import Reference, Repository, StageId
from stagefleet.project_addresses import Project
from stagefleet.stage_lists import StageIdList
from stagefleet.storages.isolation import Isolation, left_out, try_again
from stagefleet.storages.storages import Storages

_LOGGER = logging.getLogger(__name__)

Select = Callable[[Iterable[StageId]], StageId | None]
"""Chooses one of the stages of a digest."""


def oldest(stage_ids: Iterable[StageId]) -> StageId | None:
    """Return the stage that was built first, so that all builders choose the same one; None of none."""
    return min(stage_ids, key=lambda stage_id: (stage_id.created_ms, stage_id.digest), default=None)


class StageLookup:
    """Look-up of a project's stages; thread-safe."""

    def __init__(self, storages: Storages, project: Project) -> None:
        self.project = project
        self._storages = storages
        self._remembered = storages.registries.remembered

    # Stages

    def stage_ids(self) -> StageIdList:
        """List the stages of the primary storage now; the fleet remembers the list."""
        primary = self.project.primary
        listed = self._storages.open(primary).stage_ids()
        if not primary.is_on_host:
            self._remembered.lists.remember(str(primary), listed)
        return listed

    def last_stage_ids(self) -> StageIdList:
        """Return the stages of the primary by the fleet's last tag list; list them now if there is none.

        The list includes the fleet's own copies, deletions and rejections since, but not changes by others. A
        Docker Engine is always listed now.
        """
        primary = self.project.primary
        known = self._remembered.lists.last_known(str(primary)) if not primary.is_on_host else None
        return known or self.stage_ids()

    def final_stage_ids(self) -> Collection[StageId]:
        """List the stages of the final storage; empty if the project has none."""
        final = self.project.final
        return () if final is None else self._storages.open(final).stage_ids()

    def describe(self, stage_id: StageId) -> StageDescription:
        """Describe a stage of the primary storage, always under the primary's name.

        It uses the fleet's memory first, then each cache in turn; a cache that fails is skipped with a
        warning. A Docker Engine as primary is asked directly, and so is the primary for a multi-platform
        stage: a cache may have an older index under its name.

        Raises:
            StageNotFoundError: It does not exist, or is rejected.
            BrokenStageError: The registry lists it, but cannot deliver it.
        """
        primary = self.project.primary
        if primary.is_on_host:
            return self._storages.open(primary).describe(stage_id)
        self._storages.open(primary).refuse_rejected(stage_id, current_lease())
        return self._describe(primary, stage_id)

    def describe_final(self, stage_id: StageId) -> StageDescription:
        """Describe a stage of the final storage, without caches: they do not know it under that name.

        Errors are as of `describe`; without a final storage, too.
        """
        if self.project.final is None:
            raise errors.StageNotFoundError(f"project {self.project.name} has no final storage")
        return self._storages.open(self.project.final).describe(stage_id)

    def by_digest(self, digest: str) -> list[StageDescription]:
        """Describe the stages of a digest; one that cannot be described is skipped with a warning.

        An error that concerns every stage, as an unreachable registry, is raised.
        """
        return self._sound(self.describe, self.stage_ids().of_digest(digest))

    def by_digest_as_known(self, digest: str) -> list[StageDescription]:
        """Describe the stages of a digest by the fleet's last tag list; list again if that yields none.

        Each stage found so is checked: one that is gone or rejected is left out.
        """
        primary = self.project.primary
        if primary.is_on_host:
            return self.by_digest(digest)
        known = self._remembered.lists.find(str(primary), digest)
        standing = (stage_id for stage_id in known if self._stands(primary, stage_id))
        found = self._sound(lambda stage_id: self._describe(primary, stage_id), standing)
        return found or self.by_digest(digest)

    def select(
        self, descriptions: Iterable[StageDescription], rule: Select = oldest
    ) -> StageDescription | None:
        """Choose one of a digest's stages: the oldest, unless `rule` says otherwise; None of none."""
        by_id = {description.stage_id: description for description in descriptions}
        chosen = rule(by_id)
        return None if chosen is None else by_id[chosen]

    def new_stage_id(self, digest: str, known: Iterable[StageId] | None = None) -> StageId:
        """Create an id for a stage to be built that no known one has; those listed last if None."""
        ids = self.last_stage_ids() if known is None else known
        taken = {stage_id.created_ms for stage_id in ids if stage_id.digest == digest}
        return StageId(digest, new_created_ms(taken))

    # Images

    def image_info(self, reference: Reference) -> ImageInfo:
        """Describe an image by its name; see `Storages.describe_image`."""
        return self._storages.describe_image(reference)

    def _stands(self, primary: Repository, stage_id: StageId) -> bool:
        """Return True if a stage exists now and is not rejected; else drop it from the memory."""
        storage = self._storages.open(primary)
        stands = storage.has(str(stage_id)) and not storage.records.rejects(stage_id)
        if not stands:
            with suppress(errors.RedisUnreachableError):  # the author of the change reports it
                self._remembered.forget(primary, stage_id)
        return stands

    def _sound(
        self, describe: Callable[[StageId], StageDescription], stage_ids: Iterable[StageId]
    ) -> list[StageDescription]:
        """Describe stages, without those that cannot be described."""
        isolation = Isolation(_warn, ping=self._storages.open(self.project.primary).check)
        described = (
            isolation.accept(stage_id, partial(try_again, describe, stage_id)) for stage_id in stage_ids
        )
        return [description for description in described if description is not None]

    def _describe(self, primary: Repository, stage_id: StageId) -> StageDescription:
        known = None
        if not stage_id.is_multiplatform:
            (known,) = self._remembered.known(primary, [stage_id])
            known = known or self._cached(primary, stage_id)
        return known or self._storages.open(primary).describe(stage_id)

    def _cached(self, primary: Repository, stage_id: StageId) -> StageDescription | None:
        for cache in self.project.caches:
            what = f"cache {cache} does not describe stage {stage_id}"
            with (
                errors_as_warnings(what, quiet=(errors.StageNotFoundError, errors.CircuitOpenError)),
                self._storages.circuit_breakers.guarding(cache),
            ):
                return relocated(self._storages.open(cache).describe(stage_id), primary)
        return None


def _warn(stage_id: StageId, error: Exception) -> None:
    if not isinstance(error, errors.StageNotFoundError):
        _LOGGER.warning("%s", left_out(stage_id, error))


def new_created_ms(taken: Collection[int], now_ms: int | None = None) -> int:
    """Return the current time in milliseconds, increased until it is not in `taken`.

    >>> new_created_ms({7, 8}, 7)
    9
    """
    created_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    while created_ms in taken:
        created_ms += 1
    return created_ms


# Retry of a look-up when a storage changes during it.

_PAUSES_SECONDS = errors.StorageStateChangedError.retry_pauses_seconds
_TRIES = len(_PAUSES_SECONDS) + 1

_T = TypeVar("_T")


def retry_on_changed_state(
    look_up: Callable[[], _T], *, tries: int = _TRIES, sleep: Callable[[float], object] = time.sleep
) -> _T:
    """Repeat a look-up from its beginning while storages change during it, `tries` times at most.

    The whole look-up is repeated, from the list of stages to the fetch: only so does it see another state.
    Between the tries are pauses of 2 s that double up to 10 s, with jitter.

    Raises:
        StorageStateChangedError: The state changed in the last try, too.
    """
    pauses = itertools.chain(_PAUSES_SECONDS, itertools.repeat(_PAUSES_SECONDS[-1]))
    for left in range(max(1, tries) - 1, -1, -1):
        try:
            return look_up()
        except errors.StorageStateChangedError as error:
            if not left:
                raise
            _LOGGER.warning("%s; looking again, %d tries left", error, left)
        sleep(jittered(next(pauses), share=0.75))
    raise AssertionError("the last try returns or raises")
