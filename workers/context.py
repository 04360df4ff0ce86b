"""Construction of all objects of a worker process, once, from its settings."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis import RedisError

from config.celery import make_app, plain_queue
from stagefleet import traces
from stagefleet.attempt import Attempt, ItemLeaseRenewer, ItemResult
from stagefleet.connections import Connections
from stagefleet.errors import CallbackError, StagefleetError
from stagefleet.fleet.fleet import Fleet
from stagefleet.fleet_storages import WorkerStorages
from stagefleet.operations import catalog
from stagefleet.redis_client import connect_redis
from stagefleet.runs.detached_coordinator import DetachedCoordinator, PublishTask
from stagefleet.runs.messages import check_task
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.runs.webhook import WebhookCaller
from stagefleet.settings import Settings
from stagefleet.storages.storages import Storages
from tasks.item import ItemExecutor, register
from tasks.runs import CoordinateNextRunTask, CoordinateTask, StartRunTask
from workers.consumer import fail_unknown_tasks

ItemFunction = Callable[[Storages, Attempt], ItemResult]
"""What a worker does for one item of an operation; it raises its failures."""

ITEM_FUNCTIONS: Mapping[str, ItemFunction] = {
    name: getattr(importlib.import_module(f"tasks.{entry.module}"), name)
    for name, entry in catalog.OPERATIONS.items()
}
"""The function of each operation; a custom worker may have others."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """Objects of a worker process."""

    app: Celery
    ledger: RedisLedger
    renewer: ItemLeaseRenewer
    closing: ExitStack

    def close(self) -> None:
        """Close them, in reverse order of creation."""
        self.closing.close()


def build_context(
    settings: Settings, worker: str, operations: Mapping[str, ItemFunction] = ITEM_FUNCTIONS
) -> WorkerContext:
    """Create a worker's objects, which do not connect yet; `SettingsError` without a valid Redis URL."""
    app = make_app(settings, operations)
    assert settings.redis_url is not None
    closing = ExitStack()
    closing.callback(traces.close)  # the last: a worker's process ends without the interpreter's own end
    redis = connect_redis(settings.redis_url)
    closing.callback(redis.close)
    ledger = RedisLedger(redis, prefix=settings.key_prefix, settings=settings.runs)
    storages = WorkerStorages(redis, settings)
    closing.callback(storages.close)
    renewer = ItemLeaseRenewer(ledger, settings.runs)
    closing.callback(renewer.close)
    executor = ItemExecutor(ledger, renewer, settings.runs, worker=worker)
    for operation, function in operations.items():
        register(app, operation, partial(function, storages), executor)
    fail_unknown_tasks(executor.refuse, closing)
    register_callback_tasks(app, ledger, renewer, settings, closing)
    return WorkerContext(app=app, ledger=ledger, renewer=renewer, closing=closing)


# Tasks of every worker: callbacks of detached runs, and starting runs on request.

_DEFAULT_QUEUE = "callbacks"
"""Queue of users' tasks that name none; the users' workers listen to it, never ours."""


def register_callback_tasks(
    app: Celery, ledger: RedisLedger, renewer: ItemLeaseRenewer, settings: Settings, closing: ExitStack
) -> None:
    """Register the tasks that every worker has, whatever its operations."""
    webhooks = WebhookCaller(settings)
    closing.callback(webhooks.close)
    coordinator = DetachedCoordinator(
        ledger, webhooks.call, _make_publisher(app), settings.webhooks, stopping=lambda: renewer.stopping
    )
    app.register_task(CoordinateTask(coordinator))
    app.register_task(CoordinateNextRunTask(coordinator))
    app.register_task(StartRunTask(partial(open_fleet, settings)))


def open_fleet(settings: Settings) -> Fleet:
    """Open the fleet of requests, whose senders reach no other layouts than a worker does."""
    assert settings.redis_url is not None
    roots = settings.worker.layout_roots
    return Fleet(Connections(settings.redis_url, settings, layout_roots=roots))


def _make_publisher(app: Celery) -> PublishTask:
    """Create the publisher of users' tasks, on the fleet's own broker."""

    def publish(target: str, task_id: str, arguments: dict[str, Any]) -> None:
        name, _, queue = target.partition("@")
        try:
            check_task(target)  # the run may be an older release's: some names break the broker for all
            app.send_task(
                name,
                kwargs=arguments,
                task_id=task_id,
                queue=plain_queue(queue or _DEFAULT_QUEUE),
                retry=False,
                ignore_result=True,
            )
        except (StagefleetError, OperationalError, RedisError, OSError) as error:
            raise CallbackError(f"the task {name} cannot be published: {error}") from None

    return publish
