"""Logs: one record a line on stderr, Celery's own among them.

All records come through the standard library's root logger and one chain, so that they look alike. Run, item
and worker are bound where they are known (`structlog.contextvars`). The finished line is masked: logins and
queries of addresses, and the secrets that this process has read.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from structlog.typing import Processor

from stagefleet.logs import limit_libraries
from stagefleet.redaction import masked_line
from stagefleet.settings import LogSettings

__all__ = ["configure_logging", "mask_secrets"]


def configure_logging(settings: LogSettings, **bound: object) -> None:
    """Send all logs of this process to stderr.

    Args:
        settings: Level and form.
        **bound: What every record of this process carries, as `worker`.
    """
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_chain(bound),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(settings)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    limit_libraries(level)
    logging.captureWarnings(capture=True)


def _chain(bound: dict[str, object]) -> list[Processor]:
    """What every record goes through, whoever wrote it."""

    def bind(_logger: Any, _method: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for name, value in bound.items():
            record.setdefault(name, value)
        return record

    def add_facts(_logger: Any, _method: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        source: logging.LogRecord = record["_record"]
        record.update(getattr(source, "facts", None) or {"logger": source.name})
        return record

    return [
        structlog.contextvars.merge_contextvars,
        bind,
        add_facts,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _renderers(settings: LogSettings) -> list[Processor]:
    """From record to line."""
    if settings.json_lines:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(), mask_secrets]
    # plain tracebacks: rich ones show the values of local variables, logins among them
    return [
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        mask_secrets,
    ]


def mask_secrets(_logger: Any, _method: str, line: Any) -> Any:
    """Mask secrets in a finished line, whoever wrote it."""
    return masked_line(line) if isinstance(line, str) else line
