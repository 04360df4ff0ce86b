"""The root of the command line: it knows each command's name and help, and loads one when it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.main import get_command

from stagefleet.cli.help import EPILOGS, ROOT_EPILOG, HelpfulCommand, HelpfulGroup, make_group
from stagefleet.cli.options import takes_common_options
from stagefleet.version import __version__


class _Entry(NamedTuple):
    """A command: its module in `cli/commands`, with its function, or `app` for a group; and its help."""

    module: str
    function: str
    help: str


COMMANDS: Mapping[str, _Entry] = {
    "list": _Entry("list", "list_stages", "List the stages of a repository, or of a project."),
    "describe": _Entry(
        "describe", "describe_stages", "Let the fleet describe stages, all when none is named."
    ),
    "copy": _Entry(
        "copy",
        "copy_stages",
        "Copy stages from one repository to another: the named ones, else all that the destination lacks.",
    ),
    "delete": _Entry(
        "delete", "delete_stages", "Delete stages from a repository, and no tag that was not named."
    ),
    "fetch": _Entry(
        "fetch",
        "fetch_stages",
        "Fetch stages to the Docker Engine of this host, of others, or of all: from a cache where one has "
        "them.",
    ),
    "hosts": _Entry(
        "hosts",
        "show_hosts",
        "List the hosts that stages can be fetched to: those with a worker and a Docker Engine.",
    ),
    "publish": _Entry(
        "publish",
        "publish_stages",
        "Publish stages of a project: copy them from its primary storage into the final one.",
    ),
    "publish-index": _Entry(
        "publish",
        "publish_index",
        "Publish a multi-platform stage over platform images that are there.",
    ),
    "purge": _Entry(
        "purge",
        "purge_project",
        "Delete everything of a project: its stages, its records, its final stages; and no tag of others.",
    ),
    "projects": _Entry(
        "projects", "show_projects", "Show the projects of the settings, and the state of each storage."
    ),
    "records": _Entry(
        "records",
        "app",
        "See and keep the records beside the stages: what is built, and from which commits.",
    ),
    "runs": _Entry("runs", "app", "See and steer runs."),
    "locks": _Entry(
        "locks", "app", "List locks and their holders, and release the lock of a holder that hangs."
    ),
    "config": _Entry("config", "app", "See the settings in force."),
    "worker": _Entry("worker", "start_worker", "Work for the fleet until told to stop."),
    "flower": _Entry(
        "flower", "start_flower", "Show the fleet's workers and tasks on web pages until told to stop."
    ),
    "health": _Entry(
        "worker",
        "check_health",
        "Exit with 0 if a worker of this container or machine lives, 1 if none does.",
    ),
    "doctor": _Entry("doctor", "run_doctor", "Say what is missing or unreachable, and what to do."),
}


class _Commands(Mapping[str, Any]):
    """The commands by name; one is imported and built when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        entry = COMMANDS[name]
        target = getattr(import_module(f"stagefleet.cli.commands.{entry.module}"), entry.function)
        typed, prefix = target, f"{name} "
        if not isinstance(target, typer.Typer):
            typed, prefix = make_group(), ""
            typed.command(name)(target)
        command = get_command(_equip(typed, prefix))
        command.name = name
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


def _equip(commands: typer.Typer, prefix: str) -> typer.Typer:
    """Add the common options, the help and the examples to every command of an application."""
    for command in commands.registered_commands:
        if command.callback is not None and command.cls is not HelpfulCommand:
            command.callback = takes_common_options(command.callback)
            command.cls = HelpfulCommand
            command.epilog = EPILOGS.get(f"{prefix}{command.name}")
    return commands


class _RootGroup(HelpfulGroup):
    """The group of all commands."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes | {"commands": None})
        self.commands = _Commands()  # type: ignore[assignment]  # typer only reads it

    def help_lines(self, _ctx: Any) -> list[tuple[str, str]]:
        return [(name, entry.help) for name, entry in COMMANDS.items()]


app = typer.Typer(
    help="Keep the build stages of container images in registries, as a fleet.",
    epilog=ROOT_EPILOG,
    cls=_RootGroup,
    rich_markup_mode=None,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


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


@cache
def build_command() -> Callable[..., Any]:
    """Build the function that runs a command line."""
    return get_command(app)
