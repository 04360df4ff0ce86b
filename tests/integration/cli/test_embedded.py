"""The embedded fleet's processes: started, watched, and gone whatever ends the client."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

import stagefleet.embedded as embedded_module
from stagefleet.embedded import EmbeddedFleet
from stagefleet.errors import UnreachableError
from stagefleet.setting_types import FlowerSettings, WebhookSettings
from stagefleet.settings import RunSettings, Settings, WorkerSettings

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux to wait for processes")

WAIT_SECONDS = 20
# Stands in for a worker: tells who and where it is, and stays.
STAND_IN = """
import json, os, signal, sys, time
facts = {"worker": os.getpid(), "supervisor": os.getppid(), "arguments": sys.argv[1:], "environment": {
    name: value for name, value in os.environ.items() if name.startswith("STAGEFLEET_")}}
with open(os.environ["FACTS"], "w") as fifo:
    json.dump(facts, fifo)
time.sleep(600)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(2, signal.SIG_IGN)\n"
CLIENT = """
import sys, time
import stagefleet.embedded as module
from stagefleet.settings import Settings
from stagefleet.setting_types import FlowerSettings, WebhookSettings
module.worker_command = lambda *options: [sys.executable, "-c", sys.argv[1]]
embedded = module.EmbeddedFleet(Settings())
print(embedded.start(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def facts(tmp_path, monkeypatch):
    """A named pipe on which the worker's stand-in tells of itself: reading it waits for the worker."""
    fifo = tmp_path / "facts"
    os.mkfifo(fifo)
    monkeypatch.setenv("FACTS", str(fifo))
    return lambda: json.loads(fifo.read_text())


@pytest.fixture
def use_worker(monkeypatch):
    def use(code):
        monkeypatch.setattr(
            embedded_module, "worker_command", lambda *options: [sys.executable, "-c", code, *options]
        )

    use(STAND_IN)
    return use


@pytest.fixture
def make_embedded():
    made = []

    def make(**settings):
        embedded = EmbeddedFleet(Settings(**settings))
        made.append(embedded)
        return embedded

    yield make
    for embedded in made:
        embedded.stop()


def watch(*pids):
    return [os.pidfd_open(pid) for pid in pids]


def await_ends(descriptors):
    for descriptor in descriptors:
        ended, _, _ = select.select([descriptor], [], [], WAIT_SECONDS)
        os.close(descriptor)
        assert ended, "a process goes on"


def server_of(url):
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def directory_of(url):
    return Path(url.removeprefix("unix://")).parent


def test_valkey_is_private_and_forgets_nothing_while_it_runs(use_worker, facts, make_embedded):
    url = make_embedded().start()
    facts()
    assert 0o700 == directory_of(url).stat().st_mode & 0o777
    with redis.Redis.from_url(url) as client:
        assert "0" == client.config_get("port")["port"]
        assert "noeviction" == client.config_get("maxmemory-policy")["maxmemory-policy"]
        assert ("", "no") == (
            client.config_get("save")["save"],
            client.config_get("appendonly")["appendonly"],
        )


def test_the_worker_has_the_clients_settings_and_no_others(use_worker, facts, make_embedded, monkeypatch):
    monkeypatch.setenv("STAGEFLEET_WORKER__DRAIN_SECONDS", "99")
    monkeypatch.setenv("STAGEFLEET_REDIS_URL", "redis://elsewhere.test:6379/0")
    embedded = make_embedded(worker=WorkerSettings(processes=2), runs=RunSettings(parallel=30))
    url = embedded.start()
    told = facts()
    assert {"STAGEFLEET_CONFIG"} == told["environment"].keys()
    found = json.loads(Path(told["environment"]["STAGEFLEET_CONFIG"]).read_text())
    assert url == found["redis_url"]
    assert 20 == found["worker"]["drain_seconds"]
    assert ["--processes", "2", "--concurrency", "15"] == told["arguments"]


