"""Connections of a client to its fleet, each made at its first use: the only place where they are made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from stagefleet.errors import RedisUnreachableError, StagefleetError, UsageError
from stagefleet.locks import LockManager, MemoryLocks, RedisLocks
from stagefleet.runs.ledger import Ledger
from stagefleet.runs.messages import layout_hosts, live_hosts
from stagefleet.runs.models import Outcome
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import Settings

if TYPE_CHECKING:
    from stagefleet.embedded import EmbeddedFleet
    from stagefleet.fleet_storages import ClientStorages

    # Loaded at the first use: the storages bring the registry client.
    from stagefleet.shared_state.best_effort import LastUsed

_Part = TypeVar("_Part")


class _Lazy(Generic[_Part]):
    """A part that is built once, at its first use, and not after `close`; thread-safe."""

    def __init__(self, build: Callable[[], _Part], close: Callable[[_Part], object]) -> None:
        self._build = build
        self._close = close
        self._lock = threading.Lock()
        self._part: _Part | None = None
        self._is_closed = False

    @property
    def built(self) -> _Part | None:
        """The part, if it was built."""
        return self._part

    @property
    def value(self) -> _Part:
        """The part, built if necessary; `UsageError` after `close`."""
        with self._lock:
            if self._is_closed:
                raise UsageError("this fleet is closed: open another one")
            if self._part is None:
                self._part = self._build()
            return self._part

    def close(self) -> None:
        """Close the part, if it was built, and refuse to build another one."""
        with self._lock:
            self._is_closed = True
            part, self._part = self._part, None
        if part is not None:
            self._close(part)


class Connections:
    """A client's connections to a fleet with an existing Redis; thread-safe.

    It `starts_worker` if it starts one of its own, whose end `check` detects. There is advice for a user
    whose run has no worker, and for one who names a host without one. `layout_roots` are as of
    `Storages`: a client opens any layout of its user's.
    """

    starts_worker = False
    no_worker_advice = "start one with stagefleet worker"
    no_host_advice = (
        "start stagefleet worker on it, its engine named by STAGEFLEET_ENGINE__URL "
        "and it by STAGEFLEET_ENGINE__HOST"
    )

    def __init__(
        self, redis_url: str, settings: Settings, *, layout_roots: Sequence[Path] | None = None
    ) -> None:
        self._prepare(settings, layout_roots)
        self._redis_url = redis_url
        _ = self.ledger  # reads the URL, and connects later

    def _prepare(self, settings: Settings, layout_roots: Sequence[Path] | None = None) -> None:
        self.settings = settings
        self._layout_roots = layout_roots
        self._ledger = _Lazy(self._open_ledger, lambda ledger: ledger.close())
        self._locks = _Lazy(self._open_locks, lambda locks: locks.close())
        self._last_used = _Lazy(self._open_last_used, lambda last_used: last_used.close())
        self._storages = _Lazy(self._open_storages, lambda storages: storages.close())

    @property
    def ledger(self) -> Ledger:
        """The ledger; the first use starts what it needs."""
        return self._ledger.value

    @property
    def locks(self) -> LockManager:
        """The fleet's locks."""
        return self._locks.value

    @property
    def last_used(self) -> LastUsed:
        """The last-used records of images on hosts."""
        return self._last_used.value

    @property
    def storages(self) -> ClientStorages:
        """The storages, and what a client does with them itself; workers do the rest."""
        return self._storages.value

    def begin_start(self) -> None:
        """Start what the ledger will need, if anything, and return at once."""

    def hosts(self) -> list[str]:
        """List the hosts with a worker for their Docker Engine."""
        return live_hosts(self.ledger.heartbeats.workers())

    def layout_hosts(self) -> list[str]:
        """List the hosts with a worker that may work on OCI layouts."""
        return layout_hosts(self.ledger.heartbeats.workers())

    def check(self) -> None:
        """Check that the processes of an embedded fleet are running; raise if one has ended."""

    def close(self) -> None:
        """Close the connections, and stop an embedded fleet; later uses raise `UsageError`."""
        self._last_used.close()
        self._locks.close()
        self._ledger.close()
        self._storages.close()

    def _open_ledger(self) -> Ledger:
        return RedisLedger.connect(self._redis_url, self.settings)

    def _open_locks(self) -> LockManager:
        return RedisLocks.connect(self._redis_url, self.settings)

    def _open_last_used(self) -> LastUsed:
        from stagefleet.shared_state.best_effort import RedisLastUsed  # noqa: PLC0415 - few commands ask for it

        return RedisLastUsed.connect(self._redis_url, self.settings)

    def _open_storages(self) -> ClientStorages:
        from stagefleet.fleet_storages import ClientStorages  # noqa: PLC0415 - brings the registry client

        storages = ClientStorages(self.settings, self.locks, layout_roots=self._layout_roots)
        if self._redis_url:
            storages.join(self._redis_url)
        return storages


