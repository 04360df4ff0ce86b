"""The hosts of a fleet: those whose workers have a Docker Engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stagefleet.connections import Connections
from stagefleet.errors import HostNotFoundError, UsageError
from stagefleet.locks import HeldLock, LockInfo
from stagefleet.names import StageId
from stagefleet.project_addresses import Items, Project, Source, parse_hosts, parse_stage_ids
from stagefleet.redaction import quoted
from stagefleet.runs.models import Outcome, Run

if TYPE_CHECKING:
    from stagefleet.shared_state.best_effort import UsedImage  # imports the registry client


@dataclass(frozen=True, slots=True)
class PinnedStages:
    """Images of stages that nobody removes from their hosts."""

    hosts: tuple[str, ...]
    locks: tuple[HeldLock, ...]

    def check(self) -> None:
        """Check that the protection lasts, without a request; `LockLostError` if images may be gone."""
        for lock in self.locks:
            lock.check()


class FleetHosts:
    """The hosts with a Docker Engine, and the images there; `fetch` is `Fleet.for_each_fetch_stage`."""

    def __init__(
        self, connections: Connections, notice: Callable[[str], None], fetch: Callable[..., Run]
    ) -> None:
        self._connections = connections
        self._notice = notice
        self._fetch = fetch

    def names(self) -> list[str]:
        """List the hosts that stages can be fetched to: those whose workers have a Docker Engine."""
        return self._connections.hosts()

    def choose(self, hosts: Sequence[str] | None, *, everywhere: bool = False) -> tuple[str, ...]:
        """Return the hosts for a run: the named ones, this one if there are none, or all live ones.

        Raises:
            UsageError: Both names and `everywhere` are given.
            HostNotFoundError: A host has no live worker; the message lists those that have.
        """
        named = parse_hosts(hosts)
        if named and everywhere:
            raise UsageError("name hosts, or ask for all of them, not both")
        live = self.names()
        chosen = tuple(live) if everywhere else named or (self._connections.settings.engine.host_name,)
        self._refuse_missing(chosen, live, "has a Docker Engine", self._connections.no_host_advice)
        return chosen

    def choose_for_layouts(self, hosts: Sequence[str]) -> tuple[str, ...]:
        """Return the hosts for a run on OCI layouts: the named ones, or this one; errors as of `choose`."""
        chosen = tuple(hosts) or (self._connections.settings.engine.host_name,)
        advice = "start stagefleet worker on it, with worker.layout_roots in its settings"
        self._refuse_missing(chosen, self._connections.layout_hosts(), "works on OCI layouts", advice)
        return chosen

    def _refuse_missing(self, chosen: Sequence[str], live: Sequence[str], ability: str, advice: str) -> None:
        missing = [host for host in chosen if host not in live]
        if missing or not chosen:
            there = ", ".join(live) or "none"
            choice = "name one of them, or " if live else ""
            lacking = f"no live worker of host {quoted(missing[0])} {ability}" if missing else ""
            raise HostNotFoundError(
                f"{lacking or 'no host is there'} (hosts that are there: {there}): {choice}{advice}"
            )

    def last_used(self, host: str | None = None) -> list[UsedImage]:
        """Return the last use of each image of a host, which its clean-up goes by, the longest unused first.

        Every fetch records a use, also of an image that is already there, and so do copies from and to an
        engine. For an image without a record the last use is unknown: records are limited in number
        (`caches.used_images`), and may be lost. The host may be one without a live worker; this host if None.
        """
        return self._connections.last_used.used_images(host or self._connections.settings.engine.host_name)

    @contextmanager
    def pinned_stages(
        self, source: Source, stage_ids: Items, *, hosts: Sequence[str] | None = None, all_hosts: bool = False
    ) -> Iterator[PinnedStages]:
        """Protect the images of stages, for all platforms, from removal from hosts.

        The protection ends with the context, or with the death of this process; check it from time to time.
        It fetches nothing, see `pin_stage`; sources and hosts are as of `Fleet.for_each_fetch_stage`.

        Raises:
            HostNotFoundError: A host has no live worker.
            LockTimeoutError: The removal of an image is in progress, and takes too long.
        """
        from stagefleet.locks.stage_locks import ImageLocks, image_of  # noqa: PLC0415 - imports the registry client

        primary = Project.of_source(source).primary
        named = parse_stage_ids(stage_ids) or ()
        chosen = self.choose(hosts, everywhere=all_hosts)
        with ExitStack() as held:
            locks: list[HeldLock] = []
            for host in chosen:
                images = ImageLocks(self._connections.locks, host)
                for stage_id in named:
                    image = image_of(primary, StageId.parse(stage_id))
                    locks.append(held.enter_context(images.lock_shared(image, on_wait=self._tell_of_wait)))
            yield PinnedStages(chosen, tuple(locks))

    @contextmanager
    def pin_stage(
        self, source: Source, stage_id: str | StageId, *, hosts: Sequence[str] | None = None, **fetch: Any
    ) -> Iterator[PinnedStages]:
        """Fetch a stage as `Fleet.for_each_fetch_stage` does, and protect its image while the context lasts.

        Raises:
            RemoteError: The stage could not be fetched.
        """
        with self.pinned_stages(source, [stage_id], hosts=hosts) as pinned:
            self._fetch(source, [stage_id], _raise_failure, hosts=pinned.hosts, **fetch)
            yield pinned

    def _tell_of_wait(self, lock: LockInfo) -> None:
        self._notice(f"waiting for {lock.name}, which is being removed")


def _raise_failure(outcome: Outcome) -> None:
    if outcome.error is not None:
        raise outcome.error.as_exception()
