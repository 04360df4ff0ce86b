"""`stagefleet exporter`: serve the fleet's metrics to Prometheus."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import closing
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

import typer

from stagefleet.cli.output import say
from stagefleet.cli.session import read_settings
from stagefleet.errors import RedisConfigurationError, UnreachableError, UsageError
from stagefleet.names import MAX_PORT
from stagefleet.redaction import quoted
from stagefleet.runs.metrics_reader import FleetMetrics, unreachable_metrics

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ADDRESS, _PORT = "127.0.0.1", 9464
_MOST_REQUESTS = 16
_REQUEST_SECONDS = 10.0


def serve_metrics(
    *,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDRESS",
            help="Where to listen; default: 127.0.0.1. There is no login: on another address than this "
            "machine's own, let in Prometheus alone.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="N", min=0, max=MAX_PORT, help="0 takes a free one; default: 9464."),
    ] = None,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="ADDRESS:PORT", hidden=True, help="The older spelling.")
    ] = None,
) -> None:
    """Serve the fleet's metrics to Prometheus, until told to stop.

    They are at /metrics, in Prometheus' text format.

    One for a fleet is enough: it reads the counters that workers keep in Redis, and the runs that live
    now, in one step. While Redis does not answer, stagefleet_up is 0.
    """
    settings = read_settings()
    if settings.redis_url is None:
        raise UsageError("stagefleet exporter shows a fleet: set STAGEFLEET_REDIS_URL")
    where = _choose_address(address, port, listen)
    with (
        closing(FleetMetrics.connect(settings.redis_url, settings)) as metrics,
        MetricsServer(where, metrics) as server,
    ):
        host = f"[{where[0]}]" if ":" in where[0] else where[0]
        say(f"metrics at http://{host}:{server.server_port}/metrics")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
        server.serve_forever(poll_interval=0.2)


def _choose_address(address: str | None, port: int | None, listen: str | None) -> tuple[str, int]:
    """Return address and port to listen on; of the older option, if that is given alone."""
    if listen is not None:
        if address is not None or port is not None:
            raise UsageError("--listen is the older spelling of --address and --port: leave it out")
        return _parse_address(listen)
    host = _ADDRESS if address is None else address.removeprefix("[").removesuffix("]")
    if not host or host.count(":") == 1:
        raise UsageError(
            f"--address {quoted(address or '')}: write an address alone, as 0.0.0.0; --port has the port"
        )
    return host, _PORT if port is None else port


def _parse_address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > MAX_PORT:
        raise UsageError(f"--listen {quoted(listen)}: write ADDRESS:PORT, as 127.0.0.1:9464 or [::1]:9464")
    return host.removeprefix("[").removesuffix("]"), int(port)


class MetricsServer(ThreadingHTTPServer):
    """HTTP server of a fleet's metrics; it answers a bounded number of requests at once."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], metrics: FleetMetrics) -> None:
        self.metrics = metrics
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._places = threading.BoundedSemaphore(_MOST_REQUESTS)
        self._is_away = False
        try:
            super().__init__(address, _MetricsHandler)
        except (OSError, OverflowError) as error:
            problem = getattr(error, "strerror", None) or error
            raise UsageError(
                f"the exporter cannot listen on {address[0]}:{address[1]} ({problem}): name another address "
                "with --address, or another --port"
            ) from None

    def scrape(self) -> str:
        """Read the metrics; say once when Redis does not answer, and once when it does again."""
        try:
            text = self.metrics.read()
        except (UnreachableError, RedisConfigurationError) as error:
            if not self._is_away:
                say(f"stagefleet_up is 0: {error}")
            self._is_away = True
            return unreachable_metrics()
        if self._is_away:
            say("Redis answers again")
        self._is_away = False
        return text

    def process_request(self, request: Any, client_address: Any) -> None:
        """Let a thread answer a request, or close its connection where too many are under way."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a request."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that has gone."""


class _MetricsHandler(BaseHTTPRequestHandler):
    """Answers to one connection."""

    timeout = _REQUEST_SECONDS
    server: MetricsServer
    server_version = "stagefleet"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(HTTPStatus.OK, self.server.scrape(), _CONTENT_TYPE)
        elif path == "/healthz":
            self._answer(HTTPStatus.OK, "ok\n", "text/plain")
        else:
            self._answer(HTTPStatus.NOT_FOUND, "metrics are at /metrics\n", "text/plain")

    do_HEAD = do_GET  # noqa: N815 - the base class calls it

    def _answer(self, status: HTTPStatus, text: str, content_type: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's signature
        """Log nothing: a scrape comes every few seconds."""
