"""All storages of a fleet, opened by their addresses, with the caches and lists that runs share."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, overload

from stagefleet import errors
from stagefleet.attempt import Attempt
from stagefleet.fleet_registries import Registries
from stagefleet.image_config import describe_engine_image
from stagefleet.images import ImageInfo
from stagefleet.leases import current_lease
from stagefleet.names import EngineProject, LayoutPath, Reference, Repository, StageId, StorageAddress
from stagefleet.registry.http.waits import hurrying
from stagefleet.shared_state.base import RUN_TTL_SECONDS
from stagefleet.stage_lists import StageIdList
from stagefleet.storages.base import Storage
from stagefleet.storages.repository import RegistryStorage
from stagefleet.threads import Call

if TYPE_CHECKING:
    from stagefleet.deletion.tag_deletion import TagDeletions  # clients delete nothing
    from stagefleet.storages.docker_engine import EngineHost, EngineStorage  # most fleets have none
    from stagefleet.storages.oci_layout import LayoutStorage


class Storages:
    """The storages of a fleet; thread-safe.

    `open_host` opens this host's engine, at its first use; it raises where there is none. The
    `circuit_breakers` skip caches after an outage; `run_lists` are repositories as runs have listed them.
    Layouts are opened below `layout_roots` alone, unless these are None.
    """

    def __init__(
        self,
        registries: Registries,
        open_host: Callable[[], EngineHost],
        layout_roots: Sequence[Path] | None = None,
    ) -> None:
        self.registries = registries
        self.circuit_breakers = CircuitBreakers()
        self.run_lists = RunLists(self)
        self._open_host = open_host
        self._layout_roots = layout_roots
        self._host: EngineHost | None = None
        self._lock = Lock()

    @overload
    def open(self, address: Repository) -> RegistryStorage: ...
    @overload
    def open(self, address: EngineProject) -> EngineStorage: ...
    @overload
    def open(self, address: LayoutPath) -> LayoutStorage: ...
    @overload
    def open(self, address: StorageAddress) -> Storage: ...
    def open(self, address: StorageAddress) -> Storage:
        """Open the storage of an address, which may not exist; no requests. Errors as of `host`."""
        if address.is_engine:
            from stagefleet.storages.docker_engine import EngineStorage  # noqa: PLC0415 - most fleets have none

            return EngineStorage(self.host, address)
        if address.is_layout:
            from stagefleet.storages.oci_layout import LayoutStorage  # noqa: PLC0415 - most fleets have none

            return LayoutStorage(address, self.registries.stage_locks, self._layout_roots)
        return RegistryStorage(self, address)

    @property
    def host(self) -> EngineHost:
        """This host's Docker Engine; `EngineNotFoundError` or `SettingsError` where it cannot be used."""
        with self._lock:
            if self._host is None:
                self._host = self._open_host()
            return self._host

    def side_by_side(self, calls: Sequence[Call]) -> None:
        """Make calls at once under the lease of this thread; errors are as of `RequestThreads.run`."""
        self.registries.client.threads.run(calls, current_lease())

    def close(self) -> None:
        """Close the connections to registries and the engine."""
        self.registries.client.close()
        with self._lock:
            host, self._host = self._host, None
        if host is not None:
            host.close()

    @cached_property
    def deletions(self) -> TagDeletions:
        """Deletions of tags in repositories, for `Storage.delete`."""
        from stagefleet.deletion.tag_deletion import TagDeletions  # noqa: PLC0415 - only workers delete

        return TagDeletions(self.registries)

    def describe_image(self, reference: Reference) -> ImageInfo:
        """Describe an image by its name: from this host's engine, else from its registry.

        Raises:
            NotFoundError: It does not exist.
            BrokenStageError: The registry lists it, but cannot deliver it.
        """
        try:
            engine = self.host.engine
        except (errors.EngineNotFoundError, errors.SettingsError):
            found = None
        else:
            found = engine.find(str(reference))
        if found is not None:
            return describe_engine_image(found, reference.repository, reference.tag or "")
        manifest = self.registries.client.fetch_manifest(reference)
        return self.open(reference.repository).reader().describe(manifest, reference.tag or "")


# Caches that did not answer or asked for a pause: they are skipped for a while, so that stages go on.

