"""The session of a command: its settings, its fleet, and the run that it starts and follows."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

import stagefleet
from stagefleet.cli import options as opt, raise_interrupt
from stagefleet.cli.output import flush_output, print_json, print_line, say
from stagefleet.cli.progress import RunReport, check_report_files, exit_code, print_plan, writing_reports
from stagefleet.errors import NoWorkerError, OutputError, StagefleetError, UsageError
from stagefleet.logs import limit_libraries
from stagefleet.names import LAYOUT_PREFIX
from stagefleet.redaction import masked_line, plain_text
from stagefleet.redis_client import RedisRetry
from stagefleet.settings_sources import unknown_variables

if TYPE_CHECKING:
    from stagefleet.fleet.project import FleetProject
    from stagefleet.project_addresses import Items
    from stagefleet.settings import LogSettings


def read_settings(parallel: int | None = None) -> stagefleet.Settings:
    """Read the settings with the command line's overrides; warn about unknown variables."""
    options = opt.chosen_options()
    settings = stagefleet.load_settings(**options.overrides)
    configure_logs(settings.log, verbose=options.verbose, quiet=options.quiet)
    for name, meant in unknown_variables(stagefleet.Settings).items():
        say(f"{name} is no setting and changes nothing{f': did you mean {meant}?' if meant else ''}")
    if parallel is None:
        return settings
    return settings.model_copy(update={"runs": settings.runs.model_copy(update={"parallel": parallel})})


def connect(purpose: str) -> stagefleet.Fleet:
    """Connect to the fleet at the settings' Redis; the error names the purpose."""
    settings = read_settings()
    if settings.redis_url is None:
        raise UsageError(f"{purpose} needs a fleet: set STAGEFLEET_REDIS_URL")
    return stagefleet.Fleet.connect(settings=settings, on_notice=say)


def open_fleet(
    *addresses: str | None,
    hosts: Sequence[str] | None = None,
    embedded: bool = False,
    parallel: int | None = None,
    needs_fleet: str | None = None,
) -> stagefleet.Fleet:
    """Open the fleet at the settings' Redis, or an embedded one if requested or without a URL.

    A layout among the addresses is one of this host: without `hosts` the command works on it itself.
    `needs_fleet` is the option that an embedded fleet cannot serve, if one was given.
    """
    settings = read_settings(parallel)
    layout = None if hosts else _find_layout(addresses)
    if not embedded and layout is None and settings.redis_url is not None:
        return stagefleet.Fleet.connect(settings=settings, on_notice=say)
    why = "no STAGEFLEET_REDIS_URL" if settings.redis_url is None else f"{layout} is on this host"
    if needs_fleet is not None:
        if embedded:
            raise UsageError(f"{needs_fleet} does not go with --embedded")
        way_out = "set STAGEFLEET_REDIS_URL" if layout is None else f"name the host of {layout} with --host"
        raise UsageError(f"{needs_fleet} needs a fleet: {way_out}")

    def announce() -> None:
        if not embedded:
            say(f"{why}: starting a private Valkey and a worker for this command")

    return stagefleet.Fleet.embedded(settings=settings, on_notice=say, on_start=announce)


# Logs of commands: they go to stderr, since stdout is for the result.


