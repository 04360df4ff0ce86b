"""Storages with the locks and the memory of a fleet: those of a client, and those of a worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from stagefleet.attempt import Attempt
from stagefleet.credentials import DockerConfig
from stagefleet.engine_address import EngineAddress
from stagefleet.errors import EngineNotFoundError, RedisUnreachableError
from stagefleet.fleet_registries import Registries
from stagefleet.images import Platform
from stagefleet.locks import LockManager, RedisLocks
from stagefleet.locks.stage_locks import StageLocks
from stagefleet.names import Reference, Repository, StageId
from stagefleet.operations.delete import InUsePolicy
from stagefleet.processes import require_extra
from stagefleet.project_addresses import Project
from stagefleet.projects.lookup import StageLookup
from stagefleet.redis_client import connect_redis
from stagefleet.registry.client import RegistryClient
from stagefleet.setting_types import docker_config_file
from stagefleet.settings import EngineSettings, Settings
from stagefleet.shared_state.best_effort import LastUsed, RedisLastUsed
from stagefleet.shared_state.implementations import MemorySharedState, RedisSharedState
from stagefleet.shared_state.remembered_stages import RememberedStages
from stagefleet.storages.storages import Storages

if TYPE_CHECKING:
    from redis import Redis

    from stagefleet.projects.purge_plan import PurgePlan
    from stagefleet.storages.docker_engine import EngineHost


class ClientStorages(Storages):
    """The storages of a client, and what it does with them itself.

    They have the memory of this process, until `join`. The client of registries speaks HTTP if None.
    """

    def __init__(
        self,
        settings: Settings,
        locks: LockManager,
        client: RegistryClient | None = None,
        *,
        layout_roots: Sequence[Path] | None = None,
    ) -> None:
        stage_locks = StageLocks(locks, host=settings.engine.host_name)
        # What several processes find out together is found out here alone: a look-up needs no Redis.
        client = RegistryClient(settings) if client is None else client
        registries = Registries(client, MemorySharedState(), stage_locks, RememberedStages())
        super().__init__(registries, partial(open_engine_host, settings.engine, locks), layout_roots)
        self._settings = settings
        self._redis: Redis | None = None

    def join(self, redis_url: str) -> None:
        """Use the fleet's memory in its Redis."""
        self._redis = connect_redis(redis_url)
        self.registries.remembered.join(self._redis, self._settings)

    def lookup(self, project: Project) -> StageLookup:
        """Return the look-ups in a project."""
        return StageLookup(self, project)

    def plan_purge(
        self, project: Project, *, policy: InUsePolicy | None, referrers: bool, sized: bool
    ) -> PurgePlan:
        """Plan the purge of a project; see `plan_purge`."""
        from stagefleet.projects.purge_plan import plan_purge  # noqa: PLC0415 - one command asks for it

        return plan_purge(self, project, policy=policy, referrers=referrers, sized=sized)

    def publish_index(
        self, repository: Repository, stage_id: StageId, images: Mapping[Platform, Reference]
    ) -> dict[str, Any]:
        """Publish an index over images, under the lock of the stage; return its description."""
        from stagefleet.storages.index_publication import IndexPublication  # noqa: PLC0415 - brings `transfer`

        attempt = Attempt(uuid4().hex)
        stage_locks = self.registries.stage_locks
        with stage_locks.lock_exclusively(repository, stage_id, attempt=attempt) as stage_lock:
            publication = IndexPublication(self, repository, attempt.under(stage_lock))
            item_result = publication.publish(stage_id, images)
        assert item_result.result is not None
        self.registries.remembered.add(repository, stage_id)  # its tag may have been another image's
        return item_result.result

    def describe_remaining_tags(self, repositories: Iterable[Repository]) -> list[str]:
        """Return one line for each repository whose registry is known to keep tags of Stagefleet's own."""
        from stagefleet.deletion.mode import describe_remaining_tags  # noqa: PLC0415 - clients delete nothing

        if self._redis is not None:
            shared_state = RedisSharedState(self._redis, prefix=self._settings.key_prefix)
            with suppress(RedisUnreachableError):  # the run has ended, so ignore the failure
                return describe_remaining_tags(shared_state, repositories)
        return []

    def close(self) -> None:
        super().close()
        if self._redis is not None:
            self._redis.close()


class WorkerStorages(Storages):
    """The storages of a worker; `SettingsError` if there is an engine without docker-py."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        prefix, engine = settings.key_prefix, settings.engine
        self._locks = RedisLocks(redis, prefix=prefix, settings=settings.locks)
        registries = Registries(
            RegistryClient(settings),
            RedisSharedState(redis, prefix=prefix, lease_seconds=settings.runs.lease_seconds),
            StageLocks(self._locks, host=engine.host_name),
            RememberedStages.on(redis, settings),
        )
        last_used = RedisLastUsed(redis, prefix=prefix, settings=settings.caches)
        open_host = partial(open_engine_host, engine, self._locks, last_used)
        super().__init__(registries, open_host, settings.worker.layout_roots)
        if engine.has_engine:
            _ = self.host

    def close(self) -> None:
        super().close()
        self._locks.close()


def require_engine(address: EngineAddress) -> None:
    """Refuse an engine whose packages are not installed."""
    require_extra("engine", "docker", "stages in a Docker Engine")
    if address.is_ssh:
        require_extra("ssh", "paramiko", "Docker Engines over SSH")


def open_engine_host(
    settings: EngineSettings, locks: LockManager, last_used: LastUsed | None = None
) -> EngineHost:
    """Open this host's Docker Engine, which connects at its first use; errors as of `Storages.host`."""
    require_extra("engine", "docker", "stages in a Docker Engine")
    from stagefleet.engine import Engine  # noqa: PLC0415 - brings docker-py, a tenth of a second
    from stagefleet.storages.docker_engine import EngineHost  # noqa: PLC0415 - most fleets have none

    address = settings.address
    if address is None:
        raise EngineNotFoundError(
            "there is no Docker Engine here: name one with STAGEFLEET_ENGINE__URL, or set DOCKER_HOST"
        )
    require_engine(address)
    engine = Engine(address, settings, config=DockerConfig(docker_config_file()))
    return EngineHost(engine, settings.host_name, locks, last_used)
