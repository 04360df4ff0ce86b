"""What Docker's own clients read from the environment, and this client too."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["docker_config_file", "docker_tls_environment"]


def docker_config_file() -> Path:
    """Name the Docker configuration file, whether or not it is there; `DOCKER_CONFIG` names its directory."""
    directory = os.environ.get("DOCKER_CONFIG")
    return (Path(directory) if directory else Path.home() / ".docker") / "config.json"


def docker_tls_environment() -> dict[str, str]:
    """Read the variables by which Docker's clients find the certificates of an engine behind TCP."""
    names = ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
    return {name: os.environ[name] for name in names if name in os.environ}
