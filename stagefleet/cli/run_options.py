"""The options of every command that starts a run."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

import stagefleet
from stagefleet.cli import options as opt
from stagefleet.cli.output import flush_output, print_json, print_line
from stagefleet.cli.report import RunReport, exit_code, print_plan
from stagefleet.cli.session import cancelling_on_interrupt, open_fleet, say
from stagefleet.errors import NoWorkerError, OutputError, UsageError

if TYPE_CHECKING:
    from stagefleet import Fleet, RemoteCallback, Run
    from stagefleet.fleet.callbacks import StartArguments
    from stagefleet.fleet.project import FleetProject
    from stagefleet.operations.base import Items, Operation


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

    def __post_init__(self) -> None:
        _ = self.callback  # rejects an invalid callback
        if self.parallel is not None and self.parallel < 1:
            raise UsageError(f"--parallel {self.parallel}: write 1 or more (1 is serial)")
        if self.detach and self.dry_run:
            raise UsageError("--dry-run starts no run to detach from: leave out --detach")

    @property
    def callback(self) -> RemoteCallback | None:
        """The callback by the fleet; None without one."""
        return stagefleet.RemoteCallback.of(self.on_outcome_url, self.on_outcome_task, self.on_finish_url)

    @property
    def arguments(self) -> StartArguments:
        """The keyword arguments of the run."""
        return {
            "parallel": self.parallel,
            "idempotency_key": self.idempotency_key,
            "missing_ok": self.missing_ok,
        }

    def open_fleet(self) -> Fleet:
        """Open the fleet that these options select."""
        needing = {
            "--detach": self.detach,
            "--idempotency-key": self.idempotency_key is not None,
            "a callback of the fleet's": self.callback is not None,
        }
        return open_fleet(
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
    fleet: Fleet,
    operation: Operation,
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
    run = runs.start(operation, items, options.callback, **options.arguments)
    if not run.total:
        say(if_empty)
    detach_or_follow(fleet, run, options)


def detach_or_follow(fleet: Fleet, run: Run, options: RunOptions) -> None:
    """Print the run's id and return, or follow the run to its end, which exits with the run's code."""
    if not options.detach:
        follow_run(fleet, run, as_json=options.json)
    with naming_run(fleet, run.id):
        if options.json:
            print_json(run.summary())
        else:
            print_line(run.id)


@contextmanager
def naming_run(fleet: Fleet, run_id: str) -> Iterator[None]:
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


def follow_run(
    fleet: Fleet, run: Run, *, as_json: bool, no_worker_limit_seconds: float | None = None
) -> None:
    """Follow a run to its end, report it, and exit with its code; an interrupt cancels it."""
    report = RunReport(run, as_json=as_json, in_fleet=fleet.keeps_runs)
    with cancelling_on_interrupt(fleet, run.id):
        try:
            with naming_run(fleet, run.id), report:
                ended = fleet.wait(
                    run,
                    report.show,
                    on_notice=report.note,
                    no_worker_limit_seconds=no_worker_limit_seconds,
                )
        except NoWorkerError:
            report.conclude(fleet.run(run.id))
            raise
    with naming_run(fleet, run.id):
        report.conclude(ended)
    raise typer.Exit(exit_code(ended))
