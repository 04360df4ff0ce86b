"""Progress and results of runs: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.filesize import decimal

import stagefleet
from stagefleet.cli.options import chosen_options
from stagefleet.cli.output import as_line, check_files, print_json, print_line, say, write_file
from stagefleet.errors import NoWorkerError, UsageError
from stagefleet.operations.catalog import find_operation
from stagefleet.redaction import plain_text

if TYPE_CHECKING:
    from rich.console import Console

    from stagefleet.fleet.project import FleetProject
    from stagefleet.registry.referrers import Referrer
    from stagefleet.reports.report import Report

_LINE_SECONDS = 10.0


def choose_display(run: stagefleet.Run, *, stdout_is_shared: bool) -> ProgressLines:
    """Choose a bar if stderr is a terminal, unless results appear on the same terminal."""
    if chosen_options().quiet:
        return ProgressLines(run.total)
    shares = stdout_is_shared and sys.stdout is not None and sys.stdout.isatty()
    if sys.stderr.isatty() and not shares:
        return ProgressBar(run.total)
    return ProgressLines(run.total)


class ProgressLines:
    """Show the progress of a run by a plain line every ten seconds, for logs."""

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

    def advance(self, outcome: stagefleet.Outcome) -> None:
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


class ProgressBar(ProgressLines):
    """A bar with stages, bytes, rate and time left."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        from rich import console as rich_console, progress  # noqa: PLC0415 - slow, and only for a bar

        super().__init__(total)
        self._progress = progress.Progress(
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("stages{task.fields[failed]}{task.fields[sent]}"),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=console or rich_console.Console(stderr=True),
            redirect_stdout=False,  # results go to stdout, not through the bar's console
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=total, sent="", failed="")

    def start(self) -> None:
        self._progress.start()

    def advance(self, outcome: stagefleet.Outcome) -> None:
        self._bytes += outcome.bytes
        rate = self._bytes / max(time.monotonic() - self._started_at, 0.001)
        self._failed += outcome.state is stagefleet.ItemState.FAILED
        sent = f"  {decimal(self._bytes)}  {decimal(int(rate))}/s" if self._bytes else ""
        failed = f"  {self._failed:,} failed" if self._failed else ""
        self._progress.update(self._task, advance=1, sent=sent, failed=failed)

    def note(self, message: str) -> None:
        # Above the bar, which the one place for messages would tear.
        line = f"stagefleet: {plain_text(message)}"
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        self._progress.stop()


_NAMES_SETTING = 'registries."'
"""What the advice to change a setting of a registry contains."""
_FAILURES_TOLD = 20
"""The maximum of failures to print: a common cause may fail thousands of items."""
_NOTES_TOLD = 20
EXIT_CODES = {"failed": 1, "cancelling": 3, "cancelled": 3}


def exit_code(run: stagefleet.Run) -> int:
    """Return the exit code for a run; 0 for one in progress."""
    return EXIT_CODES.get(run.state, 0)


def describe_run(run: stagefleet.Run) -> str:
    """Describe the state of a run in one line."""
    if run.state is stagefleet.RunState.UNREADABLE and run.error is not None:
        return f"run {run.id} {run.state}: {run.error.message}"
    operation = find_operation(run.spec.operation)
    noun, past = ("stage", "done") if operation is None else (operation.noun, operation.past)
    nouns = noun if run.total == 1 else f"{noun}s"
    counts = [
        (run.succeeded, past),
        (run.skipped, "skipped"),
        (run.failed, "failed"),
        (run.cancelled, "cancelled"),
    ]
    parts = [f"{count:,} {word}" for count, word in counts if count]
    open_items = run.total - run.done
    if open_items and not run.state.is_final:
        parts.append(f"{open_items:,} to do")
    sent = f", {decimal(run.bytes)}" if run.bytes else ""
    return (
        f"run {run.id} {run.state}: {run.total:,} {nouns} ({', '.join(parts) or 'nothing to do'})"
        f"{sent} in {run.seconds:.1f} s"
    )


def describe_failure(outcome: stagefleet.Outcome, *, in_fleet: bool) -> str:
    """Describe a failed item in one line: the item, its host and the reason.

    `in_fleet` is true if a worker of a fleet tried it, which has settings of its own.
    """
    where = f" on {outcome.host}" if outcome.host else ""
    message = "" if outcome.error is None else outcome.error.message
    whose = " (in the settings of the workers)" if in_fleet and _NAMES_SETTING in message else ""
    return f"{outcome.item}{where} failed: {message}{whose}"


def print_plan(plan: stagefleet.Plan, *, as_json: bool, referrers_in: FleetProject | None = None) -> None:
    """Print the plan of a dry run; with what refers to each stage in the primary storage of a project."""
    found: dict[str, Sequence[Referrer]] = {}
    if referrers_in is not None and plan.items:
        found = {str(item): along for item, along in referrers_in.referrers(plan.items, missing_ok=True)}
    if not as_json:
        for outcome in _outcomes_of(plan):
            where = f"  {outcome.host}" if outcome.host else ""
            print_line(f"{outcome.item}{where}  {outcome.state}")
            for referrer in found.get(outcome.item, ()):
                print_line(describe_referrer(referrer))
        print_line(f"dry run: {len(plan.items):,} planned, {len(plan.skipped):,} skipped; nothing was done")
        return
    for outcome in _outcomes_of(plan):
        named = [referrer.as_json() for referrer in found.get(outcome.item, ())]
        print_json(outcome.as_json() | ({"referrers": named} if named else {}))
    counts = dict.fromkeys(("succeeded", "failed"), 0) | {"skipped": len(plan.skipped), "cancelled": 0}
    print_json({"run": None, "state": "planned", "total": len(plan), **counts, "seconds": 0.0})


