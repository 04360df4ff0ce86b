"""Work on the Docker Engines of hosts: each item is a stage on a host."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stagefleet.errors import StagefleetError, UnreachableError, UsageError
from stagefleet.names import EngineProject, Repository, StorageAddress
from stagefleet.operations.base import (
    Operation,
    Plan,
    PlanStorages,
    bounded,
    find_lacking,
    listed_ids,
    named_ids,
    refuse_missing,
)
from stagefleet.platforms import PlatformSelection
from stagefleet.project import Project
from stagefleet.runs.models import HOST_SEPARATOR

__all__ = [
    "FetchOperation",
    "HostCopyOperation",
    "HostDeleteOperation",
    "OnHostOperation",
    "refuse_platforms",
]

_LOGGER = logging.getLogger(__name__)


def _on_hosts(stage_ids: Iterable[str], hosts: Sequence[str]) -> Sequence[str]:
    """Combine each stage with each host; hosts alternate, so that none waits for another."""
    return bounded(f"{stage_id}{HOST_SEPARATOR}{host}" for stage_id in stage_ids for host in hosts)


def _listed(
    address: StorageAddress,
    stage_ids: tuple[str, ...] | None,
    plan_storages: PlanStorages,
    hosts: Sequence[str],
    own: str,
) -> Iterable[str]:
    """Return the named stages, or all; an engine's stages can only be listed on its own host."""
    if stage_ids is not None:
        return stage_ids
    if address.is_on_host and tuple(hosts) != (own,):
        raise UsageError(
            f"the stages of {address} on another host are not known here: name them, or run this on that host"
        )
    return map(str, named_ids(plan_storages, address))


def refuse_platforms(primary: StorageAddress, platforms: PlatformSelection) -> None:
    """Reject platforms if the primary storage is an engine.

    Raises:
        UsageError: Platforms are named, and the primary storage is a Docker Engine.
    """
    if platforms and primary.is_on_host:
        raise UsageError(
            f"{primary} has the platforms that were built there, none can be brought: leave them out"
        )


@dataclass(frozen=True, slots=True)
class FetchOperation:
    """Fetch stages to hosts.

    Attributes:
        project: The storages that the stages come from.
        stage_ids: The stages.
        platforms: The platforms of multi-platform stages.
        hosts: The hosts that they go to.
    """

    project: Project
    stage_ids: tuple[str, ...]
    platforms: PlatformSelection
    hosts: tuple[str, ...]

    name = "fetch_stage"

    @property
    def options(self) -> dict[str, Any]:
        return {**self.project.as_options(), **self.platforms.as_options(), "hosts": list(self.hosts)}

    @property
    def storages(self) -> tuple[StorageAddress, ...]:
        """The storages that the stages may come from: while one of them exists, others may be new."""
        return (self.project.primary, *self.project.caches)

    def plan(self, plan_storages: PlanStorages) -> Plan:
        """Plan every stage on every host; the tasks skip those that are already there.

        If an engine is the primary storage, only its own host knows its stages, and looks for them there.

        Raises:
            StagesNotFoundError: Neither the primary nor a cache has a named stage.
            TooManyItemsError: The run has more items than allowed.
        """
        primary = self.project.primary
        if not primary.is_on_host:
            try:
                lacking = find_lacking(plan_storages, primary, self.stage_ids)
            except UnreachableError as error:
                if not self.project.caches:
                    raise
                _LOGGER.warning("the caches have to serve, the primary storage is out of reach: %s", error)
            else:
                self._refuse_unknown(plan_storages, primary, lacking)
        return Plan(_on_hosts(self.stage_ids, self.hosts))

    def _refuse_unknown(
        self, plan_storages: PlanStorages, primary: Repository, lacking: Sequence[str]
    ) -> None:
        """Reject stages that no cache has either; a cache that does not answer counts as empty."""
        for cache in self.project.caches:
            if not lacking:
                return
            try:
                lacking = find_lacking(plan_storages, cache, lacking)
            except StagefleetError as error:
                _LOGGER.warning("cache %s was not looked into: %s", cache, error)
        refuse_missing(lacking, [primary, *self.project.caches])


