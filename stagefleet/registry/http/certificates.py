"""Certificates that Docker and Podman keep for a registry: `certs.d/HOST[:PORT]`.

Sources: docker documentation, "Verify repository client with certificates"; containers-certs.d(5).
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from stagefleet.errors import SettingsError

_HUB_API = "registry-1.docker.io"


def _folders() -> list[Path]:
    """Return where the tools look, the user's own first."""
    config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return [
        Path(config) / "containers/certs.d",
        Path("/etc/containers/certs.d"),
        Path("/etc/docker/certs.d"),
    ]


def add_host_certificates(context: ssl.SSLContext, host: str) -> None:
    """Trust `*.crt` besides the others, and show `*.cert` with its `*.key`, of the first folder that exists.

    `SettingsError` names a file that cannot be used.
    """
    name = "docker.io" if host == _HUB_API else host
    if "/" in name or name.startswith("."):
        return
    folder = next((found for base in _folders() if _is_folder(found := base / name)), None)
    for file in sorted(folder.iterdir()) if folder else ():
        try:
            if file.suffix == ".crt":
                context.load_verify_locations(cafile=file)
            elif file.suffix == ".cert":
                # Without a password OpenSSL would ask for one on the terminal.
                context.load_cert_chain(file, file.with_suffix(".key"), password=lambda: "")
        except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "no PEM"
            raise SettingsError(f"{file}, which is for {host}, cannot be used: {reason}") from None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # not ours to read
        return False
