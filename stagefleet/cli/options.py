"""Options that commands share, and the parsing of their values."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qs, urlsplit

import typer

from stagefleet.errors import InvalidNameError, UsageError
from stagefleet.names import Repository, StageId
from stagefleet.redaction import masked_url

if TYPE_CHECKING:
    from stagefleet.fleet.fleet import Fleet

NO_REPOSITORY = "Missing argument 'REPO'; or name a project with --project"
ADDRESSES = "HOST[:PORT]/PATH, docker-daemon:PROJECT or oci:PATH"
RepositoryArgument = Annotated[str | None, typer.Argument(metavar="REPO", help=ADDRESSES)]
StageIdArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="STAGE_ID", help="DIGEST-CREATED_MS, or DIGEST alone for a multi-platform stage."),
]
Parallel = Annotated[
    int | None,
    typer.Option(
        "-j", "--parallel", metavar="N", help="Items at once; 1 is serial. Default: 16, or the settings'."
    ),
]
RunId = Annotated[str | None, typer.Argument(metavar="RUN", help="The run's id, or how it begins.")]
RunKey = Annotated[
    str | None, typer.Option("--idempotency-key", metavar="K", help="Instead: the key of the run.")
]
ProjectOption = Annotated[
    str | None, typer.Option("--project", metavar="NAME", help="A project of the settings.")
]
FinalOption = Annotated[bool, typer.Option("--final", help="With --project: its final storage.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="NAME",
        help="The host of the Docker Engine or the OCI layout; repeatable. Default: this one.",
    ),
]
SkipUsed = Annotated[bool, typer.Option("--skip-used", help="Leave alone what a job or a container uses.")]
RemoveContainers = Annotated[
    bool, typer.Option("--remove-containers", help="Remove the containers that use a stage first.")
]
Force = Annotated[bool, typer.Option("--force", help="With --remove-containers: also those that run.")]
Referrers = Annotated[
    bool,
    typer.Option(
        "--referrers", help="Signatures and other artifacts go, too, unless another tag keeps the image."
    ),
]
MissingOk = Annotated[
    bool, typer.Option("--missing-ok", help="Take a repository that does not exist for empty.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


def final_repository(fleet: Fleet, project: str | None) -> Repository:
    """Return the storage that `--final` means, which requires a project."""
    if project is None:
        raise UsageError("--final is of a project: name one with --project")
    return fleet.project(project).storages.final_repository


def may_be_new(fleet: Fleet, project: str | None, missing_ok: bool) -> bool:  # noqa: FBT001 - the last of three
    """Return True if a storage may be missing: on request, or since another storage of its project exists."""
    return missing_ok or (project is not None and fleet.project(project).exists())


def stage_arguments(
    repository: str | None, stage_ids: Iterable[str] | None, project: str | None
) -> list[str]:
    """Return the arguments that are stage ids; with `--project` REPO is one of them."""
    if project is None and repository is None:
        raise UsageError(NO_REPOSITORY)
    first = () if project is None or repository is None else (repository,)
    return [*first, *(stage_ids or ())]


def one_host(hosts: Sequence[str] | None) -> tuple[str, ...]:
    """Return the host of the engine for a command that takes a single one; none for this host."""
    if hosts and len(hosts) > 1:
        raise UsageError(
            f"the engine of one host is meant here: name one with --host, not {', '.join(hosts)}"
        )
    return tuple(hosts or ())


def read_stage_ids(named: Iterable[str] | None, from_file: str | None) -> list[str] | None:
    """Read the stage ids of a command; see `read_ids`."""
    return read_ids(named, from_file, lambda text: str(StageId.parse(text)))


def read_ids(
    named: Iterable[str] | None, from_file: str | None, parse: Callable[[str], str]
) -> list[str] | None:
    """Read the items of a command, of the command line or of a file or `-`; None if it names none.

    An empty file selects no item, not all. Blank lines and lines that begin with `#` are ignored.
    """
    ids = [parse(name) for name in named or ()]
    if from_file is None:
        return ids or None
    shown = "standard input" if from_file == "-" else from_file
    try:
        if from_file == "-":
            ids += _parse_lines(_without_mark(sys.stdin), shown, parse)
        else:
            with Path(from_file).open(encoding="utf-8-sig") as lines:
                ids += _parse_lines(lines, shown, parse)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UsageError(f"{shown} cannot be read: {reason}") from None
    return ids


def _without_mark(lines: Iterable[str]) -> Iterator[str]:
    """Remove the byte order mark that some editors write before the first line."""
    for number, line in enumerate(lines):
        yield line if number else line.removeprefix("\ufeff")


def _parse_lines(lines: Iterable[str], shown: str, parse: Callable[[str], str]) -> list[str]:
    ids = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            ids.append(parse(text))
        except InvalidNameError as error:
            raise InvalidNameError(f"{shown}, line {number}: {error}") from None
    return ids


# The options of every command, before or after its name: the fleet to use, and verbosity.

_SECRET_PARAMETERS = frozenset({"password", "ssl_password"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions:
    """Options of every command; each field is an option of the command line."""

    redis_url: Annotated[
        str | None,
        typer.Option("--redis-url", metavar="URL", help="The fleet's Redis, instead of the settings'."),
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
        if self.redis_url is not None and not _REDIS_URL.match(self.redis_url):
            raise UsageError("--redis-url: write redis://HOST:PORT/DATABASE, rediss://... or unix:///SOCKET")
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


_REDIS_URL = re.compile(r"\s*(?:rediss?|unix)://", re.IGNORECASE)


def _holds_password(url: str) -> bool:
    if masked_url(url).endswith("..."):
        return True  # its content is unknown
    try:
        parts = urlsplit(url)
        return bool(parts.password) or not _SECRET_PARAMETERS.isdisjoint(parse_qs(parts.query))
    except ValueError:
        return True  # its content is unknown


# Questions before something is deleted.


def require_terminal(asking: str, purpose: str) -> None:
    """Raise `UsageError` where nobody can answer; it says that `--yes` serves the purpose."""
    if not sys.stdin.isatty():
        raise UsageError(f"{asking} asks on a terminal, and this is none: add --yes to {purpose}")


def confirm(question: str, otherwise: str) -> None:
    """Ask on stderr; raise `UsageError` with the text `otherwise` unless the answer is yes."""
    if not typer.confirm(question, err=True):
        raise UsageError(otherwise)
