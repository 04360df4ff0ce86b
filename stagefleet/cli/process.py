"""Commands that become one of the fleet's processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from stagefleet.cli.common_options import chosen_options
from stagefleet.cli.output import flush_output

__all__ = ["become"]


def become(command: Sequence[str]) -> NoReturn:
    """Replace this process by another one of ours, which takes the options of all commands with it.

    Args:
        command: As `stagefleet.processes.isolated_command` makes it.
    """
    flush_output()
    environment = os.environ | chosen_options().environment
    os.execve(sys.executable, list(command), environment)  # noqa: S606 - no shell is meant
