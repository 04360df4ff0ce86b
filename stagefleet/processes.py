"""The fleet's processes on this machine: how to start one, and the files that show which workers live.

Workers, Flower and the health check have an interpreter of their own each. Their packages are `workers`,
`tasks` and `config`, names that a user's own project may have, too. A wheel carries them in
`stagefleet/_processes`, which holds nothing else, so that nothing of the user's is overwritten or shadowed;
in a checkout they lie beside `stagefleet/`.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from stagefleet.errors import SettingsError
from stagefleet.settings_sources import read_file, settings_file, value_at, variable_of

_LIBRARY = Path(__file__).resolve().parent


def worker_command(*options: str) -> list[str]:
    """Make the command of a worker's supervisor, with options of `stagefleet worker`."""
    return isolated_command("workers.supervisor", *options)


def isolated_command(module: str, *options: str) -> list[str]:
    """Make the command that calls `main()` of a process's module; `SettingsError` as of `packages_directory`.

    The interpreter is isolated (`-I`): neither the current directory nor PYTHONPATH nor the user's own
    site-packages come before our packages. The library's directory is added behind all others, as isolation
    leaves it out where it lies in the user's site-packages.
    """
    paths = f"sys.path.insert(0, {str(packages_directory())!r}); sys.path.append({str(_LIBRARY.parent)!r})"
    code = f"import sys; {paths}; from {module} import main; main()"
    return [sys.executable, "-I", "-c", code, *options]


def packages_directory(library: Path = _LIBRARY) -> Path:
    """Find the directory that holds `workers`, `tasks` and `config`.

    `SettingsError` if it is neither in the package, as in a wheel, nor beside it, as in a checkout.
    """
    bundled = library / "_processes"
    if bundled.is_dir():
        return bundled
    project = library.parent / "pyproject.toml"
    if project.is_file() and re.search(r'(?m)^name = "stagefleet"$', project.read_text(errors="replace")):
        return library.parent
    raise SettingsError(f"{library} lacks _processes, the packages of its workers: install stagefleet again")


def require_extra(extra: str, module: str, purpose: str) -> None:
    """Refuse what needs a package that an extra of ours installs, and say how to install it.

    `purpose` is the subject of a sentence in the plural.
    """
    if find_spec(module) is None:
        raise SettingsError(f"{purpose} need {module}: run  pip install 'stagefleet[{extra}]'")


# Heartbeats of the workers on this machine in files, for a health check that asks no Redis.
#
# The files lie in a folder that nobody but their user can enter. A file that is missing or old proves
# nothing: then the ledger is asked, as `workers/health.py` does.


LIFE_SECONDS = 15.0
"""Time for which a worker counts as live after a heartbeat; three in a row may be lost."""
_HEARTBEAT_PARENTS = (Path("/dev/shm"), Path("/tmp"))  # noqa: S108 - the folder in it is private, or not used
_LEFTOVER_SECONDS = 3600.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # random(4): one for each boot of a machine
_PID_NAMESPACE = Path("/proc/self/ns/pid")  # namespaces(7): one for each container


class HeartbeatFile:
    """The heartbeat of this process, by worker and fleet; without a folder that can be written, none."""

    def __init__(self, name: str, redis_url: str, key_prefix: str) -> None:
        folder = next(_own_folders(make=True), None)
        file_name = f"{_pool_key(name, redis_url, key_prefix)}-{os.getpid()}"
        self._path = None if folder is None else folder / file_name
        if folder is not None:
            _remove_leftovers(folder)

    def beat(self) -> None:
        """Say that this process lives."""
        if self._path is not None:
            new = self._path.with_suffix(".new")
            with suppress(OSError):
                new.write_text(str(time.monotonic()), encoding="ascii")
                new.replace(self._path)

    def remove(self) -> None:
        """Say that this process is gone."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def count_live() -> int:
    """Count the live worker processes of the settings' fleet and name here; 0 if these files do not tell."""
    given = {name.upper(): value for name, value in os.environ.items() if value}
    if "STAGEFLEET_WORKER" in given:  # a whole section as JSON, which the settings have to read
        return 0
    try:
        document = read_file(settings_file())
        paths = (("worker", "name"), ("redis_url",), ("key_prefix",))
        texts = [given.get(variable_of(path)) or value_at(document, path) for path in paths]
        key = _pool_key(texts[0] or "", texts[1] or "", texts[2] or "stagefleet:")
        files = [file for folder in _own_folders() for file in folder.glob(f"{key}-*[0-9]")]
        ages = [time.monotonic() - float(file.read_text(encoding="ascii")) for file in files]
        return sum(0 <= age < LIFE_SECONDS for age in ages)
    except (OSError, ValueError):  # the settings say what is wrong
        return 0


def machine_hash(boot_id: Path = _BOOT_ID, pid_namespace: Path = _PID_NAMESPACE) -> str:
    """Compute a digest that identifies this container or machine, whatever its name.

    It is made of a file with an id of this boot, and a link that names the namespace of process ids. If the
    system does not identify it, the digest is the same for all, and only the random part differs.
    """
    told = ""
    with suppress(OSError):
        told += boot_id.read_text(encoding="ascii")
    with suppress(OSError):
        told += str(pid_namespace.readlink())
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def _pool_key(name: str, *fleet: str) -> str:
    """Name the worker processes of one name, by default the host's, and one fleet here."""
    parts = (machine_hash(), name or os.uname().nodename, *fleet)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _own_folders(*, make: bool = False) -> Iterator[Path]:
    """Iterate over the folders that are this user's alone."""
    for parent in _HEARTBEAT_PARENTS:
        folder = parent / f"stagefleet.{os.geteuid()}"
        with suppress(OSError):
            if make:
                folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
                yield folder


def _remove_leftovers(folder: Path) -> None:
    """Remove the files of workers that were killed."""
    for file in folder.iterdir():
        with suppress(OSError):
            if time.time() - file.lstat().st_mtime > _LEFTOVER_SECONDS:
                file.unlink()
