"""Tasks of every worker: callbacks of detached runs, and starting runs on request."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis import RedisError

from config.celery import plain_queue
from stagefleet.errors import CallbackError, StagefleetError
from stagefleet.runs.callback_tasks import check_task
from stagefleet.runs.detached_coordinator import DetachedCoordinator, PublishTask
from stagefleet.runs.item_leases import LeaseRenewer
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.runs.webhook import WebhookCaller
from stagefleet.settings import Settings
from tasks.coordinate import CoordinateTask
from tasks.start_run import RequestedFleet, StartRunTask

__all__ = ["register_callback_tasks"]

_DEFAULT_QUEUE = "callbacks"
"""Queue of users' tasks that name none; the users' workers listen to it, never ours."""


def register_callback_tasks(
    app: Celery,
    ledger: RedisLedger,
    renewer: LeaseRenewer,
    settings: Settings,
    closing: ExitStack,
) -> None:
    """Register the tasks that every worker has, whatever its operations."""
    webhooks = WebhookCaller(settings)
    closing.callback(webhooks.close)
    coordinator = DetachedCoordinator(
        ledger, webhooks, _make_publisher(app), settings.webhooks, stopping=lambda: renewer.stopping
    )
    app.register_task(CoordinateTask(coordinator))
    app.register_task(StartRunTask(lambda: RequestedFleet.connect(settings=settings)))


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
