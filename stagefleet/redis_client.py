"""The border to Redis: clients, scripts, errors as Stagefleet's, retries, and the keys of a fleet.

redis-py is loaded with the first client: it brings asyncio, and takes a third of a command's start.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeVar

from stagefleet.backoff import REDIS_BACKOFF
from stagefleet.errors import RedisUnreachableError

if TYPE_CHECKING:
    import redis


def connect_redis(url: str) -> redis.Redis:
    """Create a thread-safe client with time-outs for every operation; it connects at its first command.

    The URL is `redis://`, `rediss://` or `unix://`, with login and database number as redis-py reads them;
    `SettingsError` if it is malformed, or has an unknown option.
    """
    from stagefleet.redis_pool import make_client  # noqa: PLC0415 - loads redis-py

    return make_client(url)


class _MapRedisErrors:
    """Convert redis-py errors in a block to Stagefleet errors; let bugs pass.

    Raises:
        RedisUnreachableError: Redis does not answer, or refuses for now.
        RedisConfigurationError: The server at the URL cannot be used as configured.
    """

    __slots__ = ("_client",)

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, Exception) or not (isinstance(error, UnicodeError) or is_redis_error(error)):
            return
        from stagefleet.redis_errors import explain  # noqa: PLC0415 - loads redis-py

        explained = explain(error, address_of(self._client))
        if explained is not None:
            raise explained from error


map_redis_errors = _MapRedisErrors  # no generator: it costs three times the calls


def is_redis_error(error: BaseException) -> bool:
    """Return True for an error that redis-py raised."""
    from redis import RedisError  # noqa: PLC0415 - loaded by now if the error is one

    return isinstance(error, RedisError)


def address_of(client: redis.Redis) -> str:
    """Return the address of Redis without its login."""
    settings = client.connection_pool.connection_kwargs
    return str(settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}")


class RedisScripts:
    """Call the Lua scripts of a package, each of which is one step on Redis; thread-safe.

    `lua/common.lua` in the package stands before each of them. The first two arguments are the key prefix,
    and what is added to the server's clock: tests, which cannot wait for leases, set `clock_offset_ms`.
    """

    def __init__(self, client: redis.Redis, package: str, *, prefix: str) -> None:
        self.clock_offset_ms = 0
        self._client = client
        self._folder = resources.files(package) / "lua"
        self._prefix = prefix
        self._scripts: dict[str, Any] = {}

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a script; raises as `map_redis_errors`."""
        script = self._scripts.get(name) or self._load(name)
        with map_redis_errors(self._client):
            return script(self._prefix, self.clock_offset_ms, *arguments)

    def _load(self, name: str) -> Any:
        from stagefleet.redis_pool import Script  # noqa: PLC0415 - loads redis-py

        common, text = ((self._folder / f"{part}.lua").read_text("utf-8") for part in ("common", name))
        self._scripts[name] = Script(self._client, common + text)
        return self._scripts[name]


def milliseconds(seconds: float) -> int:
    """Convert a duration for a script."""
    return round(seconds * 1000)


OUTAGE_SECONDS = 60.0
"""How long to retry where no setting applies; long enough for a restart."""

_T = TypeVar("_T")

_TELL_SECONDS = 2.0
"""The length of an outage before it is reported: a failover may be shorter."""


@dataclass(frozen=True, slots=True)
class RedisRetry:
    """Retry calls to Redis while it is out of reach, up to a time limit.

    Attributes:
        seconds: The limit, from the first failure of a call on.
        say: Called when an outage lasts, and when it is over.
        stopping: Returns True to give up at the next failure.
    """

    seconds: float
    say: Callable[[str], None] = lambda _: None
    stopping: Callable[[], bool] = lambda: False
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def __call__(self, call: Callable[[], _T]) -> _T:
        """Call a function, with retries; the call must be safe to repeat."""
        began_at, failures, told = self.clock(), 0, False
        while True:
            try:
                answer = call()
            except RedisUnreachableError as error:
                now, failures = self.clock(), failures + 1
                began_at = now if failures == 1 else began_at
                pause = REDIS_BACKOFF.pause_seconds(failures)
                if now + pause > began_at + self.seconds or self.stopping():
                    raise
                if not told and now - began_at >= _TELL_SECONDS:
                    self.say(f"waiting for Redis, for {self.seconds:g} s at most: {error}")
                    told = True
                self.sleep(pause)
            else:
                if told:
                    self.say("Redis answers again")
                return answer


