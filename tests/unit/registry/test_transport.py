import socket
import threading

from stagefleet.credentials import DockerConfig
from stagefleet.manifests import digest_of
from stagefleet.names import Repository
from stagefleet.registry.client import RegistryClient
from stagefleet.registry.http.origins import settings_of
from stagefleet.registry.http.transport import Transport
from stagefleet.settings import HttpSettings, RegistrySettings, Settings
from tests.unit.registry.scripted import RegistryResponse


def test_a_receiver_that_pauses_is_waited_for_as_long_as_for_an_answer(tmp_path):
    content = bytes(16 * 1024 * 1024)  # more than the sockets' buffers hold
    may_read = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def receive():
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as stream:
            while stream.readline() not in {b"\r\n", b""}:
                pass
            stream.write(b"HTTP/1.1 202 Accepted\r\nLocation: /upload\r\nContent-Length: 0\r\n\r\n")
            stream.flush()
            while stream.readline() not in {b"\r\n", b""}:
                pass
            may_read.wait(10)
            left = len(content)
            while left and (piece := stream.read(min(left, 1 << 20))):
                left -= len(piece)
            stream.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=receive)
    thread.start()
    http = HttpSettings(connect_timeout_seconds=0.05, read_timeout_seconds=10, retries=0)
    with (
        listener,
        RegistryClient(Settings(http=http), config=DockerConfig(tmp_path / "config.json")) as client,
    ):
        repository = Repository.parse(f"127.0.0.1:{listener.getsockname()[1]}/app")
        upload = client.begin_upload(repository, digest_of(content), mount_from=None)
        assert upload is not None
        threading.Timer(0.2, may_read.set).start()  # four times what connecting may take
        client.upload_bytes(upload, content)
    thread.join(10)

    assert not thread.is_alive()


def test_no_proxy_stands_before_this_machine(serve, client, repository_at, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    registry = serve(lambda _: RegistryResponse(body=b'{"tags": ["one"]}'))

    assert ["one"] == list(client.tags(repository_at(registry)))


def test_other_hosts_are_reached_through_the_proxy_of_the_environment(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy.example.com:3128")
    monkeypatch.setenv("no_proxy", "near.example.com")
    transport = Transport(Settings())

    def proxy(host):
        return transport._route(f"https://{host}/v2/").proxies.get("https")

    assert "http://proxy.example.com:3128" == proxy("far.example.com")
    assert proxy("near.example.com") is None


def test_the_settings_of_docker_hub_hold_where_its_api_is():
    ours = RegistrySettings(plain_http=True)
    settings = Settings(registries={"docker.io": ours})

    assert ours == settings_of("registry-1.docker.io", settings)
    assert RegistrySettings() == settings_of("registry.example.com", settings)
