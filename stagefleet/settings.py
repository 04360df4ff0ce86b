"""Settings: the one place that reads the environment and `stagefleet.toml`.

Environment variables `STAGEFLEET_*` (nested with `__`) stand over the file, the file over the defaults.
The file is `stagefleet.toml` in the current directory, or what `STAGEFLEET_CONFIG` names; one whose name ends
in `.json` is JSON.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Self

import pydantic_settings
from pydantic import (
    BaseModel,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from stagefleet.errors import SettingsError
from stagefleet.mistakes import describe_mistake
from stagefleet.redaction import quoted, remember_secret
from stagefleet.setting_types import ProjectName, RepositoryAddress, Seconds, Section, StorageAddress, Url
from stagefleet.settings_services import FlowerSettings, WebhookSettings
from stagefleet.settings_sources import SETTINGS_FILE_VARIABLE, read_file, settings_file

__all__ = [
    "CacheSettings",
    "EngineSettings",
    "FlowerSettings",
    "HttpSettings",
    "LockSettings",
    "LogSettings",
    "ProjectSettings",
    "RegistrySettings",
    "RepositoryAddress",
    "RunSettings",
    "Settings",
    "StorageAddress",
    "WebhookSettings",
    "WorkerSettings",
    "load_settings",
]

_SECRET_NAME = re.compile("secret|password|passwd|token|key|auth|api")  # of options of Flower's own
_ENGINE_SOCKET = Path("/var/run/docker.sock")


def _check_renewal(lease_seconds: float, renewal_seconds: float) -> None:
    if renewal_seconds * 2 > lease_seconds:
        raise ValueError("lease_seconds has to be twice renewal_seconds or more: a renewal may be lost")


class RegistrySettings(Section):
    """How one registry is reached; its login comes from the Docker configuration file."""

    plain_http: bool | None = None
    """Speak HTTP without TLS; where it is not said, loopback hosts do and others do not."""
    insecure: bool = False
    """Accept any certificate."""
    ca_file: Path | None = None
    """PEM file with the certificates to trust, instead of the system's."""
    client_certificate: Path | None = None
    """PEM file with the certificate to show, and the key unless `client_key` names it."""
    client_key: Path | None = None
    """PEM file with the key of `client_certificate`."""


class HttpSettings(Section):
    """Time-outs and retries of requests to registries."""

    insecure: bool = False
    """Accept any certificate of any registry: for a try; for one registry see `registries`."""
    plain_http: bool = False
    """Speak HTTP without TLS to every registry whose own settings do not say otherwise."""
    connect_timeout_seconds: Seconds = 5
    """How long connecting may take: all addresses of a host, proxy and TLS together. Looking up its name
    before that may take three times as long."""
    read_timeout_seconds: Seconds = 60
    """How long each other part of a request may take as a whole, whatever drips: sending it, the answer's
    header, its body where that is small (and a second for each 128 KiB), each piece of a large one."""
    write_timeout_seconds: Seconds = 15
    """How long a manifest PUT or a DELETE may take besides connecting; together shorter than a lease."""
    retries: Annotated[int, Field(ge=0, le=20)] = 4
    """Attempts after the first, for connection errors, 5xx and 429."""
    backoff_seconds: Seconds = 0.5
    """The first pause between attempts; it doubles each time, with jitter."""
    backoff_limit_seconds: Seconds = 20
    retry_after_limit_seconds: Seconds = 600
    """How long a registry may make one request wait, all its attempts together; above it the request fails,
    and its item waits in the ledger."""


class RunSettings(Section):
    """Runs and their ledger."""

    parallel: Annotated[int, Field(ge=1)] = 16
    """Items of a run under way at once, where the command does not say."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    """Attempts at one item, lost workers included."""
    backoff_seconds: Seconds = 1
    """The first pause before an item is tried again; it doubles each time, with jitter."""
    backoff_limit_seconds: Seconds = 60
    longest_pause_seconds: Seconds = 3600
    """The longest pause of an item, whoever asks for it; an item that is asked for a longer one fails."""
    lease_seconds: Seconds = 30
    renewal_seconds: Seconds = Field(default_factory=lambda data: data.get("lease_seconds", 30) / 3)
    """How often a lease is renewed, where its run's own lease is not shorter; a third of the lease."""
    outage_seconds: Seconds = 60
    """How long a command or an item under way waits for a Redis that is out of reach."""
    sweep_seconds: Seconds = 2
    """How often the reaper looks for what was lost or is due."""
    republish_seconds: Seconds = 10
    """The age from which a message that was overtaken counts as lost."""
    retention_seconds: Seconds = 7 * 24 * 3600
    """How long finished runs are kept."""
    no_worker_notice_seconds: Seconds = 10
    no_worker_limit_seconds: Seconds = 60

    @model_validator(mode="after")
    def _check_lease(self) -> Self:
        _check_renewal(self.lease_seconds, self.renewal_seconds)
        return self