# The keys of a fleet in Redis: all of them, with their types and lifetimes.
#
# The Lua scripts build the same names; tests hold them, and the table of `docs/operations.md`, against these.


_NAME = re.compile(r"[A-Z]+")


@dataclass(frozen=True, slots=True)
class RedisKey:
    """A kind of keys in Redis, of a type or a channel; `lifetime` says when it goes, "" for what is kept.

    A word in capitals in its pattern, which follows the fleet's prefix, stands for a name.
    """

    pattern: str
    type: str
    lifetime: str = ""

    def of(self, prefix: str, *names: str) -> str:
        """Return the key for some names, in the order of the pattern's words."""
        values = iter(names)
        return prefix + _NAME.sub(lambda _: next(values), self.pattern)


_RETENTION = "`runs.retention_seconds` after the run's end"
_END = "the end of the run"
_EMPTY = "its last entry"
_CACHED = "`caches.lifetime_seconds` after the last change"
_LISTED = "`caches.list_lifetime_seconds` after the last listing"

RUN = RedisKey("run:RUN", "hash", _RETENTION)
RUN_ITEMS = RedisKey("run:RUN:items", "hash", _RETENTION)
RUN_OUTCOMES = RedisKey("run:RUN:outcomes", "stream", _RETENTION)
SHARED_STATE = RedisKey("book:RUN", "hash", "the end of the run, or 6 h after its last use")
RUNS = RedisKey("runs", "zset")
LIVE_RUNS = RedisKey("live", "zset")
RUN_OF_KEY = RedisKey("key:KEY", "string", _RETENTION)
WORKERS = RedisKey("workers", "hash")
SWEPT = RedisKey("swept", "string")
COUNTERS = RedisKey("counters", "hash")
PING = RedisKey("ping", "string", "a second")
QUEUE = RedisKey("mq:QUEUE", "list", _EMPTY)
LOCK_WAKE = RedisKey("lock-wake:TICKET", "channel", "the wait")
DESCRIPTIONS = RedisKey("descriptions:STORAGE", "hash", _CACHED)
TAG_LIST = RedisKey("tag-list:STORAGE", "hash", _LISTED)
TAG_LISTS = RedisKey("tag-lists", "zset", _LISTED)
REJECTIONS = RedisKey("rejections:STORAGE", "hash", "a day after its first entry")
LAST_USED = RedisKey("last-used:HOST", "zset", _CACHED)

KEYS = (
    RUN,
    RUN_ITEMS,
    RedisKey("run:RUN:published", "zset", _END),
    RedisKey("run:RUN:leases", "zset", _END),
    RedisKey("run:RUN:claims", "hash", _END),
    RedisKey("run:RUN:waiting", "zset", _END),
    RedisKey("run:RUN:behind", "zset", _END),
    RedisKey("run:RUN:tries", "hash", _END),
    RUN_OUTCOMES,
    SHARED_STATE,
    RUNS,
    LIVE_RUNS,
    RedisKey("live:QUEUE", "zset", _EMPTY),
    RUN_OF_KEY,
    WORKERS,
    RedisKey("slots:QUEUE", "string", "the end of its last worker's heartbeat"),
    RedisKey("overtaking:QUEUE", "string", "a day after the last claim"),
    SWEPT,
    RedisKey("callbacks", "zset"),
    COUNTERS,
    RedisKey("lead:ROLE", "string", "the end of the role"),
    PING,
    RedisKey("none", "none", "never written"),
    QUEUE,
    RedisKey("lock:LOCK:holders", "zset", _EMPTY),
    RedisKey("lock:LOCK:queue", "zset", _EMPTY),
    RedisKey("lock:LOCK:patience", "zset", _EMPTY),
    RedisKey("lock:LOCK:tickets", "hash", _EMPTY),
    RedisKey("lock:fence", "string"),
    RedisKey("locks", "zset"),
    LOCK_WAKE,
    DESCRIPTIONS,
    RedisKey("described-changes:STORAGE", "zset", "2 min after the last change"),
    TAG_LIST,
    TAG_LISTS,
    REJECTIONS,
    LAST_USED,
)
