"""Settings from environment variables and `stagefleet.toml`; no other module reads them.

Environment variables `STAGEFLEET_*` (nested with `__`) override the file, the file overrides the defaults.
The file is `stagefleet.toml` in the current directory, or the one that `STAGEFLEET_CONFIG` names; a file
whose name ends in `.json` is JSON.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator, model_validator

from stagefleet import setting_types as types, settings_sources as sources
from stagefleet.engine_address import SCHEMES, EngineAddress, find_engine
from stagefleet.errors import EngineNotFoundError, SettingsError
from stagefleet.redaction import quoted, remember_secret
from stagefleet.setting_types import Seconds, Section, StartEarly

_SECRET_NAME = re.compile("secret|password|passwd|token|key|auth|api")  # names of Flower's own options


_Leased = TypeVar("_Leased", "RunSettings", "LockSettings")


def _check_renewal(section: _Leased) -> _Leased:
    if section.renewal_seconds * 2 > section.lease_seconds:
        raise ValueError("lease_seconds has to be twice renewal_seconds or more: a renewal may be lost")
    return section


class RegistrySettings(Section):
    """Settings of the connection to one registry; the login comes from the Docker configuration file."""

    plain_http: bool | None = None
    """Speak HTTP without TLS; if unset, only loopback hosts do."""
    insecure: bool | None = None
    """Accept any certificate; if unset, as `http.insecure` says."""
    ca_file: Path | None = None
    """PEM file with the certificates to trust, instead of the system's."""
    client_certificate: Path | None = None
    """PEM file with the client certificate, and its key unless `client_key` names another file."""
    client_key: Path | None = None
    """PEM file with the key of `client_certificate`."""
    chunk_bytes: Annotated[int, Field(ge=64 * 1024, le=64 * 1024**2)] | None = None
    """The largest request body that a gateway before the registry lets through: blobs go in chunks of it. If
    unset, it is found out once a body is refused (413)."""


class HttpSettings(Section):
    """Time-outs and retries of requests to registries."""

    insecure: bool = False
    """Accept any certificate of any registry, unless its own settings differ: for trials."""
    plain_http: bool = False
    """Speak HTTP without TLS to every registry, unless its own settings differ."""
    connect_timeout_seconds: Seconds = 5
    """The limit for connecting: all addresses of a host, proxy and TLS together. The DNS lookup before that
    may take three times as long."""
    read_timeout_seconds: Seconds = 60
    """The limit for each other part of a request as a whole, however slowly data drips: sending, the answer's
    header, its body if that is small (plus a second per 128 KiB), each piece of a large body."""
    upload_timeout_seconds: Seconds = 300
    """The limit for the answer to a blob that was sent: a registry may have to assemble a large one first."""
    write_timeout_seconds: Seconds = 15
    """The limit for a manifest PUT or a DELETE, without connecting; both together must be below a lease."""
    retries: Annotated[int, Field(ge=0, le=20)] = 4
    """Attempts after the first, for connection errors, 5xx and 429."""
    backoff_seconds: Seconds = 0.5
    """The first pause between attempts; it doubles each time, with jitter."""
    backoff_limit_seconds: Seconds = 20
    retry_after_limit_seconds: Seconds = 600
    """The total that a registry may delay one request with `Retry-After`, over all attempts; beyond it the
    request fails, and its item waits in the ledger."""


class RunSettings(Section):
    """Settings of runs and their ledger."""

    parallel: Annotated[int, Field(ge=1)] = 16
    """Items of a run in progress at once, unless the command says otherwise."""
    start_early: StartEarly = "auto"
    """Start the first items while the last are written. `auto`: of runs of thousands of items, without an
    idempotency key, if all live workers are of releases that know such runs."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    """Attempts at one item, lost workers included."""
    backoff_seconds: Seconds = 1
    """The first pause before an item is tried again; it doubles each time, with jitter."""
    backoff_limit_seconds: Seconds = 60
    longest_pause_seconds: Seconds = 3600
    """The longest pause of an item; an item for which a longer one is requested fails."""
    lease_seconds: Seconds = 30
    renewal_seconds: Seconds = Field(default_factory=lambda data: data.get("lease_seconds", 30) / 3)
    """The interval of lease renewals; a third of the lease if the run's own lease is shorter."""
    outage_seconds: Seconds = 60
    """How long a command, or an item in progress, waits for a Redis that is out of reach."""
    sweep_seconds: Seconds = 2
    """The interval at which the reaper looks for lost and due items."""
    republish_seconds: Seconds = 10
    """The age from which a message that later ones have overtaken counts as lost."""
    retention_seconds: Seconds = 7 * 24 * 3600
    """How long finished runs are kept."""
    no_worker_notice_seconds: Seconds = 10
    no_worker_limit_seconds: Seconds = 60

    def bounded_pause(self, seconds: float) -> float:
        """Limit a pause of an item; a NaN becomes the longest one.

        >>> RunSettings().bounded_pause(float("nan")), RunSettings().bounded_pause(-1)
        (3600, 0)
        """
        return max(0, min(self.longest_pause_seconds, seconds))

    _check_lease = model_validator(mode="after")(_check_renewal)


