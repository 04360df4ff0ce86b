"""Reads for people who watch many runs: lists by filter, and what the workers of a run have."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from stagefleet.errors import UsageError
from stagefleet.names import split_host
from stagefleet.redaction import quoted
from stagefleet.redis_client import connect_redis
from stagefleet.runs.models import ItemTransfer, Outcome, Run, RunState
from stagefleet.runs.redis_ledger import RedisHeartbeatLedger
from stagefleet.runs.redis_runs import RedisRuns
from stagefleet.runs.snapshots import read_runs
from stagefleet.settings import Settings

if TYPE_CHECKING:
    import redis

PAGE_RUNS = 50
"""Runs of one page of the list."""
LOOKED_AT_RUNS = 10_000
"""The most runs that one page looks at, however rare those are that fit."""
_LOOKED_AT_A_CALL = 2000
"""Runs that one call of the script looks at: Redis serves nobody else for so long, some milliseconds."""
_CLAIMED_ITEMS = 200
_POSITION = re.compile(r"(?:[0-9.e+]{1,30} [0-9A-Za-z]{1,64})?")


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Conditions for runs in a list; "" and an empty tuple accept all.

    Attributes:
        operation: The name of the operation, as `copy_stage`.
        text: A part of the source, the destination or the project, as they are shown.
    """

    operation: str = ""
    text: str = ""
    states: tuple[RunState, ...] = ()


@dataclass(frozen=True, slots=True)
class RunPage:
    """One page of a list of runs.

    Attributes:
        runs: The runs that fit, the newest first.
        total: Number of all runs, whether they fit or not.
        position: Where the next page begins; "" after the last one.
    """

    runs: tuple[Run, ...]
    total: int
    position: str


@dataclass(frozen=True, slots=True)
class ClaimedItem:
    """An item that a worker has; `leased_until` is in seconds since 1970 on the ledger's clock.

    With large content, `moved` bytes of the `expected` ones had gone at the worker's last heartbeat.
    """

    item: str
    host: str | None
    worker: str
    leased_until: float
    moved: int = 0
    expected: int = 0


class RunReader:
    """Reads of runs in Redis, beside those of the ledger; thread-safe.

    A page of the list costs at most `LOOKED_AT_RUNS / 2000` scripts that look for runs, and one that reads
    those of the page: never more, however many runs there are.
    """

    def __init__(self, client: redis.Redis, *, prefix: str, settings: Settings) -> None:
        self._client = client
        self._runs = RedisRuns(client, prefix=prefix, settings=settings.runs)
        self._heartbeats = RedisHeartbeatLedger(client, self._runs.scripts, prefix=prefix)

    @classmethod
    def connect(cls, redis_url: str, settings: Settings) -> Self:
        """Create the reader for a URL; it connects at the first call."""
        return cls(connect_redis(redis_url), prefix=settings.key_prefix, settings=settings)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def page(self, wanted: RunFilter, position: str = "", *, limit: int = PAGE_RUNS) -> RunPage:
        """Read a page of the runs that fit, after a position of an earlier page.

        A page with fewer runs than `limit`, and a position, has looked at `LOOKED_AT_RUNS` runs.

        Raises:
            UsageError: The position is not one of an earlier page.
        """
        if _POSITION.fullmatch(position) is None:
            raise UsageError(f"{quoted(position)} is no position: take that of an earlier page")
        found: list[str] = []
        total = 0
        for _ in range(LOOKED_AT_RUNS // _LOOKED_AT_A_CALL):
            answer = self._runs.scripts.call(
                "find_runs",
                position,
                limit - len(found),
                _LOOKED_AT_A_CALL,
                wanted.operation,
                json.dumps(wanted.text)[1:-1],
                *wanted.states,
            )
            total, position = answer[0], answer[1].decode()
            found += [run.decode() for run in answer[2:]]
            if not position or len(found) >= limit:
                break
        return RunPage(tuple(read_runs(self._runs.scripts, found)) if found else (), total, position)

    def run(self, run_id: str) -> Run:
        """Read the state of a run, as `CoordinatorLedger.run`."""
        return self._runs.run(run_id)

    def outcomes(self, run_id: str, after: str, *, limit: int) -> Sequence[Outcome] | None:
        """Read outcomes after a position without a wait, as `CoordinatorLedger.outcomes`."""
        return self._runs.outcomes(run_id, after, limit=limit, block_seconds=0)

    def claimed(self, run_id: str) -> list[ClaimedItem]:
        """Read the items that workers have now, at most some hundred, those first that end first."""
        rows: list[list[Any]] = self._runs.scripts.call("claimed", run_id, _CLAIMED_ITEMS)
        moving = {
            (transfer.run_id, transfer.index): transfer
            for worker in (self._heartbeats.workers() if rows else ())
            for transfer in worker.transfers
        }
        return [_claimed_item(moving.get((run_id, index)), *row) for index, *row in rows]


def _claimed_item(
    transfer: ItemTransfer | None, item: bytes, claim: bytes, leased_until_ms: int
) -> ClaimedItem:
    name, host = split_host(item.decode(errors="replace"))
    _fence, _nonce, worker = [*claim.decode(errors="replace").split(" ", 2), "", "", ""][:3]
    moved, expected = (transfer.moved, transfer.expected) if transfer else (0, 0)
    return ClaimedItem(name, host, worker, leased_until_ms / 1000, moved, expected)
