"""Types of setting values, the settings of services, and messages about invalid ones."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import pydantic

from stagefleet import names
from stagefleet.redaction import masked_url, quoted

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# The types of setting values.

_PATTERN_ADVICE: dict[str, str] = {}
"""What to write, by the pattern that a text does not match."""


def matching(pattern: str, advice: str) -> Any:
    """Make the field of a text that matches a pattern; the advice is for one that does not."""
    _PATTERN_ADVICE[pattern] = advice
    return pydantic.Field(pattern=pattern)


Seconds = Annotated[float, pydantic.Field(gt=0)]

ProjectName = Annotated[
    str,
    pydantic.Field(max_length=200),
    matching(
        r"^[a-z0-9]+([._-]+[a-z0-9]+)*$",
        "write a project's name in small letters and digits, . _ - between them",
    ),
]


StartEarly = Annotated[
    Literal["auto", "never", "always"],
    pydantic.BeforeValidator(
        lambda value: {"true": "always", "false": "never"}.get(str(value).lower(), value)
    ),
]


def _check_host(text: str) -> str:
    if not names.is_host(text):
        raise ValueError("write HOST or HOST:PORT as in repository names, without a scheme or a path")
    return text


RegistryHost = Annotated[str, pydantic.AfterValidator(_check_host)]


def _parse_address(value: str | names.StorageAddress) -> names.StorageAddress:
    """Parse an address that another process wrote, maybe in another directory."""
    if not isinstance(value, str):
        return value
    if value.startswith(names.LAYOUT_PREFIX) and not value.startswith(f"{names.LAYOUT_PREFIX}/"):
        raise ValueError(f"{quoted(value)} is relative to a directory: write oci:/DIRECTORY")
    return names.parse_address(value)


StorageAddressText = Annotated[
    pydantic.InstanceOf[names.Repository]
    | pydantic.InstanceOf[names.EngineProject]
    | pydantic.InstanceOf[names.LayoutPath],
    pydantic.BeforeValidator(_parse_address),
    pydantic.PlainSerializer(str, return_type=str),
]
RepositoryText = Annotated[
    pydantic.InstanceOf[names.Repository],
    pydantic.BeforeValidator(
        lambda value: names.Repository.parse(value) if isinstance(value, str) else value
    ),
    pydantic.PlainSerializer(str, return_type=str),
]

REVEAL = {"reveal": True}
"""The context for a dump in plain text; only values with a secret type of their own stay masked."""


def _show_url(url: str, info: pydantic.SerializationInfo) -> str:
    return url if info.context == REVEAL or not url else masked_url(url)


def _show_names(options: Mapping[str, Any], info: pydantic.SerializationInfo) -> dict[str, Any]:
    return dict(options) if info.context == REVEAL else dict.fromkeys(options, "***")


Url = Annotated[str, pydantic.PlainSerializer(_show_url)]
"""A URL that may contain a login; a dump omits the login."""
Options = Annotated[dict[str, str | int | float | bool], pydantic.PlainSerializer(_show_names)]
"""Options of another program, by name. Any value may be secret: a dump shows names only."""


class Section(pydantic.BaseModel):
    """A part of the settings. Errors never quote its values: one may be a secret in the wrong place."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True
    )


# Messages about invalid values, of settings and of requests.

_KEY_MARK = "[key]"
"""The last part of pydantic's location of an error if the key itself is wrong."""
_TYPE_MARK = "is-instance["
"""What is in its last part if one of several types is wanted."""


def describe_setting_error(
    error: pydantic.ValidationError, name_places: Callable[[Sequence[str]], str]
) -> str:
    """Describe the first error in one line: its places and the reason, never the value, which may be secret.

    `name_places` says where the value of a key stands.
    """
    first = error.errors(include_url=False, include_input=False)[0]
    parts = [str(part) for part in first["loc"] if part != _KEY_MARK]
    key = [part for part in parts if _TYPE_MARK not in part]
    reason = advice_on(first)
    if first["type"] == "extra_forbidden":
        quoting = ', and the host quoted: [registries."HOST"]' if key[0] == "registries" else ""
        reason = f"there is no such setting: see that it is spelled right{quoting}"
    return f"settings ({name_places(key)}): {reason}"


_ADVICE = {
    "bool_": "write true or false",
    "int_": "write a whole number",
    "float_": "write a number",
    "string_type": "write a text, in quotes",
    "path_type": "write the path of a file, in quotes",
    "tuple_type": 'write a list, as ["A", "B"]',
    "list_type": 'write a list, as ["A", "B"]',
    "dict_type": "write a table, with a line NAME = VALUE for each of its settings",
    "model_type": "write a table, with a line NAME = VALUE for each of its settings",
    "greater_than": "write a number above {gt}",
    "greater_than_equal": "write {ge} or more",
    "less_than_equal": "write {le} or less",
    "string_too_long": "write {max_length} characters at most",
    "too_long": "write a list of {max_length} at most",
    "enum": "write {expected}",
    "is_instance_of": "write an address, in quotes, as HOST/PATH",
    "literal_error": "write {expected}",
    "missing": "it is missing: write it",
}
"""What to write, by the beginning of pydantic's name of the error; the longest one counts."""


