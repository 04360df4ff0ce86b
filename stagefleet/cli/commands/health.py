"""`stagefleet health`: tells a container's health check whether the workers in it live."""

from __future__ import annotations

from stagefleet.cli.session import become
from stagefleet.processes import isolated_command


def check_health() -> None:
    """Exit with 0 if a worker of this container or machine lives, 1 if none does.

    With 2 if the settings are wrong.
    While Redis is out of reach the answer is yes: starting the worker again would not help.
    """
    become(isolated_command("workers.health"))
