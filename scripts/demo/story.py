"""What the demo shows, in the order in which it shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import requests

from scripts.demo.corpus import CUSTOM_TAG, STAGES, Corpus, differences
from scripts.demo.shell import Shell, claim, tell
from stagefleet import Fleet
from tests.services import ImageMaker, Program, RedisServer, RegistryServer, Workers
from tests.services.processes import wait_until

__all__ = ["Story"]

_SOURCE, _MIRROR, _SECOND = "app/stages", "mirror/stages", "second/stages"
_DELETED = 3
_WORKERS = 2
_CONCURRENCY = 4
_LEASE_SECONDS = 10
# A lost worker's stages go to another one when its lease is over: 30 s by default, long for a demo. A write
# to a registry, with the connection that it may need, has to fit into what is left of the lease.
_HASTE = f"""\
[runs]
lease_seconds = {_LEASE_SECONDS}
renewal_seconds = 2
[http]
connect_timeout_seconds = 2
write_timeout_seconds = 3
"""
_STOP_SECONDS = 5
_PAGE_SECONDS = 10
_FLOWER_SECONDS = 30


class Story:
    """The services of the demo, and its chapters.

    Args:
        folder: For all files.
        stack: Ends everything that a chapter started.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._shell = Shell(folder / "home", stack)
        self._corpus = Corpus(_SOURCE)
        self._deleted: list[str] = []

    def tell(self) -> None:
        """Tell all of it.

        Raises:
            ClaimError: Something is not as it should be.
        """
        self._build()
        self._copy_alone()
        self._delete()
        self._start_fleet()
        self._copy_with_fleet()

    def explain_use(self) -> None:
        """Say how to go on by hand, while everything is up."""
        tell("")
        tell("KEEP: everything stays up. In another terminal, in this checkout:")
        shown = ("SRC", "DST", "DST2", "STAGEFLEET_REDIS_URL")
        tell(f"  export {' '.join(f'{name}={self._shell.environment[name]}' for name in shown)}")
        tell("  .venv/bin/stagefleet runs list     # or: doctor $SRC $DST, copy $SRC $DST2 --verify")
        tell(f"  Flower: {self._flower_url}")

    def _build(self) -> None:
        servers = []
        for name in ("source", "mirror"):
            server = RegistryServer(self._folder / name)
            self._stack.callback(server.stop)
            servers.append(server.start())
        source, mirror = servers
        self._source = self._stack.enter_context(ImageMaker(source))
        self._mirror = self._stack.enter_context(ImageMaker(mirror))
        self._corpus.push(self._source)
        tell(
            f"Two registries; in the first {len(self._corpus.digests)} stages that share layers, "
            f"one for two platforms, one with a custom tag as well, {CUSTOM_TAG}."
        )

    def _copy_alone(self) -> None:
        tell("\n# Nothing else is set up: one command mirrors them.")
        self._shell.export(SRC=f"{self._source.host}/{_SOURCE}", DST=f"{self._mirror.host}/{_MIRROR}")
        self._shell.run("stagefleet copy $SRC $DST")
        claim(
            "every stage is there, with the digest and all the bytes of the source",
            *differences(self._mirror, _MIRROR, self._corpus.digests),
        )
        self._shell.run("stagefleet copy $SRC $DST 2>/dev/null")
        self._shell.run("stagefleet list -l $DST | tail -1")

    def _delete(self) -> None:
        tell(
            f"\n# The first {_DELETED} stages go from the source; {CUSTOM_TAG} is another tag of one of them."
        )
        self._shell.run(f"stagefleet list $SRC | head -{_DELETED} > old.txt")
        self._deleted = self._shell.read("old.txt").split()
        self._shell.run("stagefleet delete $SRC --from-file old.txt 2>/dev/null")
        custom = {CUSTOM_TAG: self._corpus.digests[self._corpus.tagged]}
        problems = differences(self._source, _SOURCE, self._corpus.without(self._deleted) | custom)
        if len(self._deleted) != _DELETED or self._corpus.tagged not in self._deleted:
            problems.append("other stages were named than meant")
        claim(f"those are gone and nothing else; {CUSTOM_TAG} still has its digest and content", *problems)

    def _start_fleet(self) -> None:
        tell(
            f"\n# A fleet: {_WORKERS} workers, and Flower to watch them. "
            f"A lost worker's stages go to others after {_LEASE_SECONDS} s, instead of 30."
        )
        redis = RedisServer(self._folder / "redis", append_only=True)
        self._stack.callback(redis.stop)
        self._redis_url = redis.start().url
        second = f"{self._mirror.host}/{_SECOND}"
        self._shell.export(STAGEFLEET_REDIS_URL=self._redis_url, DST2=second)
        self._shell.write("stagefleet.toml", _HASTE)
        self._workers = Workers(
            self._redis_url,
            self._folder / "workers",
            commands=_WORKERS,
            concurrency=_CONCURRENCY,
            environment=self._shell.environment,
        )
        self._stack.callback(self._workers.stop, seconds=_STOP_SECONDS)
        flower = self._shell.start("python -I -m config.flower --port 0")
        for _ in range(_WORKERS):
            tell(f"$ stagefleet worker --processes 1 --concurrency {_CONCURRENCY} &")
        self._workers.start()
        self._flower_url = flower.wait_for('"url": ?"([^"]+)"')[1]
        tell(f"  Flower: {self._flower_url}")
        # It listens before it hears the workers, and would not know one that is killed before that.
        problems = self._await_flower(dict.fromkeys(self._workers.pids, True))
        claim("Flower shows the workers", *problems)

    def _copy_with_fleet(self) -> None:
        tell("\n# The fleet mirrors to a second place, and a worker is killed in the middle.")
        command = self._shell.start("stagefleet copy $SRC $DST2 --json > outcomes.jsonl")
        self._await_middle(command)
        killed = self._workers.pids[0]
        self._shell.run(f"kill -9 {killed}")
        self._shell.finish(command)
        outcomes = [json.loads(line) for line in self._shell.read("outcomes.jsonl").splitlines()][:-1]
        again = sum(outcome["attempts"] > 1 for outcome in outcomes)
        expected = self._corpus.without(self._deleted)
        problems = [] if again else ["the killed worker held none"]
        if sorted(expected) != sorted(outcome["item"] for outcome in outcomes):
            problems.append("not every stage has one outcome")
        claim(f"one outcome a stage; {again} that the killed worker held were done by others", *problems)
        claim(
            f"all {len(expected)} stages are there, with the digest and all the bytes of the source",
            *differences(self._mirror, _SECOND, expected),
        )
        self._shell.run("stagefleet runs list")
        self._look_at_flower(killed)

    def _await_middle(self, command: Program) -> None:
        with Fleet.connect(self._redis_url) as fleet:

            def is_in_the_middle() -> bool:
                return not command.alive or any(run.succeeded >= STAGES // 4 for run in fleet.runs())

            wait_until(is_in_the_middle, "a quarter of the stages is copied", seconds=60)

    def _look_at_flower(self, killed: int) -> None:
        """Flower knows what workers told it; what the killed one had not sent yet went with it."""
        problems = self._await_flower({killed: False} | dict.fromkeys(self._workers.pids, True))
        tasks = sum(worker.get("task-succeeded", 0) for worker in self._workers_in_flower().values())
        claim(
            f"Flower shows {tasks} tasks done, worker {killed} offline, "
            f"and {len(self._workers.pids)} online: its supervisor started another",
            *problems,
        )

    def _await_flower(self, expected: Mapping[int, bool]) -> list[str]:
        """Wait until Flower shows these worker processes, online or not; returns what it shows instead."""

        def problems() -> list[str]:
            shown = {name: worker["status"] for name, worker in self._workers_in_flower().items()}
            wanted = {f"worker-{pid}": is_online for pid, is_online in expected.items()}
            return [] if shown == wanted else [f"it shows {shown} and should show {wanted}"]

        with suppress(TimeoutError):
            wait_until(lambda: not problems(), "Flower shows what is there", seconds=_FLOWER_SECONDS)
        return problems()

    def _workers_in_flower(self) -> dict[str, dict[str, Any]]:
        page = requests.get(f"{self._flower_url}/workers", {"json": 1}, timeout=_PAGE_SECONDS)
        return {worker["hostname"].partition("@")[0]: worker for worker in page.json()["data"]}
