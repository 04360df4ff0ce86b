"""A real SSH server, `sshd`, for one user, with a host key and a client's key of its own."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.services.processes import Program, ServiceRefusedError, find_program, free_port

_PRIVILEGE_SEPARATION = Path("/run/sshd")


class SshServer:
    """An SSH server on 127.0.0.1, which lets the user of the tests in with one key.

    Attributes:
        home: A home directory for clients, with the key, and with the server's among the known ones.
        url: The address, `ssh://USER@127.0.0.1:PORT`.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Prepare a server; `start` starts it.

        Args:
            folder: For its files and the client's.
            environment: Variables of what it executes for clients.

        Raises:
            ServiceMissingError: A program lacks.
            ServiceRefusedError: This user is not root.
        """
        self._binary = find_program("sshd", install="apt-get install openssh-server")
        if os.geteuid() != 0:
            raise ServiceRefusedError("sshd needs root")
        self._keygen = find_program("ssh-keygen", install="apt-get install openssh-client")
        self._folder = folder
        self._port = free_port()
        self.home = folder / "home"
        (self.home / ".ssh").mkdir(parents=True, mode=0o700)
        self.url = f"ssh://{pwd.getpwuid(os.geteuid()).pw_name}@127.0.0.1:{self._port}"
        host_key, key = self._make_key(folder / "host_key"), self._make_key(self.home / ".ssh" / "id_ed25519")
        (self.home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{self._port} {host_key}")
        (folder / "authorized_keys").write_text(key)
        variables = " ".join(f"{name}={value}" for name, value in environment.items())
        (folder / "sshd_config").write_text(
            f"Port {self._port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host_key'}\n"
            f"AuthorizedKeysFile {folder / 'authorized_keys'}\nStrictModes no\nUsePAM no\nPidFile none\n"
            f"PasswordAuthentication no\nPermitRootLogin prohibit-password\nSetEnv {variables}\n"
        )
        self._program: Program | None = None

    def start(self) -> Self:
        """Start it and wait until it listens; returns itself."""
        _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        arguments = [self._binary, "-D", "-e", "-f", str(self._folder / "sshd_config")]
        self._program = Program(arguments, folder=self._folder, name="sshd")
        self._program.wait_for("Server listening on ")
        return self

    def stop(self) -> None:
        """End it; nothing when it has ended."""
        if self._program is not None:
            self._program.stop()

    def _make_key(self, file: Path) -> str:
        """Make a key pair without a passphrase; return the public key."""
        command = [self._keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(file)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return file.with_suffix(".pub").read_text()