class LockSettings(Section):
    """Locks."""

    lease_seconds: Seconds = 10
    """How long a holder that died goes on blocking others."""
    renewal_seconds: Seconds = Field(default_factory=lambda data: data.get("lease_seconds", 10) * 0.3)
    wait_seconds: Seconds = 600
    """The longest wait for a lock, where nothing else is said."""

    @model_validator(mode="after")
    def _check_lease(self) -> Self:
        _check_renewal(self.lease_seconds, self.renewal_seconds)
        return self


class CacheSettings(Section):
    """What the fleet remembers of stages, in Redis; losing it loses nothing."""

    entries: Annotated[int, Field(ge=1)] = 100_000
    """Descriptions kept of one storage, at about 400 bytes each."""
    lifetime_seconds: Seconds = 30 * 24 * 3600
    """How long a storage or host that nobody asks about is remembered."""
    lists: Annotated[int, Field(ge=1)] = 100
    """Storages whose last known tag list is kept; the one that nobody has listed for longest goes."""
    listed_stages: Annotated[int, Field(ge=1)] = 200_000
    """Stages on one of these lists, at about 40 bytes each; a longer list is not kept."""
    list_lifetime_seconds: Seconds = 24 * 3600
    """How old a last known tag list may be."""
    used_images: Annotated[int, Field(ge=1)] = 20_000
    """Images of one host whose last use is kept, at about 250 bytes each."""


class WorkerSettings(Section):
    """The worker process."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{0,100}$")] = ""
    """What its processes are called, with a random part behind; where empty, by the machine's name."""
    processes: Annotated[int, Field(ge=0, le=256)] = 0
    """Worker processes; 0 is one per CPU."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Threads, each with one item, in a process."""
    drain_seconds: Seconds = 20
    """How long a worker that is told to stop may finish what it holds."""


class EngineSettings(Section):
    """The Docker Engine of this host, where it has one."""

    url: Annotated[Url, Field(repr=False)] = ""
    """Where it listens, `unix://` or `tcp://`; where empty, DOCKER_HOST says it, else Docker's own socket."""
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{0,253}$")] = ""
    """This host's name in the fleet; where empty, the machine's."""
    platform: Annotated[str, Field(pattern=r"^([a-z0-9]+(/[a-z0-9_]+){1,2})?$")] = ""
    """Which platform of a multi-platform stage to pull, as linux/arm64; where empty, the engine's own."""
    timeout_seconds: Seconds = 60
    """The longest silence of the engine."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        if url and not re.fullmatch(r"(unix|tcp|http|https)://.+", url):
            raise ValueError("write unix:///PATH or tcp://HOST:PORT")
        return url

    @property
    def host_name(self) -> str:
        """This host's name in the fleet."""
        return self.host or socket.gethostname()

    @property
    def address(self) -> str | None:
        """Where the engine listens, None where there is none."""
        address = self.url or os.environ.get("DOCKER_HOST", "")
        if address:
            return address
        return f"unix://{_ENGINE_SOCKET}" if _ENGINE_SOCKET.is_socket() else None


class LogSettings(Section):
    """Logs, always on stderr."""

    level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    json_lines: bool = True
    """One JSON object a line; otherwise coloured text, for people."""


