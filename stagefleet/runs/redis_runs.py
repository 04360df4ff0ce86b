"""Runs in Redis: read, watched, cancelled, and repaired after lost messages and dead workers."""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from stagefleet import errors, redis_client, redis_keys
from stagefleet.logs import EventLogger
from stagefleet.runs.ledger import cannot_pause, no_run
from stagefleet.runs.messages import log_run_finished
from stagefleet.runs.models import ErrorInfo, Outcome, Run, RunState
from stagefleet.runs.snapshots import decode_outcome, read_runs
from stagefleet.runs.versions import WriterVersion, own_version
from stagefleet.settings import RunSettings

if TYPE_CHECKING:
    import redis

_log = EventLogger(__name__)
_LOGGER = logging.getLogger("stagefleet")
_RUNS_A_CALL = 100
_LONGEST_BLOCK_SECONDS = 2.0  # below the socket's time-out: a quiet stream is no dead connection
_COORDINATOR_LOST = ErrorInfo(
    type="CoordinatorLostError",
    message="the client that submitted the run and held its callback vanished; submit it again",
)
_SUBMITTER_LOST = ErrorInfo(
    type="CoordinatorLostError",
    message="the client vanished before it had submitted the run as a whole: what is there of it is done or "
    "cancelled, and the rest unknown; submit it again",
)
_ITEMS_LOST = ErrorInfo(
    type="ItemLostError",
    message="Redis lost items of the run: run it again, and see whether its keys "
    "were deleted or evicted (maxmemory-policy has to be noeviction)",
)


