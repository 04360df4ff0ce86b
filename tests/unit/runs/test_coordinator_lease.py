"""The lease of a coordination, renewed by its thread."""

from __future__ import annotations

import threading

import pytest

from stagefleet.errors import LeaseLostError
from stagefleet.runs.coordinator_lease import CoordinatorLease
from stagefleet.runs.models import CoordinatorClaim


class CallbackLedger:
    """Answers renewals as told, and says when one was asked for."""

    def __init__(self, answers):
        self.answers = list(answers)
        self.renewals = 0
        self.asked = threading.Event()

    def renew_coordination(self, visit):
        self.renewals += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            self.asked.set()
            raise answer
        if not self.answers[1:]:
            self.asked.set()
        return answer


def lease_of(switchboard, now, seconds=0.03):
    return CoordinatorLease(
        switchboard, CoordinatorClaim("run", 1, lease_seconds=seconds), now[0], clock=lambda: now[0]
    )


def test_it_is_renewed_as_long_as_a_call_lasts():
    """R10: a slow receiver calls no second coordinator."""
    now, switchboard = [0.0], CallbackLedger([True])
    with lease_of(switchboard, now) as lease:
        now[0] = 100.0
        assert switchboard.asked.wait(20)
        switchboard.asked.clear()
        assert switchboard.asked.wait(20)
        lease.check()
        lease.require(10)


def test_what_another_has_taken_is_lost_at_the_next_renewal():
    """R10: of two coordinators one calls."""
    now, switchboard = [0.0], CallbackLedger([False])
    with lease_of(switchboard, now) as lease:
        lease._thread.join(20)
        with pytest.raises(LeaseLostError):
            lease.check()
    assert 1 == switchboard.renewals


def test_it_is_over_without_a_renewal_and_no_error_ends_the_renewals():
    """R10: whatever Redis answers, the next renewal is tried."""
    now, switchboard = [0.0], CallbackLedger([KeyError("a bug"), ValueError("another"), True])
    with lease_of(switchboard, now) as lease:
        assert switchboard.asked.wait(20)
        switchboard.asked.clear()
        assert switchboard.asked.wait(20)
    assert switchboard.renewals >= 2
    now[0] = 1.0
    with pytest.raises(LeaseLostError):
        lease.check()
