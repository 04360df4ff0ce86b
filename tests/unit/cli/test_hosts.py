"""`stagefleet hosts`."""

from __future__ import annotations

import time

import pytest

from stagefleet.runs.models import WorkerInfo

pytestmark = pytest.mark.usefixtures("in_fleet")


@pytest.fixture
def _two_hosts(ledger):
    for host in ("one", "two"):
        ledger.heartbeats.beat(WorkerInfo(f"{host}:1", 4, ("fetch", f"host.{host}")), seconds=60)


@pytest.mark.usefixtures("_two_hosts")
def test_hosts_are_listed_by_name(command):
    assert (0, "one\ntwo\n", "") == tuple(vars(command("hosts")).values())
    assert [{"host": "one"}, {"host": "two"}] == command("hosts", "--json").objects
    assert "two\n" == command("hosts", "two").out


@pytest.mark.usefixtures("_two_hosts")
def test_images_are_shown_with_their_last_use(command, services):
    services.last_used.note("one", "app:1")
    services.last_used.note("two", "app:2")
    (first, second) = command("hosts", "--last-used", "--json").objects

    assert (("one", "app:1"), ("two", "app:2")) == tuple(
        (found["host"], found["image"]) for found in (first, second)
    )
    assert time.time() == pytest.approx(first["last_used_ms"] / 1000, abs=60)
    (line,) = command("hosts", "two", "--last-used").out.splitlines()
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(second["last_used_ms"] / 1000))
    assert f"two  {moment}  app:2" == line


def test_a_host_that_is_gone_has_records_still(command, services):
    services.last_used.note("gone", "app:1")

    (found,) = command("hosts", "gone", "--last-used", "--json").objects
    assert ("gone", "app:1") == (found["host"], found["image"])
    result = command("hosts", "gone")
    assert (2, "") == (result.code, result.out)
    assert "no live worker of host 'gone'" in result.err


def test_no_host_is_no_error(command):
    result = command("hosts")
    assert (0, "") == (result.code, result.out)
    assert "no host is there" in result.err


def test_without_a_fleet_there_are_no_hosts_to_show(command, monkeypatch):
    monkeypatch.delenv("STAGEFLEET_REDIS_URL")
    result = command("hosts")
    assert (2, "") == (result.code, result.out)
    assert "stagefleet hosts needs a fleet" in result.err
