"""The typer application with all commands."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

import typer
from typer.main import get_command

from stagefleet.cli.commands import (
    config,
    copy,
    delete,
    describe,
    doctor,
    fetch,
    flower,
    health,
    hosts,
    locks,
    projects,
    publish,
    purge,
    records,
    runs,
    worker,
)
from stagefleet.cli.commands import list as listing
from stagefleet.cli.commands import publish_index as indexes
from stagefleet.cli.help import EPILOGS, ROOT_EPILOG, HelpfulCommand, HelpfulGroup
from stagefleet.cli.options import takes_common_options
from stagefleet.version import __version__

__all__ = ["app", "build_command"]

app = typer.Typer(
    help="Keep the build stages of container images in registries, as a fleet.",
    epilog=ROOT_EPILOG,
    cls=HelpfulGroup,
    rich_markup_mode=None,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("list")(listing.list_stages)
app.command("describe")(describe.describe_stages)
app.command("copy")(copy.copy_stages)
app.command("delete")(delete.delete_stages)
app.command("fetch")(fetch.fetch_stages)
app.command("hosts")(hosts.show_hosts)
app.command("publish")(publish.publish_stages)
app.command("publish-index")(indexes.publish_index)
app.command("purge")(purge.purge_project)
app.command("projects")(projects.show_projects)
app.add_typer(records.app, name="records")
app.add_typer(runs.app, name="runs")
app.add_typer(locks.app, name="locks")
app.add_typer(config.app, name="config")
app.command("worker")(worker.start_worker)
app.command("flower")(flower.start_flower)
app.command("health")(health.check_health)
app.command("doctor")(doctor.run_doctor)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
    if asked:
        typer.echo(f"stagefleet {__version__}")
        raise typer.Exit


@app.callback()
@takes_common_options
def _main(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which version.")
    ] = False,
) -> None:
    pass


def _equip(commands: typer.Typer, prefix: str = "") -> None:
    """Add the common options, the help and the examples to every command."""
    for command in commands.registered_commands:
        if command.callback is not None:
            command.callback = takes_common_options(command.callback)
        command.cls = HelpfulCommand
        command.epilog = EPILOGS.get(f"{prefix}{command.name}")
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            _equip(group.typer_instance, f"{group.name} ")


_equip(app)


@cache
def build_command() -> Callable[..., Any]:
    """Build the function that runs a command line; cached, since this takes as long as a short command."""
    return get_command(app)
