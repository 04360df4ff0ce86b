"""The private interfaces of libraries that we use: what we rely on is there (docs/private-interfaces.md).

A test that fails here means that the installed library has changed: read the row of the page that names the
test, and the library's new code.
"""

import hashlib
import importlib
import inspect
import io
import os
import re
import socket
import textwrap
import tokenize
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import celery
import docker
import pytest
import redis
import requests
import typer
import urllib3
from billiard.einfo import ExceptionWithTraceback
from celery.app.trace import setup_worker_optimizations
from celery.exceptions import Retry
from celery.worker import WorkController, state
from celery.worker.consumer import Consumer, control
from celery.worker.pidbox import Pidbox
from celery.worker.request import Request
from docker.errors import StreamParseError
from flower.app import Flower
from flower.command import extract_settings
from flower.options import options as flower_options
from flower.urls import settings as flower_web_settings
from flower.utils.authentication import authenticate, validate_auth_option
from flower.views import BaseHandler
from flower.views.tasks import TaskView
from flower.views.workers import WorkerView
from kombu.connection import Connection
from kombu.transport import TRANSPORT_ALIASES, redis as kombu_redis, virtual
from kombu.utils.encoding import bytes_to_str
from redis.retry import Retry as RedisRetry
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy
from tornado.web import TemplateModule, UIModule
from typer.core import TyperCommand, TyperGroup
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from config import transport


def parameters(function: Any) -> str:
    return " ".join(inspect.signature(function).parameters)


def digest_of(function: Any) -> str:
    """Return a digest of a function's code, without comments and white space."""
    read = io.StringIO(textwrap.dedent(inspect.getsource(function))).readline
    parts = (part.string for part in tokenize.generate_tokens(read) if part.type != tokenize.COMMENT)
    return hashlib.sha256("".join("".join(parts).split()).encode()).hexdigest()[:16]


# redis-py


def test_redis_py_s_pool_keeps_its_connections_where_we_take_them():
    pool: Any = redis.ConnectionPool()
    connection = pool.make_connection()
    pool._available_connections.append(connection)
    connection.connect_check_health = lambda **_: None
    connection.can_read = lambda: False
    with pool._lock:
        assert connection is pool.get_connection()
    assert ([], {connection}) == (pool._available_connections, pool._in_use_connections)
    pool.release(connection)
    assert ([connection], set()) == (pool._available_connections, pool._in_use_connections)
    assert (os.getpid(), False) == (pool.pid, connection.should_reconnect())


def test_redis_py_s_pool_closes_a_connection_that_is_marked():
    class Offline(redis.Connection):
        closed = 0

        def connect(self) -> None: ...

        def can_read(self, timeout: float = 0) -> bool:
            return False

        def disconnect(self, *args: Any, **kwargs: Any) -> None:
            self.closed += 1
            super().disconnect(*args, **kwargs)

    pool = redis.ConnectionPool(connection_class=Offline)
    connection: Any = pool.get_connection()
    pool.release(connection)
    assert 0 == connection.closed

    again: Any = pool.get_connection()
    again.mark_for_reconnect()
    pool.release(again)
    assert 1 == again.closed
    assert again == connection == pool.get_connection()


def test_redis_py_s_connections_and_retries_have_the_methods_that_we_override():
    assert "self" == parameters(redis.Connection.connect)
    assert "self check_health retry_socket_connect" == parameters(redis.Connection.connect_check_health)
    assert isinstance(inspect.getattr_static(redis.Connection, "is_connected"), property)
    assert parameters(redis.Connection.read_response).startswith("self disable_decoding timeout")
    assert "self do fail is_retryable with_failure_count" == parameters(RedisRetry.call_with_retry)


# kombu


def test_kombu_puts_messages_back_one_by_one():
    assert "self message leftmost" == parameters(kombu_redis.Channel._restore)
    assert kombu_redis.Channel.do_restore
    restored: list[str] = []
    account = virtual.QoS(SimpleNamespace(do_restore=True, _restore=restored.append))
    account.append("message", "tag")
    account.restore_unacked_once()
    assert ["message"] == restored


