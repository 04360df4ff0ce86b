"""What holds back what an attempt takes back."""

from __future__ import annotations

import pytest

from stagefleet.errors import ItemCancelledError, LeaseLostError
from stagefleet.leases import NO_LEASE, UndoLease


class Ended:
    """A lease that has ended."""

    def __init__(self, error):
        self._error = error

    def check(self):
        raise self._error

    def require(self, seconds):
        raise self._error


@pytest.mark.parametrize("ask", [lambda lease: lease.check(), lambda lease: lease.require(15)])
def test_a_cancelled_item_may_take_back_what_it_began(ask):
    """R12: for some seconds."""
    ask(UndoLease(Ended(ItemCancelledError("cancelled")), seconds=60))


@pytest.mark.parametrize("ask", [lambda lease: lease.check(), lambda lease: lease.require(15)])
@pytest.mark.parametrize("seconds", [60, -1])
def test_one_without_a_lease_or_out_of_time_may_not(ask, seconds):
    """R12: somebody else may have the item, and no cancel waits for ever."""
    lease = Ended(LeaseLostError("lost")) if seconds > 0 else NO_LEASE
    with pytest.raises(LeaseLostError):
        ask(UndoLease(lease, seconds=seconds))
