"""The types of setting values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    SerializationInfo,
)

from stagefleet.names import EngineProject, Repository, is_host, parse_address
from stagefleet.redaction import masked_url

__all__ = [
    "REVEAL",
    "Options",
    "ProjectName",
    "RegistryHost",
    "RepositoryText",
    "Seconds",
    "Section",
    "StorageAddressText",
    "Url",
]

Seconds = Annotated[float, Field(gt=0)]

ProjectName = Annotated[str, Field(pattern=r"^[a-z0-9]+([._-]+[a-z0-9]+)*$", max_length=200)]


def _check_host(text: str) -> str:
    if not is_host(text):
        raise ValueError("write HOST or HOST:PORT as in repository names, without a scheme or a path")
    return text


RegistryHost = Annotated[str, AfterValidator(_check_host)]
StorageAddressText = Annotated[
    InstanceOf[Repository] | InstanceOf[EngineProject],
    BeforeValidator(lambda value: parse_address(value) if isinstance(value, str) else value),
    PlainSerializer(str, return_type=str),
]
RepositoryText = Annotated[
    InstanceOf[Repository],
    BeforeValidator(lambda value: Repository.parse(value) if isinstance(value, str) else value),
    PlainSerializer(str, return_type=str),
]

REVEAL = {"reveal": True}
"""The context for a dump in plain text; only values with a secret type of their own stay masked."""


def _show_url(url: str, info: SerializationInfo) -> str:
    return url if info.context == REVEAL or not url else masked_url(url)


def _show_names(options: Mapping[str, Any], info: SerializationInfo) -> dict[str, Any]:
    return dict(options) if info.context == REVEAL else dict.fromkeys(options, "***")


Url = Annotated[str, PlainSerializer(_show_url)]
"""A URL that may contain a login; a dump omits the login."""
Options = Annotated[dict[str, str | int | float | bool], PlainSerializer(_show_names)]
"""Options of another program, by name. Any value may be secret: a dump shows names only."""


class Section(BaseModel):
    """A part of the settings. Errors never quote its values: one may be a secret in the wrong place."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
