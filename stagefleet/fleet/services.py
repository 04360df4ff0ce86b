"""Services of a fleet, each built at its first use: the ledger, the registries, the locks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from stagefleet.embedded import EmbeddedFleet, require_packages
from stagefleet.engine.in_use_policy import InUsePolicy
from stagefleet.errors import NotFoundError, RedisUnreachableError, RepositoryNotFoundError
from stagefleet.fleet.engine_access import EngineAccess, Lazy
from stagefleet.fleet.hosts import live_hosts
from stagefleet.images import StageDescription
from stagefleet.locks import LockManager, MemoryLocks, RedisLocks
from stagefleet.names import EngineProject, Reference, Repository, StageId, StorageAddress
from stagefleet.platforms import Platform
from stagefleet.project import Project
from stagefleet.records import RecordId, RecordKind
from stagefleet.redis_client import connect_redis
from stagefleet.runs.ledger import Ledger
from stagefleet.runs.models import Outcome
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

    # Not at run time: most of them import the registry client or docker-py.
    from stagefleet.projects.project import ProjectManager
    from stagefleet.projects.purge import PurgePlan
    from stagefleet.shared_state.last_used import LastUsed, RedisLastUsed
    from stagefleet.storages.docker_engine import EngineRecordStore
    from stagefleet.storages.records import RecordManager

__all__ = ["EmbeddedServices", "RedisServices", "Registries", "Services"]


class Registries(Protocol):
    """The registry operations that a client performs itself; workers perform the others."""

    def stage_ids(self, address: StorageAddress) -> Iterator[StageId]:
        """Iterate over the stages of a repository or of this host's engine; none if it does not exist."""

    def describe_stage(self, address: StorageAddress, stage_id: StageId) -> StageDescription:
        """Describe one stage."""

    def record_ids(self, address: StorageAddress, kind: RecordKind) -> Iterator[RecordId]:
        """List the records of one kind in a repository or this host's engine; none if it does not exist."""

    @property
    def records(self) -> RecordManager:
        """Operations on the records and custom tags of repositories."""

    def engine_records(self, address: EngineProject) -> EngineRecordStore:
        """Return the record store of a project in this host's engine."""

    def known_descriptions(
        self, repository: Repository, stage_ids: Sequence[StageId]
    ) -> list[StageDescription | None]:
        """Look up cached descriptions of stages that exist; None for each unknown stage."""

    def project(self, project: Project) -> ProjectManager:
        """Return the operations on the stages of a project."""

    def plan_purge(self, project: Project, *, policy: InUsePolicy | None, sized: bool) -> PurgePlan:
        """Plan the purge of a project."""

    def publish_index(
        self,
        repository: Repository,
        stage_id: StageId,
        images: Mapping[Platform, Reference],
        locks: LockManager,
    ) -> dict[str, Any]:
        """Publish an index over images, under the lock of the stage; return its description."""

    def describe_remaining_tags(self, repositories: Iterable[Repository]) -> list[str]:
        """Return one line for each repository whose registry is known to keep tags of Stagefleet's own."""

    def ping(self, repository: Repository) -> None:
        """Check that the registry answers, is a registry, and accepts the login; raise if not."""

    def exists(self, repository: Repository) -> bool:
        """Return True if a registry has a repository, even an empty one; raise as `ping` if it fails."""

    def close(self) -> None:
        """Close the connections."""


class Services(Protocol):
    """The services that a fleet uses."""

    @property
    def no_worker_advice(self) -> str:
        """The advice for a user whose run has no worker."""

    @property
    def starts_worker(self) -> bool:
        """True if it starts a worker of its own, whose end `check` detects."""

    @property
    def no_host_advice(self) -> str:
        """The advice for a user who names a host without a worker."""

    @property
    def settings(self) -> Settings:
        """The settings for all services."""

    @property
    def ledger(self) -> Ledger:
        """The ledger; the first use starts what it needs."""

    @property
    def registries(self) -> Registries:
        """The registries."""

    @property
    def locks(self) -> LockManager:
        """The fleet's locks."""

    @property
    def last_used(self) -> LastUsed:
        """The last-used records of images on hosts."""

    def hosts(self) -> list[str]:
        """List the hosts with a worker for their Docker Engine."""

    def check(self) -> None:
        """Check that the processes of an embedded fleet are running; raise if one has ended."""

    def close(self) -> None:
        """Close the connections, and stop an embedded fleet."""


