"""Additions to `--help`: examples for each command, exit codes, variables."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from stagefleet.cli.output import flush_output, print_line

ROOT_EPILOG = """\
A stage is the image of one build step, kept under the tag DIGEST-CREATED_MS. REPO is HOST[:PORT]/PATH, or
docker-daemon:PROJECT for the stages in a Docker Engine.

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
    "runs retry": ("runs retry 6200c6a4b1f3",),
    "locks list": ("locks list",),
    "worker": ("worker", "worker --processes 4 --concurrency 8 --queues copy,delete"),
    "doctor": ("doctor", f"doctor --for copy {_COPY}"),
    "config show": ("config show", "config show --json"),
}


def _epilog(examples: tuple[str, ...]) -> str:
    lines = "".join(f"  stagefleet {example}\n" for example in examples)
    return f"\b\nExamples:\n{lines}"


EPILOGS = {command: _epilog(examples) for command, examples in _EXAMPLES.items()}
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


class HelpfulCommand(_PrintsHelp, TyperCommand):
    """A command whose `--help` fails as other output does if stdout cannot be written."""


class HelpfulGroup(_PrintsHelp, TyperGroup):
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
    return typer.Typer(help=help_text, cls=HelpfulGroup, rich_markup_mode=None, add_completion=False)
