"""The root of the command line: it knows each command's name and help, and loads one when it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from stagefleet.cli.options import takes_common_options
from stagefleet.cli.output import flush_output, print_line
from stagefleet.runs.versions import __version__


class _Entry(NamedTuple):
    """A command: its function, or `app` for a group; its help; its module if that has another name."""

    function: str
    help: str
    module: str = ""


COMMANDS: Mapping[str, _Entry] = {
    "list": _Entry("list_stages", "List the stages of a repository, or of a project."),
    "describe": _Entry("describe_stages", "Let the fleet describe stages, all when none is named."),
    "copy": _Entry(
        "copy_stages",
        "Copy stages from one repository to another: the named ones, else all that the destination lacks.",
    ),
    "delete": _Entry("delete_stages", "Delete stages from a repository, and no tag that was not named."),
    "verify": _Entry(
        "verify_stages",
        "Verify stages, all when none is named: read every manifest, configuration and layer.",
    ),
    "fetch": _Entry(
        "fetch_stages",
        "Fetch stages to the Docker Engine of this host, of others, or of all: from a cache where one has "
        "them.",
    ),
    "hosts": _Entry(
        "show_hosts", "List the hosts that stages can be fetched to: those with a worker and a Docker Engine."
    ),
    "publish": _Entry(
        "publish_stages",
        "Publish stages of a project: copy them from its primary storage into the final one.",
    ),
    "publish-index": _Entry(
        "publish_index",
        "Publish a multi-platform stage over platform images that are there.",
        module="publish",
    ),
    "purge": _Entry(
        "purge_project",
        "Delete everything of a project: its stages, its records, its final stages; and no tag of others.",
    ),
    "projects": _Entry("show_projects", "Show the projects of the settings, and the state of each storage."),
    "records": _Entry(
        "app", "See and keep the records beside the stages: what is built, and from which commits."
    ),
    "runs": _Entry("app", "See and steer runs."),
    "report": _Entry(
        "report_run",
        "Report on a run for an archive or a CI system: what was done, how fast, what failed and why.",
    ),
    "locks": _Entry("app", "List locks and their holders, and release the lock of a holder that hangs."),
    "config": _Entry("app", "See the settings in force."),
    "worker": _Entry("start_worker", "Work for the fleet until told to stop."),
    "flower": _Entry(
        "start_flower", "Show the fleet's workers and tasks on web pages until told to stop.", module="worker"
    ),
    "exporter": _Entry("serve_metrics", "Serve the fleet's metrics to Prometheus, until told to stop."),
    "health": _Entry(
        "check_health",
        "Exit with 0 if a worker of this container or machine lives, 1 if none does.",
        module="worker",
    ),
    "doctor": _Entry("run_doctor", "Say what is missing or unreachable, and what to do."),
}


# Additions to `--help`: examples for each command, exit codes, variables.

_ROOT_EPILOG = """\
A stage is the image of one build step, kept under the tag DIGEST-CREATED_MS. REPO is HOST[:PORT]/PATH,
docker-daemon:PROJECT for the stages in a Docker Engine, or oci:PATH for those in an OCI image layout.

\b
Exit codes:
  0  all succeeded or were skipped      3  cancelled
  1  some items failed                  4  a service is out of reach
  2  wrong use or configuration

\b
Settings: STAGEFLEET_* variables over stagefleet.toml over defaults.
  STAGEFLEET_REDIS_URL  the fleet's Redis; without it each command works alone
  STAGEFLEET_CONFIG     the settings file, instead of ./stagefleet.toml
  DOCKER_CONFIG         the folder of Docker's config.json, where logins are read
  stagefleet config show tells each setting, and where its value comes from.

