"""Start and follow a run, for every command that starts one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from stagefleet.cli.output import flush_output, print_json, print_line
from stagefleet.cli.report import RunReport, exit_code
from stagefleet.cli.run_options import RunOptions
from stagefleet.cli.session import cancelling_on_interrupt
from stagefleet.client import Fleet
from stagefleet.errors import NoWorkerError, OutputError
from stagefleet.runs.models import Run

__all__ = ["detach_or_follow", "follow_run", "naming_run"]


def detach_or_follow(fleet: Fleet, run: Run, options: RunOptions) -> None:
    """Print the run's id and return, or follow the run to its end.

    Raises:
        typer.Exit: With the exit code of the run.
    """
    if not options.detach:
        follow_run(fleet, run, as_json=options.json, follow=fleet.follow)
    with naming_run(fleet, run.id):
        if options.json:
            print_json(run.summary())
        else:
            print_line(run.id)


@contextmanager
def naming_run(fleet: Fleet, run_id: str) -> Iterator[None]:
    """Flush stdout, and name the run if that fails: the user may not know its id otherwise.

    Raises:
        OutputError: Stdout cannot be written; the run continues, unless the fleet is embedded.
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


def follow_run(fleet: Fleet, run: Run, *, as_json: bool, follow: Callable[..., Run]) -> None:
    """Follow a run to its end and report it; an interrupt cancels it.

    Args:
        fleet: The fleet.
        run: The run as it started.
        as_json: Print results as JSON objects.
        follow: Follows a run with a callback: `Fleet.follow` or `Fleet.watch`.

    Raises:
        typer.Exit: With the exit code of the run.
    """
    report = RunReport(run, as_json=as_json)
    with cancelling_on_interrupt(fleet, run.id):
        try:
            with naming_run(fleet, run.id), report:
                ended = follow(run.id, report.show, on_notice=report.note)
        except NoWorkerError:
            report.conclude(fleet.run(run.id))
            raise
    with naming_run(fleet, run.id):
        report.conclude(ended)
    raise typer.Exit(exit_code(ended))