def test_kombu_makes_clients_where_we_keep_one():
    assert "self asynchronous" == parameters(kombu_redis.Channel._create_client)
    assert "self asynchronous" == parameters(kombu_redis.Channel._connparams)
    assert "self client" == parameters(kombu_redis.Channel.conn_or_acquire)
    assert isinstance(kombu_redis.Channel.pool, property)


def test_kombu_delivers_as_when_we_copied_it():
    """Ours are copies: any change of theirs may be one that ours need, too."""
    assert "01ba7a5a26bce37b" == digest_of(kombu_redis.Channel._brpop_read)
    assert "baf34701a1db2576" == digest_of(kombu_redis.Channel._receive_one)
    assert "self message queue" == parameters(kombu_redis.Transport._deliver)
    assert "self client r" == parameters(kombu_redis.Channel._handle_message)
    assert "self" == parameters(kombu_redis.Channel._flush_brpop_reauth)
    source = inspect.getsource(kombu_redis.Channel)
    assert {"_queue_cycle", "_in_poll", "_in_listen", "_fanout_to_queue"} <= set(
        re.findall(r"\b_\w+", source)
    )


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+socket"])
def test_kombu_takes_the_transport_that_we_install(monkeypatch, scheme):
    for name in ("redis", "rediss"):
        monkeypatch.setitem(TRANSPORT_ALIASES, name, "kombu.transport.redis:Transport")
    transport.install()
    assert transport.ResilientTransport is Connection(f"{scheme}://localhost").get_transport_cls()


def test_kombu_s_connections_are_extended_as_they_are():
    assert "self include_password mask getfields" == parameters(Connection.as_uri)
    assert "self" == parameters(Connection.info)
    assert {"interval_start", "interval_step", "interval_max"} <= set(
        parameters(Connection._ensure_connection).split()
    )
    login = object()
    connection = Connection("redis://localhost", credential_provider=login)
    assert connection.credential_provider is login
    assert connection.clone().credential_provider is login


def test_kombu_reads_names_as_we_do():
    assert "queue" == bytes_to_str(b"queue")


# Celery


def test_celery_connects_by_the_class_of_its_amqp_part():
    class Ours(Connection):
        pass

    with celery.Celery(broker="redis://localhost", set_as_current=False) as app:
        app.amqp.Connection = Ours
        assert isinstance(app.connection_for_read(), Ours)


def test_celery_s_worker_is_made_and_stopped_as_we_do():
    assert "self app hostname kwargs" == parameters(WorkController.__init__)
    assert {"queues", "ready_callback"} <= set(parameters(WorkController.setup_instance).split())
    source = inspect.getsource(WorkController)
    assert {"pool_cls", "consumer_cls", "exitcode"} <= set(re.findall(r"\w+", source))
    assert {"without_gossip", "without_mingle"} <= {
        name
        for module in ("gossip", "mingle")
        for name in re.findall(
            r"\w+", inspect.getsource(importlib.import_module(f"celery.worker.consumer.{module}"))
        )
    }
    assert parameters(setup_worker_optimizations).startswith("app hostname")


def test_celery_s_loop_stops_by_its_state(monkeypatch):
    monkeypatch.setattr(state, "should_stop", None)
    state.maybe_shutdown()
    monkeypatch.setattr(state, "should_stop", 0)
    with pytest.raises(SystemExit) as stopped:
        state.maybe_shutdown()
    assert 0 == stopped.value.code


def test_celery_s_consumer_has_the_methods_that_we_override():
    assert "self conn" == parameters(Consumer.ensure_connected)
    assert "self" == parameters(Consumer.on_send_event_buffered)
    assert "self promise" == parameters(Consumer.create_task_handler)
    assert "self message exc" == parameters(Consumer.on_decode_error)
    assert "self body message" == parameters(Consumer.on_unknown_message)
    assert "self body message exc" == parameters(Consumer.on_unknown_task)
    assert "self body message exc" == parameters(Consumer.on_invalid_task)
    assert 1 == sum(step.endswith(":Control") for step in Consumer.Blueprint.default_steps)


