"""`stagefleet hosts`: the hosts of a fleet, and the last use of their images."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

import stagefleet
from stagefleet.cli import options as opt
from stagefleet.cli.output import print_json, print_line, say
from stagefleet.cli.session import connect


def show_hosts(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Only these hosts.")] = None,
    *,
    last_used: Annotated[
        bool,
        typer.Option(
            "--last-used",
            help="Show when images were used, the longest unused first; also of named hosts that are gone.",
        ),
    ] = False,
    json: opt.Json = False,
) -> None:
    """List the hosts that stages can be fetched to: those with a worker and a Docker Engine."""
    with connect("stagefleet hosts") as fleet:
        chosen = names if names and last_used else _live(fleet, names)
        if not chosen:
            say("no host is there: start stagefleet worker on a machine with a Docker Engine")
        for host in chosen:
            if last_used:
                _show_images(fleet, host, as_json=json)
            elif json:
                print_json({"host": host})
            else:
                print_line(host)


def _live(fleet: stagefleet.Fleet, names: list[str] | None) -> Sequence[str]:
    return fleet.hosts.choose(names) if names else fleet.hosts.names()


def _show_images(fleet: stagefleet.Fleet, host: str, *, as_json: bool) -> None:
    for used in fleet.hosts.last_used(host):
        if as_json:
            print_json({"host": host, "image": used.image, "last_used_ms": used.last_used_ms})
        else:
            moment = datetime.fromtimestamp(used.last_used_ms / 1000, UTC)
            print_line(f"{host}  {moment:%Y-%m-%d %H:%M:%S}  {used.image}")
