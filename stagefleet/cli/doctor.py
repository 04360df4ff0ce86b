"""`stagefleet doctor`: says what is missing or unreachable, and what to do."""

from __future__ import annotations

from typing import Annotated

import typer

from stagefleet.cli import options as opt
from stagefleet.cli.checks import examine_all
from stagefleet.cli.findings import Finding
from stagefleet.cli.report import print_json, print_line
from stagefleet.cli.session import read_settings
from stagefleet.client.work import parse_repository

__all__ = ["examine"]


def examine(
    repositories: Annotated[
        list[str] | None,
        typer.Argument(metavar="REPO", help="Repositories whose registries to try.", show_default=False),
    ] = None,
    *,
    json: opt.Json = False,
) -> None:
    """Say what is missing or unreachable, and what to do."""
    parsed = [parse_repository(address) for address in repositories or ()]
    code = 0
    for finding in examine_all(read_settings, parsed):
        code = code or finding.code
        if json:
            print_json(finding.as_json())
        else:
            print_line(_line(finding))
    raise typer.Exit(code)


def _line(finding: Finding) -> str:
    advice = f": {finding.advice}" if finding.advice else ""
    return f"{finding.state:<8} {finding.check}: {finding.message}{advice}"
