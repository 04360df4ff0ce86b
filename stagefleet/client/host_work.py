"""Work for the Docker Engines of hosts: each item is a stage on a host."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stagefleet.client.work import (
    Catalogue,
    Plan,
    Work,
    bounded,
    find_lacking,
    listed_ids,
    named_ids,
    refuse_missing,
)
from stagefleet.errors import StagefleetError, UnreachableError, UsageError
from stagefleet.names import DockerDaemon, Repository
from stagefleet.platforms import PlatformChoice
from stagefleet.roles import Roles
from stagefleet.runs.model import HOST_SEPARATOR

__all__ = ["FetchWork", "HostCopyWork", "HostDeleteWork", "OnHostWork", "refuse_platforms"]

_LOGGER = logging.getLogger(__name__)


def _on_hosts(stage_ids: Iterable[str], hosts: Sequence[str]) -> Sequence[str]:
    """Each stage on each host; the hosts take turns, so that none waits for another."""
    return bounded(f"{stage_id}{HOST_SEPARATOR}{host}" for stage_id in stage_ids for host in hosts)


def _listed(
    address: Repository | DockerDaemon,
    stage_ids: tuple[str, ...] | None,
    catalogue: Catalogue,
    hosts: Sequence[str],
    own: str,
) -> Iterable[str]:
    """The stages named, or all; those of an engine can only be listed on its own host."""
    if stage_ids is not None:
        return stage_ids
    if isinstance(address, DockerDaemon) and tuple(hosts) != (own,):
        raise UsageError(
            f"the stages of {address} on another host are not known here: name them, or run this on that host"
        )
    return map(str, named_ids(catalogue, address))


def refuse_platforms(primary: Repository | DockerDaemon, platforms: PlatformChoice) -> None:
    """Refuse to bring platforms where nothing can be brought.

    Raises:
        UsageError: Some are named, and the primary storage is a Docker Engine.
    """
    if platforms and isinstance(primary, DockerDaemon):
        raise UsageError(
            f"{primary} has the platforms that were built there, none can be brought: leave them out"
        )


@dataclass(frozen=True, slots=True)
class FetchWork:
    """Fetch stages to hosts.

    Attributes:
        roles: Where the stages come from.
        stage_ids: Which.
        platforms: Which platforms of those that have several.
        hosts: Where they go.
    """

    roles: Roles
    stage_ids: tuple[str, ...]
    platforms: PlatformChoice
    hosts: tuple[str, ...]

    operation = "fetch_stage"

    @property
    def options(self) -> dict[str, Any]:
        return {**self.roles.as_options(), **self.platforms.as_options(), "hosts": list(self.hosts)}

    @property
    def storages(self) -> tuple[Repository | DockerDaemon, ...]:
        """Where the stages may come from: while one of them exists, others may be new."""
        return (self.roles.primary, *self.roles.caches)

    def plan(self, catalogue: Catalogue) -> Plan:
        """Every stage on every host; what is there already is found by the tasks.

        What an engine has that is the primary storage is known to its own host alone, and found there.

        Raises:
            StagesMissingError: Stages were named that neither the primary nor a cache has.
            TooManyItemsError: There are more than a run may have.
        """
        primary = self.roles.primary
        if isinstance(primary, Repository):
            try:
                lacking = find_lacking(catalogue, primary, self.stage_ids)
            except UnreachableError as error:
                if not self.roles.caches:
                    raise
                _LOGGER.warning("the caches have to serve, the primary storage is out of reach: %s", error)
            else:
                self._refuse_unknown(catalogue, primary, lacking)
        return Plan(_on_hosts(self.stage_ids, self.hosts))

    def _refuse_unknown(self, catalogue: Catalogue, primary: Repository, lacking: Sequence[str]) -> None:
        """Refuse what no cache has either; one that cannot be asked has nothing."""
        for cache in self.roles.caches:
            if not lacking:
                return
            try:
                lacking = find_lacking(catalogue, cache, lacking)
            except StagefleetError as error:
                _LOGGER.warning("cache %s was not looked into: %s", cache, error)
        refuse_missing(lacking, [primary, *self.roles.caches])


@dataclass(frozen=True, slots=True)
class HostCopyWork:
    """Copy stages between a repository and the engines of hosts.

    Attributes:
        source: Where they are.
        destination: Where they go.
        stage_ids: Which; all if None.
        verify: Compare what is there already.
        hosts: Whose engines.
        own: The name of this host.
    """

    source: Repository | DockerDaemon
    destination: Repository | DockerDaemon
    stage_ids: tuple[str, ...] | None
    verify: bool
    hosts: tuple[str, ...]
    own: str

    operation = "copy_stage"

    def __post_init__(self) -> None:
        if isinstance(self.source, DockerDaemon) and isinstance(self.destination, DockerDaemon):
            raise UsageError(
                f"{self.source} to {self.destination}: between engines stages go through a repository"
            )
        if isinstance(self.source, DockerDaemon) and len(self.hosts) > 1:
            raise UsageError(f"{self.source} is to be copied from one host: name one with --host")

    @property
    def options(self) -> dict[str, Any]:
        return {
            "source": str(self.source),
            "destination": str(self.destination),
            "verify": self.verify,
            "hosts": list(self.hosts),
        }

    def plan(self, catalogue: Catalogue) -> Plan:
        """What a repository lacks; what an engine has is found by the tasks.

        Raises:
            UsageError: All stages of another host's engine were asked for.
            TooManyItemsError: There are more than a run may have.
        """
        wanted = bounded(_listed(self.source, self.stage_ids, catalogue, self.hosts, self.own))
        present: set[str] = set()
        if isinstance(self.destination, Repository):
            if self.verify:
                catalogue.ping(self.destination)
            else:
                present = listed_ids(catalogue, self.destination)
        return Plan(
            items=_on_hosts((stage_id for stage_id in wanted if stage_id not in present), self.hosts),
            skipped=_on_hosts((stage_id for stage_id in wanted if stage_id in present), self.hosts),
        )


@dataclass(frozen=True, slots=True)
class HostDeleteWork:
    """Delete stages from the engines of hosts.

    Attributes:
        address: The project.
        stage_ids: Which; all if None.
        policy: What to do with those that are used; see `UsePolicy.as_options`.
        hosts: Whose engines.
        own: The name of this host.
    """

    address: DockerDaemon
    stage_ids: tuple[str, ...] | None
    policy: Mapping[str, bool]
    hosts: tuple[str, ...]
    own: str

    operation = "delete_stage"

    @property
    def options(self) -> dict[str, Any]:
        return {"repository": str(self.address), **self.policy, "hosts": list(self.hosts)}

    def plan(self, catalogue: Catalogue) -> Plan:
        """All that was named, or that is there.

        Raises:
            UsageError: All stages of another host's engine were asked for.
            TooManyItemsError: There are more than a run may have.
        """
        wanted = _listed(self.address, self.stage_ids, catalogue, self.hosts, self.own)
        return Plan(_on_hosts(wanted, self.hosts))


@dataclass(frozen=True, slots=True)
class OnHostWork:
    """Work on a storage that is a Docker Engine: done on that engine's host.

    Attributes:
        work: What is to be done.
        host: The engine's host.
        own: The name of this host.
    """

    work: Work
    host: str
    own: str

    @property
    def operation(self) -> str:
        return self.work.operation

    @property
    def options(self) -> dict[str, Any]:
        return self.work.options | {"hosts": [self.host]}

    @property
    def stage_ids(self) -> tuple[str, ...] | None:
        return self.work.stage_ids

    def plan(self, catalogue: Catalogue) -> Plan:
        """As the work's own; what another host's engine has is not known here, and found by the tasks.

        Raises:
            UsageError: All of another host's engine was asked for.
        """
        if self.host == self.own:
            plan = self.work.plan(catalogue)
        elif self.stage_ids is not None:
            plan = Plan(self.stage_ids)
        else:
            raise UsageError(
                f"what the engine on {self.host} has is not known here: name what is meant, or run this on "
                "that host"
            )
        return Plan(_on_hosts(plan.items, [self.host]), _on_hosts(plan.skipped, [self.host]))
