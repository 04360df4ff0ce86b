"""Logs: events with their fields, levels for other libraries, and errors that become warnings.

The library configures nothing: the program that uses it decides where records go. Workers write them as
JSON (`config/logging.py`), commands as lines on stderr (`stagefleet/cli/session.py`).

At `debug`, other libraries log what must never be shown: urllib3 the addresses of uploads, webhooks and
signed blobs, Celery the arguments of tasks, docker-py the logins that it finds. They therefore never log
at `debug`, whatever `log.level` is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from stagefleet import errors

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
"""Libraries whose `info` covers each task or request: Stagefleet logs those itself, with run and item."""

_OURS = ("stagefleet", "config", "tasks", "workers")


class EventLogger:
    """Log the events of the module of this `__name__`, each with its fields.

    The message of a record is the event and its fields as `event name=value ...`. Its attribute `facts` is a
    dictionary of the fields and the event, for formatters that write them separately.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **facts: object) -> None:
        """Log an event for developers."""
        self._log(logging.DEBUG, event, facts)

    def info(self, event: str, **facts: object) -> None:
        """Log an event that an operator may look up later."""
        self._log(logging.INFO, event, facts)

    def warning(self, event: str, **facts: object) -> None:
        """Log an event that needs attention."""
        self._log(logging.WARNING, event, facts)

    def error(self, event: str, *, exc_info: BaseException | None = None, **facts: object) -> None:
        """Log a failure; `exc_info` adds the traceback of a bug."""
        self._log(logging.ERROR, event, facts, exc_info)

    def _log(
        self, level: int, event: str, facts: dict[str, object], exc_info: BaseException | None = None
    ) -> None:
        if self._logger.isEnabledFor(level):
            text = " ".join([event, *(f"{name}={value}" for name, value in facts.items())])
            extra = {"facts": {"event": event, **facts}}
            self._logger.log(level, "%s", text, exc_info=exc_info, extra=extra, stacklevel=3)


def limit_libraries(level: int) -> None:
    """Set the level of Stagefleet's own logs, and those of other libraries' loggers.

    Others log from `info` on, those of `LIBRARIES` only if the level is `debug`.
    """
    logging.getLogger().setLevel(max(level, logging.INFO))
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    of_libraries = logging.INFO if level <= logging.DEBUG else max(level, logging.WARNING)
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(of_libraries)
    # At warning, "Failed to parse headers (url=...)" shows a signed address in full.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


# Work that is done if it can be: errors of storages become warnings, and those of our own side do not.


_LOGGER = logging.getLogger(__name__)

OWN_ERRORS = (
    errors.EngineUnreachableError,
    errors.ItemCancelledError,
    errors.ItemPostponedError,
    errors.LeaseLostError,
    errors.RedisConfigurationError,
    errors.RedisUnreachableError,
)
"""Errors of our own side: not a storage's fault, and another storage would not help."""


class CaughtFailure:
    """Error inside a `errors_as_warnings` block; None without one."""

    error: errors.StagefleetError | None = None


@contextmanager
def errors_as_warnings(
    what: str,
    *,
    reraise: tuple[type[errors.StagefleetError], ...] = (),
    quiet: tuple[type[errors.StagefleetError], ...] = (),
) -> Iterator[CaughtFailure]:
    """Turn a storage's error into a warning that says `what` was attempted.

    Errors of our own side and those of `reraise` are raised; for those of `quiet`, which are expected, there
    is a debug record.
    """
    failure = CaughtFailure()
    try:
        yield failure
    except errors.StagefleetError as error:
        if isinstance(error, OWN_ERRORS + reraise):
            raise
        _LOGGER.log(logging.DEBUG if isinstance(error, quiet) else logging.WARNING, "%s: %s", what, error)
        failure.error = error
