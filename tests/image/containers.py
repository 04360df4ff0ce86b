"""What the tests of the image know of its containers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from tests.services import Answer, RegistryFront, RegistryServer
from tests.services.docker_command import DockerCommand
from tests.services.processes import wait_until

NETWORK = ("--network", "host")
"""The engine has no network of its own, and the services listen on loopback addresses."""
OPENSHIFT = (
    *("--user", "1000650000:0"),
    *("--read-only", "--tmpfs", "/tmp"),  # noqa: S108 - the container's own
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
)
"""As OpenShift's restricted containers, and those of deploy/kubernetes, run."""
START_SECONDS = 90
"""The longest wait for a container to be where a test wants it."""


@dataclass(frozen=True)
class Gate:
    """Holds requests for blobs until it is opened.

    Attributes:
        reached: Set once a request is held.
        open: To be set, so that what is held goes on.
    """

    reached: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)

    def rule(self, method: str, path: str) -> Answer | None:
        """Hold a request for a blob; a rule as `RegistryFront` takes it."""
        if method == "GET" and "/blobs/" in path:
            self.reached.set()
            self.open.wait(START_SECONDS)
        return None


@dataclass(frozen=True)
class Mirror:
    """A repository of stages, and where they are to be copied to.

    Attributes:
        source_registry: The first registry; anybody may read it.
        registry: The second one; it asks for a login.
        source: The repository of stages.
        destination: The repository that is to have them.
        stages: The ids of the stages.
        logins: A Docker configuration file with the login.
    """

    source_registry: RegistryServer
    registry: RegistryServer
    source: str
    destination: str
    stages: tuple[str, ...]
    logins: str

    def copied(self) -> list[str]:
        """The stages that the destination has."""
        with self.registry.session() as session:
            path = self.destination.partition("/")[2]
            answer = session.get(f"{self.registry.url}/v2/{path}/tags/list", timeout=10)
        return sorted(answer.json().get("tags") or [])

    @contextmanager
    def with_gate(self) -> Iterator[tuple[Mirror, Gate]]:
        """The same, with a gate before the blobs of the source."""
        gate = Gate()
        with RegistryFront(self.source_registry.host, gate.rule) as front:
            try:
                source = self.source.replace(self.source_registry.host, front.host)
                yield replace(self, source=source), gate
            finally:
                gate.open.set()

    def break_one(self) -> str:
        """Lose the own layer of a stage on the disk of its registry; returns the stage's id."""
        with self.source_registry.session() as session:
            path = self.source.partition("/")[2]
            url = f"{self.source_registry.url}/v2/{path}/manifests/{self.stages[0]}"
            accept = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
            layer = session.get(url, headers=accept, timeout=10).json()["layers"][-1]["digest"]
        name = layer.partition(":")[2]
        content = self.source_registry.root / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"
        content.unlink()
        return self.stages[0]


def wait_for_log(docker: DockerCommand, container: str, text: str) -> None:
    """Wait until a container has logged something.

    Raises:
        AssertionError: It ended before that.
    """

    def logged() -> bool:
        running = docker.answer("inspect", "-f", "{{.State.Running}}", container)
        done = docker("logs", container)
        if text in done.stdout + done.stderr:
            return True
        assert running == "true", done.stdout + done.stderr
        return False

    wait_until(logged, f"the container logs {text}", seconds=START_SECONDS)


def exit_code(docker: DockerCommand, container: str) -> int:
    """Wait for the end of a container; returns the exit code of its command."""
    return int(docker.answer("wait", container))