def test_celery_s_mailbox_is_where_we_replace_it():
    assert "self body message" == parameters(Pidbox.on_message)
    with celery.Celery(broker="redis://localhost", set_as_current=False) as app:
        controller = SimpleNamespace(use_eventloop=True)
        consumer = SimpleNamespace(app=app, pool=None, controller=controller, hostname="host", timer=None)
        step = control.Control(consumer)
    assert step.box.node.handlers
    for name in ("start", "stop", "shutdown"):
        assert getattr(step.box, name) == getattr(step, name)


def test_celery_s_requests_tell_what_we_change():
    assert parameters(Request.on_failure).startswith("self exc_info")
    assert parameters(Request.send_event).startswith("self type")
    assert "self safe" == parameters(Request.info)
    error = ValueError("reason")
    assert error is Retry(message="text", exc=error).exc
    assert error is ExceptionWithTraceback(error, None).exc


# requests and urllib3


def test_requests_adapter_has_the_methods_that_we_override():
    expected = {
        "init_poolmanager": "self connections maxsize block pool_kwargs",
        "proxy_manager_for": "self proxy proxy_kwargs",
        "build_connection_pool_key_attributes": "self request verify cert",
        "get_connection_with_tls_context": "self request verify proxies cert",
        "request_url": "self request proxies",
        "build_response": "self req resp",
        "cert_verify": "self conn url verify cert",
        "send": "self request stream timeout verify cert proxies",
    }
    assert expected == {name: parameters(getattr(HTTPAdapter, name)) for name in expected}


def test_requests_adapter_asks_urllib3_for_pools_by_scheme():
    class Pool(HTTPConnectionPool):
        pass

    adapter = HTTPAdapter()
    adapter.poolmanager.pool_classes_by_scheme = {"http": Pool}
    request = requests.Request("GET", "http://localhost:1/").prepare()
    assert isinstance(adapter.get_connection_with_tls_context(request, verify=True), Pool)


def test_requests_sends_a_request_that_was_not_prepared():
    """`PreparedRequest` begins with all that `send` reads besides what we fill in."""
    request = requests.PreparedRequest()
    assert {"response": []} == request.hooks
    assert {"method", "url", "headers", "_cookies", "body", "hooks", "_body_position"} == set(vars(request))


def test_requests_selects_proxies_as_ever():
    assert "http://proxy:1" == select_proxy("http://host.test/", {"http": "http://proxy:1"})


def test_requests_has_a_file_of_certificates():
    assert Path(DEFAULT_CA_BUNDLE_PATH).is_file()


def test_urllib3_connects_where_we_do():
    assert "3fee93ebcb0f53af" == digest_of(HTTPConnection._new_conn)
    assert "host.test." == HTTPConnection("host.test.")._dns_host
    assert HTTPConnection is HTTPConnectionPool.ConnectionCls
    assert parameters(HTTPConnection.putrequest).startswith("self method url")
    assert "self data" == parameters(HTTPConnection.send)
    assert "self" == parameters(HTTPConnection.getresponse)
    connection = HTTPConnection("host.test")
    assert connection.sock is None
    assert connection.socket_options


def test_urllib3_s_connections_work_without_a_pool():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = HTTPConnection(*listener.getsockname())
        before = connection.is_connected
        connection.connect()
        assert (False, True) == (before, connection.is_connected)
        assert connection.sock.getpeername() == listener.getsockname()
        connection.close()
    assert connection.sock is None


def test_urllib3_s_errors_hold_their_cause():
    cause = OSError("refused")
    assert cause is urllib3.exceptions.MaxRetryError(HTTPConnectionPool("host"), "/", cause).reason
    assert cause is urllib3.exceptions.ProxyError("text", cause).original_error
    assert cause in urllib3.exceptions.ProtocolError("text", cause).args


