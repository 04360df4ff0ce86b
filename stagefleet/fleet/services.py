"""Services of a fleet, each built at its first use: the ledger, the registries, the locks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from stagefleet.embedded import EmbeddedFleet, require_packages
from stagefleet.engine.in_use_policy import InUsePolicy
from stagefleet.errors import RedisUnreachableError
from stagefleet.fleet.engine_access import Lazy, open_engine_host
from stagefleet.images import StageDescription
from stagefleet.locks import LockManager, MemoryLocks, RedisLocks
from stagefleet.names import EngineProject, Reference, Repository, StageId, StorageAddress
from stagefleet.platforms import Platform
from stagefleet.project import Project
from stagefleet.projects.deployed_image import DeployedImage, TagRule, deployed_image
from stagefleet.records import CustomTag, Record, RecordId, RecordKind
from stagefleet.redis_client import connect_redis
from stagefleet.runs.ledger import Ledger
from stagefleet.runs.messages import live_hosts
from stagefleet.runs.models import Outcome
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

    # Not at run time: most of them import the registry client or docker-py.
    from stagefleet.projects.lookup import StageLookup
    from stagefleet.projects.purge import PurgePlan
    from stagefleet.shared_state.last_used import LastUsed, RedisLastUsed
    from stagefleet.storages.engine_records import EngineRecords
    from stagefleet.storages.storage import StoredRecord, WriteResult
    from stagefleet.storages.storages import Storages

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
    def records(self) -> RecordAccess:
        """Operations on the records and custom tags of repositories."""

    def engine_records(self, address: EngineProject) -> EngineRecords:
        """Return the record store of a project in this host's engine."""

    def known_descriptions(
        self, repository: Repository, stage_ids: Sequence[StageId]
    ) -> list[StageDescription | None]:
        """Look up cached descriptions of stages that exist; None for each unknown stage."""

    def project(self, project: Project) -> ProjectAccess:
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
    """Registries through their storages; after `join` with the fleet's caches in Redis."""

    def __init__(self, settings: Settings, locks: LockManager, redis_url: str | None = None) -> None:
        from stagefleet.locks.stage_locks import StageLocks  # noqa: PLC0415 - commands without a registry do not need it
        from stagefleet.registries import Registries  # noqa: PLC0415 - imports the registry client
        from stagefleet.registry import RegistryClient  # noqa: PLC0415 - commands without a registry do not need it
        from stagefleet.shared_state.memory import MemorySharedState  # noqa: PLC0415 - only storages use it
        from stagefleet.shared_state.remembered_stages import RememberedStages  # noqa: PLC0415 - only storages use it
        from stagefleet.storages.storages import Storages  # noqa: PLC0415 - imports the registry client

        engine = settings.engine
        self._client = RegistryClient(settings)
        self._settings = settings
        self._redis: Redis | None = None
        self._remembered = RememberedStages()
        self._registries = Registries(
            self._client, MemorySharedState(), StageLocks(locks, host=engine.host_name), self._remembered
        )
        self._host = Lazy(lambda: open_engine_host(engine, locks))
        self.storages = Storages(
            self._registries, None if engine.address is None else lambda: self._host.value
        )
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
        return iter(self.storages.open(address).stage_ids())

    def describe_stage(self, address: StorageAddress, stage_id: StageId) -> StageDescription:
        return self.storages.open(address).describe(stage_id)

    def record_ids(self, address: StorageAddress, kind: RecordKind) -> Iterator[RecordId]:
        return self.storages.open(address).records.ids(kind)

    @property
    def records(self) -> RecordAccess:
        return RecordAccess(self.storages)

    def engine_records(self, address: EngineProject) -> EngineRecords:
        return self.storages.open(address).records

    def known_descriptions(
        self, address: StorageAddress, stage_ids: Sequence[StageId]
    ) -> list[StageDescription | None]:
        return self.storages.open(address).known(stage_ids)

    def project(self, project: Project) -> ProjectAccess:
        return ProjectAccess(self.storages, project)

    def plan_purge(self, project: Project, *, policy: InUsePolicy | None, sized: bool) -> PurgePlan:
        from stagefleet.projects.purge import plan_purge  # noqa: PLC0415 - imports the registry client

        return plan_purge(self.storages, project, policy=policy, sized=sized)

    def publish_index(
        self,
        repository: Repository,
        stage_id: StageId,
        images: Mapping[Platform, Reference],
        locks: LockManager,
    ) -> dict[str, Any]:
        del locks
        from stagefleet.attempt import Attempt  # noqa: PLC0415 - only the publication uses it
        from stagefleet.storages.index_publication import IndexPublication  # noqa: PLC0415 - imports the registry client

        attempt = Attempt(uuid4().hex)
        with self._registries.stage_locks.lock_exclusively(
            repository, stage_id, run_id=attempt.run_id, lease=attempt.lease
        ) as stage_lock:
            publication = IndexPublication(self.storages, repository, attempt.under(stage_lock))
            item_result = publication.publish(stage_id, images)
        assert item_result.result is not None
        self._remembered.add(repository, stage_id)
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

    def ping(self, address: StorageAddress) -> None:
        self.storages.open(address).check()

    def exists(self, address: StorageAddress) -> bool:
        return self.storages.open(address).exists()

    def close(self) -> None:
        self._client.close()
        self._host.close()
        if self._redis is not None:
            self._redis.close()


@dataclass(frozen=True, slots=True)
class RecordAccess:
    """The records of repositories."""

    storages: Storages

    def ids(
        self,
        repository: Repository,
        kind: RecordKind | None = None,
        *,
        on_unknown: Callable[[str], None] | None = None,
    ) -> Iterator[RecordId]:
        return self.storages.open(repository).records.ids(kind, on_unknown=on_unknown)

    def read(self, repository: Repository, record_id: RecordId) -> StoredRecord | None:
        return self.storages.open(repository).records.read(record_id)

    def write(
        self, repository: Repository, project: str, record: Record, *, force: bool = False
    ) -> WriteResult:
        return self.storages.open(repository).records.write(record, project=project, force=force)

    def add_custom_tag(
        self, repository: Repository, project: str, custom: CustomTag, *, final: Repository | None = None
    ) -> WriteResult:
        return self.storages.open(repository).records.add_custom_tag(custom, project=project, final=final)

    def check_custom_tag(
        self, repository: Repository, tag: str, stage_id: StageId, *, final: Repository | None = None
    ) -> None:
        self.storages.open(repository).records.check_custom_tag(CustomTag(tag, stage_id), final=final)


@dataclass(frozen=True, slots=True)
class ProjectAccess:
    """The look-ups in a project."""

    storages: Storages
    project: Project

    @property
    def lookup(self) -> StageLookup:
        """Finds and describes stages."""
        from stagefleet.projects.lookup import StageLookup  # noqa: PLC0415 - imports the registry client

        return StageLookup(self.storages, self.project)

    def count_stages(self, address: StorageAddress) -> int:
        """Count the stages of one of the storages."""
        return len(self.storages.open(address).stage_ids())

    def deployed_repository(self) -> str:
        """Return the repository that a deployment pulls from; of an engine, the project's name there."""
        return self.project.deployed.image_name

    def deployed_image(self, image: str, stage_id: StageId, tag_rule: TagRule | None = None) -> DeployedImage:
        """Return the deployment's name of an image; see `deployed_image`."""
        return deployed_image(self.project, image, stage_id, tag_rule)


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
        self._registries = Lazy(lambda: _RegistryAccess(settings, self.locks, redis_url))
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
        self._registries = Lazy(lambda: _RegistryAccess(settings, self.locks))
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