Result on stdout, everything else on stderr. Completion: stagefleet --install-completion.
"""

_COPY = "registry.example.com/app mirror.example.com/app"
_EXAMPLES: dict[str, tuple[str, ...]] = {
    "list": (
        "list registry.example.com/app",
        "list -l registry.example.com/app",
        "list --project app --json",
    ),
    "describe": ("describe registry.example.com/app", "describe --project app --json"),
    "copy": (
        f"copy {_COPY}",
        f"copy {_COPY} --dry-run",
        f"copy {_COPY} --from-file ids.txt -j 64",
        f"copy {_COPY} --idempotency-key nightly-2026-11-28 --json",
    ),
    "delete": (
        "delete registry.example.com/app --from-file ids.txt --dry-run",
        "delete registry.example.com/app --from-file ids.txt",
        "delete registry.example.com/app --all --yes",
    ),
    "verify": (
        "verify registry.example.com/app",
        "verify registry.example.com/app --shallow --json",
        "verify registry.example.com/app --from-file ids.txt --reject",
    ),
    "fetch": ("fetch registry.example.com/app --from-file ids.txt --all-hosts",),
    "hosts": ("hosts", "hosts --last-used"),
    "publish": (
        "publish --primary registry.example.com/app --final registry.example.com/deploy",
        "publish --project app --caches",
    ),
    "purge": ("purge --project app --dry-run", "purge --project app --yes"),
    "projects": ("projects", "projects app --json"),
    "records list": ("records list registry.example.com/app",),
    "records show": ("records show registry.example.com/app managed-image",),
    "runs list": ("runs list", "runs list --json"),
    "runs show": ("runs show 6200c6a4b1f3", "runs show --idempotency-key nightly-2026-11-28"),
    "runs watch": ("runs watch 6200c6a4b1f3",),
    "runs cancel": ("runs cancel 6200c6a4b1f3", "runs cancel 6200c6a4b1f3 --now"),
    "runs pause": ("runs pause 6200c6a4b1f3",),
    "runs resume": ("runs resume 6200c6a4b1f3",),
    "runs retry": ("runs retry 6200c6a4b1f3",),
    "report": (
        "report 6200c6a4b1f3 --html report.html",
        "report --idempotency-key nightly-2026-11-28 --html report.html --junit report.xml",
        "report 6200c6a4b1f3 --json",
    ),
    "locks list": ("locks list",),
    "worker": ("worker", "worker --processes 4 --concurrency 8 --queues copy,delete"),
    "exporter": ("exporter", "exporter --address 0.0.0.0"),
    "doctor": ("doctor", f"doctor --for copy {_COPY}"),
    "config show": ("config show", "config show --json"),
}


EPILOGS = {
    command: "\b\nExamples:\n" + "".join(f"  stagefleet {example}\n" for example in examples)
    for command, examples in _EXAMPLES.items()
}
"""The examples of each command, by the command as typed."""


def _print_help(ctx: Any, _option: Any, asked: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
    if asked and not ctx.resilient_parsing:
        print_line(ctx.get_help())
        flush_output()
        ctx.exit()


class _PrintsHelp:
    """Mixin for commands: `--help` fails as other output does if stdout cannot be written. List it first."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option `--help`."""
        option = super().get_help_option(ctx)  # type: ignore[misc]  # the command class defines it
        if option is not None:
            option.callback = _print_help
        return option


class _HelpfulCommand(_PrintsHelp, TyperCommand):
    """A command whose `--help` fails as other output does if stdout cannot be written."""


class _HelpfulGroup(_PrintsHelp, TyperGroup):
    """A group of commands that prints each description in full, which click would truncate."""

    def help_lines(self, ctx: Any) -> list[tuple[str, str]]:
        """Return each command's name with the first paragraph of its help."""
        return [
            (name, " ".join((command.help or "").split("\n\n")[0].split()))
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) is not None
        ]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands with their help."""
        with formatter.section("Commands"):
            formatter.write_dl(self.help_lines(ctx))


def make_group(help_text: str | None = None) -> typer.Typer:
    """Make an application for a group of commands, or for a single one."""
    return typer.Typer(help=help_text, cls=_HelpfulGroup, rich_markup_mode=None, add_completion=False)


# The commands, each of which is loaded when it is called.


class _Commands(Mapping[str, Any]):
    """The commands by name; one is imported from `cli/commands` and built when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        entry = COMMANDS[name]
        target = getattr(import_module(f"stagefleet.cli.commands.{entry.module or name}"), entry.function)
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
        if command.callback is not None and command.cls is not _HelpfulCommand:
            command.callback = takes_common_options(command.callback)
            command.cls = _HelpfulCommand
            command.epilog = EPILOGS.get(f"{prefix}{command.name}")
    return commands


class _RootGroup(_HelpfulGroup):
    """The group of all commands."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes | {"commands": None})
        self.commands = _Commands()  # type: ignore[assignment]  # typer only reads it

    def help_lines(self, _ctx: Any) -> list[tuple[str, str]]:
        return [(name, entry.help) for name, entry in COMMANDS.items()]


app = typer.Typer(
    help="Keep the build stages of container images in registries, as a fleet.",
    epilog=_ROOT_EPILOG,
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
