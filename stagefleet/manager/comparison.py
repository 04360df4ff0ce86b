"""Comparison of storages by their tag lists alone: no request per stage."""

from __future__ import annotations

from dataclasses import dataclass

from stagefleet.errors import TooManyItemsError
from stagefleet.runs.models import MAX_ITEMS
from stagefleet.storages import RegistryStorage, StageIdList

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Stages of a source, compared with a destination.

    Attributes:
        missing: Stages that the destination lacks.
        present: Stages that it has.
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
