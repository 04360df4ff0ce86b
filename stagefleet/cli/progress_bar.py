"""The progress bar."""

from __future__ import annotations

import time

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stagefleet.cli.report import ProgressLines
from stagefleet.runs.models import ItemState, Outcome


class ProgressBar(ProgressLines):
    """A bar with stages, bytes, rate and time left."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        super().__init__(total)
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("stages{task.fields[failed]}{task.fields[sent]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            redirect_stdout=False,  # results go to stdout, not through the bar's console
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=total, sent="", failed="")

    def start(self) -> None:
        self._progress.start()

    def advance(self, outcome: Outcome) -> None:
        self._bytes += outcome.bytes
        rate = self._bytes / max(time.monotonic() - self._started_at, 0.001)
        self._failed += outcome.state is ItemState.FAILED
        sent = f"  {decimal(self._bytes)}  {decimal(int(rate))}/s" if self._bytes else ""
        failed = f"  {self._failed:,} failed" if self._failed else ""
        self._progress.update(self._task, advance=1, sent=sent, failed=failed)

    def note(self, message: str) -> None:
        self._progress.console.print(f"stagefleet: {message}", markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        self._progress.stop()
