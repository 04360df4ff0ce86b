"""`stagefleet exporter`: what it answers, and what it refuses."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from stagefleet.cli.commands import exporter
from stagefleet.errors import RedisUnreachableError, UsageError
from stagefleet.settings import Settings


class Metrics:
    """Figures that are there, or not."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def read(self) -> str:
        if self.error is not None:
            raise self.error
        return "stagefleet_up 1\n"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def server(metrics: Any) -> Iterator[exporter.MetricsServer]:
    with exporter.MetricsServer(("127.0.0.1", 0), metrics) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server: exporter.MetricsServer, path: str, method: str = "GET") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    found = answer.status, answer.headers["Content-Type"], answer.read().decode()
    connection.close()
    return found


def test_metrics_are_served_and_nothing_else(server: exporter.MetricsServer):
    assert (200, "text/plain; version=0.0.4; charset=utf-8", "stagefleet_up 1\n") == ask(server, "/metrics")
    assert 200 == ask(server, "/healthz")[0]
    assert (404, "text/plain", "metrics are at /metrics\n") == ask(server, "/")
    assert "" == ask(server, "/metrics", "HEAD")[2]
    assert 501 == ask(server, "/metrics", "POST")[0]


def test_redis_that_is_away_is_told_once_and_its_return_too(
    server: exporter.MetricsServer, metrics: Metrics, capsys: pytest.CaptureFixture[str]
):
    metrics.error = RedisUnreachableError("Redis does not answer")
    for _ in range(2):
        status, _, text = ask(server, "/metrics")
        assert (200, True) == (status, text.endswith("\nstagefleet_up 0\n"))
    metrics.error = None
    assert "stagefleet_up 1\n" == ask(server, "/metrics")[2]
    told = capsys.readouterr().err
    assert [
        "stagefleet: stagefleet_up is 0: Redis does not answer",
        "stagefleet: Redis answers again",
    ] == told.splitlines()


def test_connections_that_say_nothing_do_not_keep_others_out_of_memory(server: exporter.MetricsServer):
    """Only so many are answered at once: the others are closed, and come back with the next scrape."""
    silent = [socket.create_connection(server.server_address[:2], timeout=10) for _ in range(40)]  # type: ignore[arg-type]
    closed = 0
    for connection in silent[exporter._MOST_REQUESTS :]:
        closed += connection.recv(1) == b""
    assert 40 - exporter._MOST_REQUESTS == closed
    for connection in silent:
        connection.close()


def test_a_taken_port_is_named(metrics: Any):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UsageError,
            match=rf"cannot listen on 127\.0\.0\.1:{port} \(.*\): name another address with --address,",
        ):
            exporter.MetricsServer(("127.0.0.1", port), metrics)


@pytest.mark.parametrize(
    "listen", ["", "9464", ":9464", "127.0.0.1", "127.0.0.1:", "a:b", "a:-1", "a:70000", "a:²"]
)
def test_a_malformed_address_is_refused(listen: str):
    with pytest.raises(UsageError, match="write ADDRESS:PORT"):
        exporter._parse_address(listen)


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ((None, None, None), ("127.0.0.1", 9464)),
        (("0.0.0.0", None, None), ("0.0.0.0", 9464)),  # noqa: S104 - nobody listens
        ((None, 0, None), ("127.0.0.1", 0)),
        (("::1", 1, None), ("::1", 1)),
        (("[::1]", 1, None), ("::1", 1)),
        ((None, None, "[::1]:1"), ("::1", 1)),
        ((None, None, "a.test:1"), ("a.test", 1)),
    ],
)
def test_it_listens_as_flower_does_or_as_the_older_option_says(
    options: tuple[str | None, int | None, str | None], place: tuple[str, int]
):
    assert place == exporter._choose_address(*options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("a.test", None, "b.test:1"), "--listen is the older spelling of --address and --port"),
        ((None, 1, "b.test:1"), "--listen is the older spelling of --address and --port"),
        (("0.0.0.0:9464", None, None), "--port has the port"),
        (("", None, None), "--port has the port"),
    ],
)
def test_what_is_said_twice_or_together_is_refused(
    options: tuple[str | None, int | None, str | None], told: str
):
    with pytest.raises(UsageError, match=told):
        exporter._choose_address(*options)


def test_without_a_fleet_nothing_is_served(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exporter, "read_settings", Settings)
    with pytest.raises(UsageError, match="shows a fleet: set STAGEFLEET_REDIS_URL"):
        exporter.serve_metrics(port=0)


def test_addresses_of_both_kinds_are_read():
    assert ("127.0.0.1", 0) == exporter._parse_address("127.0.0.1:0")
    assert ("::1", 9464) == exporter._parse_address("[::1]:9464")