class ProjectSettings(Section):
    """Where the stages of one project are kept; each storage in one role."""

    primary: StorageAddress
    """Where stages are built into: `HOST[:PORT]/PATH`, or `docker-daemon:PROJECT`."""
    final: RepositoryAddress | None = None
    """What is deployed from."""
    caches: tuple[RepositoryAddress, ...] = ()
    """Near the builders, the nearest first; may lack anything at any time."""
    secondaries: tuple[RepositoryAddress, ...] = ()
    """Read only: stages that the primary lacks are taken from there."""
    parallel: Annotated[int, Field(ge=1)] | None = None
    """Items of the project's runs under way at once; where it is not said, as in `runs`."""

    @model_validator(mode="after")
    def _check_roles(self) -> Self:
        finals = () if self.final is None else (self.final,)
        storages = [str(storage) for storage in (self.primary, *finals, *self.caches, *self.secondaries)]
        for storage in storages:
            if storages.count(storage) > 1:
                raise ValueError(f"{storage} stands there twice: a storage has one role")
        return self


class Settings(BaseSettings):
    """All settings; see `config/stagefleet.example.toml` for a commented file."""

    model_config = SettingsConfigDict(
        env_prefix="STAGEFLEET_",
        env_nested_delimiter="__",
        env_ignore_empty=True,  # CI systems set what is undefined to nothing
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    redis_url: Annotated[Url | None, Field(repr=False)] = None
    """The fleet's Redis: redis://, rediss:// or unix://; without it commands are embedded."""
    key_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]+$")] = "stagefleet:"
    """In front of every key in Redis."""
    http: HttpSettings = HttpSettings()
    runs: RunSettings = RunSettings()
    locks: LockSettings = LockSettings()
    caches: CacheSettings = CacheSettings()
    worker: WorkerSettings = WorkerSettings()
    engine: EngineSettings = EngineSettings()
    log: LogSettings = LogSettings()
    flower: FlowerSettings = FlowerSettings()
    webhooks: WebhookSettings = WebhookSettings()
    registries: dict[str, RegistrySettings] = {}
    """By `host[:port]`, as it stands in repository names."""
    projects: dict[ProjectName, ProjectSettings] = {}
    """By name."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file over defaults."""
        file = InitSettingsSource(settings_cls, init_kwargs=read_file(settings_file()))
        return init_settings, env_settings, file

    def registry(self, host: str) -> RegistrySettings:
        """Give the settings of a registry, the defaults where none are given."""
        found = self.registries.get(host, RegistrySettings())
        http = self.http
        if not http.insecure and not http.plain_http:
            return found
        plain = http.plain_http if found.plain_http is None else found.plain_http
        return found.model_copy(
            update={"insecure": found.insecure or http.insecure, "plain_http": plain or None}
        )

    def project(self, name: str) -> ProjectSettings:
        """The settings of a project.

        Raises:
            SettingsError: There is none of that name; says which there are.
        """
        if name in self.projects:
            return self.projects[name]
        there = ", ".join(sorted(self.projects)) or "none"
        raise SettingsError(
            f"there is no project {quoted(name)} in the settings (there: {there}): add [projects.{name}] to "
            f"{settings_file()}"
        )


def load_settings(**overrides: object) -> Settings:
    """Read the settings.

    Args:
        **overrides: Values that stand over environment and file, as a command's options do.

    Raises:
        SettingsError: They cannot be read; names the file and the key.
    """
    path = settings_file()
    if os.environ.get(SETTINGS_FILE_VARIABLE) and not path.is_file():
        raise SettingsError(f"{SETTINGS_FILE_VARIABLE} names {path}, which is no file")
    try:
        settings = Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks them
    except pydantic_settings.SettingsError as error:
        raise SettingsError(f"the environment cannot be read: {error}") from None
    except ValidationError as error:
        raise SettingsError(describe_mistake(error, path, os.environ)) from None
    except (OSError, ValueError) as error:  # the file's; the two above are ValueErrors, too
        raise SettingsError(f"{path} cannot be read: {error}") from None
    remember_secret(*_secrets_of(settings), settings.webhooks.secret.get_secret_value().partition("_")[2])
    remember_secret(
        *(str(text) for name, text in settings.flower.options.items() if _SECRET_NAME.search(name))
    )
    return settings


def _secrets_of(value: object) -> Iterator[str]:
    """Find every secret in settings, wherever it stands."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        yield from _secrets_of([part for _, part in value])
    elif isinstance(value, Mapping):
        yield from _secrets_of(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _secrets_of(part)