class EmbeddedConnections(Connections):
    """A client's connections to a private Valkey and a worker; the first use of the ledger waits for them.

    `on_start` is called before that; the Redis URL of the settings is not used.
    """

    starts_worker = True
    no_worker_advice = "the one of this command has not come up"
    no_host_advice = "without a fleet there is this host alone; STAGEFLEET_ENGINE__URL names its engine"

    def __init__(self, settings: Settings, *, on_start: Callable[[], None] | None = None) -> None:
        self._prepare(settings)
        self._redis_url = ""
        self._embedded = _Lazy(self._open_embedded, self._stop)
        self._on_start = on_start

    def begin_start(self) -> None:
        self._embedded.value.begin_start()

    def hosts(self) -> list[str]:
        """Return this host, where the worker is."""
        engine = self.settings.engine
        return [engine.host_name] if engine.has_engine else []

    def layout_hosts(self) -> list[str]:
        return [self.settings.engine.host_name]

    def check(self) -> None:
        self._embedded.value.check()

    def close(self) -> None:
        self._embedded.close()  # while the ledger can be read
        super().close()

    def _stop(self, embedded: EmbeddedFleet) -> None:
        """Stop it; at once if no run is under way, as a worker takes a second to stop."""
        ledger = self._ledger.built  # None after an interrupt of the start: there is no run
        try:
            is_idle = ledger is None or all(run.state.is_final for run in ledger.runs())
        except StagefleetError:  # Valkey has ended
            is_idle = False
        if is_idle:
            embedded.kill()
        else:
            embedded.stop()

    def _open_embedded(self) -> EmbeddedFleet:
        from stagefleet.embedded import EmbeddedFleet  # noqa: PLC0415 - look-ups need none

        return EmbeddedFleet(self.settings)

    def _open_ledger(self) -> RedisLedger:
        from stagefleet.embedded import require_packages  # noqa: PLC0415 - look-ups need none

        require_packages()
        if self._on_start is not None:
            self._on_start()
        self._redis_url = self._embedded.value.start()
        # This process must not keep entries that the worker deletes.
        self.storages.join(self._redis_url)
        ledger = _EmbeddedLedger.connect(self._redis_url, self.settings)
        ledger.check = self._embedded.value.check
        return ledger

    def _open_locks(self) -> LockManager:
        """Create the locks of this process, which alone uses the private Valkey."""
        return MemoryLocks(self.settings.locks)

    def _open_last_used(self) -> LastUsed:
        _ = self.ledger  # this starts the Valkey that its worker writes to
        return super()._open_last_used()


class _EmbeddedLedger(RedisLedger):
    """The ledger in the private Valkey; its calls fail at once after that has ended."""

    check: Callable[[], None]

    def outcomes(self, run_id: str, after: str, *, limit: int, block_seconds: float) -> list[Outcome] | None:
        try:
            return super().outcomes(run_id, after, limit=limit, block_seconds=block_seconds)
        except RedisUnreachableError:
            self.check()
            raise
