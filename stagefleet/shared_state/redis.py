"""Shared state on Redis: one hash per namespace, one script per call.

On a page's hash (`PREFIX` + `shared_state:` + page; it expires some time after its last use):

- a blob: 8 bytes of the destination's fingerprint and the raw digest -> `k` (known) or `s`, the sender's
  token and the end of its lease; some 110 bytes per blob;
- a value: `dated:` and its key -> `v`, its end, `:`, the beginning of the work on it, `:` and the payload, or
  `b`, the owner's token and the end of its lease;
- a byte string, which no script copies: `part:` and its key -> its bytes.

Times are the server's, in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from stagefleet.leases import NO_LEASE, Lease
from stagefleet.names import Digest, Repository
from stagefleet.redis_client import connect_redis, map_redis_errors
from stagefleet.settings import Settings
from stagefleet.shared_state.protocol import OWNER_BYTES, DatedValue, UploadDecision, blob_field
from stagefleet.shared_state.single_flight import MIN_TTL_SECONDS, SingleFlight, StoredValue, unpack_value

if TYPE_CHECKING:
    import redis

__all__ = ["RedisSharedState"]

_DESTINATION_BYTES = 8
_PARTS_BYTES_A_CALL = 512 * 1024
_NAMESPACE_SECONDS = 6 * 3600  # runs delete their pages; this is for runs whose end nobody saw

_CLOCK = f"""
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000) + tonumber(ARGV[1])
local page = KEYS[1]
local function touch() redis.call('EXPIRE', page, {_NAMESPACE_SECONDS}) end
local function lease(value) -- of `s` or `b`, a token, and the end
  return string.sub(value, 2, {1 + OWNER_BYTES}), tonumber(string.sub(value, {2 + OWNER_BYTES}))
end
local function integer(number) return string.format('%.0f', number) end
local function in_steps(list, call) -- Lua unpacks some thousands at once, and an image may have more layers
  for first = 1, #list, 1000 do call(first, math.min(first + 999, #list)) end
