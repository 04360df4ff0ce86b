"""The ledger on Redis: each step is one Lua script, so that a crash never leaves half a step.

The scripts are in `lua/`; `lua/common.lua` explains their keys.
"""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from stagefleet import errors, redis_client, redis_keys
from stagefleet.bounds import MAX_ITEMS
from stagefleet.names import split_host
from stagefleet.runs import ledger, models
from stagefleet.runs.messages import coordinator_template, message_template, queue_of, subject_of
from stagefleet.runs.redis_runs import RedisRuns
from stagefleet.runs.snapshots import duration_label, encode_outcome, encode_reason, error_label, spec_of
from stagefleet.runs.versions import WriterVersion, own_version
from stagefleet.settings import RunSettings, Settings
from stagefleet.traces import current_context

if TYPE_CHECKING:
    import redis

_LEFTOVERS_A_CALL = 1000


class RedisLedger(RedisRuns):
    """The ledger on Redis; implements `stagefleet.runs.ledger`. Thread-safe."""

    def __init__(self, client: redis.Redis, *, prefix: str, settings: RunSettings) -> None:
        super().__init__(client, prefix=prefix, settings=settings)
        self.callbacks = RedisCallbackLedger(self.scripts)
        self.heartbeats = RedisHeartbeatLedger(client, self.scripts, prefix=prefix)

    @classmethod
    def connect(cls, redis_url: str, settings: Settings) -> Self:
        """Create the ledger for a URL; it connects at the first call."""
        return cls(redis_client.connect_redis(redis_url), prefix=settings.key_prefix, settings=settings.runs)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    # Submitter

    def run_under(self, key: str) -> str | None:
        with redis_client.map_redis_errors(self._redis):
            run = self._redis.get(redis_keys.RUN_OF_KEY.of(self._prefix, key))
        return None if run is None else str(run, "ascii")

    def open(
        self,
        spec: models.RunSpec,
        *,
        again: models.Submission | None = None,
        request: str = "",
        replaces: str = "",
        enqueue: bool = False,
    ) -> models.Submission:
        if context := current_context():
            spec = spec.model_copy(update={"trace": context})
        kind, run, token, previous, *written = self.scripts.call(
            "open",
            *self._facts_to_open(spec),
            "" if again is None else again.run_id,
            "" if again is None else again.token,
            request,
            replaces,
            "1" if spec.follows else "",
            "" if spec.next is None else spec.next.run_id,
            "1" if enqueue else "",
            "1" if spec.starts_early else "",
        )
        if kind == b"conflict":
            raise ledger.key_conflict(spec.key, run.decode())
        items, total = written or (0, 0)
        return models.Submission(
            run_id=run.decode(),
            kind=models.SubmissionKind(kind.decode()),
            token=token,
            previous=previous.decode() or None,
            items=items,
            decided=total - items,
            lease_seconds=self._settings.lease_seconds,
        )

    def _facts_to_open(self, spec: models.RunSpec) -> Iterator[str | int]:
        """Yield what a run's hash is made of, in the order of the script's arguments."""
        settings = self._settings
        yield secrets.token_hex(6)
        yield spec.key or ""
        yield spec.fingerprint
        yield queue_of(spec.operation)
        yield max(1, spec.parallel)
        yield spec.callback
        yield spec.max_attempts
        yield spec.model_dump_json()
        yield message_template(spec.operation)
        yield redis_client.milliseconds(settings.lease_seconds)
        yield redis_client.milliseconds(settings.retention_seconds)
        yield redis_client.milliseconds(settings.republish_seconds)
        yield coordinator_template(starts_next=spec.next is not None) if spec.is_called_back else ""
        yield own_version().release
        yield own_version().schema
        yield json.dumps(subject_of(spec).shown)[1:-1]
        yield secrets.randbelow(1024)

    def append(
        self,
        submission: models.Submission,
        items: Sequence[str],
        decided: Sequence[models.Outcome] = (),
        *,
        nonce: str | None = None,
    ) -> None:
        outcomes = itertools.chain.from_iterable(
            (outcome.state, encode_outcome(outcome)) for outcome in decided
        )
        answer = self.scripts.call(
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
            raise errors.TooManyItemsError(f"a run has at most {MAX_ITEMS:,} items: split it")
        if not isinstance(answer, list):
            raise self._refusal(submission, answer)
        submission.items, submission.decided = answer[0], answer[1] - answer[0]

    def start(self, submission: models.Submission) -> None:
        answer = self._call_on("start", submission.run_id, submission.token, submission.total)
        if answer != b"ok":
            raise self._refusal(submission, answer)

    def fail(self, submission: models.Submission, error: models.ErrorInfo) -> None:
        self._call_on("fail", submission.run_id, submission.token, error.model_dump_json())

    @staticmethod
    def _refusal(
        submission: models.Submission, answer: bytes
    ) -> errors.LeaseLostError | errors.LedgerRewoundError:
        if answer == b"rewound":
            return errors.LedgerRewoundError(
                f"Redis has forgotten parts of run {submission.run_id}, as after a failover: submit it again"
            )
        return errors.LeaseLostError(
            f"run {submission.run_id} was cancelled or taken over by the same call elsewhere; watch it with "
            f"stagefleet runs watch {submission.run_id}"
        )

    def leftovers(self, run_id: str) -> Iterator[tuple[int, str]]:
        with redis_client.map_redis_errors(self._redis):
            queued = self._redis.hget(self._key(run_id), "queued")
        if queued is None:
            raise ledger.no_run(run_id)
        for first in range(0, int(queued), _LEFTOVERS_A_CALL):
            indexes = range(first, min(int(queued), first + _LEFTOVERS_A_CALL))
            with redis_client.map_redis_errors(self._redis), self._redis.pipeline(transaction=False) as pipe:
                pipe.hmget(redis_keys.RUN_ITEMS.of(self._prefix, run_id), list(map(str, indexes)))
                # Last, as they expire together: an expired run's items prove nothing.
                pipe.exists(self._key(run_id))
                found, stands = pipe.execute()
            if not stands:
                raise ledger.no_run(run_id)
            yield from (
                (index, item.decode()) for index, item in zip(indexes, found, strict=True) if item is not None
            )

    # WorkerLedger

    def spec(self, run_id: str) -> models.RunSpec | None:
        with redis_client.map_redis_errors(self._redis):
            written, parent, release, schema = self._redis.hmget(
                self._key(run_id), ["order", "parent", "release", "schema"]
            )
        if written is None:
            return None
        return spec_of(run_id, written, parent, WriterVersion.read(release, schema))

    def claim(self, run_id: str, index: int, worker: str, *, nonce: str | None = None) -> ledger.Claim | None:
        owner = f"{self._nonce() if nonce is None else nonce} {worker}"
        before = time.monotonic()
        answer = self.scripts.call("claim", run_id, index, owner)
        if answer is None:
            return None
        appended, fence, attempt, lease_ms = answer
        item, host = split_host(appended.decode())
        return ledger.Claim(
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

    def renew(self, claims: Sequence[ledger.Claim]) -> list[ledger.RenewalResult]:
        if not claims:
            return []
        triples = itertools.chain.from_iterable((claim.run_id, claim.index, claim.token) for claim in claims)
        return [ledger.RenewalResult(answer.decode()) for answer in self.scripts.call("renew", *triples)]

    def finish(
        self,
        claim: ledger.Claim,
        outcome: models.Outcome,
        *,
        retry_after_seconds: float | None = None,
        reason: models.WaitReason | None = None,
        last_step: redis_client.LastStep | None = None,
    ) -> ledger.FinishResult:
        place = (claim.run_id, claim.index, claim.token)
        if (outcome.attempts, outcome.host) != (claim.attempt, claim.host):
            outcome = outcome.model_copy(update={"attempts": claim.attempt, "host": claim.host})
        arguments = (
            *place,
            outcome.state,
            encode_outcome(outcome),
            outcome.bytes,
            ""
            if retry_after_seconds is None
            else redis_client.milliseconds(self._settings.bounded_pause(retry_after_seconds)),
            encode_reason(reason),
            claim.attempt,
            error_label(outcome),
            duration_label(outcome.seconds),
        )
        if not last_step:
            return ledger.FinishResult(self._call_on("finish", *arguments))
        # A repeated step finds the claim gone, and so changes nothing a second time.
        check = self.scripts.prepare("has_claim", *place, is_needed=True)
        record = self.scripts.prepare("finish", *arguments, is_needed=True)
        answer = last_step.run(self.scripts, check, record)
        return ledger.FinishResult(self._note_end("finish", claim.run_id, answer))

    def note_pause(self, claim: ledger.Claim, seconds: float, reason: models.WaitReason) -> None:
        pause_ms = redis_client.milliseconds(seconds)
        self.scripts.call(
            "note_pause", claim.run_id, claim.index, claim.token, pause_ms, encode_reason(reason)
        )

    def hand_back(self, claim: ledger.Claim, *, behind: int | None = None) -> bool:
        other = "" if behind is None else behind
        return bool(self._call_on("hand_back", claim.run_id, claim.index, claim.token, other))

    def item_states(self, run_id: str, indexes: Sequence[int]) -> list[models.ItemState | None]:
        answers = self.scripts.call("item_states", run_id, *indexes)
        return [models.ItemState(answer.decode()) if answer else None for answer in answers]


_PING_MS = 1000


class RedisCallbackLedger:
    """`CallbackLedger` for `RedisLedger`."""

    def __init__(self, scripts: redis_client.RedisScripts) -> None:
        self._scripts = scripts

    def claim(self, run_id: str) -> ledger.CoordinatorClaim | None:
        answer = self._scripts.call("claim_coordination", run_id, secrets.randbelow(1024))
        if answer is None:
            return None
        epoch, failures, failing_ms, lease_ms = answer
        return ledger.CoordinatorClaim(
            run_id=run_id,
            epoch=epoch,
            failures=failures,
            failing_seconds=failing_ms / 1000,
            lease_seconds=lease_ms / 1000,
        )

    def renew(self, claim: ledger.CoordinatorClaim) -> bool:
        return bool(self._scripts.call("renew_coordination", claim.run_id, claim.epoch))

    def release(self, claim: ledger.CoordinatorClaim) -> bool:
        return self._end(claim, "leave")

    def pause(
        self, claim: ledger.CoordinatorClaim, seconds: float, reason: models.WaitReason | None = None
    ) -> bool:
        return self._end(claim, "pause", redis_client.milliseconds(seconds), encode_reason(reason))

    def finish(self, claim: ledger.CoordinatorClaim) -> bool:
        return self._end(claim, "conclude")

    def _end(self, claim: ledger.CoordinatorClaim, how: str, *arguments: Any) -> bool:
        return bool(self._scripts.call("end_coordination", claim.run_id, claim.epoch, how, *arguments))


class RedisHeartbeatLedger:
    """`HeartbeatLedger` for `RedisLedger`."""

    def __init__(self, client: Any, scripts: redis_client.RedisScripts, *, prefix: str) -> None:
        self._redis = client
        self._scripts = scripts
        self._prefix = prefix

    def beat(
        self, worker: models.WorkerInfo, *, seconds: float, counts: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        version = worker.version
        self._scripts.call(
            "beat",
            worker.name,
            worker.slots,
            json.dumps(worker.queues),
            redis_client.milliseconds(seconds),
            version.release,
            version.schema,
            json.dumps([astuple(transfer) for transfer in worker.transfers]) if worker.transfers else "",
            *itertools.chain.from_iterable((number, name) for name, number in counts.items()),
        )

    def workers(self, queue: str | None = None) -> list[models.WorkerInfo]:
        with redis_client.map_redis_errors(self._redis):
            pipe = self._redis.pipeline(transaction=False)
            pipe.hgetall(redis_keys.WORKERS.of(self._prefix))
            pipe.time()
            entries, (seconds, micros) = pipe.execute()
        now_ms = seconds * 1000 + micros / 1000 + self._scripts.clock_offset_ms
        found = [worker_of(name, entry, now_ms) for name, entry in sorted(entries.items())]
        return [worker for worker in found if worker and (queue is None or queue in worker.queues)]

    def lead(self, role: str, holder: str, *, seconds: float) -> bool:
        return bool(self._scripts.call("lead", role, holder, redis_client.milliseconds(seconds)))

    def ping(self) -> None:
        with redis_client.map_redis_errors(self._redis):
            self._redis.set(redis_keys.PING.of(self._prefix), b"", px=_PING_MS)


def worker_of(name: bytes, entry: bytes, now_ms: float) -> models.WorkerInfo | None:
    """Read a heartbeat; None if it has expired, or has an unknown form."""
    try:
        document = json.loads(entry)
        if float(document["until"]) <= now_ms:
            return None
        return models.WorkerInfo(
            name=name.decode(),
            slots=int(document["slots"]),
            queues=tuple(map(str, document["queues"])),
            version=WriterVersion.read(document.get("release"), document.get("schema")),
            transfers=tuple(
                models.ItemTransfer(str(run), int(index), int(moved), int(expected))
                for run, index, moved, expected in document.get("transfers", ())
            ),
        )
    except (ValueError, KeyError, TypeError):
        return None