def describe_referrer(referrer: Referrer) -> str:
    """Describe a referrer in one line, below its stage."""
    descriptor = referrer.descriptor
    kind = referrer.tag or descriptor.artifact_type or descriptor.media_type
    return f"  {descriptor.digest}  {decimal(descriptor.size):>10}  {kind}"


def _outcomes_of(plan: stagefleet.Plan) -> Iterator[stagefleet.Outcome]:
    for state, items in (("skipped", plan.skipped), ("planned", plan.items)):
        yield from (stagefleet.Outcome.without_task(item, stagefleet.ItemState(state)) for item in items)


class RunReport:
    """Print the progress and the end of a run; without a `display`, stderr decides which one shows it."""

    def __init__(
        self,
        run: stagefleet.Run,
        *,
        as_json: bool,
        display: ProgressLines | None = None,
        in_fleet: bool = False,
    ) -> None:
        self._as_json = as_json
        self._in_fleet = in_fleet
        self._failures = 0
        self._missing = 0
        self._referrers: int | None = None
        self._lacking: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()
        self._display = display or choose_display(run, stdout_is_shared=as_json)

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._display.stop()

    def show(self, outcome: stagefleet.Outcome) -> None:
        """Print one outcome."""
        self._display.advance(outcome)
        caches = (outcome.result or {}).get("caches", {})
        self._lacking.update(cache for cache, state in caches.items() if state.startswith("failed"))
        self._notes.update((outcome.result or {}).get("notes", ()))
        self._missing += outcome.was_not_there
        referrers = (outcome.result or {}).get("referrers")
        if isinstance(referrers, int):
            self._referrers = (self._referrers or 0) + referrers
        if self._as_json:
            print_json(outcome.as_json())
        if outcome.state is stagefleet.ItemState.FAILED and outcome.error is not None:
            self._failures += 1
            if self._failures <= _FAILURES_TOLD:
                self._display.note(describe_failure(outcome, in_fleet=self._in_fleet))
            elif self._failures == _FAILURES_TOLD + 1:
                self._display.note("more items failed; from here on they are only counted (--json tells all)")

    def note(self, message: str) -> None:
        """Print a message on stderr."""
        self._display.note(message)

    def conclude(self, run: stagefleet.Run) -> None:
        """Stop the progress display, and print the end of the run."""
        if self._lacking:
            caches = ", ".join(f"{cache} ({count:,})" for cache, count in self._lacking.items())
            say(
                f"caches that could not be given their stages: {caches}; "
                f"look at each: stagefleet list {next(iter(self._lacking))}"
            )
        for note, count in self._notes.most_common(_NOTES_TOLD):
            say(f"{note} ({count:,})")
        if self._missing:
            was = "was" if self._missing == 1 else "were"
            say(f"{self._missing:,} of {run.total:,} {was} not there, and so not deleted")
        if self._as_json:
            counted = {} if self._referrers is None else {"referrers": self._referrers}
            print_json(run.summary() | counted)
            return
        if self._referrers:
            noun = "referrer" if self._referrers == 1 else "referrers"
            say(f"{self._referrers:,} {noun} went along")
        print_line(describe_run(run))
        if run.error is not None:
            print_line(f"first error: {run.error.message}")


# Files with the report of a run.

REPORT_FORMS: Mapping[str, Callable[[Report], Iterable[bytes]]] = {
    ".html": lambda report: [report.html().encode()],
    ".xml": lambda report: report.junit(),
    ".json": lambda report: [f"{as_line(report.as_json())}\n".encode(errors="replace")],
}
"""The forms of a report, by the ending of the file's name."""


def check_report_files(files: Collection[str]) -> None:
    """Raise `UsageError` for a name that tells no form of a report, or where none can be written."""
    for file in files:
        if Path(file).suffix not in REPORT_FORMS:
            raise UsageError(f"--report {file}: let its name end in {' or '.join(REPORT_FORMS)}")
    check_files(files)


@contextmanager
def writing_reports(
    fleet: stagefleet.Fleet, runs: Sequence[stagefleet.Run], files: Sequence[str] | None
) -> Iterator[None]:
    """Write the report of runs, the first of a chain, at the end of the block, or if no worker listens.

    Each file has the form that its name tells.
    """

    def write() -> None:
        if files and not runs:
            say("no run was started: there is nothing to report on")
        elif files:
            report = fleet.report(runs[0].id)
            for file in files:
                write_file(file, REPORT_FORMS[Path(file).suffix](report))

    try:
        yield
    except NoWorkerError:
        write()
        raise
    write()
