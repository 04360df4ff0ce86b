"""Logs of commands: they go to stderr, since stdout is for the result."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from stagefleet.logs import limit_libraries
from stagefleet.redaction import masked_line
from stagefleet.settings import LogSettings

__all__ = ["configure_logs"]


class _Masking(logging.Formatter):
    """Mask secrets in each line, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return masked_line(super().format(record))


class _Stderr(logging.StreamHandler[TextIO]):
    """Write to the current `sys.stderr`: a program may run several commands."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure_logs(settings: LogSettings, *, verbose: bool = False, quiet: bool = False) -> None:
    """Send logs to stderr: warnings, or more with `verbose` and fewer with `quiet`."""
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    if settings.level == "debug":
        level = logging.DEBUG
    root = logging.getLogger()
    if not any(isinstance(handler, _Stderr) for handler in root.handlers):
        handler = _Stderr()
        handler.setFormatter(_Masking("stagefleet: %(message)s"))
        root.addHandler(handler)
    limit_libraries(level)
