"""One suite, two ledgers: `harness` is each of them in turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.ledgers import LedgerHarness, MemoryBroker, RedisBroker, TwinMaker


@pytest.fixture(params=["memory", "redis"])
def make_harness(request: pytest.FixtureRequest) -> TwinMaker:
    """Makes ledgers that know nothing of each other."""
    if request.param == "memory":
        return lambda: LedgerHarness(MemoryBroker())
    url = request.getfixturevalue("redis_server").url
    return lambda: LedgerHarness(RedisBroker(url))


@pytest.fixture
def harness(make_harness: TwinMaker) -> Iterator[LedgerHarness]:
    made = make_harness()
    yield made
    made.close()


@pytest.fixture
def broker(redis_server: Any) -> Iterator[RedisBroker]:
    """A ledger's Redis, for what only Redis has."""
    made = RedisBroker(redis_server.url)
    yield made
    made.close()
