"""Storages as a plan sees them: two of them are listed side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial

import pytest

from stagefleet.errors import ForbiddenError, RegistryUnavailableError
from stagefleet.leases import NO_LEASE, current_lease
from stagefleet.names import StageId, StorageAddress, parse_address
from stagefleet.operations.base import PlanStorages, compare
from stagefleet.threads import RequestThreads

FIRST, SECOND, OTHER = map(parse_address, ("a.test/app", "b.test/app", "c.test/app"))
STAGE_IDS = [StageId(f"{number:056x}", 1_700_000_000_000) for number in range(3)]
WAIT_SECONDS = 10


@pytest.fixture
def make_storages():
    threads = RequestThreads(2)

    def make(
        stage_ids: Callable[[StorageAddress], Iterable[StageId]],
        ping: Callable[[StorageAddress], object] = print,
    ) -> PlanStorages:
        return PlanStorages(
            stage_ids, lambda *_: iter(()), ping, bool, print, "", partial(threads.run, lease=NO_LEASE)
        )

    yield make
    threads.close()


def test_two_storages_are_listed_at_once_and_each_once(make_storages):
    both, listed = threading.Barrier(2, timeout=WAIT_SECONDS), []

    def stage_ids(address):
        listed.append(address)
        both.wait()
        return STAGE_IDS[:1] if address == FIRST else STAGE_IDS

    storages = make_storages(stage_ids).listing(FIRST, SECOND)
    assert {FIRST, SECOND} == set(listed)
    assert STAGE_IDS[:1] == list(storages.stage_ids(FIRST))
    assert STAGE_IDS == list(storages.stage_ids(SECOND)) == list(storages.stage_ids(SECOND))
    assert 2 == len(listed)


def test_an_empty_second_is_checked_while_the_first_is_listed_and_once(make_storages):
    both, pinged = threading.Barrier(2, timeout=WAIT_SECONDS), []

    def stage_ids(address):
        if address == FIRST:
            both.wait()
            return STAGE_IDS
        return ()

    def ping(address):
        pinged.append(address)
        both.wait()

    wanted = [str(stage_id) for stage_id in STAGE_IDS]
    assert wanted == compare(wanted, make_storages(stage_ids, ping).listing(FIRST, SECOND), SECOND).items
    assert [SECOND] == pinged


def test_a_storage_that_was_not_listed_is_asked(make_storages):
    storages = make_storages(lambda address: STAGE_IDS if address == OTHER else ())
    assert STAGE_IDS == list(storages.listing(FIRST, SECOND).stage_ids(OTHER))


def test_an_error_of_the_first_ends_the_other(make_storages):
    began, ended = threading.Event(), threading.Event()

    def stage_ids(address):
        if address == FIRST:
            assert began.wait(WAIT_SECONDS)
            raise ForbiddenError("no entry")
        began.set()
        try:
            while True:  # pages of a long list
                current_lease().check()
                yield STAGE_IDS[0]
        finally:
            ended.set()

    with pytest.raises(ForbiddenError, match="no entry"):
        make_storages(stage_ids).listing(FIRST, SECOND)
    assert ended.is_set()


def test_an_error_of_the_second_is_raised_where_its_list_is_used(make_storages):
    def stage_ids(address):
        if address == SECOND:
            raise RegistryUnavailableError("down")
        return ()

    storages = make_storages(stage_ids).listing(FIRST, SECOND)
    assert [] == list(storages.stage_ids(FIRST))
    for _ in range(2):
        with pytest.raises(RegistryUnavailableError, match="down"):
            storages.stage_ids(SECOND)
