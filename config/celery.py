"""How the Celery application is configured; nothing happens at import.

The ledger is the truth about items. Celery carries messages and shows them in Flower, so it keeps no
results, retries nothing and acknowledges late: what it loses or doubles is mended by the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from celery import Celery
from kombu.entity import Exchange, Queue

from config import transport
from config.broker import Broker
from stagefleet.errors import SettingsError
from stagefleet.redis_facts import check_redis
from stagefleet.runs.dispatch import (
    QUEUES,
    broker_options,
    host_queue,
    queue_of,
    task_name,
)
from stagefleet.settings import Settings

__all__ = ["make_app", "work_queue"]

_EVENT_QUEUE_SECONDS = 60.0
"""How long events and remote commands wait for a Flower that went away."""

_EVERYWHERE = ("coordinate", "start_run")
"""What every worker can do, whatever else it does."""


def make_app(settings: Settings, operations: Iterable[str] = QUEUES) -> Celery:
    """The Celery application of a fleet; it connects when it is used.

    Args:
        settings: Where Redis is.
        operations: What the fleet does: their queues and routes.

    Raises:
        SettingsError: There is no Redis URL, or it is malformed.
    """
    if settings.redis_url is None:
        raise SettingsError("workers need a Redis: set STAGEFLEET_REDIS_URL, or redis_url in stagefleet.toml")
    transport.install()
    app = Celery("stagefleet", set_as_current=False, autofinalize=True)
    check = partial(check_redis, settings.redis_url, settings.key_prefix)
    broker = Broker.at(settings.redis_url)
    app.amqp.Connection = transport.connection_to(broker).checking(check)
    app.conf.update(_configuration(settings, broker, list(operations)))
    return app


def work_queue(name: str) -> Queue:
    """A queue of work: a plain list, reached through the default exchange, without a binding to keep."""
    exchange = Exchange("", type="direct")
    return Queue(name, exchange=exchange, routing_key=name)


def _configuration(settings: Settings, broker: Broker, operations: list[str]) -> dict[str, Any]:
    operations = list(dict.fromkeys([*operations, *_EVERYWHERE]))
    queues = sorted({queue_of(operation) for operation in operations})
    own = [] if settings.engine.address is None else [host_queue(settings.engine.host_name)]
    configuration: dict[str, Any] = {
        "broker_url": broker.url,
        "broker_transport_options": broker_options(settings.key_prefix),
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # a worker outlives any outage; its supervisor bounds a start
        "task_acks_late": True,
        "task_acks_on_failure": True,  # the outcome is in the ledger
        "task_acks_on_timeout": True,
        "task_reject_on_worker_lost": True,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_track_started": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_create_missing_queues": False,
        "task_queues": [work_queue(name) for name in [*queues, *own]],
        "task_default_queue": queues[0],
        "task_default_exchange": "",
        "task_default_exchange_type": "direct",
        "task_default_routing_key": queues[0],
        "task_routes": {task_name(operation): {"queue": queue_of(operation)} for operation in operations},
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_send_task_events": True,
        "task_send_sent_event": False,  # the ledger publishes, not Celery
        "event_queue_expires": _EVENT_QUEUE_SECONDS,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "enable_utc": True,
        "timezone": "UTC",
    }
    if broker.tls is not None:
        # kombu takes any certificate unless told otherwise
        configuration["broker_use_ssl"] = dict(broker.tls)
    return configuration
