"""A fleet that is watched: Redis and registries with logins, workers on two machines, Flower with a login."""

from __future__ import annotations

import base64
import json
import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scripts.demo.shell import Shell, ensure, uninterrupted
from tests.services import ImageMaker, RedisServer, RegistryFront, RegistryServer, Workers

__all__ = ["WatchedFleet"]

USER = "operator"
PURGE_SECONDS = 20
_MACHINES = ("machine-1", "machine-2")
_CONCURRENCY = 4
_STOP_SECONDS = 5
# A request is not repeated and a lease is short, so that each end of an attempt comes within seconds. What
# waits for the workers' start is not taken for lost: there would be two tasks of it.
_HASTE = f"""\
[runs]
backoff_seconds = 0.2
lease_seconds = 10
renewal_seconds = 1
republish_seconds = 60
[http]
retries = 0
connect_timeout_seconds = 2
write_timeout_seconds = 3
[flower]
port = 0
user = "{USER}"
purge_offline_workers_seconds = {PURGE_SECONDS}
"""


class WatchedFleet:
    """What is started is ended by a stack.

    Args:
        folder: For all files.
        stack: Ends everything.

    Attributes:
        shell: Where commands are run, and what they are told of the fleet.
        secrets: The passwords of the fleet, by what they are for; no page may show one.
        front: Answers for the source, and forwards to it.
        maker: Pushes images into the source.
        source: The repository that is copied from.
        destination: The repository that is copied to.
        flower_url: Where Flower listens.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.shell = Shell(folder / "home", stack)
        self.secrets = {name: secrets.token_urlsafe(24) for name in ("Redis", "the registries", "Flower")}
        registry, mirror = self._start_registry("source"), self._start_registry("mirror")
        self.front = stack.enter_context(RegistryFront(registry.host))
        self.maker = stack.enter_context(ImageMaker(registry))
        self.source, self.destination = f"{self.front.host}/app/stages", f"{mirror.host}/app/stages"
        login = base64.b64encode(f"{USER}:{self.secrets['the registries']}".encode()).decode()
        logins = {host: {"auth": login} for host in (self.front.host, mirror.host)}
        self.shell.write("config.json", json.dumps({"auths": logins}))
        self.shell.write("stagefleet.toml", _HASTE)
        self._redis_url = self._start_redis()
        self.shell.environment |= {
            "STAGEFLEET_REDIS_URL": self._redis_url,
            "STAGEFLEET_FLOWER__PASSWORD": self.secrets["Flower"],
        }
        self.shell.export(SRC=self.source, DST=self.destination)
        self._machines: dict[str, Workers] = {}
        self.flower_url = ""

    @property
    def workers(self) -> dict[str, list[str]]:
        """What the worker processes are called before the `@`, by machine."""
        return {name: [f"worker-{pid}" for pid in machine.pids] for name, machine in self._machines.items()}

    def start_flower(self) -> None:
        """Start Flower; returns when it listens."""
        flower = self.shell.start("stagefleet flower")
        self.flower_url = flower.wait_for('"url": ?"([^"]+)"')[1]

    def start_workers(self) -> None:
        """Start a worker on each machine; returns when all listen."""
        for name in _MACHINES:
            machine = Workers(
                self._redis_url,
                self._folder / name,
                concurrency=_CONCURRENCY,
                environment=self.shell.environment | {"STAGEFLEET_WORKER__NAME": name},
            )
            self._stack.callback(machine.stop, seconds=_STOP_SECONDS)
            with uninterrupted():
                machine.launch()
            self._machines[name] = machine
        for machine in self._machines.values():
            machine.wait_until_listening()

    def lose_machine(self) -> str:
        """Kill all of the first machine's worker at once; returns the machine's name."""
        name = _MACHINES[0]
        self._machines[name].kill_command()
        return name

    def follow(self, name: str, line: str, *, status: int = 0) -> list[dict[str, object]]:
        """Run a command that starts a run or follows one, to its end.

        Args:
            name: Of the file with what it prints.
            line: The command, with `--json`.
            status: The exit code that it should end with.

        Returns:
            The outcomes, with the run's id as `run`.
        """
        self.shell.run(f"{line} --json 2>/dev/null > {name}.jsonl; test $? = {status}")
        *outcomes, summary = map(json.loads, self.shell.read(f"{name}.jsonl").splitlines())
        ensure("the command says how the run ended", *([] if summary.get("run") else ["it does not"]))
        return [outcome | {"run": summary["run"]} for outcome in outcomes]

    def _start_registry(self, name: str) -> RegistryServer:
        registry = RegistryServer(self._folder / name, htpasswd={USER: self.secrets["the registries"]})
        self._stack.callback(registry.stop)
        with uninterrupted():
            return registry.start()

    def _start_redis(self) -> str:
        server = RedisServer(self._folder / "redis", append_only=True)
        self._stack.callback(server.stop)
        with uninterrupted():
            server.start()
        password = self.secrets["Redis"]
        rights = ("~stagefleet:*", "&*", "+@all", "-@dangerous", "+info", "+keys")
        client: Any = server.client()
        client.execute_command("ACL", "SETUSER", USER, "on", f">{password}", *rights)
        client.execute_command("ACL", "SETUSER", "default", "off")
        return f"redis://{USER}:{password}@{server.host}/0"
