"""The environment variables that Docker's clients read, and Stagefleet too."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["docker_config_file", "docker_tls_environment"]


def docker_config_file() -> Path:
    """Return the path of the Docker configuration file (in `DOCKER_CONFIG`, if set); it may not exist."""
    directory = os.environ.get("DOCKER_CONFIG")
    return (Path(directory) if directory else Path.home() / ".docker") / "config.json"


def docker_tls_environment() -> dict[str, str]:
    """Read the variables with which Docker's clients find the certificates for an engine over TCP."""
    names = ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
    return {name: os.environ[name] for name in names if name in os.environ}
