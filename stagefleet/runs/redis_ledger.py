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
from typing import TYPE_CHECKING, Any, Self

from stagefleet.errors import (
    KeyConflictError,
    LeaseLostError,
    LedgerRewoundError,
    StagefleetError,
    TooManyItemsError,
)
from stagefleet.logs import EventLogger
from stagefleet.redis_client import connect_redis, map_redis_errors
from stagefleet.runs.ledger import FinishResult, RenewalResult
from stagefleet.runs.messages import coordinator_template, message_template, queue_of
from stagefleet.runs.models import (
    MAX_ITEMS,
    Claim,
    ItemState,
    Outcome,
    RunSpec,
    Submission,
    SubmissionKind,
    split_host,
)
from stagefleet.runs.redis_coordinator_ledger import (
    RedisCallbackLedger,
    RedisCoordinatorLedger,
    RedisHeartbeatLedger,
    RedisSweeper,
    no_run,
)
from stagefleet.runs.snapshots import encode_outcome, encode_reason, spec_of
from stagefleet.runs.subjects import log_run_finished, subject_of
from stagefleet.runs.versions import WriterVersion, own_version
from stagefleet.runs.waits import WaitReason, bounded_pause
from stagefleet.settings import RunSettings, Settings

if TYPE_CHECKING:
    import redis

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
    "item_states",
    "sweep",
    "coordinate",
    "acknowledge",
    "cancel",
    "beat",
    "claim_coordination",
    "renew_coordination",
    "end_coordination",
    "enqueue_lost_coordinators",
    "lead",
    "snapshot",
)
_LEFTOVERS_A_CALL = 1000
_RUNS_A_CALL = 100
_LONGEST_BLOCK_SECONDS = 2.0  # below the socket's time-out: a quiet stream is no dead connection

_log = EventLogger(__name__)


