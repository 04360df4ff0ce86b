"""The fleet of a command, and the handling of Ctrl-C during its run."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TextIO

import stagefleet
from stagefleet.cli.options import chosen_options
from stagefleet.cli.output import flush_output
from stagefleet.errors import StagefleetError, UsageError
from stagefleet.logs import limit_libraries
from stagefleet.redaction import masked_line
from stagefleet.redis_client import RedisRetry
from stagefleet.settings_sources import unknown_variables

if TYPE_CHECKING:
    from stagefleet import Fleet, Settings
    from stagefleet.settings import LogSettings


def say(message: str) -> None:
    """Print a message on stderr that is neither a result nor an error."""
    if chosen_options().quiet:
        return
    sys.stderr.write(f"stagefleet: {message}\n")
    sys.stderr.flush()


def read_settings(parallel: int | None = None) -> Settings:
    """Read the settings with the command line's overrides; warn about unknown variables."""
    options = chosen_options()
    settings = stagefleet.load_settings(**options.overrides)
    configure_logs(settings.log, verbose=options.verbose, quiet=options.quiet)
    for name, meant in unknown_variables(stagefleet.Settings).items():
        say(f"{name} is no setting and changes nothing{f': did you mean {meant}?' if meant else ''}")
    if parallel is None:
        return settings
    return settings.model_copy(update={"runs": settings.runs.model_copy(update={"parallel": parallel})})


def connect(purpose: str) -> Fleet:
    """Connect to the fleet at the settings' Redis; the error names the purpose."""
    settings = read_settings()
    if settings.redis_url is None:
        raise UsageError(f"{purpose} needs a fleet: set STAGEFLEET_REDIS_URL")
    return stagefleet.Fleet.connect(settings=settings, on_notice=say)


def open_fleet(
    *, embedded: bool = False, parallel: int | None = None, needs_fleet: str | None = None
) -> Fleet:
    """Open the fleet at the settings' Redis, or an embedded one if requested or without a URL.

    `needs_fleet` is the option that an embedded fleet cannot serve, if one was given.
    """
    settings = read_settings(parallel)
    if not embedded and settings.redis_url is not None:
        return stagefleet.Fleet.connect(settings=settings, on_notice=say)
    if needs_fleet is not None:
        reason = "does not go with --embedded" if embedded else "needs a fleet: set STAGEFLEET_REDIS_URL"
        raise UsageError(f"{needs_fleet} {reason}")

    def announce() -> None:
        if not embedded:
            say("no STAGEFLEET_REDIS_URL: starting a private Valkey and a worker for this command")

    return stagefleet.Fleet.embedded(settings=settings, on_notice=say, on_start=announce)


@contextlib.contextmanager
def cancelling_on_interrupt(fleet: Fleet, run_id: str) -> Iterator[None]:
    """Cancel the run at the first SIGINT or SIGTERM, and wait for items in progress; exit at the second."""
    pressed = threading.Event()

    def cancel() -> None:
        say(f"cancelling run {run_id}: what runs is finished first; once more leaves at once")
        try:
            RedisRetry(fleet.settings.runs.outage_seconds)(lambda: fleet.cancel(run_id))
        except StagefleetError as error:
            say(f"run {run_id} cannot be cancelled: {error}")

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        # In a thread: a signal handler may interrupt a write or a request.
        threading.Thread(target=cancel, name="cancel", daemon=True).start()

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupt) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


# Logs of commands: they go to stderr, since stdout is for the result.


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


# Commands that become one of the fleet's processes.


def become(command: Sequence[str]) -> NoReturn:
    """Replace this process by another one of ours, which takes the options of all commands with it."""
    flush_output()
    environment = os.environ | chosen_options().environment
    os.execve(sys.executable, list(command), environment)  # noqa: S606 - no shell is meant
