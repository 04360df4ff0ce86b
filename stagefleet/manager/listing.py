"""What is where, from tag lists alone: no request a stage."""

from __future__ import annotations

from dataclasses import dataclass

from stagefleet.errors import TooManyItemsError
from stagefleet.runs.model import MAX_ITEMS
from stagefleet.storages import RegistryStorage, StageIdList

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The stages of a source, as a destination sees them.

    Attributes:
        missing: What the destination lacks.
        present: What it has already.
    """

    missing: StageIdList
    present: StageIdList


def compare(source: RegistryStorage, destination: RegistryStorage) -> Comparison:
    """Compare two tag lists.

    Raises:
        TooManyItemsError: The source has more stages than a run may have items.
    """
    wanted = source.stage_ids()
    if len(wanted) > MAX_ITEMS:
        raise TooManyItemsError(
            f"{source.address} has {len(wanted):,} stages, a run has at most {MAX_ITEMS:,}: name fewer"
        )
    missing, present = wanted.split(destination.stage_ids())
    return Comparison(missing, present)
