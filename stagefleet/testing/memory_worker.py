"""Worker in memory: executes the items of `MemoryLedger` in the thread that waits for their outcomes.

What it does for an item follows the task of the operation, without what storages in memory cannot meet:
broken content, registries that cannot delete tags, caches out of reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from stagefleet import errors
from stagefleet.attempt import NOT_THERE, Attempt, ItemResult
from stagefleet.leases import Lease
from stagefleet.locks.stage_locks import image_of
from stagefleet.names import StageId, StorageAddress
from stagefleet.operations import copy, delete, fetch, publish, records as operations, verify
from stagefleet.operations.base import ProjectOperation
from stagefleet.operations.catalog import OPERATIONS, parse_operation
from stagefleet.project_addresses import parse_repository
from stagefleet.projects.lookup import StageLookup
from stagefleet.records.ids import RecordId, RecordKind
from stagefleet.records.models import CustomTag, ImageMetadata
from stagefleet.runs.detached_coordinator import DetachedCoordinator
from stagefleet.runs.ledger import Claim
from stagefleet.runs.messages import QUEUES, host_queue
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, RunSpec, WaitReason, WorkerInfo
from stagefleet.runs.webhook import WebhookCall
from stagefleet.setting_types import WebhookSettings
from stagefleet.shared_state.best_effort import LastUsed
from stagefleet.storages.storages import Storages
from stagefleet.storages.transfer import transfer
from stagefleet.testing.ledger import MemoryLedger
from stagefleet.testing.memory_runs import Message

_NAME = "memory"
_SLOTS = 16
_COORDINATION = -1


@dataclass(frozen=True, slots=True)
class RemoteCall:
    """A callback of the fleet that was due, and that nobody received.

    Attributes:
        target: The URL of a webhook, or the name of a task.
        data: The document that the receiver gets (see docs/callbacks.md).
    """

    target: str
    data: Mapping[str, Any] = field(hash=False)


class MemoryWorker:
    """Execute items, and record the callbacks of detached runs.

    Attributes:
        remote_calls: The calls for each `RemoteCallback`, in order.
    """

    def __init__(
        self,
        ledger: MemoryLedger,
        storages: Callable[[], Storages],
        last_used: Callable[[], LastUsed],
        hosts: Sequence[str],
    ) -> None:
        self.remote_calls: list[RemoteCall] = []
        self._ledger = ledger
        self._storages = storages
        self._last_used = last_used
        self._scripted: dict[str, Iterator[Exception]] = {}
        self._coordinator = DetachedCoordinator(
            ledger, self._note_webhook, self._note_task, WebhookSettings()
        )
        queues = (*dict.fromkeys(QUEUES.values()), *map(host_queue, hosts))
        ledger.heartbeats.beat(WorkerInfo(_NAME, _SLOTS, queues), seconds=math.inf)

    def fail(self, item: str | StageId, error: Exception, *, attempts: int | None = None) -> None:
        """Let the next attempts at an item end with an error, in all runs and on all hosts; all if None."""
        self._scripted[str(item)] = repeat(error) if attempts is None else repeat(error, attempts)

    def execute(self, most_items: int) -> None:
        """Execute published items, the oldest first, and make the callbacks that are due."""
        while (message := self._take_message()) is not None:
            if message.index == _COORDINATION:
                self._coordinator.coordinate(message.run_id)
                continue
            claim = self._ledger.claim(message.run_id, message.index, _NAME)
            if claim is None:
                continue
            self._execute_item(claim)
            most_items -= 1
            if most_items <= 0:
                return

    def _take_message(self) -> Message | None:
        """Take the oldest message; if there is none, one of a retry that is due."""
        if not self._ledger.broker:
            self._ledger.sweep()
        with suppress(IndexError):  # another thread may be faster
            return self._ledger.broker.popleft()
        return None

    def _execute_item(self, claim: Claim) -> None:
        spec = self._ledger.spec(claim.run_id)
        assert spec is not None, "a claimed item has a run"
        try:
            self._raise_scripted(claim.item)
            item_result = self._do(spec, claim)
        except errors.StagefleetError as error:
            pauses = error.retry_pauses_seconds
            is_repeated = error.retryable and (not pauses or claim.attempt <= len(pauses))
            self._ledger.finish(
                claim,
                _failure(claim, error),
                retry_after_seconds=0.0 if is_repeated else None,
                reason=WaitReason.of(error),
            )
        except Exception as error:  # noqa: BLE001 - as in a worker a bug fails its item
            self._ledger.finish(claim, _failure(claim, error))
        else:
            self._ledger.finish(claim, _success(claim, item_result))

    def _raise_scripted(self, item: str) -> None:
        error = next(self._scripted.get(item, iter(())), None)
        if error is not None:
            raise error

    def _do(self, spec: RunSpec, claim: Claim) -> ItemResult:
        """Do what the operation's task does; one outside of the catalog, a program's own, succeeds.

        Raises:
            NotImplementedError: An operation of the catalog is not in the table below.
        """
        if spec.operation not in _TASKS:
            if spec.operation in OPERATIONS:
                raise NotImplementedError(f"the worker in memory does not execute {spec.operation}")
            return ItemResult()
        attempt = Attempt(
            claim.run_id,
            claim.item,
            spec.options,
            number=claim.attempt,
            operation=parse_operation(spec.operation, spec.options),
            continues=spec.parent is not None,
        )
        task = _ItemTask(self._storages(), self._last_used(), attempt, claim.host or "")
        return _TASKS[spec.operation](task)

    def _note_webhook(self, call: WebhookCall, _lease: Lease) -> None:
        self.remote_calls.append(RemoteCall(call.url, call.data))

    def _note_task(self, target: str, _task_id: str, data: dict[str, Any]) -> None:
        self.remote_calls.append(RemoteCall(target, data))


def _success(claim: Claim, item_result: ItemResult) -> Outcome:
    return Outcome(
        item=claim.item,
        state=ItemState.SKIPPED if item_result.skipped else ItemState.SUCCEEDED,
        result=item_result.result,
        seconds=round(claim.seconds, 3),
        bytes=item_result.bytes,
    )


def _failure(claim: Claim, error: Exception) -> Outcome:
    seconds = round(claim.seconds, 3)
    return Outcome(item=claim.item, state=ItemState.FAILED, error=ErrorInfo.of(error), seconds=seconds)


# What the tasks do for one item.


@dataclass(frozen=True, slots=True)
class _ItemTask:
    """One attempt at one item, and what it works on; `host` is "" unless it is for the engine of one."""

    storages: Storages
    last_used: LastUsed
    attempt: Attempt
    host: str

    @property
    def stage_id(self) -> StageId:
        return StageId.parse(self.attempt.item)

    def copy(self, source: StorageAddress, destination: StorageAddress, *, verify: bool = True) -> ItemResult:
        return transfer(self.storages, source, destination, self.stage_id, self.attempt, verify=verify)

    def delete(self, address: StorageAddress, *, referrers: bool, also: Sequence[str] = ()) -> ItemResult:
        if referrers and not address.is_on_host:
            storage = self.storages.open(address)
            return storage.delete_with_referrers(self.stage_id, self.attempt, also=also)
        return self.storages.open(address).delete(self.stage_id, self.attempt)


def _copy_stage(task: _ItemTask) -> ItemResult:
    operation = task.attempt.parsed(copy.CopyOperation)
    if task.attempt.continues and not operation.verify and not operation.destination.is_on_host:
        destination = task.storages.open(operation.destination)
        if destination.has(str(task.stage_id)) and not destination.records.rejects(task.stage_id):
            return ItemResult(skipped=True)
    return task.copy(operation.source, operation.destination, verify=operation.verify)


def _delete_stage(task: _ItemTask) -> ItemResult:
    operation = task.attempt.parsed(delete.DeleteOperation)
    for cache in operation.caches or ():
        task.delete(cache, referrers=operation.referrers)
    return task.delete(operation.repository, referrers=operation.referrers, also=operation.also)


def _prune_stage(task: _ItemTask) -> ItemResult:
    operation = task.attempt.parsed(delete.PruneOperation)
    if task.storages.open(operation.source).has(str(task.stage_id)):
        return ItemResult({"reason": "is in the source"}, skipped=True)
    return _delete_stage(task)


def _describe_stage(task: _ItemTask) -> ItemResult:
    lookup = StageLookup(task.storages, task.attempt.parsed(ProjectOperation).storages)
    return ItemResult(lookup.describe(task.stage_id).as_json())


def _verify_stage(task: _ItemTask) -> ItemResult:
    operation = task.attempt.parsed(verify.VerifyOperation)
    storage, shared_state = task.storages.open(operation.repository), task.storages.registries.shared_state
    try:
        found = storage.verify(task.stage_id, task.attempt, shared_state, shallow=operation.shallow)
    except errors.StageNotFoundError:
        return ItemResult({"reason": "was deleted meanwhile"}, skipped=True)
    error, rejected = found.error, ""
    if error is None:
        return found.item_result
    if operation.reject and found.is_image and found.is_damaged and not task.stage_id.is_multiplatform:
        storage.reject(task.stage_id, project=storage.address.name, lease=task.attempt.lease)
        rejected = "; rejected"
    raise type(error)(f"{operation.repository}: {error}{rejected}")


def _fetch_stage(task: _ItemTask) -> ItemResult:
    """Note a stage as used on the host, which is all that a host has here."""
    operation = task.attempt.parsed(fetch.FetchOperation)
    image = image_of(operation.primary, task.stage_id)
    is_there = any(used.image == image for used in task.last_used.used_images(task.host))
    described = _describe_stage(task)
    task.last_used.note(task.host, image)
    return ItemResult(described.result, skipped=is_there)


def _publish_stage(task: _ItemTask) -> ItemResult:
    operation = task.attempt.parsed(publish.PublishOperation)
    storage = task.storages.open(operation.final_repository)
    is_there = storage.has(str(task.stage_id))
    if operation.should_be_built and not is_there:
        named = operation.image or str(storage.address.tagged(str(task.stage_id)))
        raise errors.StageNotFoundError(
            f"{named} with digest {task.stage_id.digest} does not exist in the final storage "
            f"{storage.address}: it should have been built and published before"
        )
    sent_bytes = 0 if is_there else task.copy(operation.primary, storage.address).bytes
    result = storage.confirm(task.stage_id).as_json()
    if not operation.fill_caches:
        return ItemResult(result, sent_bytes, skipped=is_there)
    cached = _cache_stage(task)
    return ItemResult(
        result | (cached.result or {}), sent_bytes + cached.bytes, skipped=is_there and cached.skipped
    )


def _cache_stage(task: _ItemTask) -> ItemResult:
    project = task.attempt.parsed(ProjectOperation)
    copies = {str(cache): task.copy(project.primary, cache) for cache in project.caches}
    states = {cache: "present" if copied.skipped else "copied" for cache, copied in copies.items()}
    return ItemResult(
        {"caches": states},
        sum(copied.bytes for copied in copies.values()),
        skipped=all(copied.skipped for copied in copies.values()),
    )


def _take_stage(task: _ItemTask) -> ItemResult:
    project = task.attempt.parsed(ProjectOperation)
    primary = task.storages.open(project.primary)
    if task.stage_id in primary.stage_ids():
        return ItemResult(primary.describe(task.stage_id).as_json(), skipped=True)
    for secondary in project.secondaries:
        if task.stage_id in task.storages.open(secondary).stage_ids():
            return task.copy(secondary, project.primary)
    tried = ", ".join(map(str, project.secondaries))
    raise errors.StageNotFoundError(
        f"no secondary storage of {project.project} has stage {task.stage_id} ({tried})"
    )


def _read_record(task: _ItemTask) -> ItemResult:
    operation = task.attempt.parsed(operations.RecordOperation)
    records = task.storages.open(operation.repository).records
    found = records.read(RecordId.of(operation.kind_of_items, task.attempt.item))
    return ItemResult(skipped=True) if found is None else ItemResult(found.as_json())


def _delete_record(task: _ItemTask) -> ItemResult:
    operation = task.attempt.parsed(operations.RecordOperation)
    records = task.storages.open(operation.repository).records
    return records.delete(RecordId.of(operation.kind_of_items, task.attempt.item), task.attempt)


def _delete_image_metadata(task: _ItemTask) -> ItemResult:
    """Delete metadata of an image by its name, else by the hash in the tags."""
    operation = task.attempt.parsed(operations.DeleteImageMetadataOperation)
    commit, _, stage_id = task.attempt.item.partition("_")
    records, parsed = task.storages.open(operation.repository).records, StageId.parse(stage_id)
    by_name = records.delete(ImageMetadata.of_image(operation.image, commit, parsed).id, task.attempt)
    if by_name != NOT_THERE:
        return by_name
    try:
        by_hash = ImageMetadata(operation.image, commit, parsed).id
    except ValueError:
        return NOT_THERE
    return records.delete(by_hash, task.attempt)


def _delete_custom_tag(task: _ItemTask) -> ItemResult:
    operation = task.attempt.parsed(operations.DeleteCustomTagOperation)
    records = task.storages.open(operation.repository).records
    found = records.read(RecordId.of(RecordKind.CUSTOM_TAG, task.attempt.item))
    if found is None:
        return NOT_THERE
    assert isinstance(found.record, CustomTag)
    tagged = task.storages.open(operation.final or parse_repository(operation.repository))
    tagged.delete_tag(found.record.name, task.attempt)
    return records.delete(found.record.id, task.attempt)


def _delete_rejected_stage(task: _ItemTask) -> ItemResult:
    operation = task.attempt.parsed(operations.DeleteRejectedStageOperation)
    storage = task.storages.open(parse_repository(operation.repository))
    if storage.records.rejects(task.stage_id):
        deleted = task.delete(operation.repository, referrers=operation.referrers)
        storage.records.delete(RecordId.of(RecordKind.REJECTED_STAGE, task.attempt.item), task.attempt)
        return ItemResult() if deleted == NOT_THERE else deleted
    if storage.has(str(task.stage_id)):
        raise errors.StageNotFoundError(
            f"{storage.address} has the stage {task.stage_id}, but not rejected: it stays"
        )
    return NOT_THERE


_TASKS: Mapping[str, Callable[[_ItemTask], ItemResult]] = {
    "copy_stage": _copy_stage,
    "delete_stage": _delete_stage,
    "prune_stage": _prune_stage,
    "describe_stage": _describe_stage,
    "fetch_stage": _fetch_stage,
    "publish_stage": _publish_stage,
    "cache_stage": _cache_stage,
    "take_stage": _take_stage,
    "verify_stage": _verify_stage,
    "rm_image_metadata": _delete_image_metadata,
    "rm_managed_image": _delete_record,
    "get_import_metadata": _read_record,
    "rm_import_metadata": _delete_record,
    "get_stage_custom_tag_metadata": _read_record,
    "delete_stage_custom_tag": _delete_custom_tag,
    "delete_rejected_stage": _delete_rejected_stage,
    "rm_record": _delete_record,
}
