"""A fleet under fire: real registries, a Redis that keeps what it holds, real workers, the real command."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from queue import Queue
from threading import Thread

import pytest

from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import HttpSettings, RunSettings, Settings
from tests.services import (
    ImageMaker,
    RegistryServer,
    clean_environment,
    setting_variables,
    stage_id_of,
    stagefleet_command,
)

LIMIT_SECONDS = 40.0
STAGES = 120
SETTINGS = Settings(
    # A manifest is put only while its lease outlasts the time-outs of a write.
    http=HttpSettings(connect_timeout_seconds=1, write_timeout_seconds=1),
    runs=RunSettings(lease_seconds=4, renewal_seconds=1, sweep_seconds=0.5, republish_seconds=2),
)


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until something holds; the wait has an end, and says what it waited for."""
    give_up_at = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {LIMIT_SECONDS:.0f} s: {what}"
        time.sleep(0.02)


class Command:
    """A `stagefleet` command under way, with JSON on stdout.

    Both streams are read by threads: what `readline` has buffered, `communicate` would lose.
    """

    def __init__(self, environment: dict[str, str], cwd: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            stagefleet_command(*arguments),
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.objects: list[dict[str, object]] = []
        self.errors = ""
        self._lines: Queue[str] = Queue()
        self._readers = [Thread(target=reader, daemon=True) for reader in (self._read_out, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read_out(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.errors += line

    def read(self, count: int, *, seconds: float = LIMIT_SECONDS) -> None:
        """Wait for that many more objects, and so long at most for each."""
        for _ in range(count):
            line = self._lines.get(timeout=seconds)
            assert line, f"it ended early: {self.errors}"
            self.objects.append(json.loads(line))

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        code = self._process.wait(timeout=LIMIT_SECONDS)
        for reader in self._readers:
            reader.join(LIMIT_SECONDS)
        while line := self._lines.get(timeout=LIMIT_SECONDS):
            self.objects.append(json.loads(line))
        return code

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(LIMIT_SECONDS)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture(scope="module")
def source(service_folder):
    """A repository with stages, and the digest of each by its stage id; nobody writes to it."""
    server = RegistryServer(service_folder("registry")).start()
    digests = {}
    with ImageMaker(server) as maker:
        image = maker.push_image("source/app", None, layers=[b"shared"])
        document = json.loads(image.manifest)
        for number in range(STAGES):
            own = f"own {number}".encode() * 1000
            layer = {**document["layers"][0], "size": len(own), "digest": maker.push_blob("source/app", own)}
            manifest = json.dumps({**document, "layers": [*document["layers"], layer]}).encode()
            stage_id = stage_id_of(f"stage {number}", 1_700_000_000_000 + number)
            digests[stage_id] = maker.push_manifest("source/app", stage_id, manifest, image.media_type)
    yield f"{server.host}/source/app", digests
    server.stop()


@pytest.fixture
def destination(registry):
    """An empty repository, and a look at the digest of each of its tags."""

    def digests():
        with ImageMaker(registry) as maker:
            return {tag: maker.digest("destination/app", tag) for tag in maker.tags("destination/app")}

    return f"{registry.host}/destination/app", digests


@pytest.fixture
def redis_server(make_redis):
    """One of the test's own, which survives its restart."""
    return make_redis(append_only=True)


@pytest.fixture
def environment(redis_server, tmp_path):
    """Nothing of the user's; short leases, so that what is lost comes back within seconds."""
    return clean_environment(
        HOME=str(tmp_path),
        DOCKER_CONFIG=str(tmp_path),
        STAGEFLEET_REDIS_URL=redis_server.url,
        **setting_variables(SETTINGS, "http", "runs"),
    )


@pytest.fixture
def workers(make_workers, redis_server, environment):
    """Two `stagefleet worker`, as on two machines."""
    return make_workers(redis_server.url, commands=2, environment=environment)


@pytest.fixture
def start(environment, tmp_path, cleanup):
    """Starts a command; what a test leaves running is killed."""

    def start(*arguments):
        command = Command(environment, str(tmp_path), *arguments, "--json")
        cleanup.callback(command.close)
        return command

    return start


@pytest.fixture
def show(start):
    """What `stagefleet runs show` says of a run."""

    def show(run):
        command = start("runs", "show", run)
        assert 0 == command.wait(), command.errors
        return command.objects[0]

    return show


@pytest.fixture
def ledger(redis_server, cleanup):
    ledger = RedisLedger.connect(redis_server.url, SETTINGS)
    cleanup.callback(ledger.close)
    return ledger
