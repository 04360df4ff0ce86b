"""The private folder of an embedded fleet: its socket, its logs, and the worker's settings.

Only this user may enter it. The supervisor holds a lock on it for as long as it runs; the next embedded
command removes the folders of supervisors that were killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from pathlib import Path

from pydantic import SecretBytes, SecretStr

from stagefleet.setting_types import REVEAL
from stagefleet.settings import Settings

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
    document = settings.model_dump(context=REVEAL) | {"redis_url": redis_url}
    path = folder / SETTINGS
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, default=_plain)
    return path


def _plain(value: object) -> str:
    """Convert values that JSON lacks to text that the settings can parse."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, SecretBytes):
        return value.get_secret_value().decode()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a setting of the type {type(value).__name__} cannot be written")
