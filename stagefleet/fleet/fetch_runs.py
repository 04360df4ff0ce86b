"""Runs that fetch stages to hosts, and holds on stages there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagefleet.errors import UsageError
from stagefleet.fleet.base import FleetBase
from stagefleet.locks import HeldLock, LockInfo
from stagefleet.names import StageId, StorageAddress
from stagefleet.operations.base import Plan, StageIds, parse_stage_ids, parse_storage
from stagefleet.operations.hosts import FetchOperation, refuse_platforms
from stagefleet.platforms import Platform, PlatformSelection
from stagefleet.project import Project
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.models import Outcome, Run

if TYPE_CHECKING:
    from stagefleet.shared_state.last_used import UsedImage  # imports the registry client

__all__ = ["FetchRuns", "PinnedStages"]

Platforms = Sequence[str | Platform]
Source = str | StorageAddress | Project


@dataclass(frozen=True, slots=True)
class PinnedStages:
    """A hold on images of stages: nobody removes them from their hosts while it lasts."""

    locks: tuple[HeldLock, ...]

    def check(self) -> None:
        """Check that the hold lasts; makes no request.

        Raises:
            LockLostError: A lease has expired: the images may be gone.
        """
        for lock in self.locks:
            lock.check()


class FetchRuns(FleetBase):
    """Fetch stages to the Docker Engines of hosts, and hold them there."""

    def hosts(self) -> list[str]:
        """List the hosts that stages can be fetched to: those whose workers have a Docker Engine.

        Raises:
            UnreachableError: Redis does not answer.
        """
        return self._services.hosts()

    def last_used(self, host: str | None = None) -> list[UsedImage]:
        """Return the last use of each image of a host, which the host's clean-up goes by.

        Every fetch records a use, also of an image that is already there, and so do copies from and to an
        engine. For an image without a record the last use is unknown: records are limited in number
        (`caches.used_images`), and may be lost.

        Args:
            host: The host's name, also of one without a live worker; this host if None.

        Returns:
            The images that have a record, the longest unused first.

        Raises:
            UnreachableError: Redis does not answer.
        """
        return self._services.last_used.used_images(host or self.settings.engine.host_name)

    def for_each_fetch_stage(
        self,
        source: Source,
        stage_ids: StageIds,
        on_outcome: OnOutcome | None = None,
        *,
        platforms: Platforms | None = None,
        all_platforms: bool = False,
        hosts: Sequence[str] | None = None,
        all_hosts: bool = False,
        parallel: int | None = None,
        idempotency_key: str | None = None,
        detach: bool = False,
        missing_ok: bool = False,
    ) -> Run:
        """Fetch stages to hosts: from the first cache that has the stage, else from the primary storage.

        Caches that lack a stage receive it. Stages that a host has are skipped. If the primary lists a stage
        but cannot serve it, the stage is rejected there and not selected again. There is one outcome per
        stage and host; its `host` names the host.

        Args:
            source: A primary storage, or the storages of a project (see `Fleet.resolve_project`).
            stage_ids: The stages.
            on_outcome: As in `for_each_copy_stage`, like all arguments below without an explanation.
            platforms: Platforms of multi-platform stages to fetch, as `["linux/arm64"]`; the engine's own if
                None. The outcome's `result["platforms"]` has their names on the host.
            all_platforms: Fetch all platforms that the engine can keep.
            hosts: The names of the hosts; this one if None.
            all_hosts: Fetch to all live hosts.
            parallel: Stages at once.
            idempotency_key: Calls with the same key start one run.
            detach: Return at once.
            missing_ok: Treat a missing primary storage as empty: only the caches are used.

        Returns:
            As `for_each_copy_stage`.

        Raises:
            HostNotFoundError: A host has no live worker; the message lists those that have.
            StagesNotFoundError: Neither the primary nor a cache has a named stage.
            StagefleetError: As in `for_each_copy_stage`.
        """
        choice = PlatformSelection.parse(platforms, everything=all_platforms)
        operation = self._fetch_operation(source, stage_ids, choice, hosts, everywhere=all_hosts)
        return self._for_each(
            operation,
            on_outcome,
            parallel=parallel,
            idempotency_key=idempotency_key,
            detach=detach,
            plan_storages=self._plan_storages(missing_ok=missing_ok, beside=operation.storages),
        )

    def plan_fetch_stage(
        self,
        source: Source,
        stage_ids: StageIds,
        *,
        platforms: Platforms | None = None,
        all_platforms: bool = False,
        hosts: Sequence[str] | None = None,
        all_hosts: bool = False,
        missing_ok: bool = False,
    ) -> Plan:
        """Plan `for_each_fetch_stage`; changes nothing. The plan does not know which stages a host has."""
        choice = PlatformSelection.parse(platforms, everything=all_platforms)
        operation = self._fetch_operation(source, stage_ids, choice, hosts, everywhere=all_hosts)
        return operation.plan(self._plan_storages(missing_ok=missing_ok, beside=operation.storages))

    @contextmanager
    def pinned_stages(
        self,
        source: Source,
        stage_ids: StageIds,
        *,
        hosts: Sequence[str] | None = None,
        all_hosts: bool = False,
    ) -> Iterator[PinnedStages]:
        """Protect the images of stages, for all platforms, from removal from hosts.

        The protection ends with the context, or with the death of this process.

        Args:
            source: As in `for_each_fetch_stage`.
            stage_ids: The stages.
            hosts: The names of the hosts; this one if None.
            all_hosts: Hold them on all live hosts.

        Yields:
            The hold; check it from time to time.

        Raises:
            HostNotFoundError: A host has no live worker.
            LockTimeoutError: The removal of an image is in progress, and takes too long.
        """
        from stagefleet.locks.stage_locks import ImageLocks, image_of  # noqa: PLC0415 - imports the registry client

        primary = _project(source).primary
        named = parse_stage_ids(stage_ids) or ()
        chosen = self.choose_hosts(hosts, everywhere=all_hosts)
        with ExitStack() as held:
            locks: list[HeldLock] = []
            for host in chosen:
                images = ImageLocks(self._services.locks, host)
                for stage_id in named:
                    image = image_of(primary, StageId.parse(stage_id))
                    locks.append(held.enter_context(images.lock_shared(image, on_wait=self._tell_of_wait)))
            yield PinnedStages(tuple(locks))

    @contextmanager
    def pin_stage(
        self,
        source: Source,
        stage_id: str | StageId,
        *,
        platforms: Platforms | None = None,
        all_platforms: bool = False,
        hosts: Sequence[str] | None = None,
    ) -> Iterator[PinnedStages]:
        """Fetch a stage, and protect its image on the host while the context lasts.

        Args:
            source: As in `for_each_fetch_stage`.
            stage_id: The stage.
            platforms: As in `for_each_fetch_stage`.
            all_platforms: As in `for_each_fetch_stage`.
            hosts: The hosts; this one if None.

        Yields:
            The hold, once the stage is there.

        Raises:
            RemoteError: The stage could not be fetched.
            StagefleetError: As in `for_each_fetch_stage`.
        """
        with self.pinned_stages(source, [stage_id], hosts=hosts) as hold:
            self.for_each_fetch_stage(
                source,
                [stage_id],
                _raise_failure,
                platforms=platforms,
                all_platforms=all_platforms,
                hosts=hosts,
            )
            yield hold

    def _fetch_operation(
        self,
        source: Source,
        stage_ids: StageIds,
        platforms: PlatformSelection,
        hosts: Sequence[str] | None,
        *,
        everywhere: bool,
    ) -> FetchOperation:
        project = _project(source)
        named = parse_stage_ids(stage_ids)
        if not named:
            raise UsageError("no stage is named: a fetch is for stages that are to be used")
        refuse_platforms(project.primary, platforms)  # before the lookup of hosts
        return FetchOperation(project, named, platforms, self.choose_hosts(hosts, everywhere=everywhere))

    def _tell_of_wait(self, lock: LockInfo) -> None:
        self._notice(f"waiting for {lock.name}, which is being removed")


def _raise_failure(outcome: Outcome) -> None:
    if outcome.error is not None:
        raise outcome.error.as_exception()


def _project(source: Source) -> Project:
    """Return the storages; an address alone is the primary."""
    return source if isinstance(source, Project) else Project.alone(parse_storage(source))
