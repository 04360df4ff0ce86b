"""One suite, two ledgers: `twin` is each of them in turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.twins import MemoryBroker, RedisBroker, Twin, TwinMaker


@pytest.fixture(params=["memory", "redis"])
def make_twin(request: pytest.FixtureRequest) -> TwinMaker:
    """Makes ledgers that know nothing of each other."""
    if request.param == "memory":
        return lambda: Twin(MemoryBroker())
    url = request.getfixturevalue("redis_server").url
    return lambda: Twin(RedisBroker(url))


@pytest.fixture
def twin(make_twin: TwinMaker) -> Iterator[Twin]:
    made = make_twin()
    yield made
    made.close()
