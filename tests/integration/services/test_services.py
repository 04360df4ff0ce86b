from __future__ import annotations

import itertools
import socket

import pytest
import requests

from tests.services import (
    ImageMaker,
    RedisServer,
    RegistryServer,
    TcpProxy,
    push_image,
    push_index,
    stage_id_of,
)


def test_registry_takes_an_image_and_gives_it_back_byte_for_byte(registry):
    pushed = push_image(registry, "project/app", "one", layers=[b"a", b"b"], labels={"werf": "project"})
    with ImageMaker(registry) as maker:
        assert pushed.manifest == maker.manifest("project/app", "one")
        assert b"b" == maker.blob("project/app", pushed.layers[1])
        assert ["one"] == maker.tags("project/app")


def test_registry_is_empty_for_each_test(registry):
    with ImageMaker(registry) as maker:
        assert [] == maker.tags("project/app")
    assert [("GET", "/v2/project/app/tags/list", 404)] == registry.requests()


def test_registry_tells_each_request_with_method_path_and_status(registry):
    push_image(registry, "app", None, layers=[b"x"])
    seen = registry.requests()
    assert ["POST", "PUT", "POST", "PUT", "PUT"] == [request.method for request in seen]
    assert {201, 202} == {request.status for request in seen}
    registry.forget_requests()
    assert [] == registry.requests()


def test_maker_sends_a_blob_once_to_a_repository(registry):
    with ImageMaker(registry) as maker:
        for repository in ("one", "one", "two"):
            maker.push_blob(repository, b"content")
    assert ["POST", "PUT", "POST", "PUT"] == [request.method for request in registry.requests()]


def test_registry_keeps_port_and_content_over_a_stop(registry):
    host, pushed = registry.host, push_image(registry, "app", "one")
    registry.stop()
    with pytest.raises(requests.ConnectionError), ImageMaker(registry) as maker:
        maker.tags("app")
    registry.start()
    with ImageMaker(registry) as maker:
        assert (host, pushed.digest) == (registry.host, maker.digest("app", "one"))


def test_paused_registry_answers_once_it_is_resumed(registry):
    registry.pause()
    with registry.session() as session:
        with pytest.raises(requests.ReadTimeout):
            session.get(f"{registry.url}/v2/", timeout=0.05)
        registry.resume()
        assert 200 == session.get(f"{registry.url}/v2/", timeout=10).status_code


@pytest.mark.parametrize(("delete", "status"), [(True, 202), (False, 405)])
def test_registry_deletes_only_where_deletion_is_on(make_registry, delete, status):
    server = make_registry(delete=delete)
    pushed = push_image(server, "app", "one")
    answer = requests.delete(f"{server.url}/v2/app/manifests/{pushed.digest}", timeout=10)
    assert status == answer.status_code


def test_garbage_collection_removes_the_blobs_of_a_deleted_image(registry):
    pushed = push_image(registry, "app", "one")
    requests.delete(f"{registry.url}/v2/app/manifests/{pushed.digest}", timeout=10).raise_for_status()
    registry.collect_garbage()
    assert [] == [path for path in registry.root.rglob("data") if "blobs/sha256" in str(path)]


def test_registry_with_htpasswd_asks_for_the_password(make_registry):
    server = make_registry(htpasswd={"user": "password"})
    refused = requests.get(f"{server.url}/v2/", timeout=10)
    assert (401, 'Basic realm="tests"') == (refused.status_code, refused.headers["WWW-Authenticate"])
    push_image(server, "app", "one")


def test_registry_with_tokens_takes_those_of_its_token_server(make_registry, token_server):
    server = make_registry(token=token_server)
    refused = requests.get(f"{server.url}/v2/app/tags/list", timeout=10)
    assert token_server.realm in refused.headers["WWW-Authenticate"]
    push_image(server, "app", "one")
    scope = "repository:app:pull"
    answer = requests.get(
        token_server.realm, params={"service": token_server.service, "scope": scope}, timeout=10
    )
    headers = {"Authorization": f"Bearer {answer.json()['token']}"}
    read = requests.get(f"{server.url}/v2/app/tags/list", headers=headers, timeout=10)
    removed = requests.delete(f"{server.url}/v2/app/manifests/sha256:{'0' * 64}", headers=headers, timeout=10)
    assert (200, 401) == (read.status_code, removed.status_code)
    assert [(scope,)] == token_server.issued


def test_token_that_is_over_is_refused(make_registry, token_server):
    server = make_registry(token=token_server)
    token_server.lifetime_seconds = -1
    headers = {"Authorization": f"Bearer {token_server.mint(['repository:app:pull'])}"}
    assert 401 == requests.get(f"{server.url}/v2/app/tags/list", headers=headers, timeout=10).status_code


