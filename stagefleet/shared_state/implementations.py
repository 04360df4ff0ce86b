"""The shared state of a fleet in its Redis, and that of one process in its memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from threading import Lock
from typing import TYPE_CHECKING, Any

from stagefleet import redis_client, redis_keys
from stagefleet.leases import elapsed_seconds
from stagefleet.names import Digest, Repository
from stagefleet.shared_state import base

if TYPE_CHECKING:
    import redis

_DESTINATION_BYTES = 8
_PARTS_BYTES_A_CALL = 512 * 1024
_NAMESPACE_SECONDS = 6 * 3600  # as in `lua/common.lua`


class RedisSharedState(base.SharedState):
    """The shared state of a fleet: one hash per namespace; `lua/common.lua` explains its fields.

    A blob takes some 110 bytes. Times are the server's, in milliseconds.
    """

    def __init__(self, client: redis.Redis, *, prefix: str, lease_seconds: float = 30) -> None:
        super().__init__()
        self.scripts = redis_client.RedisScripts(client, "stagefleet.shared_state", prefix=prefix)
        self._redis: Any = client  # redis-py types each reply as the union over all its settings
        self._prefix = prefix
        self._lease_ms = redis_client.milliseconds(lease_seconds)

    def request_uploads(
        self, run_id: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> list[base.UploadDecision]:
        if not digests:
            return []
        fields = _fields(destination, digests)
        answers = self.scripts.call("request_uploads", run_id, owner, self._lease_ms, *fields)
        return [base.UploadDecision(answer.decode()) for answer in answers]

    def mark_uploaded(self, run_id: str, destination: Repository, digests: Sequence[Digest]) -> None:
        if digests:
            self.scripts.call("mark_uploaded", run_id, *_fields(destination, digests))

    def marking_uploaded(
        self,
        run_id: str,
        destination: Repository,
        digests: Callable[[], Sequence[Digest]],
        instead: Callable[[], None],
    ) -> redis_client.DeferredCall | None:
        def prepare() -> redis_client.ScriptCall | None:
            fields = _fields(destination, digests())
            return self.scripts.prepare("mark_uploaded", run_id, *fields) if fields else None

        # Blobs that are not marked are looked for again.
        return redis_client.DeferredCall(prepare=prepare, done=lambda _: None, instead=instead)

    def renew_uploads(
        self, run_id: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> None:
        fields = _fields(destination, digests)
        self.scripts.call("renew_uploads", run_id, owner, self._lease_ms, *fields)

    def release_uploads(
        self, run_id: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> None:
        if digests:
            self.scripts.call("renew_uploads", run_id, owner, 0, *_fields(destination, digests))

    def forget_blobs(self, run_id: str, destination: Repository, digests: Sequence[Digest]) -> None:
        if digests:
            with redis_client.map_redis_errors(self._redis):
                self._redis.hdel(self._key(run_id), *_fields(destination, digests))

    def keep_session(self, destination: Repository, digest: Digest, address: str) -> None:
        (name,) = _fields(destination, [digest])
        kept = address if len(address) <= base.LONGEST_ADDRESS else ""
        span_ms = redis_client.milliseconds(base.SESSION_SECONDS)
        self.scripts.call("keep_session", base.UPLOADS_NAMESPACE, name, kept, span_ms, base.MOST_SESSIONS)

    def take_session(self, destination: Repository, digest: Digest) -> str | None:
        address: bytes | None = self.scripts.call(
            "take_session", base.UPLOADS_NAMESPACE, *_fields(destination, [digest])
        )
        return None if address is None else address.decode()

    def put_parts(self, namespace: str, parts: Mapping[str, bytes]) -> None:
        name, waiting = self._key(namespace), list(parts.items())
        while waiting:
            some, size = {}, 0
            while waiting and size < _PARTS_BYTES_A_CALL:
                key, payload = waiting.pop()
                some[_part_field(key)] = payload
                size += len(payload)
            with redis_client.map_redis_errors(self._redis):
                pipe = self._redis.pipeline(transaction=False)
                pipe.hset(name, mapping=some)
                pipe.expire(name, _NAMESPACE_SECONDS)
                pipe.execute()

    def parts(self, namespace: str, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:
            return []
        with redis_client.map_redis_errors(self._redis):
            found: list[bytes | None] = self._redis.hmget(self._key(namespace), list(map(_part_field, keys)))
        return found

    def _key(self, namespace: str) -> str:
        return redis_keys.SHARED_STATE.of(self._prefix, namespace)

    def _peek(self, namespace: str, key: str) -> bytes | None:
        payload: bytes | None = self.scripts.call("peek", namespace, _value_field(key))
        return payload

    def _drop_value(self, namespace: str, key: str) -> None:
        with redis_client.map_redis_errors(self._redis):
            self._redis.hdel(self._key(namespace), _value_field(key))

    def _read_or_claim(
        self, namespace: str, key: str, owner: bytes, lease_seconds: float
    ) -> base.StoredValue:
        lease_ms = redis_client.milliseconds(lease_seconds)
        answer = self.scripts.call("read_or_claim", namespace, owner, lease_ms, _value_field(key))
        if answer[0] == b"value":
            return base.StoredValue(answer[3], answer[1] / 1000, answer[2] / 1000)
        return base.StoredValue(is_ours=answer[0] == b"build", clock=answer[1] / 1000)

    def _write(self, namespace: str, key: str, payload: bytes, ttl_seconds: float, began: float) -> None:
        times = map(redis_client.milliseconds, (ttl_seconds, began, base.MIN_TTL_SECONDS))
        self.scripts.call("write", namespace, _value_field(key), *times, payload)

    def _release_claim(self, namespace: str, key: str, owner: bytes) -> None:
        self.scripts.call("release_claim", namespace, owner, _value_field(key))


def _fields(destination: Repository, digests: Sequence[Digest]) -> list[bytes]:
    fingerprint = blake2b(str(destination).encode(), digest_size=_DESTINATION_BYTES).digest()
    return [base.blob_field(fingerprint, digest) for digest in digests]


def _value_field(key: str) -> str:
    return "dated:" + key


def _part_field(key: str) -> str:
    return "part:" + key


@dataclass(slots=True)
class _Namespace:
    known: set[bytes] = field(default_factory=set)
    senders: dict[bytes, tuple[bytes, float]] = field(default_factory=dict)
    values: dict[str, tuple[bytes, float, float]] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    builders: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    sessions: dict[bytes, tuple[str, float]] = field(default_factory=dict)


class MemorySharedState(base.SharedState):
    """The shared state of one process: for tests, and for work outside of a fleet.

    Tests, which cannot wait for leases, set `clock_offset_ms`, which is added to the clock.
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
    ) -> list[base.UploadDecision]:
        decisions = []
        with self._lock:
            namespace, now = self._namespace(run_id), self._now()
            for name in _names(destination, digests):
                sender, until = namespace.senders.get(name, (owner, 0.0))
                if name in namespace.known:
                    decisions.append(base.UploadDecision.KNOWN)
                elif sender != owner and until > now:
                    decisions.append(base.UploadDecision.WAIT)
                else:
                    namespace.senders[name] = (owner, now + self._lease_seconds)
                    decisions.append(base.UploadDecision.SEND)
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

    def keep_session(self, destination: Repository, digest: Digest, address: str) -> None:
        with self._lock:
            sessions = self._namespace(base.UPLOADS_NAMESPACE).sessions
            (name,) = _names(destination, [digest])
            sessions.pop(name, None)
            if 0 < len(address) <= base.LONGEST_ADDRESS:
                sessions[name] = (address, self._now() + base.SESSION_SECONDS)
            if len(sessions) > base.MOST_SESSIONS:
                del sessions[next(iter(sessions))]

    def take_session(self, destination: Repository, digest: Digest) -> str | None:
        with self._lock:
            sessions = self._namespace(base.UPLOADS_NAMESPACE).sessions
            (name,) = _names(destination, [digest])
            address, until = sessions.pop(name, ("", 0.0))
            return address if until > self._now() else None

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

    def _read_or_claim(
        self, namespace: str, key: str, owner: bytes, lease_seconds: float
    ) -> base.StoredValue:
        with self._lock:
            there, now = self._namespace(namespace), self._now()
            payload, until, began = there.values.get(key, (b"", 0.0, 0.0))
            if until > now:
                return base.StoredValue(payload, until - now, now - began)
            builder, until = there.builders.get(key, (owner, 0.0))
            if builder != owner and until > now:
                return base.StoredValue(clock=now)
            there.builders[key] = (owner, now + lease_seconds)
            return base.StoredValue(is_ours=True, clock=now)

    def _write(self, namespace: str, key: str, payload: bytes, ttl_seconds: float, began: float) -> None:
        with self._lock:
            until = max(began + ttl_seconds, self._now() + base.MIN_TTL_SECONDS)
            self._namespace(namespace).values[key] = (payload, until, began)
            self._namespace(namespace).builders.pop(key, None)

    def _release_claim(self, namespace: str, key: str, owner: bytes) -> None:
        with self._lock:
            builders = self._namespace(namespace).builders
            if key in builders and builders[key][0] == owner:
                del builders[key]


def _names(destination: Repository, digests: Sequence[Digest]) -> list[bytes]:
    return [base.blob_field(str(destination).encode(), digest) for digest in digests]
