"""Settings of Flower and of webhooks."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator

from stagefleet.setting_types import Options, Seconds, Section

__all__ = ["FlowerSettings", "WebhookSettings"]

_SECRET_BYTES = (24, 64)  # https://github.com/standard-webhooks/standard-webhooks, "Signature scheme"


class FlowerSettings(Section):
    """Settings of Flower, the fleet's web interface; its API answers 401 unless a login is set."""

    address: str = "127.0.0.1"
    """The address to listen on; everybody who can reach it sees the fleet, unless a login is set."""
    port: Annotated[int, Field(ge=0, le=65535)] = 5555
    """The port; 0 takes a free one and prints it."""
    user: Annotated[str, Field(pattern="^[^:]*$")] = ""
    password: SecretStr = SecretStr("")
    max_tasks: Annotated[int, Field(ge=100)] = 10_000
    """Tasks kept in memory, about 5 KiB each."""
    tasks_columns: str = "name,state,kwargs,result,exception,received,uuid"
    """The columns of the page of tasks; `kwargs` has stage, operation, source, destination and run."""
    purge_offline_workers_seconds: Annotated[int, Field(ge=10)] = 600
    """How long a worker stays listed after it has gone."""
    url_prefix: Annotated[str, Field(pattern=r"^(/?[\w.~-]+)*/?$")] = ""
    """The path under which a proxy serves Flower."""
    options: Options = Field(default_factory=dict, repr=False)
    """Further options of Flower, by name: https://flower.readthedocs.io/en/latest/config.html"""

    @model_validator(mode="after")
    def _check_login(self) -> Self:
        if bool(self.user) != bool(self.password.get_secret_value()):
            raise ValueError("a login has both user and password")
        return self


class WebhookSettings(Section):
    """Settings of webhook calls, which report detached runs."""

    secret: SecretStr = SecretStr("")
    """`whsec_` and 24 to 64 bytes in base64; signs each call (Standard Webhooks). Workers need it."""
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 10
    """The limit for an answer."""
    backoff_seconds: Seconds = 1
    """The first pause after a failed call; it doubles each time, with jitter."""
    backoff_limit_seconds: Seconds = 300
    give_up_seconds: Seconds = 24 * 3600
    """After this time without an answer from the receiver, the run is cancelled."""

    @model_validator(mode="after")
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
