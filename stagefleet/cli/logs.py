"""Where the library's logs go while a command runs: to stderr, since stdout is the result's."""

from __future__ import annotations

import logging
import sys

import structlog

from stagefleet.library_logs import limit_libraries
from stagefleet.redaction import masked_line
from stagefleet.settings import LogSettings

__all__ = ["configure_logs"]


class _Masking(logging.Formatter):
    """Masks what no line should hold, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return masked_line(super().format(record))


def configure_logs(settings: LogSettings, *, verbose: bool = False, quiet: bool = False) -> None:
    """Send logs to stderr: warnings, or more or less as it is asked for."""
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    if settings.level == "debug":
        level = logging.DEBUG
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Masking("stagefleet: %(message)s"))
    logging.basicConfig(handlers=[handler])
    limit_libraries(level)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            # plain tracebacks: rich ones show the values of local variables, logins among them
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
            lambda _logger, _method, line: masked_line(str(line)),
        ],
    )
