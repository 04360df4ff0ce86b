"""Shared state in the memory of one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

from stagefleet.leases import elapsed_seconds
from stagefleet.names import Digest, Repository
from stagefleet.shared_state.base import MIN_TTL_SECONDS, SharedState, StoredValue, UploadDecision, blob_field


@dataclass(slots=True)
class _Namespace:
    known: set[bytes] = field(default_factory=set)
    senders: dict[bytes, tuple[bytes, float]] = field(default_factory=dict)
    values: dict[str, tuple[bytes, float, float]] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    builders: dict[str, tuple[bytes, float]] = field(default_factory=dict)


class MemorySharedState(SharedState):
    """The shared state of one process: for tests, and for work outside of a fleet.

    Attributes:
        clock_offset_ms: Added to the clock; for tests, which cannot wait for leases.
    """

    def __init__(self, *, lease_seconds: float = 30) -> None:
        super().__init__()
        self.clock_offset_ms = 0
        self._lease_seconds = lease_seconds
        self._lock = Lock()
        self._namespaces: dict[str, _Namespace] = {}

    def _now(self) -> float:
        return elapsed_seconds() + self.clock_offset_ms / 1000

    def _namespace(self, name: str) -> _Namespace:
        return self._namespaces.setdefault(name, _Namespace())

    def request_uploads(
        self, run_id: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> list[UploadDecision]:
        decisions = []
        with self._lock:
            namespace, now = self._namespace(run_id), self._now()
            for name in _names(destination, digests):
                sender, until = namespace.senders.get(name, (owner, 0.0))
                if name in namespace.known:
                    decisions.append(UploadDecision.KNOWN)
                elif sender != owner and until > now:
                    decisions.append(UploadDecision.WAIT)
                else:
                    namespace.senders[name] = (owner, now + self._lease_seconds)
                    decisions.append(UploadDecision.SEND)
        return decisions

    def mark_uploaded(self, run_id: str, destination: Repository, digests: Sequence[Digest]) -> None:
        with self._lock:
            for name in _names(destination, digests):
                self._namespace(run_id).known.add(name)
                self._namespace(run_id).senders.pop(name, None)

    def renew_uploads(
        self, run_id: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> None:
        with self._lock:
            senders, until = self._namespace(run_id).senders, self._now() + self._lease_seconds
            for name in _names(destination, digests):
                if name in senders and senders[name][0] == owner:
                    senders[name] = (owner, until)

    def release_uploads(
        self, run_id: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> None:
        with self._lock:
            senders = self._namespace(run_id).senders
            for name in _names(destination, digests):
                if name in senders and senders[name][0] == owner:
                    del senders[name]

    def forget_blobs(self, run_id: str, destination: Repository, digests: Sequence[Digest]) -> None:
        with self._lock:
            for name in _names(destination, digests):
                self._namespace(run_id).known.discard(name)
                self._namespace(run_id).senders.pop(name, None)

    def put_parts(self, namespace: str, parts: Mapping[str, bytes]) -> None:
        with self._lock:
            self._namespace(namespace).parts.update(parts)

    def parts(self, namespace: str, keys: Sequence[str]) -> list[bytes | None]:
        with self._lock:
            return [self._namespace(namespace).parts.get(key) for key in keys]

    def _peek(self, namespace: str, key: str) -> bytes | None:
        with self._lock:
            payload, until, _ = self._namespace(namespace).values.get(key, (b"", 0.0, 0.0))
            return payload if until > self._now() else None

    def _drop_value(self, namespace: str, key: str) -> None:
        with self._lock:
            self._namespace(namespace).values.pop(key, None)

    def _drop_namespace(self, namespace: str) -> None:
        with self._lock:
            self._namespaces.pop(namespace, None)

    def _read_or_claim(self, namespace: str, key: str, owner: bytes, lease_seconds: float) -> StoredValue:
        with self._lock:
            there, now = self._namespace(namespace), self._now()
            payload, until, began = there.values.get(key, (b"", 0.0, 0.0))
            if until > now:
                return StoredValue(payload, until - now, now - began)
            builder, until = there.builders.get(key, (owner, 0.0))
            if builder != owner and until > now:
                return StoredValue(clock=now)
            there.builders[key] = (owner, now + lease_seconds)
            return StoredValue(is_ours=True, clock=now)

    def _write(self, namespace: str, key: str, payload: bytes, ttl_seconds: float, began: float) -> None:
        with self._lock:
            until = max(began + ttl_seconds, self._now() + MIN_TTL_SECONDS)
            self._namespace(namespace).values[key] = (payload, until, began)
            self._namespace(namespace).builders.pop(key, None)

    def _release_claim(self, namespace: str, key: str, owner: bytes) -> None:
        with self._lock:
            builders = self._namespace(namespace).builders
            if key in builders and builders[key][0] == owner:
                del builders[key]


def _names(destination: Repository, digests: Sequence[Digest]) -> list[bytes]:
    return [blob_field(str(destination).encode(), digest) for digest in digests]
