"""Shared state on Redis: one hash per namespace; `lua/common.lua` explains its fields.

A blob takes some 110 bytes. Times are the server's, in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from stagefleet.names import Digest, Repository
from stagefleet.redis_client import RedisScripts, map_redis_errors, milliseconds
from stagefleet.redis_keys import SHARED_STATE
from stagefleet.shared_state.base import MIN_TTL_SECONDS, SharedState, StoredValue, UploadDecision, blob_field

if TYPE_CHECKING:
    import redis

_DESTINATION_BYTES = 8
_PARTS_BYTES_A_CALL = 512 * 1024
_NAMESPACE_SECONDS = 6 * 3600  # as in `lua/common.lua`


class RedisSharedState(SharedState):
    """The shared state of a fleet; thread-safe."""

    def __init__(self, client: redis.Redis, *, prefix: str, lease_seconds: float = 30) -> None:
        super().__init__()
        self.scripts = RedisScripts(client, "stagefleet.shared_state", prefix=prefix)
        self._redis: Any = client  # redis-py types each reply as the union over all its settings
        self._prefix = prefix
        self._lease_ms = milliseconds(lease_seconds)

    def request_uploads(
        self, run_id: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> list[UploadDecision]:
        if not digests:
            return []
        fields = _fields(destination, digests)
        answers = self.scripts.call("request_uploads", run_id, owner, self._lease_ms, *fields)
        return [UploadDecision(answer.decode()) for answer in answers]

    def mark_uploaded(self, run_id: str, destination: Repository, digests: Sequence[Digest]) -> None:
        if digests:
            self.scripts.call("mark_uploaded", run_id, *_fields(destination, digests))

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
            with map_redis_errors(self._redis):
                self._redis.hdel(self._key(run_id), *_fields(destination, digests))

    def put_parts(self, namespace: str, parts: Mapping[str, bytes]) -> None:
        name, waiting = self._key(namespace), list(parts.items())
        while waiting:
            some, size = {}, 0
            while waiting and size < _PARTS_BYTES_A_CALL:
                key, payload = waiting.pop()
                some[_part_field(key)] = payload
                size += len(payload)
            with map_redis_errors(self._redis):
                pipe = self._redis.pipeline(transaction=False)
                pipe.hset(name, mapping=some)
                pipe.expire(name, _NAMESPACE_SECONDS)
                pipe.execute()

    def parts(self, namespace: str, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:
            return []
        with map_redis_errors(self._redis):
            found: list[bytes | None] = self._redis.hmget(self._key(namespace), list(map(_part_field, keys)))
        return found

    def _key(self, namespace: str) -> str:
        return SHARED_STATE.of(self._prefix, namespace)

    def _peek(self, namespace: str, key: str) -> bytes | None:
        payload: bytes | None = self.scripts.call("peek", namespace, _value_field(key))
        return payload

    def _drop_value(self, namespace: str, key: str) -> None:
        with map_redis_errors(self._redis):
            self._redis.hdel(self._key(namespace), _value_field(key))

    def _drop_namespace(self, namespace: str) -> None:
        with map_redis_errors(self._redis):
            self._redis.unlink(self._key(namespace))

    def _read_or_claim(self, namespace: str, key: str, owner: bytes, lease_seconds: float) -> StoredValue:
        lease_ms = milliseconds(lease_seconds)
        answer = self.scripts.call("read_or_claim", namespace, owner, lease_ms, _value_field(key))
        if answer[0] == b"value":
            return StoredValue(answer[3], answer[1] / 1000, answer[2] / 1000)
        return StoredValue(is_ours=answer[0] == b"build", clock=answer[1] / 1000)

    def _write(self, namespace: str, key: str, payload: bytes, ttl_seconds: float, began: float) -> None:
        times = map(milliseconds, (ttl_seconds, began, MIN_TTL_SECONDS))
        self.scripts.call("write", namespace, _value_field(key), *times, payload)

    def _release_claim(self, namespace: str, key: str, owner: bytes) -> None:
        self.scripts.call("release_claim", namespace, owner, _value_field(key))


def _fields(destination: Repository, digests: Sequence[Digest]) -> list[bytes]:
    fingerprint = blake2b(str(destination).encode(), digest_size=_DESTINATION_BYTES).digest()
    return [blob_field(fingerprint, digest) for digest in digests]


def _value_field(key: str) -> str:
    return "dated:" + key


def _part_field(key: str) -> str:
    return "part:" + key
