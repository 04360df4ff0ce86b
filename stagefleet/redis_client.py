"""The border to Redis: clients, scripts, errors as Stagefleet's, and retries.

redis-py is loaded with the first client: it brings asyncio, and takes a third of a command's start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Self, TypeVar

from stagefleet.backoff import REDIS_BACKOFF
from stagefleet.errors import RedisUnreachableError
from stagefleet.logs import EventLogger

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
        self.package = package
        self._client = client
        self._mapping = map_redis_errors(client)
        self._folder = resources.files(package) / "lua"
        self._prefix = prefix
        self._scripts: dict[str, Any] = {}

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a script; raises as `map_redis_errors`."""
        script = self._scripts.get(name) or self._register(name, self._text(name))
        with self._mapping:
            return script(self._prefix, self.clock_offset_ms, *arguments)

    def prepare(self, name: str, *arguments: Any, is_needed: bool = False) -> ScriptCall:
        """Prepare a call of a script for `call_together`."""
        full_name = f"{self.package}.{name}"
        own = (self._prefix, self.clock_offset_ms)
        return ScriptCall(self, name, full_name, (*own, *arguments), is_needed)

    def call_together(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Call scripts, of any packages, in one step, in which nobody sees a part of their changes.

        An error of the first is raised as by `call`, and the others are not called then. Another script's
        error is its answer; if others need that script, they are not called, and have no answers. Nor are
        they if it answers 0.
        """
        name = " ".join(sorted({call.full_name for call in calls}))
        script = self._scripts.get(name) or self._load_together(name, calls)
        words: list[Any] = []
        for call in calls:
            words += (call.full_name, "1" if call.is_needed else "", len(call.arguments), *call.arguments)
        with self._mapping:
            return list(script(*words))

    def checked(self, answer: Any) -> Any:
        """Return an answer of `call_together`; raise one that is an error, as `call` does."""
        with self._mapping:
            if isinstance(answer, Exception):
                raise answer
        return answer

    def _load_together(self, name: str, calls: Sequence[ScriptCall]) -> Any:
        texts = {call.full_name: call.scripts._text(call.name) for call in calls}  # noqa: SLF001 - its own class
        functions = (f"['{part}'] = function(ARGV)\n{text}\nend,\n" for part, text in sorted(texts.items()))
        ending = (resources.files("stagefleet") / "lua" / "together.lua").read_text("utf-8")
        return self._register(name, f"local scripts = {{\n{''.join(functions)}}}\n{ending}")

    def _text(self, name: str) -> str:
        return "".join((self._folder / f"{part}.lua").read_text("utf-8") for part in ("common", name))

    def _register(self, name: str, text: str) -> Any:
        from stagefleet.redis_pool import Script  # noqa: PLC0415 - loads redis-py

        self._scripts[name] = Script(self._client, text)
        return self._scripts[name]


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """A call of a script, with prefix and clock; `is_needed` if what follows it in a step needs it.

    The full name is that with its package.
    """

    scripts: RedisScripts
    name: str
    full_name: str
    arguments: tuple[Any, ...]
    is_needed: bool = False


@dataclass(frozen=True, slots=True)
class DeferredCall:
    """A change that can be made in one step with the outcome of an item.

    Attributes:
        prepare: Returns the call that makes it, None if there is nothing left to change.
        done: Takes the answer, or the error with which Redis refused the call; may raise it.
        instead: Makes the change alone, or one that is right whether it was made or not.
        follows: True if it is made after the outcome is recorded, in the same step.
    """

    prepare: Callable[[], ScriptCall | None]
    done: Callable[[Any], None]
    instead: Callable[[], None]
    follows: bool = False


class LastStep:
    """The last step of an item: its outcome, and what is put off to go along with it; thread-safe.

    The step is atomic, and repeated as a whole: where it has not come about, `close` does what is to be done
    instead. A change that is needed and refused stops it: then the outcome is not recorded.
    """

    def __init__(self) -> None:
        self._calls: list[DeferredCall] = []
        self._answers: dict[int, Any] = {}
        self._is_recorded = False

    def __bool__(self) -> bool:
        return bool(self._calls)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_error: object) -> None:
        if kind is None and not self._is_recorded:
            self.close()
        else:
            self.abandon()

    def put_off(self, call: DeferredCall) -> None:
        """Make a change in the last step."""
        self._calls.append(call)

    def run(self, scripts: RedisScripts, check: ScriptCall, outcome: ScriptCall) -> Any:
        """Make the changes and record the outcome, if the check answers so; raises as `RedisScripts.call`.

        Returns:
            The answer of the script that records the outcome, 0 if it was not called.
        """
        deferred = [(id(call), call.prepare(), call.follows) for call in self._calls]
        before, after = (
            [(name, call) for name, call, follows in deferred if call is not None and follows is wanted]
            for wanted in (False, True)
        )
        steps = [(0, check), *before, (1, outcome), *after]
        answers = scripts.call_together([call for _, call in steps])
        found = self._answers = {name: answer for (name, _), answer in zip(steps, answers, strict=False)}
        answer = scripts.checked(found.pop(1, 0))
        self._is_recorded = bool(answer)
        return answer

    def close(self) -> None:
        """End the item's changes: tell of those that the step has made, and do the others' part instead.

        Raises:
            StagefleetError: A change was refused, or cannot be made; the others are ended all the same.
        """
        calls, self._calls = self._calls, []
        if not calls:
            return
        with ExitStack() as ends:
            for call in reversed(calls):
                if id(call) in self._answers:
                    ends.callback(call.done, self._answers[id(call)])
                else:
                    ends.callback(call.instead)

    def abandon(self) -> None:
        """Close it after an end that no error may change; log what fails."""
        try:
            self.close()
        except Exception as error:  # noqa: BLE001 - the item has its end
            _log.warning("deferred_call_failed", action="finish", error=str(error))


def put_off(step: LastStep | None, call: DeferredCall | None) -> bool:
    """Put a change off to an item's last step; False if there is none, or the change cannot be put off."""
    if step is None or call is None:
        return False
    step.put_off(call)
    return True


def milliseconds(seconds: float) -> int:
    """Convert a duration for a script."""
    return round(seconds * 1000)


OUTAGE_SECONDS = 60.0
"""How long to retry where no setting applies; long enough for a restart."""

_log = EventLogger(__name__)
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
        began_at, failures, told = 0.0, 0, False
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
