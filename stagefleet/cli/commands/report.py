"""`stagefleet report`."""

from __future__ import annotations

from typing import Annotated

import typer

from stagefleet.cli import options as opt
from stagefleet.cli.output import check_files, print_json, say, write_file
from stagefleet.cli.progress import REPORT_FORMS
from stagefleet.cli.session import connect
from stagefleet.errors import UsageError

Html = Annotated[
    str | None,
    typer.Option("--html", metavar="FILE|-", help="Write one page that needs nothing else, for an archive."),
]
Junit = Annotated[
    str | None,
    typer.Option("--junit", metavar="FILE|-", help="Write JUnit XML, as GitLab and Jenkins show it."),
]
ReportJson = Annotated[bool, typer.Option("--json", help="Print what the page tells as one JSON object.")]


def report_run(
    run_id: opt.RunId = None,
    *,
    idempotency_key: opt.RunKey = None,
    html: Html = None,
    junit: Junit = None,
    json: ReportJson = False,
) -> None:
    """Report on a run for an archive or a CI system: what was done, how fast, what failed and why.

    - is standard output. A run that is not finished is reported as it stands, and the report says so. Runs
    that follow it in its chain, as in a mirror or a purge, are part of its report.
    The exit code is 0 if the report is written, however the run ended.
    """
    if (run_id is None) == (idempotency_key is None):
        raise UsageError("name the run, or its key with --idempotency-key")
    wanted = [(form, file) for form, file in ((".html", html), (".xml", junit)) if file is not None]
    if not wanted and not json:
        raise UsageError("no form of a report is named: add --html FILE, --junit FILE or --json")
    if [*(file for _, file in wanted), "-" if json else ""].count("-") > 1:
        raise UsageError("stdout takes one form of a report: give the others files")
    check_files([file for _, file in wanted])
    with connect("stagefleet report") as fleet:
        found = fleet.run_under(idempotency_key or "") if run_id is None else fleet.run(run_id)
        report = fleet.report(found.id)
        for form, file in wanted:
            write_file(file, REPORT_FORMS[form](report))
        if json:
            print_json(report.as_json())
        for run in report.runs:
            if not run.state.is_final:
                say(
                    f"run {run.id} is {run.state}: the report tells what {run.done:,} of {run.total:,} items "
                    "came to"
                )
