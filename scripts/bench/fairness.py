"""What a small run waits for a large one: 20 items alone, and beside a run of 3,000.

Items wait, as stages do for a network: the figures show who gets the slots, whatever else the machine does.
"""

from __future__ import annotations

import time
from pathlib import Path

from scripts.bench.bookkeeping import working
from scripts.bench.figures import Figures, median_of, spread_of
from scripts.bench.worker import CONCURRENCY, NOOP
from stagefleet.runs.coordinator import watch
from stagefleet.runs.models import RunSpec
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import Settings
from tests.services import RedisServer

__all__ = ["measure_fairness"]

_LARGE, _SMALL = 3000, 20
_ITEM_SECONDS = 0.2
_WINDOWS = (16, 64)
"""Of the large run; the small one has the default, 16. Two workers have 16 slots."""


def measure_fairness(figures: Figures, folder: Path, rounds: int) -> None:
    """Measure the small run alone, and beside large ones with some windows."""
    redis = RedisServer(folder / "redis").start()
    ledger = RedisLedger.connect(redis.url, Settings(redis_url=redis.url))
    try:
        with working(redis, ledger):
            _seconds_of_small(ledger)  # connections are warm
            alone = [_seconds_of_small(ledger) for _ in range(rounds)]
            figures.add(f"{_SMALL} items of {_ITEM_SECONDS} s, alone", spread_of(alone))
            for window in _WINDOWS:
                beside = [_seconds_beside(ledger, window) for _ in range(rounds)]
                what = f"  beside {_LARGE:,} items, -j {window}"
                figures.add(what, spread_of(beside))
                figures.add(f"{what} / alone", f"{median_of(beside) / median_of(alone):.2f}", "<= 2")
    finally:
        ledger.close()
        redis.stop()


def _seconds_beside(ledger: RedisLedger, window: int) -> float:
    large = _start(ledger, _LARGE, window)
    while ledger.run(large).done < 2 * CONCURRENCY:
        time.sleep(0.01)
    try:
        return _seconds_of_small(ledger)
    finally:
        ledger.cancel(large, now=True)
        watch(ledger, large)


def _seconds_of_small(ledger: RedisLedger) -> float:
    start = time.perf_counter()
    watch(ledger, _start(ledger, _SMALL, 16))
    return time.perf_counter() - start


def _start(ledger: RedisLedger, items: int, parallel: int) -> str:
    submission = ledger.open(RunSpec(operation=NOOP, parallel=parallel, options={"seconds": _ITEM_SECONDS}))
    ledger.append(submission, [f"{'d' * 56}-{number:013}" for number in range(items)])
    ledger.start(submission)
    return submission.run_id
