"""Real workers: `stagefleet worker` as a user starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self

from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import Settings
from tests.services.environment import clean_environment, stagefleet_command
from tests.services.processes import Program, ServiceStartError, wait_until

_USERS_COMMAND = partial(stagefleet_command, "worker")


class Workers:
    """One or more `stagefleet worker` commands, each with processes of its own."""

    def __init__(
        self,
        redis_url: str,
        folder: Path,
        *,
        commands: int = 1,
        processes: int = 1,
        concurrency: int = 4,
        queues: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        command: Callable[..., list[str]] = _USERS_COMMAND,
    ) -> None:
        """Prepare the workers; `start` starts them.

        Args:
            redis_url: The fleet's Redis.
            folder: For their output, made if need be; their working directory is not changed.
            commands: How many `stagefleet worker` there are.
            processes: The processes of each.
            concurrency: The threads of each process.
            queues: The queues that they listen to, all by default.
            environment: More variables, as `STAGEFLEET_RUNS__LEASE_SECONDS`; settings that this process has
                in its own environment or directory do not reach the workers.
            command: Makes the command of its options. That of the supervisor, which `stagefleet worker`
                becomes, costs the machine half a second less.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._redis_url, self._folder = redis_url, folder
        self._commands, self._processes, self._command = commands, processes, command
        self._options = ["--processes", str(processes), "--concurrency", str(concurrency)]
        if queues:
            self._options += ["--queues", ",".join(queues)]
        (folder / "stagefleet.toml").touch()
        own = {"STAGEFLEET_CONFIG": str(folder / "stagefleet.toml"), "STAGEFLEET_REDIS_URL": redis_url}
        self._environment = clean_environment(**own) | dict(environment or {})
        self.programs: list[Program] = []

    def start(self) -> Self:
        """Start them and wait until all listen; returns itself."""
        self.launch()
        self.wait_until_listening()
        return self

    def launch(self) -> None:
        """Start them, and do not wait: others can be started meanwhile."""
        for number in range(self._commands):
            self.programs.append(
                Program(
                    self._command(*self._options),
                    folder=self._folder,
                    name=f"worker-{len(self.programs)}-{number}",
                    environment=self._environment,
                )
            )

    def wait_until_listening(self, count: int | None = None, *, seconds: float = 60) -> None:
        """Wait until that many of the processes have signed on in the ledger, all of them by default."""
        expected = self._commands * self._processes if count is None else count
        prefix = self._environment.get("STAGEFLEET_KEY_PREFIX")
        settings = Settings(redis_url=self._redis_url)
        if prefix is not None:
            settings = settings.model_copy(update={"key_prefix": prefix})
        ledger = RedisLedger.connect(self._redis_url, settings)

        def listening() -> bool:
            for program in self.programs:
                if not program.alive:
                    raise ServiceStartError(
                        f"a worker ended with {program.returncode}: {program.logged()[-2000:]}"
                    )
            # Names, not numbers: one that was killed is in the ledger until its time is over.
            signed_on = {worker.name.partition("@")[0] for worker in ledger.heartbeats.workers()}
            return len(signed_on & {f"worker-{pid}" for pid in self.pids}) >= expected

        try:
            wait_until(listening, f"{expected} worker processes listen", seconds=seconds)
        finally:
            ledger.close()

    @property
    def pids(self) -> list[int]:
        """The worker processes, those under the supervisors."""
        return [child for program in self.programs if program.alive for child in _children(program.pid)]

    def kill_one(self) -> int:
        """Kill one worker process (SIGKILL); its supervisor may start another. Returns its pid."""
        pid = self.pids[0]
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_command(self) -> Program:
        """Kill a whole `stagefleet worker` with its processes, as a lost machine does."""
        program = next(program for program in self.programs if program.alive)
        for pid in _children(program.pid):
            os.kill(pid, signal.SIGSTOP)  # none may notice that the others go
        children = _children(program.pid)
        program.kill()
        for pid in children:
            _kill(pid)
        return program

    def kill(self) -> None:
        """End all of them at once: what they hold and what they would say does not matter any more."""
        children = self.pids
        for program in self.programs:
            program.kill()
        for pid in children:
            _kill(pid)

    def logged(self) -> str:
        """What all of them wrote on stderr."""
        return "".join(program.logged() for program in self.programs)

    def stop(self, *, seconds: float = 30) -> None:
        """Ask all to end, and end what is left."""
        children = set(self.pids)
        for program in self.programs:
            if program.alive:
                program.signal(signal.SIGTERM)
        give_up_at = time.monotonic() + seconds
        for program in self.programs:
            with suppress(subprocess.TimeoutExpired):  # no second SIGTERM: it would stop them at once
                program.wait(max(0.0, give_up_at - time.monotonic()))
            if program.alive:
                children.update(_children(program.pid))  # also those that it has started since
            program.kill()
        for pid in children:
            _kill(pid)


def _children(pid: int) -> list[int]:
    """The processes that a process started and that still run (proc(5))."""
    found: list[int] = []
    with suppress(OSError):  # it ended meanwhile
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _kill(pid: int) -> None:
    """End a worker process that its supervisor left, unless the number is a stranger's by now."""
    with suppress(OSError):  # it ended meanwhile
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"workers" in command or b"stagefleet" in command:
            os.kill(pid, signal.SIGKILL)