def test_urllib3_reads_what_has_arrived():
    response = urllib3.HTTPResponse(io.BytesIO(b"abc"), preload_content=False)
    assert b"ab" == response.read1(2)
    response.release_conn()


# docker-py


def test_docker_py_s_client_is_a_session_that_knows_its_version():
    assert docker.APIClient.send is requests.Session.send
    client = docker.APIClient("tcp://localhost:1", version="1.41", timeout=7)
    assert ("http://localhost:1", "1.41", 7) == (client.base_url, client.api_version, client.timeout)
    client.close()


def test_docker_py_raises_an_error_for_broken_streams():
    assert issubclass(StreamParseError, RuntimeError | docker.errors.DockerException)


# Flower and Tornado


def test_flower_is_made_as_its_command_makes_it():
    assert parameters(Flower.__init__).startswith("self options capp")
    assert parameters(Flower.start_http_server).startswith("self")
    assert {"login_url", "static_url_prefix"} <= set(flower_web_settings)
    assert {"basic_auth", "url_prefix", "tasks_columns", "max_tasks"} <= set(flower_options)


def test_flower_keeps_a_login_by_oauth_in_a_signed_cookie():
    assert "pattern email" == parameters(authenticate)
    assert authenticate("a@a.test|b@a.test", "b@a.test")
    assert validate_auth_option(".*@a.test")
    assert not validate_auth_option(".*@*")
    assert "self.get_secure_cookie('user')" in inspect.getsource(BaseHandler.get_current_user)
    assert "settings['oauth']" in inspect.getsource(extract_settings)
    names = {"auth", "auth_provider", "cookie_secret", "oauth2_key", "oauth2_secret", "oauth2_redirect_uri"}
    assert names <= set(flower_options)


def test_flower_s_pages_contain_the_module_that_we_style():
    pages = Path(inspect.getfile(Flower)).parent / "templates"
    assert "module Template(" in (pages / "tasks.html").read_text()
    assert issubclass(TemplateModule, UIModule)
    assert "self" == parameters(TemplateModule.embedded_css)
    assert 1 == (pages / "navbar.html").read_text().count('<ul class="app-nav navbar-nav">')
    assert all("navbar.html" in page.read_text() for page in pages.glob("*s.html"))


def test_flower_s_pages_are_under_its_login_as_ours_are():
    assert "self" == parameters(BaseHandler.get_current_user) == parameters(BaseHandler.check_xsrf_cookie)
    assert issubclass(TaskView, BaseHandler)
    assert issubclass(WorkerView, BaseHandler)
    for view in (TaskView, WorkerView):
        assert "read_only=self.application.options.read_only" in inspect.getsource(view)
    assert "self request kwargs" == parameters(Flower.find_handler)


# typer


def test_typer_reads_options_from_a_signature():
    def command(**arguments: Any) -> None:
        typer.echo(arguments["shown"])

    option = typer.Option("--shown")
    parameter = inspect.Parameter("shown", inspect.Parameter.KEYWORD_ONLY, default=option, annotation=str)
    command.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]  # what is tested
    app = typer.Typer()
    app.command()(command)
    assert ["shown"] == [option.name for option in typer.main.get_command(app).params][:1]


def test_typer_s_groups_and_errors_have_what_we_use():
    assert "self ctx formatter" == parameters(TyperGroup.format_commands)
    lazy = TyperGroup(commands={})
    one: Any = TyperCommand("one", callback=None)
    lazy.commands = MappingProxyType({"one": one})  # type: ignore[assignment]  # as stagefleet/cli/app.py
    context = lazy.make_context("root", [], resilient_parsing=True)
    assert (["one"], one) == (lazy.list_commands(context), lazy.get_command(context, "one"))
    error = typer.TyperException("text")
    assert ("text", 1) == (error.format_message(), error.exit_code)


def test_typer_returns_its_own_code_after_ctrl_c():
    app = typer.Typer()

    @app.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert 130 == typer.main.get_command(app)(args=[], standalone_mode=False)
