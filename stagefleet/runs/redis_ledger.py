"""The ledger on Redis: each step is one Lua script, so that a crash never leaves half a step.

The scripts are in `lua/`; `lua/common.lua` explains the keys.
"""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any, Self

import redis
from redis.commands.core import Script

from stagefleet.connection import connect_redis, reaching
from stagefleet.errors import (
    KeyConflictError,
    LeaseLostError,
    LedgerRewoundError,
    StagefleetError,
    TooManyItemsError,
)
from stagefleet.logs import EventLogger
from stagefleet.runs.dispatch import coordinator_template, message_template, queue_of
from stagefleet.runs.ledger import Finish, Renewal
from stagefleet.runs.model import (
    MAX_ITEMS,
    Claim,
    Fate,
    ItemState,
    Order,
    Outcome,
    Submission,
    split_host,
)
from stagefleet.runs.redis_attendance import RedisAttendance
from stagefleet.runs.redis_observer import RedisObserver, no_run
from stagefleet.runs.redis_sweeper import RedisSweeper
from stagefleet.runs.redis_switchboard import RedisSwitchboard
from stagefleet.runs.run_log import log_run_finished
from stagefleet.runs.snapshots import order_of
from stagefleet.runs.subjects import subject_of
from stagefleet.runs.versions import WriterVersion, own_version
from stagefleet.runs.waits import WaitReason, bounded_pause
from stagefleet.runs.wire import encode_outcome, encode_reason
from stagefleet.settings import RunSettings, Settings

__all__ = ["RedisLedger"]

_SCRIPTS = (
    "open",
    "append",
    "start",
    "claim",
    "renew",
    "finish",
    "note_pause",
    "hand_back",
    "standings",
    "sweep",
    "coordinate",
    "acknowledge",
    "cancel",
    "beat",
    "attend",
    "renew_visit",
    "leave",
    "recall",
    "lead",
    "snapshot",
)
_LEFTOVERS_A_CALL = 1000
_RUNS_A_CALL = 100
_LONGEST_BLOCK_SECONDS = 2.0  # below the socket's time-out: a quiet stream is no dead connection

_log = EventLogger(__name__)


