"""Where the library's logs go while a command runs: to stderr, since stdout is the result's."""

from __future__ import annotations

import logging
import sys

import structlog

from stagefleet.settings import LogSettings

__all__ = ["configure_logs"]


def configure_logs(settings: LogSettings, *, verbose: bool = False, quiet: bool = False) -> None:
    """Send logs to stderr: warnings, or more or less as it is asked for."""
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    if settings.level == "debug":
        level = logging.DEBUG
    logging.basicConfig(level=level, stream=sys.stderr, format="stagefleet: %(message)s")
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
    )
