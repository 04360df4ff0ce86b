"""The fleet of the demo: two machines, each a worker with a Docker Engine of its own, and Flower."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

import requests
from docker.errors import APIError

from scripts.demo.shell import Shell, tell, uninterrupted
from tests.services import (
    DockerEngine,
    RedisServer,
    ServiceMissingError,
    ServiceStartError,
    Workers,
    archive_of,
)
from tests.services.processes import wait_until

__all__ = ["LEASE_SECONDS", "MACHINES", "DemoFleet"]

MACHINES = ("one", "two")
LEASE_SECONDS = 10
_CONCURRENCY = 4
# A lost worker's stages go to another one when its lease is over: 30 s by default, long for a demo. A write
# to a registry, with the connection that it may need, has to fit into what is left of the lease.
_HASTE = f"""\
[runs]
lease_seconds = {LEASE_SECONDS}
renewal_seconds = 2
[http]
connect_timeout_seconds = 2
write_timeout_seconds = 3
"""
_WORKER = f"stagefleet worker --processes 1 --concurrency {_CONCURRENCY}"
_STOP_SECONDS = 5
_PAGE_SECONDS = 10
_FLOWER_SECONDS = 30
_REASON_LENGTH = 120


class DemoFleet:
    """What is started is ended by a stack.

    Args:
        shell: Where commands are shown, and what they are told of the fleet.
        stack: Ends everything.

    Attributes:
        engines: By machine; none where Docker Engines cannot be started.
        missing: Why there are none.
        redis_url: Where the fleet meets.
        flower_url: Where it is watched.
    """

    def __init__(self, shell: Shell, stack: ExitStack) -> None:
        self._shell, self._stack = shell, stack
        self.engines: dict[str, DockerEngine] = {}
        self.missing = ""
        self._machines: list[Workers] = []
        redis = RedisServer(shell.folder / "redis", append_only=True)
        stack.callback(redis.stop)
        with uninterrupted():
            self.redis_url = redis.start().url
        self.flower_url = ""

    @property
    def pids(self) -> list[int]:
        """The worker processes."""
        return [pid for machine in self._machines for pid in machine.pids]

    def start_engines(self) -> None:
        """Start an engine for each machine, or note why that cannot be done here."""
        with ExitStack() as attempt:
            try:
                for name in MACHINES:
                    engine = DockerEngine(self._shell.folder / name)
                    attempt.callback(engine.stop)
                    with uninterrupted():
                        engine.start()
                    _try_out(engine)
                    self.engines[name] = engine
            except (ServiceMissingError, ServiceStartError) as error:
                self.missing = str(error).splitlines()[-1][:_REASON_LENGTH]
                self.engines.clear()
            else:
                self._stack.push(attempt.pop_all())

    def start_workers(self) -> None:
        """Start a worker on each machine, and Flower; returns when they know of each other."""
        self._shell.write("stagefleet.toml", _HASTE)
        for name in MACHINES:
            variables = {}
            if name in self.engines:
                # The engine's folder is in that of the shell: a path that fits into the line.
                address = f"unix://$PWD/{name}/docker.sock"
                variables = {"STAGEFLEET_ENGINE__HOST": name, "STAGEFLEET_ENGINE__URL": address}
            tell(" ".join(["$", *(f"{key}={text}" for key, text in variables.items()), _WORKER, "&"]))
            machine = Workers(
                self.redis_url,
                self._shell.folder / f"workers-{name}",
                concurrency=_CONCURRENCY,
                environment=self._shell.environment
                | {key: text.replace("$PWD", str(self._shell.folder)) for key, text in variables.items()},
            )
            self._stack.callback(machine.stop, seconds=_STOP_SECONDS)
            with uninterrupted():
                machine.launch()
            self._machines.append(machine)
        flower = self._shell.start("stagefleet flower --port 0")
        for machine in self._machines:
            machine.wait_until_listening()
        self.flower_url = flower.wait_for('"url": ?"([^"]+)"')[1]

    def await_flower(self, *, killed: int | None = None) -> list[str]:
        """Wait until Flower shows these workers online, the killed one offline, and no others.

        Returns:
            What it shows instead; [] if it shows that.
        """

        def problems() -> list[str]:
            expected = dict.fromkeys(self.pids, True) | ({} if killed is None else {killed: False})
            shown = {name: worker["status"] for name, worker in self._shown_by_flower().items()}
            wanted = {f"worker-{pid}": is_online for pid, is_online in expected.items()}
            return [] if shown == wanted else [f"Flower shows {shown} and should show {wanted}"]

        with suppress(TimeoutError):
            wait_until(lambda: not problems(), "Flower shows what is there", seconds=_FLOWER_SECONDS)
        return problems()

    def tasks_in_flower(self) -> int:
        """How many tasks Flower has seen succeed; what a killed worker had not told yet went with it."""
        return sum(int(worker.get("task-succeeded", 0)) for worker in self._shown_by_flower().values())

    def _shown_by_flower(self) -> Mapping[str, Mapping[str, Any]]:
        page = requests.get(f"{self.flower_url}/workers", {"json": 1}, timeout=_PAGE_SECONDS)
        return {worker["hostname"].partition("@")[0]: worker for worker in page.json()["data"]}


def _try_out(engine: DockerEngine) -> None:
    """Let an engine unpack a layer: it starts also where it may not, as in most containers.

    Raises:
        ServiceStartError: It cannot.
    """
    try:
        engine.client().api.import_image_from_data(archive_of({"probe": b""}), repository="probe", tag="1")
    except APIError as error:
        raise ServiceStartError(str(error.explanation)) from error
    engine.renew()
