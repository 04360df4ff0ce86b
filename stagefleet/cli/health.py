"""`stagefleet health`: tells a container's health check whether the workers in it live."""

from __future__ import annotations

import os
import sys

from stagefleet.cli.common_options import chosen_options
from stagefleet.cli.output import flush_output
from stagefleet.processes import isolated_command

__all__ = ["check_health"]


def check_health() -> None:
    """Exit with 0 if a worker of this container or machine lives, 1 if none does.

    With 2 if the settings are wrong.
    While Redis is out of reach the answer is yes: starting the worker again would not help.
    """
    flush_output()
    environment = os.environ | chosen_options().environment
    os.execve(sys.executable, isolated_command("workers.health"), environment)  # noqa: S606 - no shell is meant
