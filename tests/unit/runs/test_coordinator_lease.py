"""The lease of a coordination, renewed by its thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stagefleet.errors import LeaseLostError
from stagefleet.leases import renewed
from stagefleet.runs.detached_coordinator import CoordinatorLease
from stagefleet.runs.ledger import CoordinatorClaim


class CallbackLedger:
    """Answers renewals as told, and says when one was asked for."""

    def __init__(self, answers):
        self.answers = list(answers)
        self.renewals = 0
        self.asked = threading.Event()

    def renew(self, claim):
        self.renewals += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            self.asked.set()
            raise answer
        if not self.answers[1:]:
            self.asked.set()
        return answer


@contextmanager
def renewing(ledger: CallbackLedger, now: list[float]) -> Iterator[CoordinatorLease]:
    claim = CoordinatorClaim("run", 1, lease_seconds=0.03)
    lease = CoordinatorLease(claim, now[0], clock=lambda: now[0])
    with renewed("coordination", lease, lambda: ledger.renew(claim)):
        yield lease


def test_it_is_renewed_as_long_as_a_call_lasts():
    """R10: a slow receiver calls no second coordinator."""
    now, ledger = [0.0], CallbackLedger([True])
    with renewing(ledger, now) as lease:
        now[0] = 100.0
        for _ in range(2):
            ledger.asked.clear()
            assert ledger.asked.wait(20)
        lease.check()
        lease.require(10)


def test_what_another_has_taken_is_lost_at_the_next_renewal():
    """R10: of two coordinators one calls."""
    now, ledger = [0.0], CallbackLedger([False])
    with renewing(ledger, now) as lease:
        assert ledger.asked.wait(20)
        time.sleep(0.1)  # several intervals: what is lost is not asked for again
        with pytest.raises(LeaseLostError):
            lease.check()
    assert 1 == ledger.renewals


def test_it_is_over_without_a_renewal_and_no_error_ends_the_renewals():
    """R10: whatever Redis answers, the next renewal is tried."""
    now, ledger = [0.0], CallbackLedger([KeyError("a bug"), ValueError("another"), True])
    with renewing(ledger, now) as lease:
        for _ in range(2):
            ledger.asked.clear()
            assert ledger.asked.wait(20)
    assert ledger.renewals >= 2
    now[0] = 1.0
    with pytest.raises(LeaseLostError):
        lease.check()
