"""Construction of all objects of a worker process, once, from its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from celery import Celery

from config.celery import make_app
from stagefleet.errors import SettingsError
from stagefleet.locks import RedisLocks
from stagefleet.manager import ItemResult, RememberedStages, StageManager
from stagefleet.processes import require_extra
from stagefleet.redis_client import connect_redis
from stagefleet.registry import RegistryClient
from stagefleet.runs.item_leases import LeaseRenewer
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.runs.shared_state import RedisSharedState
from stagefleet.settings import Settings
from stagefleet.storages.last_used import LastUsed, RedisLastUsed
from tasks import records
from tasks.copy import copy_stage
from tasks.delete import delete_stage
from tasks.describe import describe_stage
from tasks.fetch import fetch_stage
from tasks.item import Attempt, ItemExecutor, register
from tasks.publish import cache_stage, publish_stage, take_stage
from workers import callback_tasks
from workers.unknown_tasks import fail_unknown_tasks

__all__ = ["OPERATIONS", "WorkerContext", "build_context"]

OPERATIONS: Mapping[str, Callable[[StageManager, Attempt], ItemResult]] = {
    "copy_stage": copy_stage,
    "delete_stage": delete_stage,
    "describe_stage": describe_stage,
    "rm_image_metadata": records.rm_image_metadata,
    "rm_managed_image": records.rm_managed_image,
    "get_import_metadata": records.get_import_metadata,
    "rm_import_metadata": records.rm_import_metadata,
    "get_stage_custom_tag_metadata": records.get_stage_custom_tag_metadata,
    "delete_stage_custom_tag": records.delete_stage_custom_tag,
    "delete_rejected_stage": records.delete_rejected_stage,
    "rm_record": records.rm_record,
    "fetch_stage": fetch_stage,
    "publish_stage": publish_stage,
    "cache_stage": cache_stage,
    "take_stage": take_stage,
}
"""Operations of workers; a custom worker may have others."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """Objects of a worker process."""

    app: Celery
    ledger: RedisLedger
    renewer: LeaseRenewer
    closing: ExitStack

    def close(self) -> None:
        """Close them, in reverse order of creation."""
        self.closing.close()


def build_context(
    settings: Settings,
    worker: str,
    operations: Mapping[str, Callable[[StageManager, Attempt], ItemResult]] = OPERATIONS,
) -> WorkerContext:
    """Create a worker's objects; they do not connect yet.

    Args:
        settings: Settings of the fleet and of this worker.
        worker: The worker's name.
        operations: Its operations by name.

    Raises:
        SettingsError: There is no Redis URL, or it is malformed.
    """
    if settings.redis_url is None:
        raise SettingsError("workers need a Redis: set STAGEFLEET_REDIS_URL, or redis_url in stagefleet.toml")
    app = make_app(settings, operations)
    closing = ExitStack()
    redis = connect_redis(settings.redis_url)
    closing.callback(redis.close)
    ledger = RedisLedger(redis, prefix=settings.key_prefix, settings=settings.runs)
    client = RegistryClient(settings)
    closing.callback(client.close)
    shared_state = RedisSharedState(
        redis, prefix=settings.key_prefix, lease_seconds=settings.runs.lease_seconds
    )
    locks = RedisLocks(redis, prefix=settings.key_prefix, settings=settings.locks)
    closing.callback(locks.close)
    manager = StageManager(client, shared_state, RememberedStages.on(redis, settings), locks=locks)
    last_used = RedisLastUsed(redis, prefix=settings.key_prefix, settings=settings.caches)
    closing.callback(_attach_host(manager, client, locks, last_used, settings))
    renewer = LeaseRenewer(ledger, settings.runs)
    closing.callback(renewer.close)
    executor = ItemExecutor(ledger, renewer, settings.runs, worker=worker)
    for operation, function in operations.items():
        register(app, operation, partial(function, manager), executor)
    fail_unknown_tasks(executor.refuse, closing)
    callback_tasks.register_callback_tasks(app, ledger, renewer, settings, closing)
    return WorkerContext(app=app, ledger=ledger, renewer=renewer, closing=closing)


def _attach_host(
    manager: StageManager, client: RegistryClient, locks: RedisLocks, last_used: LastUsed, settings: Settings
) -> Callable[[], None]:
    """Attach this host's Docker Engine, if there is one; return the function that closes it."""
    if settings.engine.address is None:
        return lambda: None
    require_extra("engine", "docker", "stages in a Docker Engine")
    from stagefleet.manager.host import make_host  # noqa: PLC0415 - imports docker-py, a tenth of a second

    host = make_host(settings.engine, manager, client, locks, last_used)
    if host is None:
        return lambda: None
    manager.attach_host(host)
    return host.close
