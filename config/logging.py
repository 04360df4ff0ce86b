"""Logs on stderr, one record per line, Celery's own included.

All records go through the standard library's root logger and one chain of processors, so that they have one
format. Run, item and worker are bound in the context (`structlog.contextvars`). Masking applies to the
finished line: logins and queries of addresses, and the secrets that this process has read.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from structlog.typing import Processor

from stagefleet.logs import limit_libraries
from stagefleet.redaction import masked_line, plain_text
from stagefleet.settings import LogSettings


def configure_logging(settings: LogSettings, **bound: object) -> None:
    """Send all logs of this process to stderr, each record with the fields `bound`, as `worker`."""
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
    """Return the processors for every record, whatever its logger."""

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
    """Return the processors that format a record as a line."""
    if settings.json_lines:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(), mask_secrets]
    # plain tracebacks: rich ones show the values of local variables, logins among them
    return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback), mask_secrets]


def mask_secrets(_logger: Any, _method: str, line: Any) -> Any:
    """Mask secrets in a finished line, whatever its logger, and what steers text but colours."""
    return plain_text(masked_line(line), keep="\n\t\x1b") if isinstance(line, str) else line
