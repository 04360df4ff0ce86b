"""Start a run and see it through, the same way for every command that starts one."""

from __future__ import annotations

from collections.abc import Callable

import typer

from stagefleet.cli.report import RunReport, exit_code, print_json, print_line
from stagefleet.cli.run_options import RunOptions
from stagefleet.cli.session import cancelling_on_interrupt
from stagefleet.client import Fleet
from stagefleet.errors import NoWorkerError
from stagefleet.runs.model import Run

__all__ = ["follow_run", "leave_or_follow"]


def leave_or_follow(fleet: Fleet, run: Run, options: RunOptions) -> None:
    """Say which run it is and leave, or follow it to its end.

    Raises:
        typer.Exit: With the code that the run gives.
    """
    if not options.detach:
        follow_run(fleet, run, as_json=options.json, follow=fleet.attend)
    if options.json:
        print_json(run.summary())
    else:
        print_line(run.id)


def follow_run(fleet: Fleet, run: Run, *, as_json: bool, follow: Callable[..., Run]) -> None:
    """Follow a run to its end and report it; an interrupt cancels it.

    Args:
        fleet: Where the run is.
        run: The run as it started.
        as_json: Whether results are JSON objects.
        follow: Follows a run with a callback: `Fleet.attend` or `Fleet.watch`.

    Raises:
        typer.Exit: With the code that the run gives.
    """
    report = RunReport(run, as_json=as_json)
    with cancelling_on_interrupt(fleet, run.id):
        try:
            with report:
                ended = follow(run.id, report.show, on_notice=report.tell)
        except NoWorkerError:
            report.conclude(fleet.run(run.id))
            raise
    report.conclude(ended)
    raise typer.Exit(exit_code(ended))
