"""Members of an index and of its nested indexes, and registry calls in parallel threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ParamSpec, Self, TypeVar

from stagefleet.errors import ItemCancelledError, UnsupportedManifestError
from stagefleet.leases import Lease, current_lease, under_lease, waiting
from stagefleet.manifests import Descriptor, Manifest
from stagefleet.names import Digest, StorageAddress

# Members of an index and of its nested indexes: each read once, with limits for number and depth.
#
# A small index can refer to ten thousand others, each of which refers to ten thousand more. All code that
# follows an index uses this module, so that such a document costs a bounded number of requests and bytes.

MAX_DEPTH = 4
"""Deepest nesting of indexes; only mistakes and attacks nest deeper."""
MAX_MANIFESTS = 500
"""Most manifests that an index may lead to in all; an image for every known platform has some 50."""
MAX_BLOBS = 10_000
"""Most blobs that an index may refer to in all, as BuildKit's caches refer to their layers."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an index, and its manifest or index; None for a blob."""

    descriptor: Descriptor
    manifest: Manifest | None


class MemberReader:
    """Read all members of one index; create a new reader for each document."""

    def __init__(self, fetch_manifest: Callable[[Digest], Manifest], address: StorageAddress) -> None:
        self._fetch_manifest = fetch_manifest
        self._address = address
        self._seen: set[Digest] = set()
        self._manifests_left = MAX_MANIFESTS
        self._blobs_left = MAX_BLOBS

    def members(self, index: Manifest, depth: int = 1) -> Iterator[Member]:
        """Yield the members of an index that were not yielded before; an image has none.

        `depth` is 1 for the top document, and one more for each index around this one.

        Raises:
            UnsupportedManifestError: It is nested too deep, or leads to too many manifests or blobs.
            NotFoundError: A registry lacks a member; the error names it.
            StagefleetError: As `fetch_manifest` raises.
        """
        if depth > MAX_DEPTH and index.members:
            raise UnsupportedManifestError(
                f"{self._address}@{index.digest}: indexes are nested more than {MAX_DEPTH} deep"
            )
        for descriptor in index.members:
            if descriptor.digest not in self._seen:
                self._seen.add(descriptor.digest)
                self._count(index, descriptor)
                yield Member(descriptor, self._fetch(descriptor))

    def walk(self, index: Manifest, depth: int = 1) -> Iterator[Member]:
        """Yield direct and indirect members, an index before its own; arguments and errors as `members`."""
        for member in self.members(index, depth):
            yield member
            if member.manifest is not None:
                yield from self.walk(member.manifest, depth + 1)

    def _count(self, index: Manifest, descriptor: Descriptor) -> None:
        if descriptor.is_manifest:
            self._manifests_left -= 1
        else:
            self._blobs_left -= 1
        if self._manifests_left < 0 or self._blobs_left < 0:
            raise UnsupportedManifestError(
                f"{self._address}@{index.digest} leads to more than {MAX_MANIFESTS} manifests or "
                f"{MAX_BLOBS} blobs"
            )

    def _fetch(self, descriptor: Descriptor) -> Manifest | None:
        if not descriptor.is_manifest:
            return None
        current_lease().check()
        return self._fetch_manifest(descriptor.digest)


# Parallel registry calls in threads, for a caller that waits for all of them and may leave early.

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class _PoolLease:
    """The lease of the waiting thread; it also ends when the pool closes."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self.has_ended = False

    def check(self) -> None:
        if self.has_ended:
            raise ItemCancelledError("nobody waits for this any more")
        self._lease.check()

    def require(self, seconds: float) -> None:
        self.check()
        self._lease.require(seconds)

    def waiting(self, seconds: float, host: str, text: str) -> AbstractContextManager[None]:
        return waiting(self._lease, seconds, host, text)


class LeaseBoundThreads:
    """Thread pool under the lease of the thread that creates it, for use in a `with` block.

    At the end of the block, also by an error or an interrupt, unfinished calls end within a second: their
    waits check the pool's end. A bare pool would first finish all pauses and time-outs of each thread.
    """

    def __init__(self, count: int, name: str) -> None:
        self._lease = _PoolLease(current_lease())
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End unfinished calls, and wait for their end."""
        self._lease.has_ended = True
        self._pool.shutdown(cancel_futures=True)

    def submit(
        self, function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> Future[_Result]:
        """Call a function in one of the threads."""
        return self._pool.submit(lambda: self._call(function, *args, **kwargs))

    def map(self, function: Callable[[Any], _Result], arguments: Iterable[Any]) -> Iterator[_Result]:
        """Call a function with each argument in the threads; yield results in the arguments' order."""
        return self._pool.map(lambda argument: self._call(function, argument), arguments)

    def _call(self, function: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
        with under_lease(self._lease):
            return function(*args, **kwargs)
