"""What is said while requests are repeated."""

from __future__ import annotations

import logging
import socket

import pytest

from stagefleet.errors import RateLimitedError, RegistryUnreachableError
from stagefleet.registry.http.waits import RetryReporter
from stagefleet.settings import HttpSettings

REFUSED = RegistryUnreachableError("r.test does not answer (connection refused)", host="r.test")


@pytest.fixture
def told(caplog):
    """The warnings so far."""
    caplog.set_level(logging.INFO, logger="stagefleet")
    return lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.fixture
def now():
    """The time on the notices' clock, in a list that tests change."""
    return [100.0]


@pytest.fixture
def report(now):
    """Reports a first failure of a call that began some seconds ago."""
    reporter = RetryReporter(HttpSettings(backoff_seconds=1, backoff_limit_seconds=3), clock=lambda: now[0])

    def report_failure(error=REFUSED, *, host="r.test", ago=0.0, pause=0.5, failures=1):
        reporter.report(error, host, began_at=now[0] - ago, pause_seconds=pause, failures=failures, limit=4)

    return report_failure


def test_each_retry_is_a_record(report, told, caplog):
    report()
    (record,) = caplog.records
    expected = "registry_retried host=r.test pause_seconds=0.5 attempts_left=4 reason=does not answer"
    assert record.getMessage().startswith(expected)
    assert [] == told()


def test_a_long_wait_is_told_before_it_begins_with_its_limit(report, told):
    report(ago=1.2, pause=1.0, failures=2)
    expected = "r.test does not answer (connection refused): 3 more attempts, with pauses of 7 s at most"
    assert [expected] == told()


def test_it_is_told_once_for_all_calls_to_a_host_for_a_while(report, told, now):
    for host in ("r.test", "r.test", "other.test"):
        report(host=host, ago=5)
    assert 2 == len(told())
    now[0] += 61
    report(ago=5)
    assert 3 == len(told())


def test_a_pause_that_a_registry_asked_for_is_told_elsewhere(report, told):
    report(RateLimitedError("429", repository="r.test/app", status=429), ago=5)
    assert [] == told()


def test_a_registry_that_refuses_connections_is_told_of_while_it_is_waited_for(
    connect, told, caplog, unused_host
):
    client = connect(retries=2, backoff_seconds=0.01)
    client._http_client._reporter = RetryReporter(
        HttpSettings(), clock=lambda: 1e12
    )  # long after the beginning
    with pytest.raises(RegistryUnreachableError):
        client.ping(unused_host)
    assert 2 == len([record for record in caplog.records if "registry_retried" in record.getMessage()])
    (warning,) = told()
    assert warning.startswith(f"{unused_host} does not answer (connection refused): 2 more attempts")


@pytest.mark.parametrize(
    ("code", "attempts"), [(socket.EAI_NONAME, 2), (socket.EAI_NODATA, 2), (socket.EAI_AGAIN, 4)]
)
def test_a_name_that_does_not_exist_is_asked_for_once_more(connect, monkeypatch, code, attempts):
    asked = []

    def look_up(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(code, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(RegistryUnreachableError) as caught:
        connect(retries=3, backoff_seconds=0.01).ping("no.such.test")
    assert ["no.such.test"] * attempts == asked
    assert caught.value.is_unknown == (attempts == 2)
    assert ("spelled" in str(caught.value)) == (attempts == 2)


@pytest.fixture
def unused_host():
    """An address of this machine where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{unused.getsockname()[1]}"
