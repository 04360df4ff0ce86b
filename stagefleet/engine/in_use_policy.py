"""Policies for stages in an engine that are in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["InUsePolicy"]


@dataclass(frozen=True, slots=True)
class InUsePolicy:
    """A policy for stages that are in use.

    Attributes:
        skip_used: Skip the stage.
        remove_containers: Remove its containers first.
        force: With `remove_containers`, also remove running ones.
    """

    skip_used: bool = False
    remove_containers: bool = False
    force: bool = False

    def as_options(self) -> dict[str, bool]:
        """Return the policy for `RunSpec.options`; empty for the default."""
        asked = {
            "skip_used": self.skip_used,
            "remove_containers": self.remove_containers,
            "force": self.force,
        }
        return {name: value for name, value in asked.items() if value}

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> Self:
        """Read the policy from `RunSpec.options`."""
        return cls(
            skip_used=options.get("skip_used", False),
            remove_containers=options.get("remove_containers", False),
            force=options.get("force", False),
        )
