"""Mirrors: copies of all stages, after which the destination has no more of them than the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stagefleet.errors import PruneLimitError
from stagefleet.fleet.callbacks import RemoteCallback, RunArguments
from stagefleet.fleet.chains import RunChains
from stagefleet.fleet.reader import StorageReader
from stagefleet.fleet.submission import RunPlans
from stagefleet.operations.base import Operation, Plan, PlanStorages, fingerprint, parse_repository
from stagefleet.operations.copy import CopyOperation
from stagefleet.operations.delete import PruneOperation
from stagefleet.runs.models import Run, RunSpec


@dataclass(frozen=True, slots=True)
class MirrorPlan:
    """The stages to copy and then to delete; none of these if they are too many, as `refusal` says."""

    copies: Plan
    deletions: Plan
    refusal: PruneLimitError | None = None


@dataclass(frozen=True, slots=True)
class Mirror:
    """The runs of a mirror: the copy, and the deletion if there is anything to delete.

    `refusal` says that too much would have been deleted, and so nothing is.
    """

    runs: Sequence[Run]
    refusal: PruneLimitError | None = None


@dataclass(frozen=True, slots=True)
class MirrorStarter:
    """Plan and start mirrors; as of `FleetProject.start_mirror`."""

    chains: RunChains
    plans: RunPlans
    reader: StorageReader

    def plan(self, copy: CopyOperation, max_percent: float) -> MirrorPlan:
        """Plan a mirror, from one list of each storage."""
        prune, storages = _prune_of(copy, max_percent), self.reader.plan_storages().listed_once()
        deletions, refusal = _plan_deletions(prune, storages)
        return MirrorPlan(copy.plan(None, storages), deletions, refusal)

    def start(
        self,
        copy: CopyOperation,
        callback: RemoteCallback | None,
        max_percent: float,
        *,
        parallel: int | None,
        key: str | None,
    ) -> Mirror:
        """Write the copy and the deletion, and start the copy; or find those under the key."""
        prune = _prune_of(copy, max_percent)
        own = fingerprint(prune, [copy.name, str(copy.verify), str(copy.foreign_layers)])
        found = None if key is None else self.chains.find(key, own)
        if found is not None:
            reason = found[0].spec.refusal if found else ""
            return Mirror(found, PruneLimitError(reason) if reason else None)
        plan = self.plan(copy, max_percent)
        spec = self._spec(copy, callback, own, parallel=parallel, key=key)
        runs = [(spec.model_copy(update={"refusal": str(plan.refusal or "")}), plan.copies)]
        if plan.deletions:
            runs.append((self._spec(prune, callback, own, parallel=parallel, key=key), plan.deletions))
        return Mirror(self.chains.start(runs, if_succeeded=True), plan.refusal)

    def _spec(
        self,
        operation: Operation,
        callback: RemoteCallback | None,
        own_fingerprint: str,
        *,
        parallel: int | None,
        key: str | None,
    ) -> RunSpec:
        run = RunArguments(parallel=parallel, idempotency_key=key)
        spec, _ = self.plans.prepare(operation, None, callback, run)
        return spec.model_copy(update={"fingerprint": own_fingerprint})


def _prune_of(copy: CopyOperation, max_percent: float) -> PruneOperation:
    source, destination = map(parse_repository, copy.addresses)
    return PruneOperation(repository=destination, source=source, max_percent=max_percent)


def _plan_deletions(prune: PruneOperation, storages: PlanStorages) -> tuple[Plan, PruneLimitError | None]:
    try:
        return prune.plan(None, storages), None
    except PruneLimitError as refusal:
        return Plan(()), refusal
