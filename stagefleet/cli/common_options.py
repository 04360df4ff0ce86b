"""The options of every command, before or after its name: the fleet to use, and verbosity."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

import typer

from stagefleet.errors import UsageError
from stagefleet.redaction import masked_url

__all__ = ["CommonOptions", "chosen_options", "forget_options", "takes_common_options"]

_SECRET_PARAMETERS = frozenset({"password", "ssl_password"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions:
    """Options of every command; each field is an option of the command line.

    Raises:
        UsageError: The Redis URL holds a password.
    """

    redis_url: Annotated[
        str | None,
        typer.Option(
            "--redis-url",
            metavar="URL",
            help="The fleet's Redis, instead of the settings'.",
            show_default=False,
        ),
    ] = None
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Accept any certificate of a registry; for a try.")
    ] = False
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Speak HTTP without TLS to registries; for a try.")
    ] = False
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Say on stderr what is done meanwhile.")
    ] = False
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Say nothing on stderr but errors: no progress, no notes.")
    ] = False
    debug: Annotated[
        bool, typer.Option("--debug", help="Say everything on stderr, and show where an error arose.")
    ] = False

    def __post_init__(self) -> None:
        if self.redis_url is not None and _holds_password(self.redis_url):
            raise UsageError(
                "--redis-url with a password would show in every process list: set STAGEFLEET_REDIS_URL, or "
                "redis_url in stagefleet.toml"
            )
        if self.quiet and (self.verbose or self.debug):
            raise UsageError("--quiet does not go with --verbose or --debug")

    def over(self, others: CommonOptions) -> CommonOptions:
        """Merge the options before and after a command's name; these take precedence over the others."""
        return CommonOptions(
            **{field.name: getattr(self, field.name) or getattr(others, field.name) for field in fields(self)}
        )

    @property
    def overrides(self) -> dict[str, Any]:
        """The settings that these options override, as nested tables."""
        http = {name: True for name in ("insecure", "plain_http") if getattr(self, name)}
        found: dict[str, Any] = {"http": http} if http else {}
        if self.redis_url:
            found["redis_url"] = self.redis_url
        if self.debug:
            found["log"] = {"level": "debug"}
        return found

    @property
    def environment(self) -> dict[str, str]:
        """The overridden settings as environment variables, for a process that reads the settings itself."""
        found = {f"STAGEFLEET_HTTP__{name.upper()}": "true" for name in self.overrides.get("http", {})}
        if self.redis_url:
            found["STAGEFLEET_REDIS_URL"] = self.redis_url
        if self.debug:
            found["STAGEFLEET_LOG__LEVEL"] = "debug"
        return found


_chosen: ContextVar[CommonOptions | None] = ContextVar("common options", default=None)


def chosen_options() -> CommonOptions:
    """Return the options of the running command."""
    return _chosen.get() or CommonOptions()


def forget_options() -> None:
    """Reset the options for a new command."""
    _chosen.set(None)


def takes_common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the common options to a command; they are stored, and not passed to the function."""
    shared = list(inspect.signature(CommonOptions, eval_str=True).parameters.values())

    @functools.wraps(command)
    def run_with_options(**arguments: Any) -> Any:
        own = CommonOptions(**{field.name: arguments.pop(field.name) for field in shared})
        _chosen.set(own.over(chosen_options()))
        return command(**arguments)

    signature = inspect.signature(command, eval_str=True)
    parameters = [*signature.parameters.values(), *shared]
    run_with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # as in `takes_run_options`
    return run_with_options


def _holds_password(url: str) -> bool:
    if masked_url(url).endswith("..."):
        return True  # its content is unknown
    try:
        parts = urlsplit(url)
        return bool(parts.password) or not _SECRET_PARAMETERS.isdisjoint(parse_qs(parts.query))
    except ValueError:
        return True  # its content is unknown
