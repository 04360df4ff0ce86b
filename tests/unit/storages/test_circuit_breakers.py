"""Caches that do not answer are left alone for a while."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier
from typing import cast

import pytest

from stagefleet.attempt import Attempt
from stagefleet.errors import (
    CircuitOpenError,
    ForbiddenError,
    RateLimitedError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    StageNotFoundError,
)
from stagefleet.names import Repository, StageId
from stagefleet.storages.storages import OPEN_SECONDS, CircuitBreakers, Storages
from tasks.delete import delete_from_caches

CACHE, OTHER = Repository("near.test:5000", "app"), Repository("far.test", "app")
SILENT = RegistryUnreachableError("near.test:5000 does not answer (time-out)", host=CACHE.host)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def circuit_breakers(clock):
    return CircuitBreakers(clock)


@pytest.fixture
def is_used(circuit_breakers):
    """Whether a use of a cache gets as far as the cache."""

    def is_used(cache=CACHE, error=None):
        used = False
        with suppress(CircuitOpenError), circuit_breakers.guarding(cache):
            used = True
            if error is not None:
                raise error
        return used

    return is_used


@pytest.mark.parametrize(
    "error",
    [SILENT, RegistryUnavailableError("502", status=502, repository=str(CACHE))],
    ids=["silent", "5xx"],
)
def test_a_cache_that_is_out_of_reach_is_left_alone_for_a_while(circuit_breakers, clock, is_used, error):
    with pytest.raises(CircuitOpenError, match=r"app is out of reach: "), circuit_breakers.guarding(CACHE):
        raise error
    assert [False, True] == [is_used(), is_used(OTHER)]
    clock.now += OPEN_SECONDS - 1
    with pytest.raises(CircuitOpenError, match="for another 1 s"), circuit_breakers.guarding(CACHE):
        pytest.fail("it is left alone")
    clock.now += 1
    assert [True, True] == [is_used(), is_used()]


@pytest.mark.parametrize(("to_delete", "alone"), [(None, 60), (5, 60), (300, 300), (1e9, 3600)])
def test_a_cache_that_asks_to_wait_is_left_alone_for_so_long(
    circuit_breakers, clock, is_used, to_delete, alone
):
    """R7: nobody waits for a cache that asks for time; it is asked again then, or after an hour."""
    limited = RateLimitedError("slow down", repository=str(CACHE), retry_after_seconds=to_delete)
    with pytest.raises(CircuitOpenError, match="slow down"), circuit_breakers.guarding(CACHE):
        raise limited
    clock.now += alone - 1
    assert not is_used()
    clock.now += 1
    assert is_used()


def test_a_cache_that_is_still_out_of_reach_is_left_alone_again(clock, is_used, caplog):
    assert [True, False] == [is_used(error=SILENT), is_used()]
    clock.now += OPEN_SECONDS
    assert [True, False] == [is_used(error=SILENT), is_used()]
    assert 2 == caplog.text.count("left alone for 60 s")


@pytest.mark.parametrize(
    "error",
    [
        StageNotFoundError("it lacks the stage"),
        ForbiddenError("the login may not do this", repository=str(CACHE)),
        RateLimitedError("slow down", repository="primary.test/app"),
        RegistryUnreachableError("primary.test does not answer", host="primary.test"),
        RegistryUnavailableError("502", repository="primary.test/app"),
    ],
    ids=str,
)
def test_what_does_not_say_that_the_cache_is_away_changes_nothing(circuit_breakers, is_used, error):
    with pytest.raises(type(error)) as raised, circuit_breakers.guarding(CACHE):
        raise error
    assert error is raised.value
    assert is_used()


def test_of_many_threads_that_find_it_away_at_once_one_warns(circuit_breakers, caplog):
    threads = 8
    barrier = Barrier(threads)

    def ask(_number):
        with suppress(CircuitOpenError), circuit_breakers.guarding(CACHE):
            barrier.wait(timeout=30)
            raise SILENT

    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(threads) as pool:
        list(pool.map(ask, range(threads)))
    assert 1 == len(caplog.records)


def test_of_each_stage_that_a_cache_keeps_is_said_so_and_the_cache_is_asked_once(circuit_breakers, caplog):
    tried = []

    class FakeStorages:
        def __init__(self):
            self.circuit_breakers = circuit_breakers

        def open(self, cache):
            return self

        def delete(self, stage_id, attempt):
            tried.append(stage_id)
            raise SILENT

    stages = [StageId.parse(f"{number:056x}-1700000000000") for number in range(3)]
    for stage_id in stages:
        delete_from_caches(cast("Storages", FakeStorages()), [CACHE], stage_id, Attempt("r"))
    assert stages[:1] == tried
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [1, 1, 1] == [sum(f"keeps stage {stage_id}" in line for line in said) for stage_id in stages]
