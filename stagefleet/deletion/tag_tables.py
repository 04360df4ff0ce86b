"""Packed tables of tags: the users of digests, the tags that a run deletes, and the tags already read.

A table is split into parts by its keys, so that a query needs one part, however many tags there are: a
million stages take some 50 MB in Redis, and a part some kilobytes. Keys are salted: nobody can choose a tag
or push a manifest that collides with another.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

from stagefleet.leases import elapsed_seconds
from stagefleet.names import Digest, Repository, StageId
from stagefleet.stage_lists import ENTRY_BYTES, pack_id, unpack_id

MOST_USERS = 500
"""Most users of one digest that are listed by name."""
NO_ITEM = 2**32 - 1
"""Index of tags that another run of the same plan deletes."""

_KEY_BYTES = 8
_BUCKETS = 4096
_RECORDS_A_PART = 256
_LARGE_BYTES = 16 * 1024
_TAG, _MEMBER, _MORE = range(3)
_HEAD = struct.Struct(">BB")  # kind of use, length of the tag (0: a packed stage id follows)
_INDEX = struct.Struct(">I")


class _Table:
    """Records by key, in buckets that become parts."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._buckets = [bytearray() for _ in range(_BUCKETS)]
        self._records = 0

    def _put(self, name: str, record: bytes = b"") -> None:
        key = _key(name, self._salt)
        self._buckets[_bucket(key)] += key + record
        self._records += 1

    @staticmethod
    def part_of(name: Digest | str, salt: bytes, parts: int) -> int:
        """Return the index of the part with a digest or tag."""
        return _part(_key(str(name), salt), parts)

    def take_parts(self) -> list[bytes]:
        """Return the parts, a power of two of them, and drop them: memory may not suffice for both."""
        parts = 1
        while parts < _BUCKETS and parts * _RECORDS_A_PART < self._records:
            parts *= 2
        width = _BUCKETS // parts
        return [self._take(slice(n, n + width)) for n in range(0, _BUCKETS, width)]

    def _take(self, buckets: slice) -> bytes:
        taken = b"".join(self._buckets[buckets])
        self._buckets[buckets] = [bytearray() for _ in self._buckets[buckets]]
        return taken


@dataclass(frozen=True, slots=True)
class DigestUsers:
    """Users of a digest, as in `DigestReferences`; `has_more` if there are more than are listed."""

    tags: set[str]
    holders: set[str]
    has_more: bool


class UserTable(_Table):
    """Users of digests: some 46 bytes per stage, and as much for each member of an index."""

    def add_tag(self, digest: str, tag: str) -> None:
        """Add a tag with its digest."""
        self._put(digest, _packed(_TAG, tag))

    def add_member(self, digest: str, tag: str) -> None:
        """Add a member of a tag's index."""
        self._put(digest, _packed(_MEMBER, tag))

    def take_parts(self) -> list[bytes]:
        """Return the parts as `_Table.take_parts`; of a digest with very many users only some are kept."""
        for place, bucket in enumerate(self._buckets):
            if len(bucket) > _LARGE_BYTES:
                self._buckets[place] = _cut(bytes(bucket))
        return super().take_parts()

    @staticmethod
    def find(part: bytes, digest: Digest, salt: bytes) -> DigestUsers:
        """Find the users of a digest in its part; a record of no known kind is one, too."""
        wanted = _key(str(digest), salt)
        uses = [(kind, record) for key, kind, record in _records(part) if key == wanted]
        return DigestUsers(
            tags={_tag(record) for kind, record in uses if kind not in {_MEMBER, _MORE}},
            holders={_tag(record) for kind, record in uses if kind == _MEMBER},
            has_more=any(kind == _MORE for kind, _ in uses),
        )


class KnownTable(_Table):
    """Tags that were read or listed: 8 bytes per tag."""

    def add(self, tag: str) -> None:
        """Add a tag."""
        self._put(tag)


@dataclass(frozen=True, slots=True)
class KnownTags:
    """Tags of a `KnownTable`: all of its parts, and the salt of its keys."""

    parts: Sequence[bytes]
    salt: bytes

    def __contains__(self, tag: str) -> bool:
        key = _key(tag, self.salt)
        return _offset(self.parts[_part(key, len(self.parts))], key, _KEY_BYTES) >= 0


