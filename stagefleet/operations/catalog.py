"""The catalog of operations: each is named here, and loaded on demand without the others."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stagefleet.operations.base import Operation


def _load(home: str) -> Any:
    module, _, name = home.partition(":")
    return getattr(importlib.import_module(f"stagefleet.operations.{module}"), name)


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """An operation: its class, `MODULE:CLASS` in `stagefleet.operations`, and the queue of its items.

    What a worker does for one item is the function of the operation's name in `tasks.MODULE`. Queues are
    named here so that workers can be dedicated to one kind of work.
    """

    home: str
    queue: str

    @property
    def module(self) -> str:
        """The module's name, the same in `stagefleet.operations` and in `tasks`."""
        return self.home.partition(":")[0]

    def load(self) -> type[Operation]:
        """Import the class."""
        loaded: type[Operation] = _load(self.home)
        return loaded


OPERATIONS: Mapping[str, CatalogEntry] = {
    "copy_stage": CatalogEntry("copy:CopyOperation", "copy"),
    "delete_stage": CatalogEntry("delete:DeleteOperation", "delete"),
    "prune_stage": CatalogEntry("delete:PruneOperation", "delete"),
    "describe_stage": CatalogEntry("describe:DescribeOperation", "describe"),
    "fetch_stage": CatalogEntry("fetch:FetchOperation", "fetch"),
    "publish_stage": CatalogEntry("publish:PublishOperation", "publish"),
    "cache_stage": CatalogEntry("publish:CacheOperation", "publish"),
    "take_stage": CatalogEntry("publish:TakeOperation", "copy"),
    "verify_stage": CatalogEntry("verify:VerifyOperation", "verify"),
    "rm_image_metadata": CatalogEntry("records:DeleteImageMetadataOperation", "records"),
    "rm_managed_image": CatalogEntry("records:DeleteManagedImageOperation", "records"),
    "get_import_metadata": CatalogEntry("records:ReadImportMetadataOperation", "records"),
    "rm_import_metadata": CatalogEntry("records:DeleteImportMetadataOperation", "records"),
    "get_stage_custom_tag_metadata": CatalogEntry("records:ReadCustomTagOperation", "records"),
    "delete_stage_custom_tag": CatalogEntry("records:DeleteCustomTagOperation", "records"),
    "delete_rejected_stage": CatalogEntry("records:DeleteRejectedStageOperation", "records"),
    "rm_record": CatalogEntry("records:DeleteRecordOperation", "records"),
}


@dataclass(frozen=True, slots=True)
class Request:
    """A request to start a run: the arguments that it may have; others are refused.

    Attributes:
        home: The operation, or a function that returns one, as in `CatalogEntry`.
        arguments: The options of the operation that a request may set.
        items: The name of the argument with the items.
        needs_items: True if all items are never meant.
    """

    home: str
    arguments: tuple[str, ...]
    items: str = "stage_ids"
    needs_items: bool = False

    def load(self) -> Callable[..., Operation]:
        """Import what builds the operation."""
        loaded: Callable[..., Operation] = _load(self.home)
        return loaded


_PROJECT = ("project", "primary", "caches")

REQUESTS: Mapping[str, Request] = {
    "copy": Request(
        "copy:CopyOperation", ("source", "destination", "verify", "foreign_layers", "referrers", "hosts")
    ),
    "delete": Request("delete:DeleteOperation", ("repository", "referrers", "hosts"), needs_items=True),
    "describe": Request("describe:DescribeOperation", (*_PROJECT, "host")),
    "fetch": Request(
        "fetch:FetchOperation",
        (*_PROJECT, "platforms", "all_platforms", "hosts", "all_hosts"),
        needs_items=True,
    ),
    "publish": Request(
        "publish:PublishOperation",
        (*_PROJECT, "final", "should_be_built", "fill_caches", "referrers", "host"),
    ),
    "verify": Request("verify:VerifyOperation", ("repository", "shallow", "reject", "hosts")),
    "remove_records": Request(
        "records:removal_of", ("repository", "kind", "final", "host"), items="ids", needs_items=True
    ),
}
"""The operations that `start_run` takes, by their names in requests."""


def find_operation(name: str) -> type[Operation] | None:
    """Return the operation of a task; None for one of a user or of another release."""
    return OPERATIONS[name].load() if name in OPERATIONS else None


def parse_operation(name: str, options: Mapping[str, Any]) -> Operation:
    """Read an operation from the options of its run; ignore what another release added.

    Raises:
        KeyError: There is no such operation.
        ValidationError: An option is malformed.
    """
    return OPERATIONS[name].load().model_validate(options, extra="ignore")