class _RegistryAccess:
    """Registries through the storage manager; after `join` with the fleet's caches in Redis."""

    def __init__(self, settings: Settings, redis_url: str | None = None) -> None:
        from stagefleet.registry import RegistryClient  # noqa: PLC0415 - commands without a registry do not need it
        from stagefleet.shared_state.memory import MemorySharedState  # noqa: PLC0415 - only the manager uses it
        from stagefleet.storages.manager import StageManager  # noqa: PLC0415 - imports the registry client
        from stagefleet.storages.remembered_stages import RememberedStages  # noqa: PLC0415 - imports the registry client

        self._client = RegistryClient(settings)
        self._engine = EngineAccess(settings.engine)
        self._settings = settings
        self._redis: Redis | None = None
        self._remembered = RememberedStages()
        self._manager = StageManager(self._client, MemorySharedState(), self._remembered)
        if redis_url is not None:
            self.join(redis_url)

    def join(self, redis_url: str) -> None:
        """Use the caches of the fleet at a Redis.

        Raises:
            SettingsError: The URL is malformed.
        """
        self._redis = connect_redis(redis_url)
        self._remembered.join(self._redis, self._settings)

    def stage_ids(self, address: StorageAddress) -> Iterator[StageId]:
        if address.is_on_host:
            return self._engine.stage_ids(address)
        return self._manager.stage_ids(address)

    def describe_stage(self, address: StorageAddress, stage_id: StageId) -> StageDescription:
        if address.is_on_host:
            return self._engine.describe_stage(address, stage_id)
        return self._manager.describe_stage(address, stage_id)

    def record_ids(self, address: StorageAddress, kind: RecordKind) -> Iterator[RecordId]:
        if address.is_on_host:
            return self.engine_records(address).ids(kind)
        return self.records.ids(address, kind)

    @property
    def records(self) -> RecordManager:
        return self._manager.records

    def engine_records(self, address: EngineProject) -> EngineRecordStore:
        return self._engine.records(address)

    def known_descriptions(
        self, repository: Repository, stage_ids: Sequence[StageId]
    ) -> list[StageDescription | None]:
        return self._manager.known_descriptions(repository, stage_ids)

    def project(self, project: Project) -> ProjectManager:
        return self._manager.project(project)

    def plan_purge(self, project: Project, *, policy: InUsePolicy | None, sized: bool) -> PurgePlan:
        from stagefleet.projects.purge import plan_purge  # noqa: PLC0415 - imports the registry client

        return plan_purge(self._client, self._engine, project, policy=policy, sized=sized)

    def publish_index(
        self,
        repository: Repository,
        stage_id: StageId,
        images: Mapping[Platform, Reference],
        locks: LockManager,
    ) -> dict[str, Any]:
        from stagefleet.leases import NO_LEASE  # noqa: PLC0415 - its package imports that client
        from stagefleet.shared_state.memory import MemorySharedState  # noqa: PLC0415 - only the publication uses it
        from stagefleet.storages.index_publication import IndexPublication  # noqa: PLC0415 - imports the registry client
        from stagefleet.storages.stage_locks import StageLocks  # noqa: PLC0415 - its package imports that client

        run_id = uuid4().hex
        with StageLocks(locks).lock_exclusively(
            repository, stage_id, run_id=run_id, lease=NO_LEASE
        ) as stage_lock:
            publication = IndexPublication(
                self._client, MemorySharedState(), repository, run_id=run_id, lease=stage_lock
            )
            item_result = publication.publish(stage_id, images)
        assert item_result.result is not None
        self._manager.note_arrival(repository, stage_id)
        return item_result.result

    def describe_remaining_tags(self, repositories: Iterable[Repository]) -> list[str]:
        from stagefleet.deletion.mode import describe_remaining_tags  # noqa: PLC0415 - imports the registry client
        from stagefleet.shared_state.redis import RedisSharedState  # noqa: PLC0415 - only this method uses it

        if self._redis is None:
            return []
        shared_state = RedisSharedState(self._redis, prefix=self._settings.key_prefix)
        with suppress(RedisUnreachableError):  # the run has ended, so ignore the failure
            return describe_remaining_tags(shared_state, repositories)
        return []

    def ping(self, repository: Repository) -> None:
        try:
            self._client.ping(repository.host)
        except NotFoundError as error:
            raise RepositoryNotFoundError(str(error)) from error

    def exists(self, repository: Repository) -> bool:
        if self._client.has_repository(repository):
            return True
        self.ping(repository)  # a server that answers 404 to everything is not a registry
        return False

    def close(self) -> None:
        self._client.close()
        self._engine.close()
        if self._redis is not None:
            self._redis.close()


