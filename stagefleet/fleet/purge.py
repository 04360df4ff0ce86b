"""Purges: the deletion of everything in a project, group by group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagefleet.runs.models import Run

if TYPE_CHECKING:
    from stagefleet.projects.purge import PurgeGroup  # imports the registry client

__all__ = ["OnGroup", "PurgedGroup"]

OnGroup = Callable[["PurgedGroup"], None]


@dataclass(frozen=True, slots=True)
class PurgedGroup:
    """A finished group of a purge.

    Attributes:
        group: The group.
        run: The finished run; None for an empty group.
    """

    group: PurgeGroup
    run: Run | None
