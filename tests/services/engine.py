"""A real Docker Engine: `dockerd` with a data root, an exec root and a socket of its own.

It needs root, and no network: images come from registries on loopback addresses, containers get none.

`TEST_DOCKERD` names another `dockerd` than that of the PATH, as a newer one; its `containerd` and shim lie
beside it.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import docker

from tests.services.environment import search_path
from tests.services.images import Pushed
from tests.services.processes import (
    Program,
    ServiceMissingError,
    ServiceRefusedError,
    find_program,
    free_port,
)
from tests.services.tls import Tls
from tests.services.workspace import release

_TIMEOUT_SECONDS = 60


class DockerEngine:
    """An engine on a Unix socket, the same one over its restarts; several live side by side.

    Attributes:
        folder: Where it keeps everything.
        url: Its address, `unix://...`.
        tls_url: Its address for clients with a certificate, `tcp://...`; "" without TLS.
    """

    def __init__(self, folder: Path, *, tls: Tls | None = None) -> None:
        """Prepare an engine; `start` starts it.

        Args:
            folder: For everything of it, made if need be.
            tls: Certificates; it listens on a port of 127.0.0.1, too, where it asks for one.

        Raises:
            ServiceMissingError: A program lacks.
            ServiceRefusedError: This user is not root.
        """
        self._binary = find_dockerd()
        if os.geteuid() != 0:
            raise ServiceRefusedError("dockerd needs root")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.url = f"unix://{folder / 'docker.sock'}"
        self._tls = tls
        self.tls_url = "" if tls is None else f"tcp://127.0.0.1:{free_port()}"
        self._program: Program | None = None
        self._clients: list[docker.DockerClient] = []

    def start(self) -> Self:
        """Start it and wait until it answers; returns itself."""
        self._program = Program(
            [self._binary, *self._options()],
            folder=self.folder,
            name="dockerd",
            # Its containerd and runc are found by name; a proxy of the machine's must not come between.
            environment={"PATH": f"{Path(self._binary).parent}:{search_path()}"},
        )
        self._program.wait_for("API listen on ")
        return self

    @property
    def pid(self) -> int:
        """Its process."""
        return self._running.pid

    def client(self) -> docker.DockerClient:
        """A client, closed when the engine is stopped or renewed."""
        client = docker.DockerClient(base_url=self.url, version="auto", timeout=_TIMEOUT_SECONDS)
        self._clients.append(client)
        return client

    def import_image(
        self, name: str, *, labels: Mapping[str, str] | None = None, content: bytes = b"content"
    ) -> str:
        """Make an image whose containers stay running; returns its id.

        Args:
            name: `REPOSITORY:TAG`.
            labels: Its labels.
            content: Something in it, so that images differ.
        """
        repository, _, tag = name.rpartition(":")
        changes = ['CMD ["/busybox", "sleep", "1000000"]']
        changes += [f'LABEL "{key}"="{value}"' for key, value in (labels or {}).items()]
        archive = archive_of({"busybox": _find_busybox().read_bytes(), "content": content})
        api = self.client().api
        api.import_image_from_data(archive, repository=repository, tag=tag, changes=changes)
        return str(api.inspect_image(name)["Id"])

    def run_container(self, image: str, name: str) -> str:
        """Start a container that stays running, without network; returns its id."""
        # The first process of a container ignores SIGTERM: stopping the engine would wait for it in vain.
        container = self.client().containers.run(
            image, name=name, network_mode="none", stop_signal="SIGKILL", detach=True
        )
        return str(container.id)

    def tags(self) -> list[str]:
        """The names of all its images, sorted; with containerd's image store, a digest is a name, too."""
        images: list[dict[str, Any]] = self.client().api.images()
        names = [name for image in images for name in image["RepoTags"] or ()]
        return sorted(name for name in names if name != "<none>:<none>" and "@" not in name)

    @property
    def keeps_manifests(self) -> bool:
        """True with containerd's image store: an image's id is then the digest of its manifest."""
        status = dict(self.client().api.info()["DriverStatus"])
        return str(status.get("driver-type", "")).startswith("io.containerd.snapshotter")

    def id_of(self, pushed: Pushed, index: Pushed | None = None) -> str:
        """The id of an image from a registry, pulled by itself or as a member of an index."""
        if self.keeps_manifests:
            return (index or pushed).digest
        return str(pushed.document["config"]["digest"])

    def tells_progress(self, moved: int, *, least: int = 1) -> bool:
        """True if a transfer's bytes are at least so many; containerd tells none of a short one."""
        return moved >= least or (self.keeps_manifests and moved == 0)

    def image_id(self, name: str) -> str:
        """The id of an image."""
        return str(self.client().api.inspect_image(name)["Id"])

    def renew(self) -> None:
        """Make it running and empty."""
        self._close_clients()
        if not self._running.alive:
            self._clean_up()
            self.start()
        self._running.thaw()
        api = self.client().api
        for container in api.containers(all=True):
            api.remove_container(container["Id"], force=True, v=True)
        for tag in self.tags():
            api.remove_image(tag, force=True)
        for image in api.images(all=True):  # those that have digests alone
            with suppress(docker.errors.ImageNotFound):
                api.remove_image(image["Id"], force=True)
        api.prune_images({"dangling": False})

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections are accepted, nothing is answered."""
        self._running.freeze()

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._running.thaw()

    def kill(self) -> None:
        """End it and its containers at once, as a lost machine does; `start` brings it back."""
        self._close_clients()
        self._running.kill()
        self._clean_up()

    def stop(self) -> None:
        """End it and its containers, its images stay; nothing when it has ended."""
        self._close_clients()
        if self._program is not None:
            self._program.stop()
        self._clean_up()

    @property
    def _running(self) -> Program:
        assert self._program is not None, "not started"
        return self._program

    def _options(self) -> list[str]:
        options = {
            "data-root": self.folder / "data",
            "exec-root": self.folder / "exec",
            "pidfile": self.folder / "docker.pid",
            "bridge": "none",
            "iptables": "false",
            "ip-forward": "false",
            "ip-masq": "false",
            "log-level": "info",
            "max-download-attempts": "1",
            "shutdown-timeout": "1",
        }
        if "TEST_DOCKERD" in os.environ:  # its runc may be built without libseccomp
            options["seccomp-profile"] = "unconfined"
        if self._tls is not None:
            options |= {
                "tlsverify": "true",
                "tlscacert": self._tls.ca_file,
                "tlscert": self._tls.server_certificate,
                "tlskey": self._tls.server_key,
            }
        hosts = filter(None, (self.url, self.tls_url))
        return [f"--{name}={value}" for name, value in options.items()] + [f"--host={host}" for host in hosts]

    def _close_clients(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()

    def _clean_up(self) -> None:
        """Remove what a killed engine leaves: shims with their containers, mounts, pid files."""
        release(self.folder)
        for file in (self.folder / "docker.pid", self.folder / "exec" / "containerd" / "containerd.pid"):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.folder / "exec", ignore_errors=True)


def find_dockerd() -> str:
    """Find the engine's program; raise `ServiceMissingError` if there is none."""
    named = os.environ.get("TEST_DOCKERD", "dockerd")
    return find_program(named, install="apt-get install docker.io, or name one with TEST_DOCKERD")


def archive_of(files: Mapping[str, bytes]) -> bytes:
    """An archive of some programs or files, the same for the same ones: as a layer it has its diff id."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _find_busybox() -> Path:
    path = Path("/bin/busybox")
    if not path.is_file():
        raise ServiceMissingError("busybox is missing: apt-get install busybox-static")
    return path