def test_token_server_refuses_a_wrong_password_and_knows_identity_tokens(make_token_server):
    tokens = make_token_server(users={"user": "password"})
    tokens.refresh_tokens["identity"] = "robot"
    assert 401 == requests.get(tokens.realm, timeout=10).status_code
    assert 401 == requests.get(tokens.realm, auth=("user", "wrong"), timeout=10).status_code
    assert 200 == requests.get(tokens.realm, auth=("user", "password"), timeout=10).status_code
    form = {"grant_type": "refresh_token", "refresh_token": "identity", "scope": "repository:app:pull"}
    assert "access_token" in requests.post(tokens.realm, data=form, timeout=10).json()
    assert ["user", "robot"] == [grant.account for grant in tokens.grants]


def test_tls_registry_is_trusted_with_its_authority_alone(make_registry, tls):
    server = make_registry(tls=tls)
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{server.url}/v2/", timeout=10)
    port = server.host.rpartition(":")[2]
    for name in ("127.0.0.1", "localhost"):
        answer = requests.get(f"https://{name}:{port}/v2/", verify=str(tls.ca_file), timeout=10)
        assert 200 == answer.status_code


def test_tls_registry_can_ask_for_a_client_certificate(make_registry, tls):
    server = make_registry(tls=tls, client_certificates=True)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{server.url}/v2/", verify=str(tls.ca_file), timeout=10)
    push_image(server, "app", "one")


def test_index_names_its_members(registry):
    members = [
        push_image(registry, "app", None, platform={"os": "linux", "architecture": name}, oci=True)
        for name in ("amd64", "arm64")
    ]
    index = push_index(registry, "app", stage_id_of("multi", None), members)
    with ImageMaker(registry) as maker:
        assert index.manifest == maker.manifest("app", stage_id_of("multi", None))
    assert [one.digest for one in members] == [one["digest"] for one in index.document["manifests"]]


def test_redis_is_empty_for_each_test_part_one(redis_server):
    with redis_server.client() as client:
        assert 0 == client.dbsize()
        client.set("key", "value")


def test_redis_is_empty_for_each_test_part_two(redis_server):
    with redis_server.client() as client:
        assert 0 == client.dbsize()
        client.set("key", "value")


@pytest.mark.parametrize(("append_only", "left"), [(True, b"value"), (False, None)])
def test_redis_keeps_its_content_over_a_kill_only_where_it_was_asked_to(make_redis, append_only, left):
    server = make_redis(append_only=append_only)
    port = server.port
    with server.client() as client:
        client.set("key", "value")
    server.kill()
    server.start()
    with server.client() as client:
        assert (port, left) == (server.port, client.get("key"))


def test_redis_answers_on_its_unix_socket(redis_server):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(redis_server.socket_url.removeprefix("unix://").partition("?")[0])
        connection.sendall(b"PING\r\n")
        assert b"+PONG\r\n" == connection.recv(16)


@pytest.mark.parametrize("kind", [RedisServer, RegistryServer])
def test_server_whose_port_is_taken_meanwhile_takes_another(tmp_path, cleanup, kind):
    server = kind(tmp_path)
    taken = server.host
    with socket.create_server(("127.0.0.1", int(taken.rpartition(":")[2]))):
        cleanup.callback(server.stop)
        server.start()
        assert taken != server.host
        with socket.create_connection(("127.0.0.1", int(server.host.rpartition(":")[2])), timeout=10):
            pass


def test_proxy_adds_half_of_its_latency_to_each_direction(registry):
    proxy = TcpProxy(registry.host, latency_seconds=0.04)
    assert 0.02 == proxy.delay_seconds
    with proxy:
        answer = requests.get(f"http://{proxy.host}/v2/", timeout=10)
        assert (200, True) == (answer.status_code, answer.elapsed.total_seconds() >= 0.04)


def test_proxy_cuts_the_connections_that_are_open(redis_server, make_proxy):
    proxy = make_proxy(redis_server.host)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
        connection.sendall(b"PING\r\n")
        assert b"+PONG\r\n" == connection.recv(16)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(16)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
        connection.sendall(b"PING\r\n")
        assert b"+PONG\r\n" == connection.recv(16)


def test_proxy_swallows_what_is_sent_and_gives_it_back_later(redis_server, make_proxy):
    proxy = make_proxy(redis_server.host)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.05) as connection:
        proxy.blackhole(on=True)
        connection.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(16)
        proxy.blackhole(on=False)
        connection.settimeout(10)
        assert b"+PONG\r\n" == connection.recv(16)


def test_proxy_cuts_at_the_byte(registry, make_proxy):
    content = bytes(1_000_000)
    digest = push_image(registry, "app", "one", layers=[content]).layers[0]
    proxy = make_proxy(registry.host)
    proxy.cut_after(300_000)
    arrived = bytearray()
    answer = requests.get(f"http://{proxy.host}/v2/app/blobs/{digest}", stream=True, timeout=10)
    with answer, pytest.raises(requests.RequestException):
        arrived.extend(itertools.chain.from_iterable(answer.iter_content(65536)))
    assert len(arrived) < 300_000
    again = requests.get(f"http://{proxy.host}/v2/app/blobs/{digest}", timeout=10)
    assert content == again.content


def test_way_out_of_this_machine_is_blocked():
    with pytest.warns(UserWarning, match="connect"), pytest.raises(RuntimeError, match="connect"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
