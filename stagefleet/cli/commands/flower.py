"""`stagefleet flower`: becomes Flower, set up for this fleet."""

from __future__ import annotations

from typing import Annotated

import typer

from stagefleet.cli.session import become, read_settings
from stagefleet.errors import UsageError
from stagefleet.processes import isolated_command, require_extra

_MAX_PORT = 65535


def start_flower(
    *,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="ADDRESS", help="Where to listen; default: flower.address."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", metavar="N", min=0, max=_MAX_PORT, help="0 takes a free one; default: flower.port."
        ),
    ] = None,
) -> None:
    """Show the fleet's workers and tasks on web pages until told to stop."""
    if read_settings().redis_url is None:
        raise UsageError("stagefleet flower shows a fleet: set STAGEFLEET_REDIS_URL")
    require_extra("flower", "flower", "Flower's pages")
    given = {"--address": address, "--port": None if port is None else str(port)}
    options = [word for name, value in given.items() if value is not None for word in (name, value)]
    become(isolated_command("config.flower", *options))