end
"""

_ASK = """
local owner, span = ARGV[2], tonumber(ARGV[3])
local verdicts, leases, names = {}, {}, {}
for n = 4, #ARGV do names[n - 3] = ARGV[n] end
local values = {}
in_steps(names, function(first, last)
  for _, value in ipairs(redis.call('HMGET', page, unpack(names, first, last))) do
    values[#values + 1] = value
  end
end)
for n, value in ipairs(values) do
  local sender, ends = owner, 0
  if value and value ~= 'k' then sender, ends = lease(value) end
  if value == 'k' then verdicts[n] = 'known'
  elseif sender ~= owner and ends > now then verdicts[n] = 'wait'
  else
    verdicts[n] = 'send'
    leases[#leases + 1] = names[n]
    leases[#leases + 1] = 's' .. owner .. integer(now + span)
  end
end
in_steps(leases, function(first, last) redis.call('HSET', page, unpack(leases, first, last)) end)
if #leases > 0 then touch() end
return verdicts
"""

_SENT = """
local known = {}
for n = 2, #ARGV do known[#known + 1] = ARGV[n] known[#known + 1] = 'k' end
in_steps(known, function(first, last) redis.call('HSET', page, unpack(known, first, last)) end)
touch()
"""

_RENEW = """
local owner, span = ARGV[2], tonumber(ARGV[3])
for n = 4, #ARGV do
  local value = redis.call('HGET', page, ARGV[n])
  if value and value ~= 'k' and lease(value) == owner then
    if span > 0 then redis.call('HSET', page, ARGV[n], 's' .. owner .. integer(now + span))
    else redis.call('HDEL', page, ARGV[n]) end
  end
end
touch()
"""

_LOOK = """
local owner, span, name = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local value = redis.call('HGET', page, name)
if value and string.sub(value, 1, 1) == 'v' then
  local ends, began, payload = string.match(value, '^v(%d+):(%d+):(.*)$')
  if tonumber(ends) > now then return { 'value', tonumber(ends) - now, now - tonumber(began), payload } end
elseif value then
  local builder, ends = lease(value)
  if builder ~= owner and ends > now then return { 'wait', now } end
end
redis.call('HSET', page, name, 'b' .. owner .. integer(now + span))
touch()
return { 'build', now }
"""

_PEEK = """
local value = redis.call('HGET', page, ARGV[2])
if not value or string.sub(value, 1, 1) ~= 'v' then return false end
local ends, payload = string.match(value, '^v(%d+):%d+:(.*)$')
if tonumber(ends) <= now then return false end
return payload
"""

_KEEP = """
local began = tonumber(ARGV[4])
local ends = math.max(began + tonumber(ARGV[3]), now + tonumber(ARGV[5]))
redis.call('HSET', page, ARGV[2], 'v' .. integer(ends) .. ':' .. integer(began) .. ':' .. ARGV[6])
touch()
"""

_RELEASE = """
local value = redis.call('HGET', page, ARGV[3])
if value and string.sub(value, 1, 1) == 'b' and lease(value) == ARGV[2] then
  redis.call('HDEL', page, ARGV[3])
end
"""


class RedisSharedState:
    """`SharedState` on Redis, for all workers of a fleet; thread-safe.

    Args:
        client: Redis client that returns bytes.
        prefix: Prefix of every key.
        lease_seconds: Duration of a sender's lease on a blob.

    Attributes:
        clock_offset_ms: Added to the server's clock; for tests, which cannot wait for leases.
    """

    def __init__(self, client: redis.Redis, *, prefix: str, lease_seconds: float = 30) -> None:
        self.clock_offset_ms = 0
        self._redis: Any = client  # redis-py types each reply as the union over all its settings
        self._prefix = prefix + "book:"
        self._lease_seconds = lease_seconds
        self._single_flight = SingleFlight(self)
        self._ask = client.register_script(_CLOCK + _ASK)
        self._sent = client.register_script(_CLOCK + _SENT)
        self._renew = client.register_script(_CLOCK + _RENEW)
        self._look = client.register_script(_CLOCK + _LOOK)
        self._peek = client.register_script(_CLOCK + _PEEK)
        self._keep = client.register_script(_CLOCK + _KEEP)
        self._release = client.register_script(_CLOCK + _RELEASE)

    @classmethod
    def connect(cls, redis_url: str, settings: Settings) -> RedisSharedState:
        """Create the shared state for a URL; it connects at the first call.

        Raises:
            SettingsError: The URL is malformed.
        """
        return cls(
            connect_redis(redis_url), prefix=settings.key_prefix, lease_seconds=settings.runs.lease_seconds
        )

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _call(self, script: Any, namespace: str, *arguments: Any) -> Any:
        with map_redis_errors(self._redis):
            return script(keys=[self._prefix + namespace], args=[self.clock_offset_ms, *arguments])

    def request_uploads(
        self, run_id: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> list[UploadDecision]:
        if not digests:
            return []
        answers = self._call(
            self._ask, run_id, owner, _ms(self._lease_seconds), *_fields(destination, digests)
        )
        return [UploadDecision(answer.decode()) for answer in answers]

    def mark_uploaded(self, run_id: str, destination: Repository, digests: Sequence[Digest]) -> None:
        if digests:
            self._call(self._sent, run_id, *_fields(destination, digests))

    def renew_uploads(
        self, run_id: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> None:
        self._call(self._renew, run_id, owner, _ms(self._lease_seconds), *_fields(destination, digests))

    def release_uploads(
        self, run_id: str, destination: Repository, digests: Sequence[Digest], owner: bytes
    ) -> None:
        if digests:
            self._call(self._renew, run_id, owner, 0, *_fields(destination, digests))

    def forget_blobs(self, run_id: str, destination: Repository, digests: Sequence[Digest]) -> None:
        if digests:
            with map_redis_errors(self._redis):
                self._redis.hdel(self._prefix + run_id, *_fields(destination, digests))

    def get_or_compute(
        self,
        namespace: str,
        key: str,
        build: Callable[[], Any],
        *,
        ttl_seconds: float,
        wait_seconds: float,
        lease: Lease = NO_LEASE,
    ) -> Any:
        return self._single_flight.get_or_compute(
            namespace, key, build, ttl_seconds=ttl_seconds, wait_seconds=wait_seconds, lease=lease
        )

    def get_or_compute_dated(
        self,
        namespace: str,
        key: str,
        build: Callable[[], Any],
        *,
        ttl_seconds: float,
        wait_seconds: float,
        lease: Lease = NO_LEASE,
    ) -> DatedValue:
        return self._single_flight.get_or_compute_dated(
            namespace, key, build, ttl_seconds=ttl_seconds, wait_seconds=wait_seconds, lease=lease
        )

    def peek(self, namespace: str, key: str) -> Any | None:
        payload = self._call(self._peek, namespace, _value_field(key))
        return None if payload is None else unpack_value(payload)

    def forget_value(self, namespace: str, key: str) -> None:
        self._single_flight.forget(namespace, key)
        with map_redis_errors(self._redis):
            self._redis.hdel(self._prefix + namespace, _value_field(key))

    def put_parts(self, namespace: str, parts: Mapping[str, bytes]) -> None:
        name, waiting = self._prefix + namespace, list(parts.items())
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
            found: list[bytes | None] = self._redis.hmget(
                self._prefix + namespace, list(map(_part_field, keys))
            )
        return found

    def drop_run(self, run_id: str) -> None:
        self._single_flight.forget(run_id)
        with map_redis_errors(self._redis):
            self._redis.unlink(self._prefix + run_id)

    def read_or_claim(self, namespace: str, key: str, owner: bytes, lease_seconds: float) -> StoredValue:
        answer = self._call(self._look, namespace, owner, _ms(lease_seconds), _value_field(key))
        if answer[0] == b"value":
            return StoredValue(answer[3], answer[1] / 1000, answer[2] / 1000)
        return StoredValue(is_ours=answer[0] == b"build", clock=answer[1] / 1000)

    def write(self, namespace: str, key: str, payload: bytes, ttl_seconds: float, began: float) -> None:
        times = (_ms(ttl_seconds), _ms(began), _ms(MIN_TTL_SECONDS))
        self._call(self._keep, namespace, _value_field(key), *times, payload)

    def release_claim(self, namespace: str, key: str, owner: bytes) -> None:
        self._call(self._release, namespace, owner, _value_field(key))


def _fields(destination: Repository, digests: Sequence[Digest]) -> list[bytes]:
    fingerprint = blake2b(str(destination).encode(), digest_size=_DESTINATION_BYTES).digest()
    return [blob_field(fingerprint, digest) for digest in digests]


def _value_field(key: str) -> str:
    return "dated:" + key


def _part_field(key: str) -> str:
    return "part:" + key


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
