"""Logs: events with facts through the standard library's `logging`, and how much other libraries may say.

The library configures nothing: a program that uses it decides where its records go. Workers write them as
JSON (`config/logging.py`), commands as lines on stderr (`stagefleet/cli/logs.py`).

What other libraries tell at `debug` is for their own developers, and holds what we never show: urllib3 the
addresses of uploads, webhooks and signed blobs, Celery the arguments of tasks, docker-py the logins that it
finds. So they never say it, whatever `log.level` is.
"""

from __future__ import annotations

import logging

__all__ = ["LIBRARIES", "EventLogger", "limit_libraries"]

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


class EventLogger:
    """Log events of a module, each with its facts.

    A record's message is the event and its facts as `event name=value ...`; its attribute `facts` holds them
    as a dictionary, the event itself among them, for formatters that write fields.

    Args:
        name: The module's `__name__`.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **facts: object) -> None:
        """Log what only a developer wants to know."""
        self._log(logging.DEBUG, event, facts)

    def info(self, event: str, **facts: object) -> None:
        """Log what an operator wants to find later."""
        self._log(logging.INFO, event, facts)

    def warning(self, event: str, **facts: object) -> None:
        """Log what somebody should look at."""
        self._log(logging.WARNING, event, facts)

    def error(self, event: str, *, exc_info: BaseException | None = None, **facts: object) -> None:
        """Log what went wrong; `exc_info` adds the traceback of a defect."""
        self._log(logging.ERROR, event, facts, exc_info)

    def _log(
        self, level: int, event: str, facts: dict[str, object], exc_info: BaseException | None = None
    ) -> None:
        if self._logger.isEnabledFor(level):
            text = " ".join([event, *(f"{name}={value}" for name, value in facts.items())])
            extra = {"facts": {"event": event, **facts}}
            self._logger.log(level, "%s", text, exc_info=exc_info, extra=extra, stacklevel=3)


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
