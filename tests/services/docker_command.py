"""The `docker` command against an engine of the tests, as CI systems and people call it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.services.engine import DockerEngine
from tests.services.environment import clean_environment, search_path
from tests.services.processes import find_program

_TIMEOUT_SECONDS = 120


class DockerCommand:
    """Calls `docker` with nothing of the user's: neither logins nor contexts."""

    def __init__(self, engine: DockerEngine, folder: Path) -> None:
        """Prepare the command.

        Args:
            engine: The engine to talk to, running.
            folder: For the command's configuration, made if need be.

        Raises:
            ServiceMissingError: There is no `docker`.
        """
        self._binary = find_program("docker", install="apt-get install docker.io")
        folder.mkdir(parents=True, exist_ok=True)
        mine = {name: text for name, text in clean_environment().items() if not name.startswith("DOCKER_")}
        # The legacy builder is in every engine and needs no plug-in.
        self._environment = mine | {
            "DOCKER_CONFIG": str(folder),
            "DOCKER_HOST": engine.url,
            "DOCKER_BUILDKIT": "0",
            "PATH": search_path(),
        }

    def __call__(
        self, *arguments: object, stdin: str = "", seconds: float = _TIMEOUT_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker ARGUMENTS...` to its end.

        Args:
            *arguments: What stands behind `docker`.
            stdin: What the command reads.
            seconds: How long it may take.

        Raises:
            subprocess.TimeoutExpired: It took longer.
        """
        return subprocess.run(
            [self._binary, *map(str, arguments)],
            env=self._environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def answer(self, *arguments: object, stdin: str = "", seconds: float = _TIMEOUT_SECONDS) -> str:
        """Run `docker ARGUMENTS...`; returns what it printed, stripped.

        Raises:
            AssertionError: It failed; the message ends with what it wrote last.
        """
        done = self(*arguments, stdin=stdin, seconds=seconds)
        assert done.returncode == 0, f"docker {arguments[0]}: {(done.stdout + done.stderr)[-4000:]}"
        return done.stdout.strip()
