"""One suite, two ledgers: `twin` is each of them in turn."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.contract.twins import MemoryBroker, RedisBroker, Twin, TwinMaker

settings.register_profile("stagefleet", deadline=None, max_examples=40, stateful_step_count=40)
settings.register_profile("faults", deadline=None, max_examples=1500, stateful_step_count=80)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "stagefleet"))


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
