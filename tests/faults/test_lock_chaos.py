"""Locks of processes that freeze, over links that are cut or swallow all, on a Redis that loses scripts."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stagefleet.locks import RedisLocks
from stagefleet.settings import LockSettings
from tests.contract.lock_history import Tenure, find_faults
from tests.services.proxy import TcpProxy

SCRIPT = Path(__file__).with_name("lock_client.py")
ROOT = SCRIPT.parents[2]
CLIENTS = 5
SECONDS = 30
SETTINGS = LockSettings(lease_seconds=1.5, renewal_seconds=0.4, wait_seconds=8)


@pytest.fixture
def links(redis_server, cleanup):
    made = [TcpProxy(redis_server.host).start() for _ in range(CLIENTS)]
    for link in made:
        cleanup.callback(link.stop)
    return made


@pytest.fixture
def clients(links, cleanup):
    made = []
    for number, link in enumerate(links):
        url = f"redis://{link.host}/0"
        arguments = [url, f"client {number}", str(SECONDS), SETTINGS.model_dump_json()]
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        cleanup.callback(process.stdout.close)
        cleanup.callback(process.wait, 10)
        cleanup.callback(process.kill)
        assert process.stdout.readline() == "ready\n"
        made.append(process)
    return made


class Chaos:
    """What befalls clients; `done` counts it."""

    def __init__(self, redis_server, clients, links):
        self.redis = redis_server.client()
        self.clients, self.links = clients, links
        self.locks = RedisLocks(redis_server.client(), prefix="chaos:", settings=SETTINGS)
        self.done = dict.fromkeys(("freeze", "freeze_holder", "cut", "blackhole", "flush", "kill"), 0)
        self._next: list[str] = []
        self._draw = random.Random(1)
        self._pause = threading.Event()

    def strike(self):
        if not self._next:
            self._next = [*self.done, "freeze_holder"]
            self._draw.shuffle(self._next)
        what = self._next.pop()
        getattr(self, what)()
        self.done[what] += 1
        self._pause.wait(self._draw.uniform(0.02, 0.3))

    def freeze(self):
        self._freeze(self._draw.choice(self.clients), self._draw.choice([0.1, 0.5]))

    def freeze_holder(self):
        """Freeze a client beyond its lease while it holds a lock."""
        labels = [holder.label for info in self.locks.locks() for holder in info.holders]
        for client in self.clients:
            if any(label.endswith(f":{client.pid}") for label in labels):
                self._freeze(client, SETTINGS.lease_seconds * 1.3)
                return

    def _freeze(self, client, seconds):
        client.send_signal(signal.SIGSTOP)
        self._pause.wait(seconds)
        client.send_signal(signal.SIGCONT)

    def cut(self):
        self._draw.choice(self.links).cut()

    def blackhole(self):
        link = self._draw.choice(self.links)
        link.blackhole(on=True)
        self._pause.wait(self._draw.choice([0.2, SETTINGS.lease_seconds * 1.3]))
        link.blackhole(on=False)

    def flush(self):
        self.redis.script_flush()

    def kill(self):
        self.redis.client_kill_filter(_type=self._draw.choice(["normal", "pubsub"]), skipme=True)


def test_no_fault_is_seen_whatever_befalls_the_clients(redis_server, clients, links):
    chaos = Chaos(redis_server, clients, links)
    told: list[str] = []
    readers = [
        threading.Thread(target=lambda client=client: told.append(client.stdout.read()), daemon=True)
        for client in clients
    ]
    for reader in readers:
        reader.start()
    while all(client.poll() is None for client in clients):
        chaos.strike()
    for reader in readers:
        reader.join(60)

    tenures = [Tenure(**tenure) for text in told for tenure in json.loads(text)]
    assert CLIENTS == len(told)
    assert [] == find_faults(tenures, lease_seconds=SETTINGS.lease_seconds)
    assert all(chaos.done.values()), f"not all happened: {chaos.done}"
    assert sum(bool(tenure.sure) for tenure in tenures) > 100
    assert any(tenure.is_lost for tenure in tenures), "no lease was lost: it proves less than it should"
    assert sum(tenure.queued_at is not None for tenure in tenures) > 20