class _Masking(logging.Formatter):
    """Mask secrets and what steers a terminal in each line, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return plain_text(masked_line(super().format(record)))


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


# The options of every command that starts a run.


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of any run; each field is an option of the command line."""

    parallel: opt.Parallel = None
    from_file: Annotated[
        str | None,
        typer.Option("--from-file", metavar="FILE|-", help="Read ids, one a line; - is standard input."),
    ] = None
    detach: Annotated[bool, typer.Option("--detach", help="Print the run's id and leave.")] = False
    idempotency_key: Annotated[
        str | None,
        typer.Option("--idempotency-key", metavar="K", help="Do the same work under the same key only once."),
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, do nothing.")] = False
    missing_ok: opt.MissingOk = False
    json: opt.Json = False
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Start a private Valkey and a worker for this command alone.")
    ] = False
    on_outcome_url: Annotated[
        str | None,
        typer.Option(
            "--on-outcome-url",
            metavar="URL",
            help="The fleet calls it for each outcome; signed where webhooks.secret is set.",
        ),
    ] = None
    on_outcome_task: Annotated[
        str | None,
        typer.Option(
            "--on-outcome-task",
            metavar="NAME[@QUEUE]",
            help="Instead: a Celery task, published for each outcome.",
        ),
    ] = None
    on_finish_url: Annotated[
        str | None,
        typer.Option("--on-finish-url", metavar="URL", help="The fleet calls it at the run's end."),
    ] = None
    report: Annotated[
        list[str] | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Report on the run at its end: a page to FILE.html, JUnit XML to FILE.xml, or FILE.json; "
            "repeatable.",
        ),
    ] = None

    def __post_init__(self) -> None:
        _ = self.callback  # rejects an invalid callback
        if self.parallel is not None and self.parallel < 1:
            raise UsageError(f"--parallel {self.parallel}: write 1 or more (1 is serial)")
        if self.detach and self.dry_run:
            raise UsageError("--dry-run starts no run to detach from: leave out --detach")
        check_report_files(self.report or ())
        if self.report and (self.detach or self.dry_run):
            given = "--detach" if self.detach else "--dry-run"
            raise UsageError(
                f"--report is written at the end of a run, and does not go with {given}: "
                "write it later with stagefleet report"
            )

    @property
    def callback(self) -> stagefleet.RemoteCallback | None:
        """The callback by the fleet; None without one."""
        return stagefleet.RemoteCallback.of(self.on_outcome_url, self.on_outcome_task, self.on_finish_url)

    def open_fleet(self, *addresses: str | None, hosts: Sequence[str] | None = None) -> stagefleet.Fleet:
        """Open the fleet that these options select; arguments as of `open_fleet`."""
        needing = {
            "--detach": self.detach,
            "--idempotency-key": self.idempotency_key is not None,
            "a callback of the fleet's": self.callback is not None,
        }
        return open_fleet(
            *addresses,
            hosts=hosts,
            embedded=self.embedded,
            parallel=self.parallel,
            needs_fleet=next((name for name, is_given in needing.items() if is_given), None),
        )