class ToDeleteTable(_Table):
    """The tags that a run deletes, each with its item's index: 12 bytes per tag."""

    def add(self, tag: str, index: int | None) -> None:
        """Add a tag with the index of the item that deletes it; None for a later run's."""
        self._put(tag, _INDEX.pack(NO_ITEM if index is None else index))

    @staticmethod
    def find(part: bytes, tag: str, salt: bytes) -> int | None:
        """Find the index of the item that deletes a tag, None if the run does not delete it."""
        at = _offset(part, _key(tag, salt), _KEY_BYTES + _INDEX.size)
        if at < 0:
            return None
        index: int = _INDEX.unpack_from(part, at + _KEY_BYTES)[0]
        return index


def _key(name: str, salt: bytes) -> bytes:
    return hashlib.blake2b(salt + name.encode(), digest_size=_KEY_BYTES).digest()


def _bucket(key: bytes) -> int:
    return key[0] << 4 | key[1] >> 4


def _part(key: bytes, parts: int) -> int:
    return _bucket(key) * parts // _BUCKETS


def _offset(part: bytes, key: bytes, width: int) -> int:
    """Return the offset of a key in a part of fixed-size records, -1 if it is missing."""
    at = part.find(key)
    while at > 0 and at % width:
        at = part.find(key, at + 1)
    return at


def _packed(kind: int, tag: str) -> bytes:
    stage_id = StageId.from_tag(tag)
    if stage_id is not None and str(stage_id) == tag:
        return _HEAD.pack(kind, 0) + pack_id(stage_id)
    name = tag.encode()
    return _HEAD.pack(kind, len(name)) + name


def _tag(record: bytes) -> str:
    """Return the tag in a record of `UserTable`, without its key."""
    name = record[_HEAD.size :]
    return name.decode() if record[1] else str(unpack_id(name))


def _records(part: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield the records of a part of `UserTable`: key, kind of use, and the rest of the record."""
    at = 0
    while at < len(part):
        begin = at + _KEY_BYTES
        kind, length = _HEAD.unpack_from(part, begin)
        end = begin + _HEAD.size + (length or ENTRY_BYTES)
        yield part[at:begin], kind, part[begin:end]
        at = end


def _cut(bucket: bytes) -> bytearray:
    """Reduce a bucket of `UserTable` to at most `MOST_USERS` of each digest."""
    kept, counts = bytearray(), Counter[bytes]()
    for key, _, record in _records(bucket):
        counts[key] += 1
        if counts[key] <= MOST_USERS:
            kept += key + record
        elif counts[key] == MOST_USERS + 1:
            kept += key + _HEAD.pack(_MORE, 1) + b"-"
    return kept


# Results of reference scans, kept in one process.

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_LARGE_VALUES = 2
_SLOW_SECONDS = 300.0


class Latest(Generic[K, V]):
    """The latest of some values, by key; thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = Lock()
        self._values: OrderedDict[K, V] = OrderedDict()

    def find(self, key: K) -> V | None:
        """Return the value of a key, None if it is not kept."""
        with self._lock:
            return self._values.get(key)

    def values(self) -> list[V]:
        """Return the kept values, the oldest first."""
        with self._lock:
            return list(self._values.values())

    def keep(self, key: K, value: V) -> None:
        """Keep a value; drop the oldest."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)


class KeptScans:
    """Data that reference scans keep from one item to the next: tags read, by scan, and the last listings."""

    def __init__(self) -> None:
        self.known: Latest[str, KnownTags] = Latest(_LARGE_VALUES)
        self.listings: Latest[Repository, tuple[KnownTags, float]] = Latest(_LARGE_VALUES)
        self._slow: Latest[tuple[str, Repository], float] = Latest(100)

    def is_slow(self, run_id: str, repository: Repository) -> bool:
        """Return True if a reference scan of a repository took too long recently."""
        return elapsed_seconds() < (self._slow.find((run_id, repository)) or 0.0)

    def note_slow(self, run_id: str, repository: Repository) -> None:
        """Record that a reference scan of a repository takes too long; it is tried again minutes later."""
        self._slow.keep((run_id, repository), elapsed_seconds() + _SLOW_SECONDS)
