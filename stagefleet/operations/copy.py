"""Copies of stages from one storage to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import model_validator

from stagefleet.errors import UsageError
from stagefleet.names import StorageAddress
from stagefleet.operations import base
from stagefleet.setting_types import StorageAddressText


class CopyOperation(base.Operation):
    """Copy stages; skip those that the destination has.

    One of the two storages is a repository. With `verify`, compare digests too (image ids, if one end is an
    engine), and copy again if they differ. With `foreign_layers`, send layers, too, whose media type says
    that registries do not have them; with `referrers`, copy what refers to the stages, also to those that the
    destination has.
    """

    name: ClassVar[str] = "copy_stage"
    past: ClassVar[str] = "copied"
    reads: ClassVar[str] = "source"
    writes: ClassVar[str] = "destination"

    source: StorageAddressText
    destination: StorageAddressText
    verify: bool = False
    foreign_layers: bool = base.left_out_if_unset(default=False)
    referrers: bool = base.left_out_if_unset(default=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        is_file_copy = self.source.is_layout and self.destination.is_layout
        if self.source.is_on_host and self.destination.is_on_host and not is_file_copy:
            raise UsageError(
                f"{self.source} to {self.destination}: from or to an engine stages go through a repository"
            )
        if self.referrers and (self.source.is_on_host or self.destination.is_on_host):
            raise UsageError(
                f"{self.source} to {self.destination}: referrers go from repository to repository: "
                "leave out --referrers (referrers)"
            )
        if self.source == self.destination:
            raise UsageError(f"source and destination are the same, {self.source}: name two repositories")
        return self

    @property
    def addresses(self) -> tuple[StorageAddress, ...]:
        return (self.source, self.destination)

    def plan(self, items: Sequence[str] | None, storages: base.PlanStorages) -> base.Plan:
        """Compare the two tag lists; with `verify` or `referrers`, plan common stages too, for the tasks."""
        if self.source.is_on_host and len(self.hosts) > 1:
            raise UsageError(f"{self.source} is to be copied from one host: name one with --host")
        self._lies_elsewhere(items, storages)  # all of it cannot be copied from here
        is_checked = items is None or all(self._is_listed(address, storages) for address in self.addresses)
        is_listed = self._is_listed(self.destination, storages)
        is_compared = is_listed and not self.verify and not self.referrers
        if is_checked and is_compared:
            storages = storages.listing(self.source, self.destination)
        wanted = (
            base.select_present(storages, self.source, items) if is_checked else base.bounded(items or ())
        )
        plan = base.compare(wanted, storages, self.destination) if is_compared else base.Plan(wanted)
        if is_listed and not is_compared:
            # The tag list is not needed, but the login to the destination is: reject a wrong one early.
            storages.ping(self.destination)
        return plan.on_hosts(self.hosts)

    def _is_listed(self, address: StorageAddress, storages: base.PlanStorages) -> bool:
        """Return True if a plan compares the stages of a storage; of others, the tasks find out."""
        is_here = not address.is_on_host or self.hosts == (storages.host_name,)
        return is_here and not address.is_engine
