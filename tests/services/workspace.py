"""Folders of services: in memory where the machine has that, gone with their owner.

An owner holds a lock on its folder. The kernel frees the lock however the owner ends, so that the next one
can tell what a killed owner left, and removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "stagefleet-services-"
_LOCK = ".owner"
_MAKING_SECONDS = 60
_UNMOUNT_SECONDS = 10


def _parent() -> Path:
    memory = Path("/dev/shm")  # noqa: S108 - a folder of unguessable name is made in it
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


@contextmanager
def make_workspace() -> Iterator[Path]:
    """A fresh private folder, removed at the end; also removes those of owners that were killed."""
    parent = _parent()
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    fresh = folder / "fresh"
    descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        fresh.rename(folder / _LOCK)  # nobody finds the lock before it is held
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # held, another user's, or gone meanwhile
            try:
                descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:  # just being made, or what could not be removed all at once
                if time.time() - folder.stat().st_mtime > _MAKING_SECONDS:
                    release(folder)
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                release(folder)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def release(folder: Path) -> None:
    """End what a killed container engine leaves under a folder: its containers, and what is mounted there."""
    for pid in _container_processes(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for mount in reversed(mounts_under(folder)):
        command = ["umount", "--lazy", str(mount)]
        subprocess.run(command, check=False, capture_output=True, timeout=_UNMOUNT_SECONDS)


def mounts_under(folder: Path) -> list[Path]:
    """What is mounted under a folder, sorted."""
    mounts = [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted(mount for mount in mounts if folder in mount.parents)


def _container_processes(folder: Path) -> list[int]:
    """The shims that watch an engine's containers, and their children: they outlive the engine."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"containerd-shim-runc-v2") and os.fsencode(folder) in b" ".join(words):
                for task in (entry / "task").iterdir():
                    found += map(int, (task / "children").read_text().split())
                found.append(int(entry.name))
    return found
