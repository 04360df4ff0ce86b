"""Progress of a run on stderr: a bar on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.filesize import decimal

import stagefleet
from stagefleet.cli.options import chosen_options
from stagefleet.cli.session import say

if TYPE_CHECKING:
    from stagefleet import Outcome, Run

_LINE_SECONDS = 10.0


def choose_display(run: Run, *, stdout_is_shared: bool) -> ProgressLines:
    """Choose a bar if stderr is a terminal, unless results appear on the same terminal."""
    if chosen_options().quiet:
        return ProgressLines(run.total)
    shares = stdout_is_shared and sys.stdout is not None and sys.stdout.isatty()
    if sys.stderr.isatty() and not shares:
        from stagefleet.cli.progress_bar import ProgressBar  # noqa: PLC0415 - a tenth of the start-up time, for a bar only

        return ProgressBar(run.total)
    return ProgressLines(run.total)


class ProgressLines:
    """Show the progress of a run by a plain line every ten seconds, for logs.

    Args:
        total: Stages in the run.
        clock: Returns monotonic seconds.
        write: Called with each line.
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
        """Start the display."""

    def stop(self) -> None:
        """End the display."""

    def advance(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self._done += 1
        self._failed += outcome.state is stagefleet.ItemState.FAILED
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

    def note(self, message: str) -> None:
        """Print a message on a line of its own."""
        self._write(message)
