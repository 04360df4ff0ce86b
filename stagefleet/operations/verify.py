"""Verifications of stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from stagefleet.operations.base import Plan, PlanStorages, StorageOperation, left_out_if_unset, select_present


class VerifyOperation(StorageOperation):
    """Read all content of stages; one fails for what is missing, altered or unreadable.

    Attributes:
        shallow: Ask for blobs instead of reading them.
        reject: Reject single images of a repository that lack content, or have other content.
    """

    name: ClassVar[str] = "verify_stage"
    past: ClassVar[str] = "verified"

    shallow: bool = left_out_if_unset(default=False)
    reject: bool = left_out_if_unset(default=False)

    def _plan(self, items: Sequence[str] | None, storages: PlanStorages) -> Plan:
        return Plan(select_present(storages, self.repository, items))
