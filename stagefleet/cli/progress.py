"""How far a run is: a bar on a terminal, a line now and then elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol

from rich.filesize import decimal

from stagefleet.cli.common_options import chosen_options
from stagefleet.cli.session import say
from stagefleet.runs.model import ItemState, Outcome, Run

__all__ = ["Lines", "Meter", "choose_meter"]

_LINE_SECONDS = 10.0


class Meter(Protocol):
    """Shows how far a run is."""

    def start(self) -> None:
        """Begin to show."""

    def advance(self, outcome: Outcome) -> None:
        """Count one outcome."""

    def tell(self, message: str) -> None:
        """Say something meanwhile, in a line of its own."""

    def stop(self) -> None:
        """Show no more."""


def choose_meter(run: Run, *, stdout_is_shared: bool) -> Meter:
    """A bar where stderr is a terminal, unless results appear on the same terminal as they come."""
    if chosen_options().quiet:
        return Lines(run.total)
    shares = stdout_is_shared and sys.stdout is not None and sys.stdout.isatty()
    if sys.stderr.isatty() and not shares:
        from stagefleet.cli.bar import Bar  # noqa: PLC0415 - where no bar is shown, loading it is a tenth of the start

        return Bar(run.total)
    return Lines(run.total)


class Lines:
    """A plain line each ten seconds, for logs.

    Args:
        total: Stages in the run.
        clock: Seconds, monotonic.
        write: Takes a line.
    """

    def __init__(
        self, total: int, *, clock: Callable[[], float] = time.monotonic, write: Callable[[str], None] = say
    ) -> None:
        self._total = total
        self._clock = clock
        self._write = write
        self._done = 0
        self._failed = 0
        self._bytes = 0
        self._started_at = self._said_at = clock()

    def start(self) -> None:
        """Do nothing."""

    def advance(self, outcome: Outcome) -> None:
        self._done += 1
        self._failed += outcome.state is ItemState.FAILED
        self._bytes += outcome.bytes
        now = self._clock()
        if now - self._said_at < _LINE_SECONDS:
            return
        self._said_at = now
        elapsed = now - self._started_at
        left = elapsed / self._done * (self._total - self._done)
        failed = f" ({self._failed:,} failed)" if self._failed else ""
        self._write(
            f"{self._done:,} of {self._total:,} stages{failed}, {decimal(self._bytes)}, "
            f"{decimal(int(self._bytes / elapsed))}/s, {left:.0f} s left"
        )

    def tell(self, message: str) -> None:
        self._write(message)

    def stop(self) -> None:
        """Do nothing."""