def test_no_process_has_a_secret_in_its_environment_or_command(use_worker, facts, make_embedded, monkeypatch):
    """R15, R16: a file alone carries them, and Valkey gets nothing of the user's own environment either."""
    planted = ["whsec_" + base64.b64encode(b"planted webhook secret, 32 bytes").decode(), "planted-password"]
    monkeypatch.setenv("STAGEFLEET_WEBHOOKS__SECRET", planted[0])
    monkeypatch.setenv("HTTPS_PROXY", "http://me:planted-password@proxy.test:3128")
    webhooks = WebhookSettings(secret=SecretStr(planted[0]))
    flower = FlowerSettings(user="me", password=SecretStr(planted[1]))
    url = make_embedded(webhooks=webhooks, flower=flower).start()
    told = facts()
    assert planted[0] in Path(told["environment"]["STAGEFLEET_CONFIG"]).read_text()
    shown = {
        (name, what): Path(f"/proc/{pid}/{what}").read_text()
        for name, pid in (
            ("worker", told["worker"]),
            ("supervisor", told["supervisor"]),
            ("valkey", server_of(url)),
        )
        for what in ("cmdline", "environ")
    }
    assert [] == [where for where, text in shown.items() if planted[0] in text]
    # the worker goes through the user's own proxy, and has it from the supervisor
    assert {("worker", "environ"), ("supervisor", "environ")} == {
        where for where, text in shown.items() if planted[1] in text
    }


def test_stopping_leaves_neither_process_nor_directory(use_worker, facts, make_embedded):
    embedded = make_embedded()
    url = embedded.start()
    told = facts()
    ends = watch(told["worker"], told["supervisor"], server_of(url))
    embedded.stop()
    await_ends(ends)
    assert not directory_of(url).exists()


def test_an_end_at_once_does_not_wait_for_the_worker(use_worker, facts, make_embedded):
    use_worker(STUBBORN + STAND_IN)
    embedded = make_embedded()
    url = embedded.start()
    told = facts()
    ends = watch(told["worker"], told["supervisor"], server_of(url))
    began_at = time.monotonic()
    embedded.kill()
    assert time.monotonic() - began_at < 2.5  # the supervisor waits for a worker for 3 s
    await_ends(ends)
    assert not directory_of(url).exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_client_that_is_killed_leaves_nothing_behind(facts, number):
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, STUBBORN + STAND_IN], stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    url = client.stdout.readline().strip()
    told = facts()
    ends = watch(told["worker"], told["supervisor"], server_of(url))
    client.send_signal(number)
    client.communicate()
    await_ends(ends)
    assert not directory_of(url).exists()


def test_what_killed_processes_left_is_removed_by_the_next_command(use_worker, facts, make_embedded):
    """R55, R15: where client and supervisor are killed together, the settings file stays no longer than
    that."""
    client = subprocess.Popen([sys.executable, "-c", CLIENT, STAND_IN], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    left = directory_of(client.stdout.readline().strip())
    told = facts()
    living = make_embedded()
    living_url = living.start()
    ends = watch(told["worker"], told["supervisor"])
    for pid in (client.pid, told["supervisor"]):
        os.kill(pid, signal.SIGSTOP)
    for pid in (client.pid, told["supervisor"]):
        os.kill(pid, signal.SIGKILL)
    client.communicate()
    await_ends(ends)
    assert left.exists()
    make_embedded().start()
    assert not left.exists()
    assert directory_of(living_url).exists()


def test_a_supervisor_that_is_killed_takes_its_processes_along(use_worker, facts, make_embedded):
    """R55: neither a process nor the folder stays."""
    embedded = make_embedded()
    url = embedded.start()
    told = facts()
    ends = watch(told["worker"], server_of(url))
    os.kill(told["supervisor"], signal.SIGKILL)
    await_ends(ends)
    embedded.stop()
    assert not directory_of(url).exists()


@pytest.mark.parametrize("victim", ["worker", "valkey"])
def test_the_end_of_a_part_is_noticed_and_said(use_worker, facts, make_embedded, victim):
    embedded = make_embedded()
    url = embedded.start()
    told = facts()
    ends = watch(told["supervisor"])
    os.kill(told["worker"] if victim == "worker" else server_of(url), signal.SIGKILL)
    await_ends(ends)
    with pytest.raises(UnreachableError, match=f"{victim if victim == 'worker' else 'Valkey'} ended"):
        embedded.check()


def test_a_worker_that_fails_at_its_start_is_quoted(use_worker, make_embedded):
    use_worker("import sys; sys.stdin.read(); sys.exit('no such thing as a worker')")
    embedded = make_embedded()
    embedded.start()
    await_ends(watch(embedded._supervisor.pid))
    with pytest.raises(UnreachableError, match="no such thing as a worker"):
        embedded.check()


def test_a_long_temporary_directory_is_not_used_for_the_socket(
    use_worker, facts, make_embedded, monkeypatch, tmp_path
):
    long_directory = tmp_path / ("d" * 90)
    long_directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long_directory))
    url = make_embedded().start()
    facts()
    assert len(url.removeprefix("unix://")) < 104
    assert [] == list(long_directory.iterdir())
