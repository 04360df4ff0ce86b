"""Configuration of the Celery application; the import has no effects.

The ledger is the source of truth for items. Celery carries messages and shows them in Flower, so it stores no
results, retries nothing and acknowledges late: the ledger repairs what Celery loses or duplicates.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from celery import Celery
from kombu.entity import Exchange, Queue

from config import transport
from stagefleet.errors import SettingsError
from stagefleet.redis_facts import check_redis
from stagefleet.runs import messages
from stagefleet.settings import Settings

_EVENT_QUEUE_SECONDS = 60.0
"""Lifetime of events and remote commands for a Flower that is away."""

_EVERYWHERE = ("coordinate", "start_run")
"""Tasks that every worker has."""


def make_app(settings: Settings, operations: Iterable[str] = messages.QUEUES) -> Celery:
    """Create the Celery application of a fleet; it connects at its first use.

    The operations are for queues and routes. `SettingsError` if there is no Redis URL, or it is malformed.
    """
    if settings.redis_url is None:
        raise SettingsError("workers need a Redis: set STAGEFLEET_REDIS_URL, or redis_url in stagefleet.toml")
    transport.install()
    app = Celery("stagefleet", set_as_current=False, autofinalize=True)
    check = partial(check_redis, settings.redis_url, settings.key_prefix)
    broker = transport.Broker.at(settings.redis_url)
    app.amqp.Connection = transport.connection_to(broker).checking(check)
    app.conf.update(_configuration(settings, broker, list(operations)))
    return app


def plain_queue(name: str) -> Queue:
    """Create a queue of work: a plain list, on the default exchange, without a stored binding."""
    return Queue(name, exchange=Exchange("", type="direct"), routing_key=name)


def _configuration(settings: Settings, broker: transport.Broker, operations: list[str]) -> dict[str, Any]:
    operations = list(dict.fromkeys([*operations, *_EVERYWHERE]))
    queues = sorted({messages.queue_of(operation) for operation in operations})
    has_engine, roots = settings.engine.address is not None, settings.worker.layout_roots
    own = messages.own_queues(settings.engine.host_name, fetches=has_engine, layout_roots=roots)
    configuration: dict[str, Any] = {
        "broker_url": broker.url,
        "broker_transport_options": messages.broker_options(settings.key_prefix)
        | {"ack_emulation": False},  # the ledger publishes again what is lost (docs/adr/0004)
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # a worker survives outages; its supervisor limits the start
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
        "task_queues": [plain_queue(name) for name in [*queues, *own]],
        "task_default_queue": queues[0],
        "task_default_exchange": "",
        "task_default_exchange_type": "direct",
        "task_default_routing_key": queues[0],
        "task_routes": {
            messages.task_name(operation): {"queue": messages.queue_of(operation)} for operation in operations
        },
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
        # kombu accepts any certificate by default
        configuration["broker_use_ssl"] = dict(broker.tls)
    return configuration