class RedisLedger(RedisObserver, RedisSwitchboard, RedisAttendance, RedisSweeper):
    """The ledger on Redis; implements `stagefleet.runs.ledger`. Thread-safe.

    Attributes:
        clock_offset_ms: Added to the server's clock; for tests, which cannot wait for leases.
    """

    def __init__(self, client: redis.Redis, *, prefix: str, settings: RunSettings) -> None:
        self.clock_offset_ms = 0
        self._redis: Any = client  # redis-py types each reply as the union over all its settings
        self._prefix = prefix
        self._settings = settings
        self._client = secrets.token_hex(6)
        self._calls = itertools.count()
        self._damaged: set[str] = set()
        source = resources.files("stagefleet.runs") / "lua"
        common = (source / "common.lua").read_text()
        self._scripts: dict[str, Script] = {
            name: client.register_script(common + (source / f"{name}.lua").read_text()) for name in _SCRIPTS
        }

    @classmethod
    def connect(cls, redis_url: str, settings: Settings) -> Self:
        """Create the ledger for a URL; it connects at the first call.

        Raises:
            SettingsError: The URL is malformed.
        """
        return cls(connect_redis(redis_url), prefix=settings.key_prefix, settings=settings.runs)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _call(self, script: str, *arguments: Any) -> Any:
        with reaching(self._redis):
            return self._scripts[script](args=[self._prefix, self.clock_offset_ms, *arguments])

    def _call_on(self, script: str, run: str, *arguments: Any) -> Any:
        """Call a script that may end a run, and log the end if it does."""
        answer = self._call(script, run, *arguments)
        if not isinstance(answer, list):
            return answer
        try:
            log_run_finished(self.run(run), script)
        except StagefleetError as error:  # the script has taken effect
            _log.warning("run_end_not_logged", action=script, run=run, error=str(error))
        return answer[0]

    def _nonce(self) -> str:
        """Create a nonce for a repeatable call; threads may share a counter, but not a generator."""
        return f"{self._client}.{next(self._calls)}"

    def _key(self, run: str, part: str = "") -> str:
        return f"{self._prefix}run:{run}:{part}" if part else f"{self._prefix}run:{run}"

    # Submitter

    def has_key(self, key: str) -> bool:
        return self.run_under(key) is not None

    def open(self, order: Order, *, again: Submission | None = None) -> Submission:
        settings = self._settings
        fate, run, token, previous = self._call(
            "open",
            secrets.token_hex(6),
            order.key or "",
            order.fingerprint,
            queue_of(order.operation),
            max(1, order.parallel),
            order.callback,
            order.max_attempts,
            order.model_dump_json(),
            message_template(order.operation),
            _ms(settings.lease_seconds),
            _ms(settings.retention_seconds),
            _ms(settings.republish_seconds),
            coordinator_template() if order.is_called_back else "",
            own_version().release,
            own_version().schema,
            json.dumps(subject_of(order).shown)[1:-1],
            secrets.randbelow(1024),
            "" if again is None else again.run,
            "" if again is None else again.token,
        )
        if fate == b"conflict":
            raise KeyConflictError(
                f"the idempotency key {order.key!r} belongs to run {run.decode()}, which was started with "
                "other arguments: use another key for other work"
            )
        return Submission(
            run=run.decode(), fate=Fate(fate.decode()), token=token, previous=previous.decode() or None
        )

    def append(
        self,
        submission: Submission,
        items: Sequence[str],
        decided: Sequence[Outcome] = (),
        *,
        nonce: str | None = None,
    ) -> None:
        outcomes = itertools.chain.from_iterable(
            (outcome.state, encode_outcome(outcome)) for outcome in decided
        )
        answer = self._call(
            "append",
            submission.run,
            submission.token,
            submission.items,
            submission.total,
            MAX_ITEMS,
            self._nonce() if nonce is None else nonce,
            len(items),
            *items,
            *outcomes,
        )
        if answer == b"many":
            raise TooManyItemsError(f"a run has at most {MAX_ITEMS:,} items: split it")
        if not isinstance(answer, list):
            raise self._refusal(submission, answer)
        submission.items, submission.decided = answer[0], answer[1] - answer[0]

    def start(self, submission: Submission) -> None:
        answer = self._call_on("start", submission.run, submission.token, submission.total)
        if answer != b"ok":
            raise self._refusal(submission, answer)

    @staticmethod
    def _refusal(submission: Submission, answer: bytes) -> LeaseLostError | LedgerRewoundError:
        if answer == b"rewound":
            return LedgerRewoundError(
                f"Redis has forgotten parts of run {submission.run}, as after a failover: submit it again"
            )
        return LeaseLostError(
            f"run {submission.run} was cancelled or taken over by the same call elsewhere; watch it with "
            f"stagefleet runs watch {submission.run}"
        )

    def leftovers(self, run: str) -> Iterator[str]:
        return (item for _, item in self.numbered_leftovers(run))

    def numbered_leftovers(self, run: str) -> Iterator[tuple[int, str]]:
        with reaching(self._redis):
            queued = self._redis.hget(self._key(run), "queued")
        if queued is None:
            raise no_run(run)
        for first in range(0, int(queued), _LEFTOVERS_A_CALL):
            indexes = range(first, min(int(queued), first + _LEFTOVERS_A_CALL))
            with reaching(self._redis), self._redis.pipeline(transaction=False) as pipe:
                pipe.hmget(self._key(run, "items"), list(map(str, indexes)))
                pipe.exists(
                    self._key(run)
                )  # last, as they expire together: an expired run's items prove nothing
                found, stands = pipe.execute()
            if not stands:
                raise no_run(run)
            yield from (
                (index, item.decode()) for index, item in zip(indexes, found, strict=True) if item is not None
            )

    # Workbench

    def order(self, run: str) -> Order | None:
        with reaching(self._redis):
            order, parent, release, schema = self._redis.hmget(
                self._key(run), ["order", "parent", "release", "schema"]
            )
        return None if order is None else order_of(run, order, parent, WriterVersion.read(release, schema))

    def claim(self, run: str, index: int, worker: str, *, nonce: str | None = None) -> Claim | None:
        owner = f"{self._nonce() if nonce is None else nonce} {worker}"
        before = time.monotonic()
        answer = self._call("claim", run, index, owner)
        if answer is None:
            return None
        appended, fence, attempt, lease_ms = answer
        item, host = split_host(appended.decode())
        return Claim(
            run=run,
            index=index,
            item=item,
            host=host,
            fence=int(fence),
            attempt=attempt,
            claimed_at=before,
            lease_until=before + int(lease_ms) / 1000,
            nonce=owner,
        )

    def renew(self, claims: Sequence[Claim]) -> list[Renewal]:
        if not claims:
            return []
        triples = itertools.chain.from_iterable((claim.run, claim.index, claim.token) for claim in claims)
        return [Renewal(answer.decode()) for answer in self._call("renew", *triples)]

    def finish(
        self,
        claim: Claim,
        outcome: Outcome,
        *,
        retry_after_seconds: float | None = None,
        reason: WaitReason | None = None,
    ) -> Finish:
        answer = self._call_on(
            "finish",
            claim.run,
            claim.index,
            claim.token,
            outcome.state,
            encode_outcome(outcome.model_copy(update={"attempts": claim.attempt, "host": claim.host})),
            outcome.bytes,
            "" if retry_after_seconds is None else _ms(bounded_pause(retry_after_seconds, self._settings)),
            encode_reason(reason),
        )
        return Finish(answer)

    def note_pause(self, claim: Claim, seconds: float, reason: WaitReason) -> None:
        self._call("note_pause", claim.run, claim.index, claim.token, _ms(seconds), encode_reason(reason))

    def hand_back(self, claim: Claim, *, behind: int | None = None) -> bool:
        other = "" if behind is None else behind
        return bool(self._call_on("hand_back", claim.run, claim.index, claim.token, other))

    def standings(self, run: str, indexes: Sequence[int]) -> list[ItemState | None]:
        answers = self._call("standings", run, *indexes)
        return [ItemState(answer.decode()) if answer else None for answer in answers]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
