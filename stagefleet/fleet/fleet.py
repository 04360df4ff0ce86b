"""The fleet: the main class of the public API."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self, Unpack

from stagefleet.connections import Connections, EmbeddedConnections
from stagefleet.errors import UsageError
from stagefleet.fleet import follower
from stagefleet.fleet.callbacks import OutcomeCallback, RemoteCallback, RunArguments, StartArguments
from stagefleet.fleet.hosts import FleetHosts
from stagefleet.fleet.storage_reader import RunPlans, StorageReader
from stagefleet.fleet.submission import RunSubmitter, leftover_plan, spec_of_retry
from stagefleet.images import Platform, PlatformSelection, StageDescription, parse_images
from stagefleet.names import Reference, Repository, StageId, StorageAddress
from stagefleet.operations.base import Operation, Plan
from stagefleet.operations.delete import InUsePolicy
from stagefleet.project_addresses import Items, Project, Source, parse_hosts, parse_repository, parse_storage
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.models import Outcome, Run, WorkerInfo
from stagefleet.settings import Settings, load_settings
from stagefleet.storages.isolation import OnLeftOut

if TYPE_CHECKING:
    from stagefleet.fleet.project import FleetProject
    from stagefleet.fleet.records import FleetRecords
    from stagefleet.reports.report import Report

_LOGGER = logging.getLogger("stagefleet")


class Fleet:
    """Runs of operations on stages, and data about them; thread-safe.

    Use `Fleet.connect` with a Redis that workers listen to, or `Fleet.embedded` without one. Close it, or
    use it in a `with` statement. `on_notice` is called with messages for the user, one line each; they are
    logged if it is None.

    An address is a repository, or `docker-daemon:PROJECT`, of this host's engine where there is no run.
    `hosts` are the hosts of an engine, this one if None; `missing_ok` treats a missing repository as empty.

    Attributes:
        keeps_runs: True if runs continue after the end of this process.
        hosts: The hosts with a Docker Engine.
    """

    def __init__(self, connections: Connections, *, on_notice: Callable[[str], None] | None = None) -> None:
        self._connections = connections
        self._notice = on_notice or _LOGGER.warning
        self._reader = StorageReader(connections, self._notice)
        self._follower = follower.RunFollower(connections, self._notice)
        self._submitter = RunSubmitter(connections, self._follower, self._notice)
        self.settings = connections.settings
        self.keeps_runs = not connections.starts_worker
        self.hosts = FleetHosts(connections, self._notice, self.for_each_fetch_stage)
        self._plans = RunPlans(connections, self._reader, self.hosts)

    @cached_property
    def records(self) -> FleetRecords:
        """The records beside the stages."""
        from stagefleet.fleet.records import FleetRecords  # noqa: PLC0415 - a tenth of the time to load Fleet

        return FleetRecords(self._connections, self._reader, self.for_each)

    @classmethod
    def connect(
        cls,
        redis_url: str | None = None,
        *,
        settings: Settings | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> Self:
        """Create a fleet that uses a Redis; connects at the first call that needs it.

        The URL begins with `redis://`, `rediss://` or `unix://`, and is from the settings if None; they are
        from the environment and `stagefleet.toml` if None.

        Raises:
            UsageError: The URL is missing or malformed, or the settings cannot be read.
        """
        settings = load_settings() if settings is None else settings
        url = redis_url or settings.redis_url
        if url is None:
            raise UsageError("no Redis URL: hand one in, set STAGEFLEET_REDIS_URL, or use Fleet.embedded()")
        return cls(Connections(url, settings), on_notice=on_notice)

    @classmethod
    def embedded(
        cls,
        *,
        settings: Settings | None = None,
        on_notice: Callable[[str], None] | None = None,
        on_start: Callable[[], None] | None = None,
    ) -> Self:
        """Create a fleet with a private Valkey and a worker, started when needed and stopped by `close`.

        `settings` are as in `connect`, without the URL; `on_start` is called before the first use of the two.
        """
        settings = load_settings() if settings is None else settings
        return cls(EmbeddedConnections(settings, on_start=on_start), on_notice=on_notice)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and stop an embedded fleet; later uses of them raise `UsageError`."""
        self._connections.close()

    # Every run

    def for_each(
        self,
        operation: Operation,
        items: Items | None = None,
        on_outcome: OutcomeCallback = None,
        **run: Unpack[RunArguments],
    ) -> Run:
        """Execute an operation on each item, wait for the end, and return the run (`detach`: once started).

        Args:
            items: The names of its items; all if None.
            on_outcome: Called in this process once for each outcome. The run waits for it: at most `parallel`
                items are executed and not yet called back for. An exception from it stops the run.
            **run: See `RunArguments`; with `detach` only a `RemoteCallback` works.

        Raises:
            RepositoryNotFoundError: A storage that has to exist does not.
            UsageError: An argument is invalid, or a named item is missing; nothing was started.
            UnreachableError: Redis or a registry does not answer, or no worker works.
        """
        spec, make_plan = self._plans.prepare(operation, items, on_outcome, run)
        return self._submitter.submit(spec, make_plan, on_outcome, run)

    def start(
        self,
        operation: Operation,
        items: Items | None = None,
        callback: RemoteCallback | None = None,
        **run: Unpack[StartArguments],
    ) -> Run:
        """Start a run as `for_each` does, and return at once: the fleet goes on alone, and calls back."""
        return self.for_each(operation, items, callback, **run, detach=True)

    def wait(
        self,
        run: Run | str,
        on_outcome: OnOutcome | None = None,
        *,
        on_notice: Callable[[str], None] | None = None,
        no_worker_limit_seconds: float | None = None,
    ) -> Run:
        """Follow a run from its first outcome to its end; the run does not wait for the one who follows.

        Args:
            run: The run, as `start` returned it, or the id of any.
            on_outcome: Called with each outcome; an exception from it ends the wait, not the run.
            on_notice: Called with messages about waits, and if no worker works; as for the class if None.
            no_worker_limit_seconds: How long no worker may work on it, before it is cancelled with
                `NoWorkerError`; from the settings if None, `math.inf` never cancels it.
        """
        run_id = run.id if isinstance(run, Run) else self._connections.ledger.run(run).id
        return self._follower.follow(
            run_id, on_outcome, notice=on_notice, no_worker_limit_seconds=no_worker_limit_seconds
        )

    def plan(
        self,
        operation: Operation,
        items: Items | None = None,
        *,
        missing_ok: bool = False,
        beside: Sequence[StorageAddress] = (),
    ) -> Plan:
        """Plan a run as `start` would; changes nothing, and needs Redis only to find a host.

        The plan of a fetch does not know which stages a host has.
        """
        return self._plans.plan(operation, items, missing_ok=missing_ok, beside=beside)

    # Runs on stages

    def for_each_copy_stage(
        self,
        source: StorageAddress | str,
        destination: StorageAddress | str,
        stage_ids: Items | None = None,
        on_outcome: OutcomeCallback = None,
        *,
        verify: bool = False,
        foreign_layers: bool = False,
        referrers: bool = False,
        hosts: Sequence[str] | None = None,
        **run: Unpack[RunArguments],
    ) -> Run:
        """Copy stages to another address, which may be new; options as of `CopyOperation` and `for_each`."""
        from stagefleet.operations.copy import CopyOperation  # noqa: PLC0415 - the other operations are not needed

        operation = CopyOperation(
            source=parse_storage(source),
            destination=parse_storage(destination),
            verify=verify,
            foreign_layers=foreign_layers,
            referrers=referrers,
            hosts=parse_hosts(hosts),
        )
        return self.for_each(operation, stage_ids, on_outcome, **run)

    def for_each_delete_stage(
        self,
        address: StorageAddress | str,
        stage_ids: Items | None,
        on_outcome: OutcomeCallback = None,
        *,
        policy: InUsePolicy | None = None,
        referrers: bool = False,
        hosts: Sequence[str] | None = None,
        **run: Unpack[RunArguments],
    ) -> Run:
        """Delete stages, of None all; succeed for those that are gone. For the rest see `for_each`.

        Without a `policy` stages in use in an engine fail; `referrers` are as of `DeleteOperation`.
        """
        from stagefleet.operations.delete import DeleteOperation  # noqa: PLC0415 - the other operations are not needed

        storage, named = parse_storage(address), parse_hosts(hosts)
        operation = DeleteOperation.of(storage, policy, referrers=referrers, hosts=named)
        return self.for_each(operation, stage_ids, on_outcome, **run)

    def for_each_fetch_stage(
        self,
        source: Source,
        stage_ids: Items,
        on_outcome: OutcomeCallback = None,
        *,
        platforms: Sequence[str | Platform] | None = None,
        all_platforms: bool = False,
        hosts: Sequence[str] | None = None,
        all_hosts: bool = False,
        **run: Unpack[RunArguments],
    ) -> Run:
        """Fetch stages to hosts: from the first cache that has the stage, else from the primary storage.

        The source is a project, or the primary storage alone; `all_hosts` are all live ones. `platforms` are
        those of multi-platform stages, the engine's own if None; `all_platforms` all that an engine can keep.
        For the rest see `for_each`; with `missing_ok` a missing primary is empty: only the caches are used.
        """
        from stagefleet.operations.fetch import FetchOperation  # noqa: PLC0415 - the other operations are not needed

        selection = PlatformSelection.parse(platforms, everything=all_platforms)
        operation = FetchOperation.of(Project.of_source(source), selection, hosts=parse_hosts(hosts))
        operation.parse_items(stage_ids)  # before the look-up of hosts
        if all_hosts:
            operation = operation.on_hosts(self.hosts.choose(hosts, everywhere=True))
        return self.for_each(operation, stage_ids, on_outcome, **run)

    # Storages, without a run

    def stage_ids(self, address: StorageAddress | str, *, missing_ok: bool = False) -> Iterator[StageId]:
        """Iterate over the stages of a repository, from its tag list, or of this host's engine.

        Raises:
            RepositoryNotFoundError: The repository does not exist.
            UsageError: The address is malformed, or its registry rejects the login.
            UnreachableError: The registry or the engine does not answer.
        """
        return self._reader.stage_ids(address, missing_ok=missing_ok)

    def describe_stages(
        self,
        address: StorageAddress | str,
        stage_ids: Items | None = None,
        *,
        parallel: int | None = None,
        on_left_out: OnLeftOut | None = None,
        missing_ok: bool = False,
    ) -> Iterator[StageDescription]:
        """Describe stages, of None all, in order, in threads of this process; needs no worker.

        Errors are as of `stage_ids`, and those that would affect the other stages too. `parallel` is of the
        settings if None. `on_left_out` is called with each skipped stage and the error, `StageNotFoundError`
        for one that is gone or rejected, others for one that cannot be described; logged if None.
        """
        return self._reader.describe_stages(
            address, stage_ids, parallel=parallel, on_left_out=on_left_out, missing_ok=missing_ok
        )

    def publish_index(
        self,
        repository: str | Repository,
        stage_id: str | StageId,
        images: Mapping[str | Platform, str | StageId | Reference],
    ) -> dict[str, Any]:
        """Publish an index, unless it exists; return the stage's description as JSON. Needs no worker.

        Its stage id is a digest alone. `images` are by platform, as `linux/amd64`: a stage of the repository,
        or any image, `REPOSITORY:TAG` or `REPOSITORY@DIGEST`; one of another repository is copied first.

        Raises:
            UsageError: A name is malformed, an image is for another platform, or the stage exists with
                other images, or is rejected.
            NotFoundError: An image does not exist.
            LockTimeoutError: A copy or deletion of the stage takes too long.
        """
        storage, parsed = parse_repository(repository), StageId.parse(str(stage_id))
        return self._connections.storages.publish_index(storage, parsed, parse_images(storage, images))

    def project(self, project: str | StorageAddress | Project) -> FleetProject:
        """Return a project: the name of one in the settings, its storages, or its primary storage alone.

        Raises:
            SettingsError: The settings have no such project.
        """
        from stagefleet.fleet.chains import RunChains  # noqa: PLC0415 - few commands ask for it
        from stagefleet.fleet.project import FleetProject  # noqa: PLC0415 - few commands ask for it

        chains = RunChains(self._connections, self._notice, self._follower.redis_retry())
        make = partial(FleetProject, self, self._connections, self._reader, self._plans, chains)
        if not isinstance(project, str):
            return make(storages=Project.of_source(project))
        settings = self.settings.project(project)
        return make(storages=Project.of(project, settings), parallel=settings.parallel, is_set_up=True)

    # Runs that exist

    def runs(self) -> Iterator[Run]:
        """Iterate over all runs that have not expired, the newest first."""
        return self._connections.ledger.runs()

    def run(self, run_id: str) -> Run:
        """Return the current state of a run, named by its id or how that begins.

        Raises:
            RunNotFoundError: The run does not exist, or has expired.
            UsageError: Several runs match; the message lists some.
        """
        return follower.find_run(self._connections.ledger, run_id)

    def run_under(self, idempotency_key: str) -> Run:
        """Return the last run that was started with an idempotency key; errors as of `run`."""
        return follower.find_run_under(self._connections.ledger, idempotency_key)

    def failures(self, run_id: str) -> Iterator[Outcome]:
        """Iterate over the outcomes of a run's failed items so far, as they ended; errors as of `run`."""
        return follower.read_failures(self._connections.ledger, run_id)

    def report(self, run_id: str) -> Report:
        """Return a report of a run, and of those that follow it, as they stand; errors as of `run`."""
        from stagefleet.reports.report import Report  # noqa: PLC0415 - few ask for it

        found = follower.read_chain(self._connections.ledger, self.run(run_id))
        return Report(list(found), partial(follower.read_outcomes, self._connections.ledger))

    def cancel(self, run_id: str, *, now: bool = False) -> bool:
        """Cancel a run, and return True if it was still in progress.

        No item starts any more; items in progress finish, or with `now` stop within seconds. A run that an
        incompatible release wrote goes on: `IncompatibleVersionError`.
        """
        return self._connections.ledger.cancel(run_id, now=now)

    def pause(self, run_id: str) -> bool:
        """Let items of a run start no more, until `resume`, and those in progress finish.

        Returns False if it was paused before; a run that has ended or is being cancelled is a `UsageError`.
        """
        return self._connections.ledger.set_paused(run_id, paused=True)

    def resume(self, run_id: str) -> bool:
        """Let the items of a paused run start again; return False if it was not paused; see `pause`."""
        return self._connections.ledger.set_paused(run_id, paused=False)

    def retry(
        self,
        run_id: str,
        on_outcome: OutcomeCallback = None,
        *,
        parallel: int | None = None,
        detach: bool = False,
    ) -> Run:
        """Start a new run with the failed and cancelled items of a finished one; return that if none are.

        Without `on_outcome`, whom the fleet called for that run is called again; `parallel` is as in that
        run if None. The rest is as of `for_each`; a run in progress is a `UsageError`.
        """
        old = self._connections.ledger.run(run_id)
        if (spec := spec_of_retry(old, on_outcome, parallel=parallel)) is None:
            return old
        make_plan = partial(leftover_plan, self._connections.ledger, run_id)
        return self._submitter.submit(spec, make_plan, on_outcome, {"detach": detach})

    def workers(self) -> list[WorkerInfo]:
        """List the live worker processes."""
        return self._connections.ledger.heartbeats.workers()