class RedisServices:
    """The services of a fleet with an existing Redis; connects when the ledger is first used.

    Args:
        redis_url: The URL of the fleet's Redis.
        settings: The settings for all services.

    Raises:
        SettingsError: The URL is malformed.
    """

    starts_worker = False
    no_worker_advice = "start one with stagefleet worker"
    no_host_advice = (
        "start stagefleet worker on it, its engine named by STAGEFLEET_ENGINE__URL "
        "and it by STAGEFLEET_ENGINE__HOST"
    )

    def __init__(self, redis_url: str, settings: Settings) -> None:
        self.settings = settings
        self._registries = Lazy(lambda: _RegistryAccess(settings, redis_url))
        self._ledger = RedisLedger.connect(redis_url, settings)
        self._locks = Lazy(lambda: RedisLocks.connect(redis_url, settings))
        self._last_used = Lazy(lambda: _connect_last_used(redis_url, settings))

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    @property
    def registries(self) -> Registries:
        return self._registries.value

    @property
    def locks(self) -> LockManager:
        return self._locks.value

    @property
    def last_used(self) -> LastUsed:
        return self._last_used.value

    def hosts(self) -> list[str]:
        """List the hosts of live workers."""
        return live_hosts(self._ledger.workers())

    def check(self) -> None:
        """Do nothing: this process started nothing."""

    def close(self) -> None:
        self._last_used.close()
        self._locks.close()
        self._ledger.close()
        self._registries.close()


def _connect_last_used(redis_url: str, settings: Settings) -> RedisLastUsed:
    from stagefleet.shared_state.last_used import RedisLastUsed  # noqa: PLC0415 - few commands ask for it

    return RedisLastUsed.connect(redis_url, settings)


class _PrivateLedger(RedisLedger):
    """The ledger in the private Valkey; its calls fail at once after that has ended."""

    check: Callable[[], None]

    def outcomes(self, run_id: str, after: str, *, limit: int, block_seconds: float) -> list[Outcome] | None:
        try:
            return super().outcomes(run_id, after, limit=limit, block_seconds=block_seconds)
        except RedisUnreachableError:
            self.check()
            raise


class EmbeddedServices:
    """The services of a private Valkey and a worker; the first use of the ledger starts them.

    Args:
        settings: The settings for all services; the Redis URL is not used.
        on_start: Called before the two are started.
    """

    starts_worker = True
    no_worker_advice = "the one of this command has not come up"
    no_host_advice = "without a fleet there is this host alone; STAGEFLEET_ENGINE__URL names its engine"

    def __init__(self, settings: Settings, *, on_start: Callable[[], None] | None = None) -> None:
        self.settings = settings
        self._registries = Lazy(lambda: _RegistryAccess(settings))
        self._embedded = EmbeddedFleet(settings)
        self._on_start = on_start
        self._ledger = Lazy(self._start)
        self._locks = Lazy(lambda: MemoryLocks(settings.locks))
        self._last_used = Lazy(self._find_last_used)
        self._redis_url = ""

    def _start(self) -> RedisLedger:
        require_packages()
        if self._on_start is not None:
            self._on_start()
        self._redis_url = self._embedded.start()
        # This process must not keep entries that the worker deletes.
        self._registries.value.join(self._redis_url)
        ledger = _PrivateLedger.connect(self._redis_url, self.settings)
        ledger.check = self._embedded.check
        return ledger

    def _find_last_used(self) -> RedisLastUsed:
        _ = self.ledger  # this starts the Valkey that its worker writes to
        return _connect_last_used(self._redis_url, self.settings)

    @property
    def ledger(self) -> Ledger:
        return self._ledger.value

    @property
    def registries(self) -> Registries:
        return self._registries.value

    @property
    def locks(self) -> LockManager:
        """The locks in the private Valkey, which no other process uses."""
        return self._locks.value

    @property
    def last_used(self) -> LastUsed:
        """The last-used records, with the uses by this fleet only."""
        return self._last_used.value

    def hosts(self) -> list[str]:
        """Return this host, where the worker is."""
        engine = self.settings.engine
        return [] if engine.address is None else [engine.host_name]

    def check(self) -> None:
        self._embedded.check()

    def close(self) -> None:
        self._last_used.close()
        self._locks.close()
        self._ledger.close()
        self._embedded.stop()
        self._registries.close()
