"""The files of an OCI image layout: in a directory, or in a tar file, which is not unpacked."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from stagefleet.errors import ContentError, UsageError
from stagefleet.manifests import Descriptor
from stagefleet.names import Digest

_ADVICE = {
    errno.EACCES: "give this user the right to it",
    errno.EPERM: "give this user the right to it",
    errno.EROFS: "name a directory on another file system",
    errno.ENOSPC: "free some space, and run it again",
    errno.EDQUOT: "free some space, and run it again",
}


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn a refusal of the file system into a `UsageError` that names the file and what to do."""
    try:
        yield
    except OSError as error:
        named = error.filename if isinstance(error.filename, str) else str(path)
        advice = _ADVICE.get(error.errno or 0, "check the file system")
        raise UsageError(f"{named}: {(error.strerror or str(error)).lower()}: {advice}") from error


def blob_name(digest: Digest) -> str:
    """Return the name of a blob's file in a layout ("Image Layout", "Blobs")."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


class LayoutFile(io.RawIOBase):
    """A file, or a part of one from `start`, for reading; parts of one file can be read at once (pread(2)).

    Attributes:
        size: Its size in bytes.
        identity: Tells it from its content before and after a change.
    """

    def __init__(self, number: int, start: int, size: int) -> None:
        self.size = size
        self._number, self._start, self._at, self._end = number, start, start, start + size
        found = os.fstat(number)
        self.identity = (found.st_dev, found.st_ino, found.st_ctime_ns, found.st_mtime_ns, start, size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = os.pread(self._number, min(len(buffer), self._end - self._at), self._at)
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def rewind(self) -> None:
        """Read from the beginning again."""
        self._at = self._start

    def close(self) -> None:
        if not self.closed:
            os.close(self._number)
        super().close()


class LayoutFiles(Protocol):
    """The files of a layout at a path; thread-safe."""

    path: Path

    def open(self, name: str) -> LayoutFile | None:
        """Open a file by its name in the layout, with slashes; None if it is missing or no plain file."""

    def has(self, blob: Descriptor) -> bool:
        """Return True if a blob is there, with its size; its content may be wrong."""
        file = self.open(blob_name(blob.digest))
        if file is None:
            return False
        with file:
            return file.size == blob.size


class DirectoryFiles(LayoutFiles):
    """The files of a layout in a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, name: str) -> LayoutFile | None:
        # A link is followed: some tools link the blobs. O_NONBLOCK: a named pipe has no end.
        try:
            number = os.open(self.path / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            os.close(number)
            return None
        return LayoutFile(number, 0, found.st_size)


# A tar file: its headers are read once, its blobs where they are.

_HEADER_BYTES = 1024 * 1024
"""Largest header of a member; the names of a layout need 500 bytes."""
_MOST_MEMBERS = 500_000  # some 180 MB
_NAME = re.compile(
    r"(?:\./)?(oci-layout|index\.json|manifest\.json|blobs/(?:sha256/[a-f0-9]{64}|sha512/[a-f0-9]{128}))"
)
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

_Parts = dict[str, tuple[int, int]]
"""Offset and size of each file of a layout, by name."""
_LAST: dict[tuple[int, ...], _Parts] = {}
"""The parts of the last tar file, by its identity: every item of a run reads it."""
_LOCK = threading.Lock()


class TarFiles(LayoutFiles):
    """The files of a layout in a tar file.

    Only plain files under the names of a layout count: links, devices and other names lead nowhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, name: str) -> LayoutFile | None:
        """Open a file by its name in the layout; the first call reads the headers of the tar file.

        Raises:
            UsageError: The file is compressed, or no tar file.
            ContentError: It is cut short, or malformed.
        """
        number = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with LayoutFile(os.dup(number), 0, os.fstat(number).st_size) as file, _LOCK:
                parts = _LAST.get(file.identity)
                if parts is None:
                    parts = self._parts()
                    _LAST.clear()
                    _LAST[file.identity] = parts
            part = parts.get(name)
            return None if part is None else LayoutFile(os.dup(number), *part)
        finally:
            os.close(number)

    def _parts(self) -> _Parts:
        """Read where each file of the layout is."""
        with self.path.open("rb") as file:
            start = file.read(8)
            for magic, kind in _COMPRESSIONS.items():
                if start.startswith(magic):
                    raise UsageError(
                        f"{self.path} is compressed ({kind}), so that no blob can be found: decompress it"
                    )
            parts: _Parts = {}
            size = os.fstat(file.fileno()).st_size
            for member in self._headers(file):
                match = _NAME.fullmatch(member.name)
                if match is None or not member.isreg():
                    continue
                name = match[1]
                if member.offset_data + member.size > size:
                    raise ContentError(f"{self.path} is cut short in {name}: copy it again")
                if name in parts and not name.startswith("blobs/"):  # the digest tells which blob is right
                    raise ContentError(f"{self.path} has two files {name}: write it again with one")
                parts[name] = (member.offset_data, member.size)
                if len(parts) > _MOST_MEMBERS:
                    raise UsageError(
                        f"{self.path} has more than {_MOST_MEMBERS} blobs: unpack it, and name the folder"
                    )
        return parts

    def _headers(self, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
        file.seek(0)
        try:
            archive = tarfile.open(fileobj=cast("BinaryIO", _HeaderFile(file)), mode="r:")  # noqa: SIM115 - the file is the caller's
        except (tarfile.TarError, ValueError, RecursionError) as error:
            raise UsageError(f"{self.path} is neither a directory nor a tar file of a layout") from error
        at = 0
        try:
            while _has_header(file, at):
                member = tarfile.TarInfo.fromtarfile(archive)  # `TarFile.next` would keep it for good
                if member.size < 0 or member.issparse():
                    raise ContentError(
                        f"{self.path} has a sparse or malformed member: write it without tar's --sparse"
                    )
                yield member
                at = member.offset_data
                if not (member.isdir() or member.issym() or member.islnk() or member.isdev()):
                    at += -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        except (tarfile.TarError, ValueError, RecursionError) as error:
            raise ContentError(f"{self.path} is no whole tar file ({error}): copy it again") from error


def _has_header(file: BinaryIO, at: int) -> bool:
    """Return True if a member begins there, and seek to it."""
    file.seek(at)
    block = file.read(tarfile.BLOCKSIZE)
    file.seek(at)
    return any(block)


class _HeaderFile:
    """A tar file for reading its headers, each of a bounded size."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell = file.tell
        self.seek = file.seek

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)
