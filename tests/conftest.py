"""What all tests share: services on demand, and no way out of this machine."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from stagefleet.processes import worker_command
from stagefleet.redaction import forget_secrets
from tests.services import (
    DockerEngine,
    FakeRedis,
    RedisServer,
    RegistryFront,
    RegistryServer,
    ServiceMissingError,
    ServiceRefusedError,
    TcpProxy,
    Tls,
    TokenServer,
    Workers,
    make_workspace,
)

# Nothing is asserted about time: a loaded machine is no failure.
_PATIENT: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
# CI judges a change: what it draws is the same each time. People and `make faults` search for new cases.
_REPEATED = bool(os.environ.get("CI"))
settings.register_profile(
    "stagefleet", max_examples=40, stateful_step_count=40, derandomize=_REPEATED, **_PATIENT
)
settings.register_profile("faults", max_examples=1500, stateful_step_count=80, **_PATIENT)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "stagefleet"))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Connections go to loopback addresses and Unix sockets only; anything else is an error."""
    config.option.allow_hosts = ["127.0.0.0/8", "::1", "localhost"]
    config.option.allow_unix_socket = True


@contextmanager
def _missing_services_skip() -> Iterator[None]:
    """A service that is missing skips its tests with one line; where CI is set it fails them."""
    try:
        yield
    except ServiceMissingError as error:
        if os.environ.get("CI") and not isinstance(error, ServiceRefusedError):
            raise
        pytest.skip(str(error))


# Around the test, not around fixtures: those of the session do not pass through the hooks of this file.
@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    with _missing_services_skip():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    with _missing_services_skip():
        return (yield)


@pytest.fixture(autouse=True)
def _secrets_of_this_test() -> Iterator[None]:
    """What one test read as a secret is a word like others in the next."""
    yield
    forget_secrets()


@pytest.fixture(scope="session")
def workspace() -> Iterator[Path]:
    """The session's folder for services, in memory where the machine has that."""
    with make_workspace() as folder:
        yield folder


@pytest.fixture(scope="session")
def service_folder(workspace: Path) -> Callable[[str], Path]:
    """Names folders for services, a new one each time."""
    numbers = itertools.count()
    return lambda name: workspace / f"{name}-{next(numbers)}"


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    """What a test's services need at its end, in reverse order."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def make_registry(service_folder: Callable[[str], Path], cleanup: ExitStack) -> Callable[..., RegistryServer]:
    """Starts registries of this test's own; arguments as `RegistryServer`."""

    def make(**options: Any) -> RegistryServer:
        server = RegistryServer(service_folder("registry"), **options)
        cleanup.callback(server.stop)
        return server.start()

    return make


@pytest.fixture(scope="session")
def _session_registry(service_folder: Callable[[str], Path]) -> Iterator[RegistryServer]:
    server = RegistryServer(service_folder("registry")).start()
    yield server
    server.stop()


@pytest.fixture
def registry(_session_registry: RegistryServer) -> RegistryServer:
    """A registry without login, deletion on, empty: one process for the session."""
    _session_registry.renew()
    return _session_registry


@pytest.fixture
def make_redis(service_folder: Callable[[str], Path], cleanup: ExitStack) -> Callable[..., RedisServer]:
    """Starts Redis servers of this test's own; arguments as `RedisServer`."""

    def make(**options: Any) -> RedisServer:
        server = RedisServer(service_folder("redis"), **options)
        cleanup.callback(server.stop)
        return server.start()

    return make


@pytest.fixture(scope="session")
def _session_redis(service_folder: Callable[[str], Path]) -> Iterator[RedisServer]:
    server = RedisServer(service_folder("redis")).start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(_session_redis: RedisServer) -> RedisServer:
    """A Redis server, empty: one process for the session; nothing survives its restart."""
    _session_redis.renew()
    return _session_redis


@pytest.fixture(scope="session")
def _session_fake_redis() -> Iterator[FakeRedis]:
    with FakeRedis() as server:
        yield server


@pytest.fixture
def fake_redis(_session_fake_redis: FakeRedis) -> FakeRedis:
    """A server that answers as it is told; one for the session."""
    _session_fake_redis.answer = b"+OK"
    _session_fake_redis.commands.clear()
    return _session_fake_redis


@pytest.fixture
def make_token_server(
    service_folder: Callable[[str], Path], cleanup: ExitStack
) -> Callable[..., TokenServer]:
    """Starts token servers of this test's own; arguments as `TokenServer`."""

    def make(**options: Any) -> TokenServer:
        server = TokenServer(service_folder("tokens"), **options).start()
        cleanup.callback(server.stop)
        return server

    return make


@pytest.fixture
def token_server(make_token_server: Callable[..., TokenServer]) -> TokenServer:
    """A token server that lets everybody in; a test may change its attributes."""
    return make_token_server()


@pytest.fixture(scope="session")
def tls(service_folder: Callable[[str], Path]) -> Tls:
    """Certificates for this machine's loopback, and the authority that signed them."""
    return Tls(service_folder("tls"))


@pytest.fixture
def make_proxy(cleanup: ExitStack) -> Callable[..., TcpProxy]:
    """Starts proxies; arguments as `TcpProxy`."""

    def make(*arguments: Any, **options: Any) -> TcpProxy:
        return cleanup.enter_context(TcpProxy(*arguments, **options))

    return make


@pytest.fixture
def make_front(cleanup: ExitStack) -> Callable[..., RegistryFront]:
    """Starts fronts before registries; arguments as `RegistryFront`."""

    def make(*arguments: Any) -> RegistryFront:
        return cleanup.enter_context(RegistryFront(*arguments))

    return make


@pytest.fixture
def make_workers(service_folder: Callable[[str], Path], cleanup: ExitStack) -> Callable[..., Workers]:
    """Starts what `stagefleet worker` becomes; arguments as `Workers`, without the folder."""

    def make(redis_url: str, **options: Any) -> Workers:
        workers = Workers(redis_url, service_folder("workers"), **{"command": worker_command, **options})
        cleanup.callback(workers.kill)  # also when they do not get ready
        return workers.start()

    return make


@pytest.fixture
def make_engine(service_folder: Callable[[str], Path], cleanup: ExitStack) -> Callable[[], DockerEngine]:
    """Starts Docker Engines of this test's own."""

    def make() -> DockerEngine:
        engine = DockerEngine(service_folder("engine"))
        cleanup.callback(engine.stop)
        return engine.start()

    return make


@pytest.fixture(scope="session")
def _session_engine(service_folder: Callable[[str], Path]) -> Iterator[DockerEngine]:
    engine = DockerEngine(service_folder("engine")).start()
    yield engine
    engine.stop()


@pytest.fixture
def engine(_session_engine: DockerEngine) -> DockerEngine:
    """A Docker Engine, empty: one process for the session."""
    _session_engine.renew()
    return _session_engine
