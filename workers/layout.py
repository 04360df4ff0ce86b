"""Whether our four packages lie together: a user's project often has a `tasks` or a `config` of its own."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import config
import stagefleet
import tasks
import workers
from stagefleet.errors import SettingsError

__all__ = ["check_layout"]


def check_layout(packages: tuple[ModuleType, ...] = (stagefleet, config, tasks, workers)) -> None:
    """Check that none of our packages is somebody else's.

    Raises:
        SettingsError: One lies elsewhere; names it.
    """
    home = _home(stagefleet)
    for package in packages:
        if _home(package) != home:
            raise SettingsError(
                f"the package {package.__name__!r} comes from {_home(package)}, not from {home}: "
                "install Stagefleet into an environment of its own"
            )


def _home(package: ModuleType) -> Path | None:
    return Path(package.__file__).parent.parent.resolve() if package.__file__ else None