@dataclass(frozen=True, slots=True)
class HostCopyOperation:
    """Copy stages between a repository and the engines of hosts.

    Attributes:
        source: The source.
        destination: The destination.
        stage_ids: The stages; all if None.
        verify: Compare stages that the destination has.
        hosts: The hosts of the engines.
        own: The name of this host.
    """

    source: StorageAddress
    destination: StorageAddress
    stage_ids: tuple[str, ...] | None
    verify: bool
    hosts: tuple[str, ...]
    own: str

    name = "copy_stage"

    def __post_init__(self) -> None:
        if self.source.is_on_host and self.destination.is_on_host:
            raise UsageError(
                f"{self.source} to {self.destination}: between engines stages go through a repository"
            )
        if self.source.is_on_host and len(self.hosts) > 1:
            raise UsageError(f"{self.source} is to be copied from one host: name one with --host")

    @property
    def options(self) -> dict[str, Any]:
        return {
            "source": str(self.source),
            "destination": str(self.destination),
            "verify": self.verify,
            "hosts": list(self.hosts),
        }

    def plan(self, plan_storages: PlanStorages) -> Plan:
        """Plan the stages that a repository lacks; the tasks look up those of an engine.

        Raises:
            UsageError: All stages of another host's engine were requested.
            TooManyItemsError: The run has more items than allowed.
        """
        wanted = bounded(_listed(self.source, self.stage_ids, plan_storages, self.hosts, self.own))
        present: set[str] = set()
        if not self.destination.is_on_host:
            if self.verify:
                plan_storages.ping(self.destination)
            else:
                present = listed_ids(plan_storages, self.destination)
        return Plan(
            items=_on_hosts((stage_id for stage_id in wanted if stage_id not in present), self.hosts),
            skipped=_on_hosts((stage_id for stage_id in wanted if stage_id in present), self.hosts),
        )


@dataclass(frozen=True, slots=True)
class HostDeleteOperation:
    """Delete stages from the engines of hosts.

    Attributes:
        address: The project.
        stage_ids: The stages; all if None.
        policy: The policy for stages in use; see `InUsePolicy.as_options`.
        hosts: The hosts of the engines.
        own: The name of this host.
    """

    address: EngineProject
    stage_ids: tuple[str, ...] | None
    policy: Mapping[str, bool]
    hosts: tuple[str, ...]
    own: str

    name = "delete_stage"

    @property
    def options(self) -> dict[str, Any]:
        return {"repository": str(self.address), **self.policy, "hosts": list(self.hosts)}

    def plan(self, plan_storages: PlanStorages) -> Plan:
        """Plan the named stages, or all.

        Raises:
            UsageError: All stages of another host's engine were requested.
            TooManyItemsError: The run has more items than allowed.
        """
        wanted = _listed(self.address, self.stage_ids, plan_storages, self.hosts, self.own)
        return Plan(_on_hosts(wanted, self.hosts))


@dataclass(frozen=True, slots=True)
class OnHostOperation:
    """Perform work on a storage that is a Docker Engine, on that engine's host.

    Attributes:
        operation: The work.
        host: The engine's host.
        own: The name of this host.
    """

    operation: Operation
    host: str
    own: str

    @property
    def name(self) -> str:
        return self.operation.name

    @property
    def options(self) -> dict[str, Any]:
        return self.operation.options | {"hosts": [self.host]}

    @property
    def stage_ids(self) -> tuple[str, ...] | None:
        return self.operation.stage_ids

    def plan(self, plan_storages: PlanStorages) -> Plan:
        """Plan the work; the tasks look up the stages of another host's engine.

        Raises:
            UsageError: All stages of another host's engine were requested.
        """
        if self.host == self.own:
            plan = self.operation.plan(plan_storages)
        elif self.stage_ids is not None:
            plan = Plan(self.stage_ids)
        else:
            raise UsageError(
                f"what the engine on {self.host} has is not known here: name what is meant, or run this on "
                "that host"
            )
        return Plan(_on_hosts(plan.items, [self.host]), _on_hosts(plan.skipped, [self.host]))
