"""What the bookkeeping costs: 10,000 items that do nothing, beside as many bare Celery tasks.

Both go through the same broker to two processes with eight threads each, with events on. The bare tasks lie
in the queue before their clock starts, so that it shows consumption alone; ours start with the submission.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from scripts.bench.figures import Figures, median_of
from scripts.bench.worker import BARE, NOOP
from stagefleet.runs.coordinator import watch
from stagefleet.runs.messages import message_template, queue_key
from stagefleet.runs.models import Callback, RunSpec
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import Settings
from tests.services import RedisServer, clean_environment

__all__ = ["measure_bookkeeping", "working"]

ITEMS = 10_000
_PARALLEL = 32
_WORKERS = 2
_START_SECONDS = 30


def measure_bookkeeping(figures: Figures, folder: Path, rounds: int) -> None:
    """Measure rates, commands and bytes in Redis."""
    rates: dict[str, list[float]] = {"bare": [], "noop": [], "callback": []}
    redis = RedisServer(folder / "redis").start()
    settings = Settings(redis_url=redis.url)
    ledger = RedisLedger.connect(redis.url, settings)
    try:
        for _ in range(rounds):
            with _workers(BARE, redis.url, lambda: _listening(redis, BARE)):
                rates["bare"].append(ITEMS / _bare_seconds(redis, settings))
            with working(redis, ledger):
                rates["noop"].append(ITEMS / _run_seconds(ledger, Callback.NONE))
                rates["callback"].append(ITEMS / _run_seconds(ledger, Callback.CLIENT))
                _memory(figures, redis, ledger) if len(rates["noop"]) == rounds else None
    finally:
        ledger.close()
        redis.stop()
    for name, values in rates.items():
        figures.add(f"10,000 tasks that do nothing, {name}", f"{median_of(values):.0f} a second")
    for name in ("noop", "callback"):
        ratio = median_of([ours / bare for ours, bare in zip(rates[name], rates["bare"], strict=True)])
        figures.add(f"rate of {name} / bare Celery", f"{ratio:.2f}", ">= 0.7")


def _run_seconds(ledger: RedisLedger, callback: Callback) -> float:
    start = time.perf_counter()
    run_id = _submit(ledger, callback)
    watch(ledger, run_id, on_outcome=(lambda _: None) if callback is Callback.CLIENT else None)
    return time.perf_counter() - start


def _submit(ledger: RedisLedger, callback: Callback) -> str:
    submission = ledger.open(RunSpec(operation=NOOP, parallel=_PARALLEL, callback=callback))
    for first in range(0, ITEMS, 2000):
        ledger.append(submission, [f"{'d' * 56}-{number:013}" for number in range(first, first + 2000)])
    ledger.start(submission)
    return submission.run_id


def _bare_seconds(redis: RedisServer, settings: Settings) -> float:
    client, key = redis.client(), queue_key(settings.key_prefix, BARE)
    # as Celery sends it: persistent, to be noted as unacknowledged
    template = message_template(BARE).replace('"delivery_mode":1', '"delivery_mode":2')
    messages = [
        template.replace("@TASK@", f"bare.{number}").replace("@INDEX@", str(number))
        for number in range(ITEMS)
    ]
    with client.pipeline(transaction=True) as pipe:
        for first in range(0, ITEMS, 1000):
            pipe.lpush(key, *messages[first : first + 1000])
        pipe.execute()
    start = time.perf_counter()
    while client.llen(key) or client.hlen(f"{settings.key_prefix}mq:unacked"):
        time.sleep(0.005)
    return time.perf_counter() - start


def _memory(figures: Figures, redis: RedisServer, ledger: RedisLedger) -> None:
    client = redis.client()
    client.config_resetstat()
    before, most = client.info("memory")["used_memory"], 0
    run_id = _submit(ledger, Callback.NONE)
    while not ledger.run(run_id).state.is_final:
        most = max(most, client.info("memory")["used_memory"])
        time.sleep(0.05)
    calls = sum(entry["calls"] for entry in client.info("commandstats").values())
    keys = sorted(str(key).rpartition(":")[2].rstrip("'") for key in client.keys(f"*run:{run_id}:*"))
    figures.add("bytes in Redis an item, at most", f"{(most - before) / ITEMS:.0f}", "< 1024")
    figures.add("  keys of the run afterwards", ", ".join(keys), "outcomes")
    figures.add("Redis commands an item, those inside scripts included", f"{calls / ITEMS:.1f}")


def _listening(redis: RedisServer, queue: str) -> bool:
    waiting = [client for client in redis.client().client_list() if client["cmd"] == "brpop"]
    return len(waiting) >= _WORKERS and bool(queue)


def working(redis: RedisServer, ledger: RedisLedger) -> AbstractContextManager[None]:
    """Let two workers listen in the block, with eight threads each, whose items do nothing."""
    return _workers(NOOP, redis.url, lambda: len(ledger.heartbeats.workers(NOOP)) >= _WORKERS)


@contextmanager
def _workers(kind: str, redis_url: str, listening: Callable[[], bool]) -> Iterator[None]:
    environment = clean_environment(STAGEFLEET_REDIS_URL=redis_url, STAGEFLEET_LOG__LEVEL="warning")
    command = [sys.executable, "-m", "scripts.bench.worker", kind]
    processes = [subprocess.Popen(command, env=environment) for _ in range(_WORKERS)]  # noqa: S603 - our own
    try:
        give_up_at = time.monotonic() + _START_SECONDS
        while not listening():
            if time.monotonic() > give_up_at:
                raise RuntimeError("the workers do not listen")
            time.sleep(0.05)
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=_START_SECONDS)