class LockSettings(Section):
    """Settings of locks."""

    lease_seconds: Seconds = 10
    """How long the lock of a dead holder blocks others."""
    renewal_seconds: Seconds = Field(default_factory=lambda data: data.get("lease_seconds", 10) * 0.3)
    wait_seconds: Seconds = 600
    """The default limit for waiting for a lock."""

    _check_lease = model_validator(mode="after")(_check_renewal)


class SharedStateSettings(Section):
    """Settings of the fleet's caches of stage data in Redis; their loss costs time, not data."""

    entries: Annotated[int, Field(ge=1)] = 100_000
    """Descriptions per storage, at about 400 bytes each."""
    lifetime_seconds: Seconds = 30 * 24 * 3600
    """How long entries are kept for a storage or host that is not used."""
    lists: Annotated[int, Field(ge=1)] = 100
    """Storages whose last tag list is kept; the one not listed for longest is dropped first."""
    listed_stages: Annotated[int, Field(ge=1)] = 200_000
    """The maximum of stages on a kept list, at about 40 bytes each; longer lists are not kept."""
    list_lifetime_seconds: Seconds = 24 * 3600
    """The maximum age of a kept tag list."""
    used_images: Annotated[int, Field(ge=1)] = 20_000
    """Images per host whose last use is kept, at about 250 bytes each."""


class WorkerSettings(Section):
    """Settings of the worker process."""

    name: Annotated[
        str, types.matching(r"^[A-Za-z0-9_.-]{0,100}$", "write letters, digits and _ . -, 100 at most")
    ] = ""
    """The name of its processes, followed by a random part; if empty, the machine's name."""
    processes: Annotated[int, Field(ge=0, le=256)] = 0
    """Worker processes; 0 means one per CPU."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Threads per process, each with one item."""
    request_threads: Annotated[int, Field(ge=1, le=1024)] = 16
    """More threads per process, for requests of an item that do not wait for one another."""
    drain_seconds: Seconds = 20
    """How long a worker that is stopped may take to finish its items."""
    layout_roots: tuple[Path, ...] = ()
    """Directories below which it works on OCI layouts of its host, for anybody who can start runs."""


class EngineSettings(Section):
    """Settings of this host's Docker Engine, if it has one."""

    url: Annotated[types.Url, Field(repr=False)] = ""
    """Its address, `unix://`, `tcp://` or `ssh://`; if empty, where Docker's own command finds one."""
    host: Annotated[
        str, types.matching(r"^[A-Za-z0-9_.-]{0,253}$", "write letters, digits and _ . -, 253 at most")
    ] = ""
    """This host's name in the fleet; if empty, the machine's name."""
    platform: Annotated[
        str, types.matching(r"^([a-z0-9]+(/[a-z0-9_]+){1,2})?$", "write a platform, as linux/arm64")
    ] = ""
    """The platform of a multi-platform stage to pull, such as linux/arm64; if empty, the engine's own."""
    timeout_seconds: Seconds = 60
    """The limit for silence of the engine."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        if url and not re.fullmatch(rf"({'|'.join(SCHEMES)})://.+", url):
            raise ValueError("write unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST")
        return url

    @property
    def host_name(self) -> str:
        """This host's name in the fleet: the setting, or the machine's name."""
        return self.host or socket.gethostname()

    @property
    def address(self) -> EngineAddress | None:
        """The address of the engine; None if the host has none. Errors as of `find_engine`."""
        return find_engine(self.url)

    @property
    def has_engine(self) -> bool:
        """True if the host has an engine; a current context that is of no use is none.

        Who needs no engine is not told of such a context; who does need one asks for its address.
        """
        try:
            return self.address is not None
        except EngineNotFoundError:
            return False


class LogSettings(Section):
    """Settings of the logs, which always go to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    json_lines: bool = True
    """Write one JSON object per line; otherwise coloured text for people."""


