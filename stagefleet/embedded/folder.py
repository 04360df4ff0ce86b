"""The private folder of an embedded fleet: its socket, its logs, and the worker's settings.

Only this user may enter it. A lock tells whether its fleet lives: the keeper holds it until it ends, however
it ends, and what a killed one left is removed by the next embedded command.
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

__all__ = ["SETTINGS", "make_folder", "write_settings"]

SETTINGS = "settings.json"
_PREFIX = "stagefleet-"
_LOCK = "keeper.lock"
_SHORT_DIRECTORY = "/tmp"  # noqa: S108 - mkdtemp makes a directory of its own in it, mode 0700


def make_folder(longest_bytes: int) -> tuple[Path, int]:
    """Make a folder, and remove those that killed fleets of this user left.

    Args:
        longest_bytes: Of the folder's path; a socket's name in it has a limit.

    Returns:
        The folder, and the descriptor of its lock: who has it open keeps the folder.
    """
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    if len(os.fsencode(folder)) > longest_bytes:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_SHORT_DIRECTORY))
    _remove_leftovers(folder.parent)
    unlocked = folder / f"{_LOCK}.new"
    lock = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    unlocked.rename(folder / _LOCK)  # nobody meets it unlocked
    return folder, lock


def _remove_leftovers(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, no folder of ours, or gone meanwhile
            if folder.lstat().st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where its fleet lives
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def write_settings(settings: Settings, folder: Path, redis_url: str) -> Path:
    """Write settings whole, secrets in clear among them, for this user alone to read.

    Args:
        settings: What to write.
        folder: Where.
        redis_url: Stands in place of the settings' own.

    Returns:
        The file.
    """
    document = settings.model_dump(context=REVEAL) | {"redis_url": redis_url}
    path = folder / SETTINGS
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, default=_plain)
    return path


def _plain(value: object) -> str:
    """Spell what JSON does not know so that the settings read it back."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, SecretBytes):
        return value.get_secret_value().decode()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a setting of the type {type(value).__name__} cannot be written")