class RedisLedger(RedisCoordinatorLedger, RedisCallbackLedger, RedisHeartbeatLedger, RedisSweeper):
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
        self._scripts = {
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
        with map_redis_errors(self._redis):
            return self._scripts[script](args=[self._prefix, self.clock_offset_ms, *arguments])

    def _call_on(self, script: str, run_id: str, *arguments: Any) -> Any:
        """Call a script that may end a run, and log the end if it does."""
        answer = self._call(script, run_id, *arguments)
        if not isinstance(answer, list):
            return answer
        try:
            log_run_finished(self.run(run_id), script)
        except StagefleetError as error:  # the script has taken effect
            _log.warning("run_end_not_logged", action=script, run=run_id, error=str(error))
        return answer[0]

    def _nonce(self) -> str:
        """Create a nonce for a repeatable call; threads may share a counter, but not a generator."""
        return f"{self._client}.{next(self._calls)}"

    def _key(self, run_id: str, part: str = "") -> str:
        return f"{self._prefix}run:{run_id}:{part}" if part else f"{self._prefix}run:{run_id}"

    # Submitter

    def has_key(self, key: str) -> bool:
        return self.run_under(key) is not None

    def open(self, spec: RunSpec, *, again: Submission | None = None) -> Submission:
        settings = self._settings
        kind, run, token, previous = self._call(
            "open",
            secrets.token_hex(6),
            spec.key or "",
            spec.fingerprint,
            queue_of(spec.operation),
            max(1, spec.parallel),
            spec.callback,
            spec.max_attempts,
            spec.model_dump_json(),
            message_template(spec.operation),
            _ms(settings.lease_seconds),
            _ms(settings.retention_seconds),
            _ms(settings.republish_seconds),
            coordinator_template() if spec.is_called_back else "",
            own_version().release,
            own_version().schema,
            json.dumps(subject_of(spec).shown)[1:-1],
            secrets.randbelow(1024),
            "" if again is None else again.run_id,
            "" if again is None else again.token,
        )
        if kind == b"conflict":
            raise KeyConflictError(
                f"the idempotency key {spec.key!r} belongs to run {run.decode()}, which was started with "
                "other arguments: use another key for other work"
            )
        return Submission(
            run_id=run.decode(),
            kind=SubmissionKind(kind.decode()),
            token=token,
            previous=previous.decode() or None,
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
            submission.run_id,
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
        answer = self._call_on("start", submission.run_id, submission.token, submission.total)
        if answer != b"ok":
            raise self._refusal(submission, answer)

    @staticmethod
    def _refusal(submission: Submission, answer: bytes) -> LeaseLostError | LedgerRewoundError:
        if answer == b"rewound":
            return LedgerRewoundError(
                f"Redis has forgotten parts of run {submission.run_id}, as after a failover: submit it again"
            )
        return LeaseLostError(
            f"run {submission.run_id} was cancelled or taken over by the same call elsewhere; watch it with "
            f"stagefleet runs watch {submission.run_id}"
        )

    def leftovers(self, run_id: str) -> Iterator[str]:
        return (item for _, item in self.numbered_leftovers(run_id))

    def numbered_leftovers(self, run_id: str) -> Iterator[tuple[int, str]]:
        with map_redis_errors(self._redis):
            queued = self._redis.hget(self._key(run_id), "queued")
        if queued is None:
            raise no_run(run_id)
        for first in range(0, int(queued), _LEFTOVERS_A_CALL):
            indexes = range(first, min(int(queued), first + _LEFTOVERS_A_CALL))
            with map_redis_errors(self._redis), self._redis.pipeline(transaction=False) as pipe:
                pipe.hmget(self._key(run_id, "items"), list(map(str, indexes)))
                pipe.exists(
                    self._key(run_id)
                )  # last, as they expire together: an expired run's items prove nothing
                found, stands = pipe.execute()
            if not stands:
                raise no_run(run_id)
            yield from (
                (index, item.decode()) for index, item in zip(indexes, found, strict=True) if item is not None
            )

    # WorkerLedger

    def spec(self, run_id: str) -> RunSpec | None:
        with map_redis_errors(self._redis):
            order, parent, release, schema = self._redis.hmget(
                self._key(run_id), ["order", "parent", "release", "schema"]
            )
        return None if order is None else spec_of(run_id, order, parent, WriterVersion.read(release, schema))

    def claim(self, run_id: str, index: int, worker: str, *, nonce: str | None = None) -> Claim | None:
        owner = f"{self._nonce() if nonce is None else nonce} {worker}"
        before = time.monotonic()
        answer = self._call("claim", run_id, index, owner)
        if answer is None:
            return None
        appended, fence, attempt, lease_ms = answer
        item, host = split_host(appended.decode())
        return Claim(
            run_id=run_id,
            index=index,
            item=item,
            host=host,
            fence=int(fence),
            attempt=attempt,
            claimed_at=before,
            lease_until=before + int(lease_ms) / 1000,
            nonce=owner,
        )

    def renew(self, claims: Sequence[Claim]) -> list[RenewalResult]:
        if not claims:
            return []
        triples = itertools.chain.from_iterable((claim.run_id, claim.index, claim.token) for claim in claims)
        return [RenewalResult(answer.decode()) for answer in self._call("renew", *triples)]

    def finish(
        self,
        claim: Claim,
        outcome: Outcome,
        *,
        retry_after_seconds: float | None = None,
        reason: WaitReason | None = None,
    ) -> FinishResult:
        answer = self._call_on(
            "finish",
            claim.run_id,
            claim.index,
            claim.token,
            outcome.state,
            encode_outcome(outcome.model_copy(update={"attempts": claim.attempt, "host": claim.host})),
            outcome.bytes,
            "" if retry_after_seconds is None else _ms(bounded_pause(retry_after_seconds, self._settings)),
            encode_reason(reason),
        )
        return FinishResult(answer)

    def note_pause(self, claim: Claim, seconds: float, reason: WaitReason) -> None:
        self._call("note_pause", claim.run_id, claim.index, claim.token, _ms(seconds), encode_reason(reason))

    def hand_back(self, claim: Claim, *, behind: int | None = None) -> bool:
        other = "" if behind is None else behind
        return bool(self._call_on("hand_back", claim.run_id, claim.index, claim.token, other))

    def item_states(self, run_id: str, indexes: Sequence[int]) -> list[ItemState | None]:
        answers = self._call("item_states", run_id, *indexes)
        return [ItemState(answer.decode()) if answer else None for answer in answers]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