def advice_on(error: ErrorDetails) -> str:
    """Say what to write for a value that pydantic refuses, without pydantic's terms."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "string_pattern_mismatch":
        return _PATTERN_ADVICE[context["pattern"]]
    begin = max((name for name in _ADVICE if kind.startswith(name)), key=len, default="")
    return _ADVICE[begin].format(**context) if begin else error["msg"].removeprefix("Value error, ")


# Settings of Flower and of webhooks.

_SECRET_BYTES = (24, 64)  # https://github.com/standard-webhooks/standard-webhooks, "Signature scheme"


class FlowerSettings(Section):
    """Settings of Flower, the fleet's web interface; its API answers 401 unless a login is set."""

    address: str = "127.0.0.1"
    """The address to listen on; everybody who can reach it sees the fleet, unless a login is set."""
    port: Annotated[int, pydantic.Field(ge=0, le=65535)] = 5555
    """The port; 0 takes a free one and prints it."""
    user: Annotated[str, matching("^[^:]*$", "write it without a colon")] = ""
    password: pydantic.SecretStr = pydantic.SecretStr("")
    viewer_user: Annotated[str, matching("^[^:]*$", "write it without a colon")] = ""
    """A second login, which may look at everything and change nothing."""
    viewer_password: pydantic.SecretStr = pydantic.SecretStr("")
    operators: str = ""
    """Addresses of logins by OAuth that may change things, as in Flower's option `auth`; all if empty."""
    max_tasks: Annotated[int, pydantic.Field(ge=100)] = 10_000
    """Tasks kept in memory, about 5 KiB each."""
    tasks_columns: str = "name,state,kwargs,result,exception,received,uuid"
    """The columns of the page of tasks; `kwargs` has stage, operation, source, destination and run."""
    purge_offline_workers_seconds: Annotated[int, pydantic.Field(ge=10)] = 600
    """How long a worker stays listed after it has gone."""
    url_prefix: Annotated[
        str, matching(r"^(/?[\w.~-]+)*/?$", "write a path, as /flower, of letters, digits and _ . ~ -")
    ] = ""
    """The path under which a proxy serves Flower."""
    options: Options = pydantic.Field(default_factory=dict, repr=False)
    """Further options of Flower, by name: https://flower.readthedocs.io/en/latest/config.html"""

    @pydantic.model_validator(mode="after")
    def _check_login(self) -> Self:
        if bool(self.user) != bool(self.password.get_secret_value()):
            raise ValueError("a login has both user and password")
        if bool(self.viewer_user) != bool(self.viewer_password.get_secret_value()):
            raise ValueError("a viewer's login has both viewer_user and viewer_password")
        if self.viewer_user and self.viewer_user == self.user:
            raise ValueError("viewer_user is the operator's: write another name")
        if self.viewer_user and not self.user:
            raise ValueError("a viewer's login is the second one: set user and password, too")
        return self


class WebhookSettings(Section):
    """Settings of webhook calls, which report detached runs."""

    secret: pydantic.SecretStr = pydantic.SecretStr("")
    """`whsec_` and 24 to 64 bytes in base64; signs each call (Standard Webhooks). Workers need it."""
    timeout_seconds: Annotated[float, pydantic.Field(gt=0, le=60)] = 10
    """The limit for an answer."""
    backoff_seconds: Seconds = 1
    """The first pause after a failed call; it doubles each time, with jitter."""
    backoff_limit_seconds: Seconds = 300
    give_up_seconds: Seconds = 24 * 3600
    """After this time without an answer from the receiver, the run is cancelled."""

    @pydantic.model_validator(mode="after")
    def _check_secret(self) -> Self:
        if self.secret.get_secret_value() and not _SECRET_BYTES[0] <= len(self.key) <= _SECRET_BYTES[1]:
            raise ValueError("secret has to be whsec_ and 24 to 64 bytes in base64")
        return self

    @property
    def key(self) -> bytes:
        """The secret as bytes; empty if it is unset or malformed."""
        prefix, _, text = self.secret.get_secret_value().partition("_")
        try:
            return base64.b64decode(text, validate=True) if prefix == "whsec" else b""
        except binascii.Error:
            return b""


# The environment variables that Docker's clients read, and Stagefleet too.


def docker_config_file() -> Path:
    """Return the path of the file with logins; it may not exist.

    It is in `DOCKER_CONFIG`, if set, else in `~/.docker`; where Docker's is missing, Podman's counts
    (containers-auth.json(5)).
    """
    directory = os.environ.get("DOCKER_CONFIG")
    docker = (Path(directory) if directory else Path.home() / ".docker") / "config.json"
    if directory or docker.exists():
        return docker
    podman = [
        os.environ.get("REGISTRY_AUTH_FILE"),
        f"{os.environ.get('XDG_RUNTIME_DIR') or f'/run/user/{os.getuid()}'}/containers/auth.json",
        f"{os.environ.get('XDG_CONFIG_HOME') or Path.home() / '.config'}/containers/auth.json",
    ]
    return next((Path(path) for path in podman if path and os.access(path, os.R_OK)), docker)
