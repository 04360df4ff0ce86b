"""Runs in Redis, as each part of the ledger reads and changes them."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stagefleet.errors import IncompatibleVersionError, RunNotFoundError, StagefleetError
from stagefleet.logs import EventLogger
from stagefleet.redaction import quoted
from stagefleet.redis_keys import RUN
from stagefleet.redis_scripts import RedisScripts
from stagefleet.runs.models import Run, RunState
from stagefleet.runs.snapshots import RunSnapshot, run_of
from stagefleet.runs.subjects import log_run_finished
from stagefleet.settings import RunSettings

if TYPE_CHECKING:
    import redis

_log = EventLogger(__name__)


class RedisRuns:
    """Base class of the parts that work on runs; each step is one script, so no crash leaves half of it."""

    def __init__(self, client: redis.Redis, *, prefix: str, settings: RunSettings) -> None:
        self.scripts = RedisScripts(client, "stagefleet.runs", prefix=prefix)
        self._redis: Any = client  # redis-py types each reply as the union over all its settings
        self._prefix = prefix
        self._settings = settings
        self._client = secrets.token_hex(6)
        self._calls = itertools.count()

    def run(self, run_id: str) -> Run:
        found = self._snapshots([run_id])
        if not found:
            raise no_run(run_id)
        if found[0].state is RunState.UNREADABLE and found[0].error is not None:
            raise IncompatibleVersionError(found[0].error.message)
        return found[0]

    def _snapshots(self, runs: Sequence[str]) -> list[Run]:
        now_ms, *rows = self.scripts.call("snapshot", *runs)
        return [
            run_of(
                run_id,
                dict(zip(hash_[::2], hash_[1::2], strict=True)),
                now_ms / 1000,
                RunSnapshot(*(int(float(value)) for value in around)),
            )
            for run_id, (hash_, *around) in zip(runs, rows, strict=True)
            if hash_
        ]

    def _call_on(self, script: str, run_id: str, *arguments: Any) -> Any:
        """Call a script that may end a run, and log the end if it does."""
        answer = self.scripts.call(script, run_id, *arguments)
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

    def _key(self, run_id: str) -> str:
        return RUN.of(self._prefix, run_id)


def no_run(run_id: str) -> RunNotFoundError:
    """Build the error for a run that does not exist."""
    return RunNotFoundError(f"there is no run {quoted(run_id)}, or it has expired: see stagefleet runs list")
