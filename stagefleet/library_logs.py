"""How much other libraries may say in our logs.

What they tell at `debug` is for their own developers, and holds what we never show: urllib3 the addresses of
uploads, webhooks and signed blobs, Celery the arguments of tasks, docker-py the logins that it finds. So they
never say it, whatever `log.level` is.
"""

from __future__ import annotations

import logging

__all__ = ["LIBRARIES", "limit_libraries"]

LIBRARIES = (
    "amqp",
    "asyncio",
    "celery",
    "docker",
    "flower",
    "kombu",
    "redis",
    "requests",
    "tornado",
    "urllib3",
)
"""Those whose `info` tells of each task or request: ours tells it once, with run and item."""

_OURS = ("stagefleet", "config", "tasks", "workers")
_ADDRESSES_AT_WARNING = ("urllib3",)  # "Failed to parse headers (url=...)" shows a signed address whole


def limit_libraries(level: int) -> None:
    """Set the levels of the standard library's loggers.

    Args:
        level: Ours. Others tell nothing below `info`, those of `LIBRARIES` even that only at `debug`.
    """
    logging.getLogger().setLevel(max(level, logging.INFO))
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(
            logging.INFO if level <= logging.DEBUG else max(level, logging.WARNING)
        )
    for name in _ADDRESSES_AT_WARNING:
        logging.getLogger(name).setLevel(logging.ERROR)
