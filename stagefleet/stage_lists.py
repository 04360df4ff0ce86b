"""Compact lists of stage ids: a million in 36 MB, and their names in 4 MB more."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence, Set as AbstractSet
from itertools import takewhile
from typing import Self, overload

from stagefleet.names import StageId

_DIGEST_BYTES = 28
ENTRY_BYTES = _DIGEST_BYTES + 8
"""Size of a packed id: its digest and its creation time."""


class StageIdList(Collection[StageId]):
    """Immutable sorted set of stage ids: a million takes 36 MB here, and some 250 MB as `StageId` objects."""

    __slots__ = ("_packed",)

    def __init__(self, stage_ids: Iterable[StageId] = ()) -> None:
        packed = bytearray()
        last = b""
        is_sorted = True  # as most tag lists are: then no sort is needed
        for stage_id in stage_ids:
            entry = pack_id(stage_id)
            if entry == last:
                continue
            is_sorted = is_sorted and entry > last
            packed += entry
            last = entry
        # Kept as it was built: a copy would take as much again.
        self._packed = packed if is_sorted else b"".join(sorted(set(_entries(packed))))

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Create the list from packed ids in any order; a ValueError if the bytes are none."""
        if len(packed) % ENTRY_BYTES:
            raise ValueError(f"{len(packed)} bytes are no packed stage ids")
        return cls._of(b"".join(sorted(set(_entries(packed)))))

    @classmethod
    def of(cls, stage_ids: Iterable[StageId]) -> StageIdList:
        """Create the list, without a copy of one."""
        return stage_ids if isinstance(stage_ids, StageIdList) else cls(stage_ids)

    @property
    def entries(self) -> Iterator[bytes]:
        """Yield the packed ids in order, `ENTRY_BYTES` each."""
        return _entries(self._packed)

    def of_digest(self, digest: str) -> list[StageId]:
        """Return the ids with a digest, the oldest first."""
        wanted = bytes.fromhex(digest)
        entries = map(self.entry, range(self._position_of(wanted), len(self)))
        return [unpack_id(entry) for entry in takewhile(lambda entry: entry.startswith(wanted), entries)]

    def __len__(self) -> int:
        return len(self._packed) // ENTRY_BYTES

    def __getitem__(self, position: int) -> StageId:
        return unpack_id(self.entry(position))

    def __iter__(self) -> Iterator[StageId]:
        return map(unpack_id, _entries(self._packed))

    def __contains__(self, stage_id: object) -> bool:
        if not isinstance(stage_id, StageId):
            return False
        entry = pack_id(stage_id)
        return self.entry(self._position_of(entry)) == entry

    def without(self, other: AbstractSet[StageId]) -> Self:
        """Return the ids that are not in `other`."""
        return type(self)(stage_id for stage_id in self if stage_id not in other)

    def replacing(self, stage_id: StageId, entry: bytes) -> Self:
        """Return the ids with `entry` in place of one, whether it is here or not: its packed id, or b""."""
        first = self._position_of(pack_id(stage_id)) * ENTRY_BYTES
        end = first + ENTRY_BYTES * (stage_id in self)
        return self._of(self._packed[:first] + entry + self._packed[end:])

    def entry(self, position: int) -> bytes:
        """Return the packed id at a position."""
        return bytes(self._packed[position * ENTRY_BYTES : (position + 1) * ENTRY_BYTES])

    def _position_of(self, entry: bytes) -> int:
        """Return the index of the first id not less than an entry, or a prefix of one."""
        return bisect_left(range(len(self)), entry, key=self.entry)

    @classmethod
    def _of(cls, packed: bytes | bytearray) -> Self:
        """Create a list from sorted entries."""
        made = cls()
        made._packed = packed
        return made


class StageNames(Sequence[str]):
    """Names of the stages of a list, or of those at some positions, which take four bytes each."""

    __slots__ = ("_listed", "_positions")

    def __init__(self, listed: StageIdList, positions: Sequence[int] | None = None) -> None:
        self._listed = listed
        self._positions = range(len(listed)) if positions is None else positions

    def split(self, other: StageIdList) -> tuple[StageNames, StageNames]:
        """Return the names that another list lacks, and those that it has."""
        lacking, common = array("I"), array("I")
        theirs = iter(other.entries)
        their = next(theirs, b"")
        for position in self._positions:
            entry = self._listed.entry(position)
            while their and their < entry:
                their = next(theirs, b"")
            (common if their == entry else lacking).append(position)
        return StageNames(self._listed, lacking), StageNames(self._listed, common)

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[str]:
        return (str(self._listed[position]) for position in self._positions)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> StageNames: ...

    def __getitem__(self, index: int | slice) -> str | StageNames:
        if isinstance(index, slice):
            return StageNames(self._listed, self._positions[index])
        return str(self._listed[self._positions[index]])


def pack_id(stage_id: StageId) -> bytes:
    """Pack an id into `ENTRY_BYTES`; packed ids sort like ids."""
    return bytes.fromhex(stage_id.digest) + stage_id.created_ms.to_bytes(8, "big")


def unpack_id(entry: bytes) -> StageId:
    """Unpack an id packed by `pack_id`."""
    return StageId(entry[:_DIGEST_BYTES].hex(), int.from_bytes(entry[_DIGEST_BYTES:], "big"))


def _entries(packed: bytes | bytearray) -> Iterator[bytes]:
    return (bytes(packed[first : first + ENTRY_BYTES]) for first in range(0, len(packed), ENTRY_BYTES))