def takes_run_options(*, but: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options of a run to a command; the function receives them as one value, `options`.

    Typer reads a command's options from its signature, so this changes the signature.
    """
    fields = inspect.signature(RunOptions, eval_str=True).parameters.values()
    shared = [field for field in fields if field.name not in but]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run_command(**arguments: Any) -> None:
            options = RunOptions(**{field.name: arguments.pop(field.name) for field in shared})
            command(**arguments, options=options)

        own = inspect.signature(command, eval_str=True)
        kept = [parameter for parameter in own.parameters.values() if parameter.name != "options"]
        signature = own.replace(parameters=[*kept, *shared])
        run_command.__signature__ = signature  # type: ignore[attr-defined]  # `inspect` reads this first
        return run_command

    return decorate


# Start and follow a run, for every command that starts one.


def run_operation(
    fleet: stagefleet.Fleet,
    operation: stagefleet.Operation,
    items: Items | None,
    options: RunOptions,
    *,
    project: FleetProject | None = None,
    if_empty: str = "there is nothing to do",
) -> None:
    """Print the plan of a dry run; else start the run, and follow it unless it is detached.

    Items of None are all. Ends with `typer.Exit` and the exit code of the run.
    """
    runs = project or fleet
    if options.dry_run:
        print_plan(runs.plan(operation, items, missing_ok=options.missing_ok), as_json=options.json)
        return
    with cancelling_on_interrupt(fleet) as interrupts:
        run = runs.start(
            operation,
            items,
            options.callback,
            parallel=options.parallel,
            idempotency_key=options.idempotency_key,
            missing_ok=options.missing_ok,
        )
        detach_or_follow(fleet, run, options, interrupts, if_empty=if_empty)


def detach_or_follow(
    fleet: stagefleet.Fleet,
    run: stagefleet.Run,
    options: RunOptions,
    interrupts: Interrupts,
    *,
    if_empty: str = "",
) -> None:
    """Print the run's id and return, or follow the run to its end, which exits with the run's code."""
    if not options.detach:
        interrupts.cancel(run.id)
    if if_empty and not run.total:
        say(if_empty)
    if not options.detach:
        with writing_reports(fleet, [run], options.report):
            ended = watch_run(fleet, run, interrupts, as_json=options.json)
        raise typer.Exit(exit_code(ended))
    with naming_run(fleet, run.id):
        if options.json:
            print_json(run.summary())
        else:
            print_line(run.id)


@contextlib.contextmanager
def naming_run(fleet: stagefleet.Fleet, run_id: str) -> Iterator[None]:
    """Flush stdout, and name the run if that fails: the user may not know its id otherwise.

    It continues then, unless the fleet is embedded.
    """
    try:
        yield
        flush_output()
    except OutputError as error:
        where = (
            f"look at run {run_id} with stagefleet runs show {run_id}"
            if fleet.keeps_runs
            else f"run {run_id} ends with this command"
        )
        raise OutputError(f"{error}; {where}") from None


def watch_run(
    fleet: stagefleet.Fleet,
    run: stagefleet.Run,
    interrupts: Interrupts,
    *,
    as_json: bool,
    no_worker_limit_seconds: float | None = None,
) -> stagefleet.Run:
    """Follow a run to its end, report it, and return it; an interrupt cancels it."""
    interrupts.cancel(run.id)
    report = RunReport(run, as_json=as_json, in_fleet=fleet.keeps_runs)
    try:
        with naming_run(fleet, run.id), report:
            ended = fleet.wait(
                run, report.show, on_notice=report.note, no_worker_limit_seconds=no_worker_limit_seconds
            )
    except NoWorkerError:
        report.conclude(fleet.run(run.id))
        raise
    with naming_run(fleet, run.id):
        report.conclude(ended)
    return ended


def _find_layout(addresses: Iterable[str | None]) -> str | None:
    return next((text for text in addresses if text is not None and text.startswith(LAYOUT_PREFIX)), None)


class Interrupts:
    """Cancel the run that a command follows at the first SIGINT or SIGTERM; leave at the second.

    While no run has started, the first one leaves, too.
    """

    def __init__(self, fleet: stagefleet.Fleet) -> None:
        self._fleet = fleet
        self._run_id: str | None = None
        self._pressed = False
        self._cancelled: set[str] = set()

    def cancel(self, run_id: str) -> None:
        """Cancel this run from now on, or at once if the signal came while the one before it ended."""
        self._run_id = run_id
        if self._pressed:
            self._begin_cancel(run_id)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self._pressed or self._run_id is None:
            raise_interrupt(number, frame)
        self._pressed = True
        self._begin_cancel(self._run_id)

    def _begin_cancel(self, run_id: str) -> None:
        """Cancel in a thread: a signal handler may interrupt a write or a request."""
        if run_id not in self._cancelled:
            self._cancelled.add(run_id)
            threading.Thread(target=self._cancel, args=(run_id,), name="cancel", daemon=True).start()

    def _cancel(self, run_id: str) -> None:
        say(f"cancelling run {run_id}: what runs is finished first; once more leaves at once")
        try:
            RedisRetry(self._fleet.settings.runs.outage_seconds)(lambda: self._fleet.cancel(run_id))
        except StagefleetError as error:
            say(f"run {run_id} cannot be cancelled: {error}")


@contextlib.contextmanager
def cancelling_on_interrupt(fleet: stagefleet.Fleet) -> Iterator[Interrupts]:
    """Handle SIGINT and SIGTERM from before a run starts until it has ended, so that none leaves it alone."""
    interrupts = Interrupts(fleet)
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupts.handle) for number in signals]
    try:
        yield interrupts
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
