"""Names of worker processes in the fleet: unique, and readable for people.

Containers with the same host name (ECS, `network_mode: host`, `hostname:` on several replicas) have the same
small process ids, too. So the name also holds a digest of the container, which a health check beside it can
compute, and a random part.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
from contextlib import suppress
from pathlib import Path

from stagefleet.settings import WorkerSettings

__all__ = ["is_of", "machine_hash", "make_name", "pool_of"]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # random(4): one for each boot of a machine
_PID_NAMESPACE = Path("/proc/self/ns/pid")  # namespaces(7): one for each container
_NAME = re.compile(r"worker-[0-9]+@(.+)-[0-9a-f]{6}")


def make_name(settings: WorkerSettings) -> str:
    """Create the name of this process: `worker-PID@NAME-PLACE-RANDOM`.

    Args:
        settings: `name` replaces the host name.
    """
    return f"worker-{os.getpid()}@{pool_of(settings)}-{secrets.token_hex(3)}"


def pool_of(settings: WorkerSettings) -> str:
    """Return the common part of the names of all worker processes in this process's container."""
    return f"{settings.name or socket.gethostname()}-{machine_hash()}"


def is_of(name: str, pool: str) -> bool:
    """Return True if a worker's name belongs to a pool."""
    match = _NAME.fullmatch(name)
    return match is not None and match[1] == pool


def machine_hash(boot_id: Path = _BOOT_ID, pid_namespace: Path = _PID_NAMESPACE) -> str:
    """Compute a digest that identifies this container or machine, whatever its name.

    If the system does not identify it, the digest is the same for all, and only the random part differs.

    Args:
        boot_id: File with an id of this boot of the machine.
        pid_namespace: Link that names the namespace of process ids.
    """
    told = ""
    with suppress(OSError):
        told += boot_id.read_text(encoding="ascii")
    with suppress(OSError):
        told += str(pid_namespace.readlink())
    return hashlib.sha256(told.encode()).hexdigest()[:8]
