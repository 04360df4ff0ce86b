"""Parts of a fleet that are built at their first use, such as the access to this host's Docker Engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from stagefleet.locks import LockManager
from stagefleet.processes import require_extra
from stagefleet.setting_types import docker_config_file
from stagefleet.settings import EngineSettings

if TYPE_CHECKING:
    from stagefleet.shared_state.last_used import LastUsed
    from stagefleet.storages.docker_engine import EngineHost

__all__ = ["Lazy", "open_engine_host"]

# Lazily built parts of a fleet.


class _Closable(Protocol):
    def close(self) -> None: ...


_Part = TypeVar("_Part", bound=_Closable)


class Lazy(Generic[_Part]):
    """A part that is built once, at its first use; thread-safe."""

    def __init__(self, build: Callable[[], _Part]) -> None:
        self._build = build
        self._lock = threading.Lock()
        self._part: _Part | None = None

    @property
    def value(self) -> _Part:
        """The part, built if necessary."""
        with self._lock:
            if self._part is None:
                self._part = self._build()
            return self._part

    def close(self) -> None:
        """Close the part, if it was built."""
        with self._lock:
            part, self._part = self._part, None
        if part is not None:
            part.close()


def open_engine_host(
    settings: EngineSettings, locks: LockManager, last_used: LastUsed | None = None
) -> EngineHost:
    """Open this host's Docker Engine, which the settings name; it connects at its first use.

    Raises:
        UsageError: docker-py is not installed.
    """
    require_extra("engine", "docker", "stages in a Docker Engine")
    from stagefleet.engine.connection import Engine  # noqa: PLC0415 - brings docker-py, a tenth of a second
    from stagefleet.registry import DockerConfig  # noqa: PLC0415 - its package brings the registries' client
    from stagefleet.storages.docker_engine import EngineHost  # noqa: PLC0415 - imports much that few commands need

    assert settings.address is not None
    engine = Engine(settings.address, settings, config=DockerConfig(docker_config_file()))
    return EngineHost(engine, settings.host_name, locks, last_used)
