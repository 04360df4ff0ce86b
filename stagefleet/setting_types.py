"""The kinds of values that settings have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    SerializationInfo,
)

from stagefleet.names import DockerDaemon, Repository, parse_address
from stagefleet.redaction import masked_url

__all__ = [
    "REVEAL",
    "Options",
    "ProjectName",
    "RepositoryAddress",
    "Seconds",
    "Section",
    "StorageAddress",
    "Url",
]

Seconds = Annotated[float, Field(gt=0)]

ProjectName = Annotated[str, Field(pattern=r"^[a-z0-9]+([._-]+[a-z0-9]+)*$", max_length=200)]
StorageAddress = Annotated[
    InstanceOf[Repository] | InstanceOf[DockerDaemon],
    BeforeValidator(lambda value: parse_address(value) if isinstance(value, str) else value),
    PlainSerializer(str, return_type=str),
]
RepositoryAddress = Annotated[
    InstanceOf[Repository],
    BeforeValidator(lambda value: Repository.parse(value) if isinstance(value, str) else value),
    PlainSerializer(str, return_type=str),
]

REVEAL = {"reveal": True}
"""The context of a dump that is not to be shown: nothing in it is masked but what has a type of its own."""


def _show_url(url: str, info: SerializationInfo) -> str:
    return url if info.context == REVEAL or not url else masked_url(url)


def _show_names(options: Mapping[str, Any], info: SerializationInfo) -> dict[str, Any]:
    return dict(options) if info.context == REVEAL else dict.fromkeys(options, "***")


Url = Annotated[str, PlainSerializer(_show_url)]
"""An address that may hold a login: a dump shows it without."""
Options = Annotated[dict[str, str | int | float | bool], PlainSerializer(_show_names)]
"""Options of somebody else's, by name, any of which may be secret: a dump shows their names."""


class Section(BaseModel):
    """A part of the settings; what it refuses is never quoted, for it may be a secret in a wrong place."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