class ProjectSettings(Section):
    """The storages of one project; each storage has one role."""

    primary: types.StorageAddressText
    """Builders write stages here: `HOST[:PORT]/PATH`, or `docker-daemon:PROJECT`."""
    final: types.RepositoryText | None = None
    """Deployments pull from here."""
    caches: tuple[types.RepositoryText, ...] = ()
    """Near the builders, the nearest first; any stage may be missing at any time."""
    secondaries: tuple[types.RepositoryText, ...] = ()
    """Read only: stages that the primary lacks are copied from these."""
    parallel: Annotated[int, Field(ge=1)] | None = None
    """Items of the project's runs in progress at once; if unset, as in `runs`."""

    @model_validator(mode="after")
    def _check_storages(self) -> Self:
        finals = () if self.final is None else (self.final,)
        storages = [str(storage) for storage in (self.primary, *finals, *self.caches, *self.secondaries)]
        for storage in storages:
            if storages.count(storage) > 1:
                raise ValueError(f"{storage} is named twice: a storage has one role")
        if self.primary.is_layout:
            raise ValueError(f"{self.primary} is an OCI layout, which has no role in a project")
        return self


_NOTHING_SAID = RegistrySettings()


class Settings(Section):
    """All settings; see `config/stagefleet.example.toml` for a commented file."""

    redis_url: Annotated[types.Url | None, Field(repr=False)] = None
    """The fleet's Redis: redis://, rediss:// or unix://; if unset, commands start an embedded fleet."""
    key_prefix: Annotated[str, types.matching(r"^[A-Za-z0-9_.:-]+$", "write letters, digits and _ . : -")] = (
        "stagefleet:"
    )
    """The prefix of every key in Redis."""
    http: HttpSettings = Field(default_factory=HttpSettings)
    runs: RunSettings = Field(default_factory=RunSettings)
    locks: LockSettings = Field(default_factory=LockSettings)
    caches: SharedStateSettings = Field(default_factory=SharedStateSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    flower: types.FlowerSettings = Field(default_factory=types.FlowerSettings)
    webhooks: types.WebhookSettings = Field(default_factory=types.WebhookSettings)
    registries: dict[types.RegistryHost, RegistrySettings] = Field(default_factory=dict)
    """Settings of registries by `host[:port]`, as in repository names."""
    projects: dict[types.ProjectName, ProjectSettings] = Field(default_factory=dict)
    """Settings of projects by name."""

    def registry(self, host: str) -> RegistrySettings:
        """Return the settings of a registry; what it leaves unset is as `http` says for all registries."""
        found = self.registries.get(host, _NOTHING_SAID)
        if not (self.http.insecure or self.http.plain_http):
            return found
        for_all = {"insecure": self.http.insecure, "plain_http": self.http.plain_http}
        unset = {name: True for name, is_on in for_all.items() if is_on and getattr(found, name) is None}
        return found.model_copy(update=unset) if unset else found

    def project(self, name: str) -> ProjectSettings:
        """Return the settings of a project; the error about an unknown one lists the known ones."""
        if name in self.projects:
            return self.projects[name]
        if "/" in name or ":" in name:
            raise SettingsError(
                f"{quoted(name)} is an address, not the name of a project: leave out --project "
                "(in Python, use Repository.parse or Project.alone)"
            )
        there = ", ".join(sorted(self.projects)) or "none"
        raise SettingsError(
            f"there is no project {quoted(name)} in the settings (there: {there}): add [projects.{name}] to "
            f"{sources.settings_file()}"
        )


def load_settings(**overrides: object) -> Settings:
    """Read the settings; the overrides, such as a command's options, go before environment and file.

    `SettingsError` names the places of the value that cannot be read: options, variables, or file and key.
    """
    path = sources.settings_file()
    if os.environ.get(sources.SETTINGS_FILE_VARIABLE) and not path.is_file():
        raise SettingsError(f"{sources.SETTINGS_FILE_VARIABLE} names {path}, which is no file")
    try:
        written = sources.read_file(path)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    document = sources.merge(written, sources.environment_document(Settings, os.environ), overrides)
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        name_places = partial(
            sources.name_places, model=Settings, overrides=overrides, document=written, file=path
        )
        raise SettingsError(types.describe_setting_error(error, name_places)) from None
    remember_secret(*_secrets_of(settings), settings.webhooks.secret.get_secret_value().partition("_")[2])
    remember_secret(
        *(str(text) for name, text in settings.flower.options.items() if _SECRET_NAME.search(name))
    )
    return settings


def _secrets_of(value: object) -> Iterator[str]:
    """Iterate over every secret in the settings."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        yield from _secrets_of([part for _, part in value])
    elif isinstance(value, Mapping):
        yield from _secrets_of(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _secrets_of(part)
