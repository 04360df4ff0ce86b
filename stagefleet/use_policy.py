"""What a caller wants to happen to stages in an engine that are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["UsePolicy"]


@dataclass(frozen=True, slots=True)
class UsePolicy:
    """What to do with a stage that is used.

    Attributes:
        skip_used: Leave it alone.
        remove_containers: Remove the containers first.
        force: With `remove_containers`, also those that run.
    """

    skip_used: bool = False
    remove_containers: bool = False
    force: bool = False

    def as_options(self) -> dict[str, bool]:
        """As `Order.options` carries it; nothing where nothing was asked for."""
        asked = {
            "skip_used": self.skip_used,
            "remove_containers": self.remove_containers,
            "force": self.force,
        }
        return {name: value for name, value in asked.items() if value}

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> Self:
        """What `as_options` wrote."""
        return cls(
            skip_used=options.get("skip_used", False),
            remove_containers=options.get("remove_containers", False),
            force=options.get("force", False),
        )
