"""The promises hold among threads: many workers, a broker that doubles, a coordinator that follows."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from stagefleet.runs.models import ItemState, RunState
from tests.contract.ledgers import LedgerHarness, outcome_of

ITEMS = [f"i{number}" for number in range(60)]
WORKERS = 4
PARALLEL = 6
MOST_READS = len(ITEMS) + 20


class Shift:
    """Workers and a coordinator at one run; each message is delivered twice."""

    def __init__(self, harness: LedgerHarness) -> None:
        self.harness = harness
        self.run_id, self.epoch = harness.watch(ITEMS, parallel=PARALLEL)
        self.ended = threading.Event()
        self.finished: Counter[str] = Counter()
        self.under_way = 0
        self.most_under_way = 0
        self.lock = threading.Lock()

    def work(self, number: int) -> None:
        while not self.ended.wait(0.001):
            message = self.harness.pop_message()
            for _ in range(2 if message else 0):
                assert message is not None
                self.execute(message.index, f"host:{number}")

    def execute(self, index: int, worker: str) -> None:
        claim = self.harness.ledger.claim(self.run_id, index, worker)
        if claim is None:
            return
        with self.lock:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        assert self.harness.ledger.finish(claim, outcome_of(claim, ItemState.SUCCEEDED))
        with self.lock:
            self.finished[claim.item] += 1

    def coordinate(self) -> list[str]:
        """Call back for each outcome; the places are free once it is acknowledged."""
        called_back: list[str] = []
        position = ""
        for _ in range(MOST_READS):
            outcomes = self.harness.ledger.outcomes(self.run_id, position, limit=5, block_seconds=1)
            if outcomes is None:
                self.ended.set()
                return called_back
            if outcomes:
                called_back += [outcome.item for outcome in outcomes]
                position = outcomes[-1].position
                with self.lock:
                    self.under_way -= len(outcomes)
                assert self.harness.ledger.acknowledge(self.run_id, self.epoch, outcomes)
        raise AssertionError("the run does not end")


def test_each_item_is_carried_out_and_called_back_once(harness: LedgerHarness):
    harness.staff(WORKERS)
    shift = Shift(harness)
    with ThreadPoolExecutor(WORKERS) as pool:
        working = [pool.submit(shift.work, number) for number in range(WORKERS)]
        try:
            called_back = shift.coordinate()
        finally:
            shift.ended.set()
        for future in working:
            future.result()

    assert Counter(ITEMS) == shift.finished
    assert sorted(ITEMS) == sorted(called_back)
    assert shift.most_under_way <= PARALLEL
    assert RunState.SUCCEEDED is harness.ledger.run(shift.run_id).state
