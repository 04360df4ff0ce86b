"""`stagefleet projects`: the projects of the settings, and the states of their storages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stagefleet.cli import options as opt
from stagefleet.cli.output import print_json, print_line, say
from stagefleet.cli.session import open_fleet

if TYPE_CHECKING:
    from stagefleet.fleet.storage_reader import StorageState

_NEEDED = {"primary", "final"}
"""Roles that a project cannot work without; caches may be down at any time."""


def show_projects(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Only these projects.")] = None,
    *,
    json: opt.Json = False,
) -> None:
    """Show the projects of the settings, and the state of each storage."""
    code = 0
    with open_fleet() as fleet:
        chosen = names or sorted(fleet.settings.projects)
        if not chosen:
            say("there is no project in the settings: add [projects.NAME] to stagefleet.toml")
        for name in chosen:
            states = fleet.project(name).storage_states()
            for state in states:
                if state.error is not None and state.role in _NEEDED:
                    code = code or state.error.exit_code
            if json:
                print_json({"project": name, "storages": [state.as_json() for state in states]})
                continue
            print_line(name)
            for state in states:
                print_line(f"  {_line(state)}")
    raise typer.Exit(code)


def _line(state: StorageState) -> str:
    nouns = "stage" if state.stages == 1 else "stages"
    what = f"{state.stages:,} {nouns}" if state.error is None else f"out of reach: {state.error}"
    return f"{state.role:<9}  {state.address}  {what}"