OPEN_SECONDS = 60.0
"""Time for which a cache is skipped after an outage; longer if the cache asks for more."""
_LONGEST_ALONE_SECONDS = 3600.0
_LONGEST_WAIT_SECONDS = 10.0
"""Longest pause that one request grants a cache: without the cache the work goes on at once."""

_LOGGER = logging.getLogger(__name__)


class CircuitBreakers:
    """Caches that this process skips; thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: dict[Repository, float] = {}
        self._lock = Lock()

    @contextmanager
    def guarding(self, cache: Repository) -> Iterator[None]:
        """Guard a use of a cache, which may be skipped; each use of a cache goes through this method.

        `CircuitOpenError` if it did not answer, now or a short while ago.
        """
        with self._lock:
            left_seconds = self._ends.get(cache, 0.0) - self._clock()
        if left_seconds > 0:
            raise errors.CircuitOpenError(
                f"{cache} did not answer, and is left alone for another {left_seconds:.0f} s"
            )
        try:
            with hurrying(cache.host, _LONGEST_WAIT_SECONDS):
                yield
        except (
            errors.RegistryUnreachableError,
            errors.RegistryUnavailableError,
            errors.RateLimitedError,
        ) as error:
            if error.host != cache.host:
                raise  # the source of a copy into the cache is unreachable
            self._begin(cache, error, getattr(error, "retry_after_seconds", None) or 0.0)
            raise errors.CircuitOpenError(f"{cache} is out of reach: {error}") from error

    def _begin(self, cache: Repository, error: errors.StagefleetError, asked_seconds: float) -> None:
        seconds = min(max(OPEN_SECONDS, asked_seconds), _LONGEST_ALONE_SECONDS)
        with self._lock:
            now = self._clock()
            self._ends = {other: end for other, end in self._ends.items() if end > now}
            is_known = cache in self._ends  # to another thread, which asked at the same time
            self._ends.setdefault(cache, now + seconds)
        if not is_known:
            _LOGGER.warning("cache %s is out of reach, and left alone for %.0f s: %s", cache, seconds, error)


# Stages of a repository: listed once per run, and updated by the run's own copies into it.

_WAIT_SECONDS = 600
_LISTS_KEPT = 8


class RunList:
    """Stages of a repository in one run; thread-safe."""

    def __init__(self, listed: Iterable[StageId]) -> None:
        self._listed = StageIdList(listed)
        self._lock = Lock()
        self._added: set[StageId] = set()

    def __contains__(self, stage_id: StageId) -> bool:
        if stage_id in self._listed:
            return True
        with self._lock:
            return stage_id in self._added

    def add(self, stage_id: StageId) -> None:
        """Add a stage that the run has copied."""
        with self._lock:
            self._added.add(stage_id)


class RunLists:
    """Lists of the runs under way; thread-safe.

    One worker reads the tags, and shares them through the run's shared state. Later copies by other workers
    are not on this list: a check of the storage before each copy finds them.
    """

    def __init__(self, storages: Storages) -> None:
        self._storages = storages
        self._lock = Lock()
        self._lists: OrderedDict[tuple[str, Repository], RunList] = OrderedDict()

    def of(self, repository: Repository, attempt: Attempt) -> RunList:
        """Return the list of the attempt's run."""
        name = (attempt.run_id, repository)
        with self._lock:
            found = self._lists.get(name)
            if found is not None:
                self._lists.move_to_end(name)
                return found
        listed = self._read(repository, attempt)
        with self._lock:
            # Another thread may have created it meanwhile: all have to add to the same list.
            made = self._lists.setdefault(name, RunList(map(StageId.parse, listed)))
            while len(self._lists) > _LISTS_KEPT:
                self._lists.popitem(last=False)
            return made

    def _read(self, repository: Repository, attempt: Attempt) -> Any:
        storage = self._storages.open(repository)
        return self._storages.registries.shared_state.get_or_compute(
            attempt.run_id,
            f"final {repository}",
            lambda: [str(stage_id) for stage_id in storage.stage_ids()],
            ttl_seconds=RUN_TTL_SECONDS,
            wait_seconds=_WAIT_SECONDS,
            lease=attempt.lease,
        )
