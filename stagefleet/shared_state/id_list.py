"""Compact lists of stage ids: 36 bytes each, for millions of ids."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Self

from stagefleet.names import StageId

_DIGEST_BYTES = 28
ENTRY_BYTES = _DIGEST_BYTES + 8
"""Size of a packed id: its digest and its creation time."""


class StageIdList(Collection[StageId]):
    """Immutable sorted set of stage ids.

    A million `StageId` objects take some 250 MB, a million of these entries 36 MB.
    """

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
        self._packed = bytes(packed) if is_sorted else b"".join(sorted(set(_entries(packed))))

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Create the list from packed ids in any order.

        Raises:
            ValueError: The bytes are no packed ids.
        """
        if len(packed) % ENTRY_BYTES:
            raise ValueError(f"{len(packed)} bytes are no packed stage ids")
        return cls._of(b"".join(sorted(set(_entries(packed)))))

    @property
    def entries(self) -> Iterator[bytes]:
        """Yield the packed ids in order, `ENTRY_BYTES` each."""
        return _entries(self._packed)

    def of_digest(self, digest: str) -> list[StageId]:
        """Return the ids with a digest, the oldest first."""
        wanted = bytes.fromhex(digest)
        found = []
        for position in range(self._position_of(wanted), len(self)):
            entry = self._entry(position)
            if not entry.startswith(wanted):
                break
            found.append(unpack_id(entry))
        return found

    def __len__(self) -> int:
        return len(self._packed) // ENTRY_BYTES

    def __iter__(self) -> Iterator[StageId]:
        return map(unpack_id, _entries(self._packed))

    def __contains__(self, stage_id: object) -> bool:
        if not isinstance(stage_id, StageId):
            return False
        entry = pack_id(stage_id)
        return self._entry(self._position_of(entry)) == entry

    def without(self, other: AbstractSet[StageId]) -> Self:
        """Return the ids that are not in `other`."""
        return type(self)(stage_id for stage_id in self if stage_id not in other)

    def split(self, other: StageIdList) -> tuple[Self, Self]:
        """Return the ids that `other` lacks, and those that it has, in one pass over both."""
        missing, present = bytearray(), bytearray()
        theirs = _entries(other._packed)
        current = next(theirs, None)
        for entry in _entries(self._packed):
            while current is not None and current < entry:
                current = next(theirs, None)
            (present if current == entry else missing).extend(entry)
        return self._of(missing), self._of(present)

    def _entry(self, position: int) -> bytes:
        return self._packed[position * ENTRY_BYTES : (position + 1) * ENTRY_BYTES]

    def _position_of(self, entry: bytes) -> int:
        """Return the index of the first id not less than an entry, or a prefix of one."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._entry(middle) < entry else (low, middle)
        return low

    @classmethod
    def _of(cls, packed: bytes | bytearray) -> Self:
        """Create a list from sorted entries."""
        made = cls()
        made._packed = bytes(packed)
        return made


def pack_id(stage_id: StageId) -> bytes:
    """Pack an id into `ENTRY_BYTES`; packed ids sort like ids."""
    return bytes.fromhex(stage_id.digest) + stage_id.created_ms.to_bytes(8, "big")


def unpack_id(entry: bytes) -> StageId:
    """Unpack an id packed by `pack_id`."""
    return StageId(entry[:_DIGEST_BYTES].hex(), int.from_bytes(entry[_DIGEST_BYTES:], "big"))


def _entries(packed: bytes | bytearray) -> Iterator[bytes]:
    return (bytes(packed[first : first + ENTRY_BYTES]) for first in range(0, len(packed), ENTRY_BYTES))
