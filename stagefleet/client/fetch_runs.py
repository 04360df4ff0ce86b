"""Runs that bring stages to hosts, and holds on what is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagefleet.client.desk import Desk
from stagefleet.client.host_work import FetchWork, refuse_platforms
from stagefleet.client.work import Plan, StageIds, parse_place, parse_stage_ids
from stagefleet.errors import UsageError
from stagefleet.locks import HeldLock, LockInfo
from stagefleet.names import DockerDaemon, Repository, StageId
from stagefleet.platforms import Platform, PlatformChoice
from stagefleet.roles import Roles
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.model import Outcome, Run

if TYPE_CHECKING:
    from stagefleet.storages.last_used import UsedImage  # brings the client of registries

__all__ = ["FetchRuns", "StageHold"]

Platforms = Sequence[str | Platform]
Source = str | Repository | DockerDaemon | Roles


@dataclass(frozen=True, slots=True)
class StageHold:
    """Images of stages that nobody removes from their hosts while this is held."""

    locks: tuple[HeldLock, ...]

    def check(self) -> None:
        """Return at once, or raise; costs no round trip.

        Raises:
            LockLostError: A lease is over: the images may be gone by now.
        """
        for lock in self.locks:
            lock.check()


class FetchRuns(Desk):
    """Stages fetched to the Docker Engines of hosts, and held there."""

    def hosts(self) -> list[str]:
        """The hosts that stages can be fetched to: those whose workers have a Docker Engine.

        Raises:
            UnreachableError: Redis does not answer.
        """
        return self._services.hosts()

    def last_used(self, host: str | None = None) -> list[UsedImage]:
        """When the images of a host were used last: what clean-up of the host goes by.

        Fetches note every use, also of an image that is there already; copies into and out of an engine do,
        too. An image without a record is one of which nobody knows when it was used: records are bounded
        (`caches.used_images`), and may be lost.

        Args:
            host: Its name, also of one that is not there now; this host if None.

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
        """Bring stages to hosts: from the first cache that has one, else from the primary storage.

        Caches that lack a stage get it. What a host has already is skipped. A stage that the primary knows of
        but cannot give is rejected there, so that nobody picks it again. There is an outcome for each stage
        on each host, its `host` says which.

        Args:
            source: Where the stages are: a primary storage, or all roles of a project (see `Fleet.roles`).
            stage_ids: Which stages.
            on_outcome: As in `for_each_copy_stage`; so are all arguments below that are not explained here.
            platforms: Whose images of multi-platform stages, as `["linux/arm64"]`; the engine's own if None.
                What their names are on a host says the outcome's `result["platforms"]`.
            all_platforms: All platforms that the engine can keep.
            hosts: Their names; this one if None.
            all_hosts: All hosts that are there now.
            parallel: Stages at once.
            idempotency_key: The same work under the same key is done once.
            detach: Return at once.
            missing_ok: Take a primary storage that does not exist for empty: then the caches have to serve.

        Returns:
            As `for_each_copy_stage`.

        Raises:
            HostMissingError: A host is not there; says which are.
            StagesMissingError: Neither the primary nor a cache has a stage that was named.
            StagefleetError: As in `for_each_copy_stage`.
        """
        choice = PlatformChoice.parse(platforms, everything=all_platforms)
        work = self._fetch_work(source, stage_ids, choice, hosts, everywhere=all_hosts)
        return self._for_each(
            work,
            on_outcome,
            parallel=parallel,
            idempotency_key=idempotency_key,
            detach=detach,
            catalogue=self._catalogue(missing_ok=missing_ok, beside=work.storages),
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
        """What `for_each_fetch_stage` would do; changes nothing. What a host has is not known here."""
        choice = PlatformChoice.parse(platforms, everything=all_platforms)
        work = self._fetch_work(source, stage_ids, choice, hosts, everywhere=all_hosts)
        return work.plan(self._catalogue(missing_ok=missing_ok, beside=work.storages))

    @contextmanager
    def holding_stages(
        self,
        source: Source,
        stage_ids: StageIds,
        *,
        hosts: Sequence[str] | None = None,
        all_hosts: bool = False,
    ) -> Iterator[StageHold]:
        """Keep the images of stages from being removed from hosts, those of all platforms.

        They are free again when the job dies, too.

        Args:
            source: As in `for_each_fetch_stage`, and so are the others.
            stage_ids: Which stages.
            hosts: Their names; this one if None.
            all_hosts: All hosts that are there now.

        Yields:
            The hold; ask it now and then whether it still stands.

        Raises:
            HostMissingError: A host is not there.
            LockTimeoutError: An image is being removed, and that takes too long.
        """
        from stagefleet.manager.image_locks import ImageLocks, image_of  # noqa: PLC0415 - brings the registries' client

        primary = _roles(source).primary
        named = parse_stage_ids(stage_ids) or ()
        chosen = self.choose_hosts(hosts, everywhere=all_hosts)
        with ExitStack() as held:
            locks: list[HeldLock] = []
            for host in chosen:
                images = ImageLocks(self._services.locks, host)
                for stage_id in named:
                    image = image_of(primary, StageId.parse(stage_id))
                    locks.append(held.enter_context(images.hold(image, on_wait=self._tell_of_wait)))
            yield StageHold(tuple(locks))

    @contextmanager
    def hold_stage(
        self,
        source: Source,
        stage_id: str | StageId,
        *,
        platforms: Platforms | None = None,
        all_platforms: bool = False,
        hosts: Sequence[str] | None = None,
    ) -> Iterator[StageHold]:
        """Fetch a stage, and keep its image on the host for as long as a job uses it.

        Args:
            source: As in `for_each_fetch_stage`.
            stage_id: Which stage.
            platforms: As in `for_each_fetch_stage`.
            all_platforms: As in `for_each_fetch_stage`.
            hosts: Where to; this host if None.

        Yields:
            The hold, once the stage is there.

        Raises:
            RemoteError: The stage could not be fetched.
            StagefleetError: As in `for_each_fetch_stage`.
        """
        with self.holding_stages(source, [stage_id], hosts=hosts) as hold:
            self.for_each_fetch_stage(
                source,
                [stage_id],
                _raise_failure,
                platforms=platforms,
                all_platforms=all_platforms,
                hosts=hosts,
            )
            yield hold

    def _fetch_work(
        self,
        source: Source,
        stage_ids: StageIds,
        platforms: PlatformChoice,
        hosts: Sequence[str] | None,
        *,
        everywhere: bool,
    ) -> FetchWork:
        roles = _roles(source)
        named = parse_stage_ids(stage_ids)
        if not named:
            raise UsageError("no stage is named: a fetch is for stages that are to be used")
        refuse_platforms(roles.primary, platforms)  # before anybody is asked for hosts
        return FetchWork(roles, named, platforms, self.choose_hosts(hosts, everywhere=everywhere))

    def _tell_of_wait(self, lock: LockInfo) -> None:
        self._notice(f"waiting for {lock.name}, which is being removed")


def _raise_failure(outcome: Outcome) -> None:
    if outcome.error is not None:
        raise outcome.error.as_exception()


def _roles(source: Source) -> Roles:
    """All roles, of a primary storage alone where no more is known."""
    return source if isinstance(source, Roles) else Roles.alone(parse_place(source))
