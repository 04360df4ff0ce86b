"""Pages of runs in Flower: 10,000 runs in the list, and one run of 100,000 items."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import requests

from config.pages.observer import FRESH_SECONDS
from scripts.bench.figures import Figures, median_of, seconds_of
from stagefleet import Settings
from stagefleet.redis_client import connect_redis
from stagefleet.redis_keys import RUNS
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, RunSpec
from stagefleet.runs.redis_ledger import RedisLedger
from tests.services import Program, RedisServer, clean_environment, stagefleet_command

__all__ = ["measure_pages"]

_LOGIN = ("bench", "bench-password")
_SOURCES = ("rare.test/app", "registry.test/app")
_RUNS = 10_000
_ITEMS = 100_000
_ITEMS_A_CALL = 2000
_FAILED_OF = 100
_LIMIT_SECONDS = 60


def measure_pages(figures: Figures, folder: Path, rounds: int) -> None:
    """Measure what a browser waits for, over HTTP: the page itself, and the JSON that fills it."""
    with ExitStack() as stack:
        redis = RedisServer(folder / "redis").start()
        stack.callback(redis.stop)
        long_run = fill(redis.url)
        flower = stack.enter_context(_Flower(redis.url, folder))
        questions = {
            "page of 10,000 runs": ["runs", "api/runs"],
            "  the rarest of them by repository": ["api/runs?repository=rare.test"],
            "  those that failed": ["api/runs?state=failed"],
            "page of a run of 100,000 items": [
                f"runs/{long_run}",
                f"api/runs/{long_run}/figures",
            ],
        }
        for what, paths in questions.items():
            seconds = median_of([flower.seconds_of(paths) for _ in range(rounds)])
            figures.add(what, f"{seconds:.2f} s", "< 1 s")
        seconds = flower.seconds_until_read(long_run)
        figures.add("  until all of its outcomes were counted", f"{seconds:.1f} s")
        seconds = median_of([flower.seconds_of([f"api/runs/{long_run}/figures"]) for _ in range(rounds)])
        figures.add("  once they are", f"{seconds:.2f} s", "< 1 s")


def fill(redis_url: str, *, runs: int = _RUNS, items: int = _ITEMS) -> str:
    """Write runs, the first one with another source, and at last a long one; returns its id.

    The ledger writes two short runs and the long one; the others are copies of the second.
    """
    ledger = RedisLedger.connect(redis_url, Settings())
    for source in _SOURCES[: runs - 1]:
        submission = ledger.open(RunSpec(operation="copy_stage", options={"source": source}))
        ledger.start(submission)
    if (copies := runs - 1 - len(_SOURCES)) > 0:
        _copy_run(redis_url, submission.run_id, copies)
    submission = ledger.open(RunSpec(operation="copy_stage", options={"source": "registry.test/long"}))
    for first in range(0, items, _ITEMS_A_CALL):
        ledger.append(submission, (), list(_outcomes(first)))
    ledger.append(submission, ["the last one"])
    ledger.start(submission)
    ledger.close()
    return submission.run_id


def _copy_run(redis_url: str, run_id: str, copies: int) -> None:
    """Write copies of an ended run, as old as it is."""
    with connect_redis(redis_url) as client:
        runs = RUNS.of(Settings().key_prefix)
        keys = [key.decode() for key in client.scan_iter(f"{Settings().key_prefix}run:{run_id}*")]
        opened_ms = client.zscore(runs, run_id)
        for first in range(0, copies, _ITEMS_A_CALL):
            with client.pipeline(transaction=False) as pipe:
                for number in range(first, min(copies, first + _ITEMS_A_CALL)):
                    copy_id = f"{number:012x}"
                    for key in keys:
                        pipe.copy(key, key.replace(run_id, copy_id))
                    pipe.zadd(runs, {copy_id: opened_ms})
                pipe.execute()


def _outcomes(first: int) -> Iterator[Outcome]:
    """Yield outcomes as a copy has them; one in a hundred failed."""
    error = ErrorInfo(type="BrokenStageError", message="layer sha256:0a is missing")
    for number in range(first, first + _ITEMS_A_CALL):
        has_failed = number % _FAILED_OF == 0
        yield Outcome(
            item=f"{number:056x}-{1_764_000_000_000 + number}",
            state=ItemState.FAILED if has_failed else ItemState.SUCCEEDED,
            error=error if has_failed else None,
            seconds=number % 977 / 10,
            bytes=number,
            attempts=1,
        )


class _Flower:
    """A Flower in a process of its own."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        home = folder / "flower"
        home.mkdir()
        environment = clean_environment(
            STAGEFLEET_REDIS_URL=redis_url,
            STAGEFLEET_FLOWER__USER=_LOGIN[0],
            STAGEFLEET_FLOWER__PASSWORD=_LOGIN[1],
            HOME=str(home),
        )
        command = stagefleet_command("flower", "--port", "0")
        self._program = Program(command, folder=home, name="flower", environment=environment)
        self._http = requests.Session()
        self._http.auth = _LOGIN

    def __enter__(self) -> Self:
        self._address = self._program.wait_for(r'"url": *"(http:[^"]+)"')[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._program.stop()

    def seconds_of(self, paths: list[str]) -> float:
        """Return how long these take, one after another, when nobody has asked for them a second ago."""
        time.sleep(FRESH_SECONDS)
        return seconds_of(lambda: [self._get(path) for path in paths])

    def seconds_until_read(self, run_id: str) -> float:
        """Return how long it takes until the figures have all outcomes."""

        def read() -> None:
            while not self._get(f"api/runs/{run_id}/figures").json()["figures"]["has_all"]:
                pass

        return seconds_of(read)

    def _get(self, path: str) -> Any:
        answer = self._http.get(f"{self._address}/{path}", timeout=_LIMIT_SECONDS)
        answer.raise_for_status()
        return answer