class RedisRuns:
    """`CoordinatorLedger`, and `WorkerLedger.sweep`, for `RedisLedger`."""

    def __init__(self, client: redis.Redis, *, prefix: str, settings: RunSettings) -> None:
        self.scripts = redis_client.RedisScripts(client, "stagefleet.runs", prefix=prefix)
        self._redis: Any = client  # redis-py types each reply as the union over all its settings
        self._prefix = prefix
        self._settings = settings
        self._client = secrets.token_hex(6)
        self._calls = itertools.count()
        self._damaged: set[str] = set()

    def run(self, run_id: str) -> Run:
        found = read_runs(self.scripts, [run_id])
        if not found:
            raise no_run(run_id)
        if found[0].state is RunState.UNREADABLE and found[0].error is not None:
            raise errors.IncompatibleVersionError(found[0].error.message)
        return found[0]

    def runs(self, *, beginning: str = "") -> Iterator[Run]:
        name = redis_keys.RUNS.of(self._prefix)
        with redis_client.map_redis_errors(self._redis):
            listed = self._ids_beginning(name, beginning)
        for first in range(0, len(listed), _RUNS_A_CALL):
            chunk = listed[first : first + _RUNS_A_CALL]
            found = read_runs(self.scripts, chunk)
            expired = set(chunk) - {run.id for run in found}
            if expired:
                with redis_client.map_redis_errors(self._redis):
                    self._redis.zrem(name, *expired)
            yield from found

    def _ids_beginning(self, name: str, text: str) -> list[str]:
        """Return the ids on a list that begin with a text, the newest first."""
        if not text:
            return [run.decode() for run in self._redis.zrevrange(name, 0, -1)]
        if not text.isalnum():  # a Redis pattern
            return []
        begun: dict[bytes, float] = dict(self._redis.zscan_iter(name, match=f"{text}*", count=1000))
        return [run.decode() for run in sorted(begun, key=begun.__getitem__, reverse=True)]

    def outcomes(self, run_id: str, after: str, *, limit: int, block_seconds: float) -> list[Outcome] | None:
        stream = redis_keys.RUN_OUTCOMES.of(self._prefix, run_id)
        block = redis_client.milliseconds(min(block_seconds, _LONGEST_BLOCK_SECONDS)) or None
        with redis_client.map_redis_errors(self._redis), self._redis.pipeline(transaction=False) as pipe:
            # Entries after a position are complete only if the position itself still exists.
            pipe.xrange(stream, after or "-", after or "+", count=1)
            pipe.xread({stream: after or "0-0"}, count=limit, block=block)
            standing, answer = pipe.execute()
        entries: list[tuple[bytes, dict[bytes, bytes]]] = answer[0][1] if answer else []
        if after and not standing:
            self.run(run_id)
            raise errors.LedgerRewoundError(
                f"Redis has forgotten outcomes of run {run_id}, as after a failover: read on from what it has"
            )
        if not entries:
            self.run(run_id)  # raises if it has expired meanwhile
            return []
        if b"end" in entries[0][1]:
            return None
        return [
            decode_outcome(fields[b"o"], position.decode()) for position, fields in entries if b"o" in fields
        ]

    def coordinate(self, run_id: str) -> int:
        epoch = int(self.scripts.call("coordinate", run_id, secrets.randbelow(1024)))
        if not epoch:
            raise no_run(run_id)
        return epoch

    def acknowledge(self, run_id: str, epoch: int, outcomes: Sequence[Outcome], *, before: str = "") -> bool:
        position = outcomes[-1].position if outcomes else before
        answer = self._call_on("acknowledge", run_id, epoch, position, before)
        if answer == b"rewound":
            raise errors.LedgerRewoundError(
                f"Redis has forgotten what was acknowledged of run {run_id}, as after a failover: coordinate "
                "it again, from what it has"
            )
        return bool(answer == b"ok")

    def acknowledged(self, run_id: str) -> str:
        with redis_client.map_redis_errors(self._redis):
            cursor = self._redis.hget(self._key(run_id), "cursor")
        if cursor is None:
            raise no_run(run_id)
        return str(cursor, "ascii")

    def cancel(self, run_id: str, *, now: bool = False, error: ErrorInfo | None = None) -> bool:
        self._check_version(run_id)
        answer = self._call_on("cancel", run_id, "1" if now else "", error.model_dump_json() if error else "")
        if answer < 0:
            raise no_run(run_id)
        return bool(answer)

    def set_paused(self, run_id: str, *, paused: bool) -> bool:
        self._check_version(run_id)
        answer = self.scripts.call("pause" if paused else "resume", run_id)
        if isinstance(answer, bytes):
            raise cannot_pause(run_id, answer.decode())
        if answer < 0:
            raise no_run(run_id)
        return bool(answer)

    def _check_version(self, run_id: str) -> None:
        """Refuse to change a run of an incompatible release."""
        with redis_client.map_redis_errors(self._redis):
            release, schema = self._redis.hmget(self._key(run_id), ["release", "schema"])
        WriterVersion.read(release, schema).check(f"run {run_id}")

    def sweep(self) -> int:
        """Repair all live runs; log a run that cannot be swept once, and sweep the others."""
        with redis_client.map_redis_errors(self._redis):
            live = [run.decode() for run in self._redis.zrange(redis_keys.LIVE_RUNS.of(self._prefix), 0, -1)]
            swept_ms = int(self._redis.get(redis_keys.SWEPT.of(self._prefix)) or 0)
        mended: int = sum(self._sweep_run(run, swept_ms) for run in live)
        # Last, as it records the end of this sweep: after an interrupted sweep the gap shows.
        touched, *failures = self.scripts.call(
            "enqueue_lost_coordinators", redis_client.milliseconds(self._settings.sweep_seconds)
        )
        for run, problem in zip(failures[::2], failures[1::2], strict=True):
            self._note_damage(run.decode(), problem.decode(errors="replace"))
        self._damaged.intersection_update(live)
        return mended + int(touched)

    def _sweep_run(self, run_id: str, swept_ms: int) -> int:
        problems = _COORDINATOR_LOST.model_dump_json(), own_version().major, _ITEMS_LOST.model_dump_json()
        interval_ms = redis_client.milliseconds(self._settings.sweep_seconds)
        abandoned = _SUBMITTER_LOST.model_dump_json()
        try:
            touched: int = self._call_on("sweep", run_id, *problems, swept_ms, interval_ms, abandoned)
        except (errors.RedisUnreachableError, errors.RedisConfigurationError):
            raise
        except Exception as error:  # noqa: BLE001 - one broken run must not stop the sweep of others
            self._note_damage(run_id, str(error))
            return 0
        self._damaged.discard(run_id)
        return touched

    def _note_damage(self, run_id: str, problem: str) -> None:
        if run_id not in self._damaged:
            self._damaged.add(run_id)
            _LOGGER.error("run %s cannot be swept: %s; the others go on", run_id, problem)

    def _call_on(self, script: str, run_id: str, *arguments: Any) -> Any:
        """Call a script that may end a run, and log the end if it does."""
        return self._note_end(script, run_id, self.scripts.call(script, run_id, *arguments))

    def _note_end(self, script: str, run_id: str, answer: Any) -> Any:
        """Log the end of a run if a script's answer says so; return the answer itself."""
        if not isinstance(answer, list):
            return answer
        try:
            log_run_finished(self.run(run_id), script)
        except errors.StagefleetError as error:  # the script has taken effect
            _log.warning("run_end_not_logged", action=script, run=run_id, error=str(error))
        return answer[0]

    def _nonce(self) -> str:
        """Create a nonce for a repeatable call; threads may share a counter, but not a generator."""
        return f"{self._client}.{next(self._calls)}"

    def _key(self, run_id: str) -> str:
        return redis_keys.RUN.of(self._prefix, run_id)
