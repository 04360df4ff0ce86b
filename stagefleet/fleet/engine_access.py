"""Parts of a fleet that are built at their first use, such as read access to this host's Docker Engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from stagefleet.errors import EngineNotFoundError
from stagefleet.images import StageDescription
from stagefleet.names import EngineProject, StageId
from stagefleet.processes import require_extra
from stagefleet.records import RecordId
from stagefleet.setting_types import docker_config_file
from stagefleet.settings import EngineSettings

if TYPE_CHECKING:
    from stagefleet.engine.connection import Engine
    from stagefleet.storages.docker_engine import EngineRecordStore, EngineStorage

__all__ = ["EngineAccess", "Lazy"]

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


# Read access of a client to this host's Docker Engine; workers do the rest.


class EngineAccess:
    """The stages and records in this host's engine; connects at the first call.

    Args:
        settings: The settings with the engine's address.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._engine: Engine | None = None

    def stage_ids(self, address: EngineProject) -> Iterator[StageId]:
        """List the stages of a project.

        Raises:
            EngineNotFoundError: This host has no engine.
        """
        return iter(self._storage(address).stage_ids())

    def record_ids(self, address: EngineProject) -> Iterator[RecordId]:
        """List the records of a project.

        Raises:
            EngineNotFoundError: This host has no engine.
        """
        return self.records(address).ids()

    def records(self, address: EngineProject) -> EngineRecordStore:
        """Return the record store of a project.

        Raises:
            EngineNotFoundError: This host has no engine.
        """
        engine = self._connect(address)  # refuses first where docker-py is not installed
        from stagefleet.storages.docker_engine import EngineRecordStore  # noqa: PLC0415 - imports docker-py

        return EngineRecordStore(engine, address)

    def describe_stage(self, address: EngineProject, stage_id: StageId) -> StageDescription:
        """Describe one stage.

        Raises:
            EngineNotFoundError: This host has no engine.
            StageNotFoundError: The engine does not have the stage.
        """
        return self._storage(address).describe(stage_id)

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _storage(self, address: EngineProject) -> EngineStorage:
        engine = self._connect(address)  # refuses first where docker-py is not installed
        from stagefleet.storages.docker_engine import EngineStorage  # noqa: PLC0415 - imports docker-py

        return EngineStorage(engine, address)

    def _connect(self, address: EngineProject) -> Engine:
        require_extra("engine", "docker", "stages in a Docker Engine")
        from stagefleet.engine.connection import Engine  # noqa: PLC0415 - brings docker-py, a tenth of a second
        from stagefleet.registry import DockerConfig  # noqa: PLC0415 - its package brings the registries' client

        where = self._settings.address
        if where is None:
            raise EngineNotFoundError(
                f"{address}: there is no Docker Engine here; name one with STAGEFLEET_ENGINE__URL"
            )
        with self._lock:
            if self._engine is None:
                self._engine = Engine(where, self._settings, config=DockerConfig(docker_config_file()))
            return self._engine
