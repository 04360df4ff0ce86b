"""A layout's directory as it is written: files appear whole or not at all, under locks between processes."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagefleet.backoff import Backoff
from stagefleet.errors import DigestMismatchError, LockTimeoutError, ManifestRefusedError, UsageError
from stagefleet.leases import LeaseBoundLock, current_lease
from stagefleet.manifests import Descriptor, Manifest
from stagefleet.names import Digest
from stagefleet.oci_layout.files import DirectoryFiles, blob_name, file_errors
from stagefleet.oci_layout.index import EMPTY_INDEX, REF_NAME, IndexEntry, write_index

if TYPE_CHECKING:
    from _typeshed import SupportsRead

_NEW_PREFIX = ".stagefleet-"
"""What the name of a file begins with until it gets its own."""
_VERSION_FILE = b'{"imageLayoutVersion":"1.0.0"}'
_CHUNK_BYTES = 1024 * 1024
_LOCK_SECONDS = 300.0
_BACKOFF = Backoff(0.05, 0.5)


class LayoutDirectory(DirectoryFiles):
    """The directory of a layout, to be written.

    Two locks, both of flock(2): writers share the one of `oci-layout`, deletion has it alone; who rewrites
    `index.json` has that file's alone. Other tools know of neither.
    """

    def foreign_names(self) -> set[str]:
        """Return the names in the directory that `create` makes none of, in whatever step it is."""
        try:
            names = {found.name for found in self.path.iterdir() if not found.name.startswith(_NEW_PREFIX)}
        except FileNotFoundError:
            return set()
        return names - {"blobs", "index.json", "oci-layout"}

    def create(self) -> None:
        """Make the layout, unless there is one; `UsageError` if the directory has other content.

        `oci-layout` comes last, so that whatever has it is a layout.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if (self.path / "oci-layout").exists():
            return
        if self.foreign_names():
            raise UsageError(
                f"{self.path} is not empty, and no OCI image layout: name another directory, or a new one"
            )
        (self.path / "blobs").mkdir(exist_ok=True)
        for name, content in (("index.json", EMPTY_INDEX), ("oci-layout", _VERSION_FILE)):
            with self._new_file() as file:
                file.write(content)
                file.link(self.path / name)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the layout with other writers, against deletion; one that is alone sweeps first."""
        with self._locked("oci-layout", fcntl.LOCK_SH) as number:
            with suppress(BlockingIOError):
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._sweep()
            self._wait_for(number, fcntl.LOCK_SH)  # flock(2): the attempt may have lost it
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the layout alone."""
        with self._locked("oci-layout", fcntl.LOCK_EX):
            self._sweep()
            yield

    def write_blob(self, descriptor: Descriptor, source: SupportsRead[bytes]) -> int:
        """Write a blob, unless it is there, and return the bytes written; the caller holds the layout.

        Raises:
            DigestMismatchError: The content does not match the descriptor; nothing was written.
            UsageError: The file system refuses.
        """
        with file_errors(self.path):
            return 0 if self.has(descriptor) else self._write(descriptor, source)

    def _write(self, descriptor: Descriptor, source: SupportsRead[bytes]) -> int:
        path = self._blob(descriptor.digest)
        with self._new_file() as file:
            hashed: Any = hashlib.new(descriptor.digest.algorithm)
            written = 0
            while written <= descriptor.size and (piece := source.read(_CHUNK_BYTES)):
                current_lease().check()
                hashed.update(piece)
                written += len(piece)
                file.write(piece)
            found = Digest(descriptor.digest.algorithm, hashed.hexdigest())
            if (written, found) != (descriptor.size, descriptor.digest):
                raise DigestMismatchError(
                    f"{self.path} was sent other content for {descriptor.digest}: {written} bytes, {found}",
                    found=str(found),
                )
            file.replace(path)
        return written

    def put_manifest(self, manifest: Manifest, tag: str = "") -> None:
        """Write a manifest, byte for byte, and name it by a tag, in place of another entry with that tag.

        A member of an index has no tag. The caller holds the layout.

        Raises:
            ManifestRefusedError: The layout lacks blobs or members of it.
            UsageError: The file system refuses.
        """
        parts = filter(None, (manifest.config, *manifest.layers, *manifest.members))
        with file_errors(self.path):
            missing = [part for part in parts if part.is_distributable and not self.has(part)]
        if missing:
            raise ManifestRefusedError(
                f"{self.path} lacks {len(missing)} blobs or members of {manifest.digest}: "
                f"{missing[0].digest}; copy it again",
                missing=tuple(str(part.digest) for part in missing),
            )
        descriptor = Descriptor(manifest.media_type, manifest.digest, manifest.size)
        self.write_blob(descriptor, io.BytesIO(manifest.raw))
        if tag:
            entry = {
                "mediaType": manifest.media_type,
                "digest": str(manifest.digest),
                "size": manifest.size,
                "annotations": {REF_NAME: tag},
            }
            with file_errors(self.path):
                changes_of(self.path, "put").make(tag, json.dumps(entry), self._put_entries)

    def _put_entries(self, entries: Mapping[str, str]) -> None:
        with self._locked("index.json", fcntl.LOCK_EX):
            self.rewrite_index(lambda entry: entry.tag not in entries, list(entries.values()))

    def rewrite_index(self, keep: Callable[[IndexEntry], bool], added: Sequence[str] = ()) -> None:
        """Write index.json anew, under its lock or the layout's own; arguments as of `write_index`."""
        source = self.open("index.json")
        if source is None:
            raise UsageError(
                f"{self.path}: somebody deletes index.json: leave the layout to one tool at a time"
            )
        with source, self._new_file() as target:
            write_index(source, target, keep, added)
            target.replace(self.path / "index.json")

    def delete_blob(self, digest: Digest) -> None:
        """Delete a blob, if it is there; the caller has the layout alone."""
        self._blob(digest).unlink(missing_ok=True)

    def _blob(self, digest: Digest) -> Path:
        """Return the path of a blob, in a folder that is there."""
        path = self.path / blob_name(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.resolve().is_relative_to(self.path.resolve()):
            raise UsageError(f"{path.parent} leads out of the layout: put a folder in its place")
        return path

    @contextmanager
    def _new_file(self) -> Iterator[_NewFile]:
        """Open a file for the block; it is deleted at the end, unless it got its name."""
        file = _NewFile(self.path / f"{_NEW_PREFIX}{secrets.token_hex(8)}")
        try:
            yield file
        finally:
            file.discard()

    def _sweep(self) -> None:
        """Delete the files that a crash left; only for who holds the layout alone."""
        for left in self.path.glob(f"{_NEW_PREFIX}*"):
            left.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, name: str, mode: int) -> Iterator[int]:
        """Lock a file of the layout, the one that has the name once the lock is held."""
        while True:
            number = os.open(self.path / name, os.O_RDWR | os.O_CLOEXEC)  # NFS: to write, to lock it alone
            try:
                self._wait_for(number, mode)
                if os.path.samestat(os.fstat(number), (self.path / name).stat()):
                    yield number
                    return
            finally:
                os.close(number)

    def _wait_for(self, number: int, mode: int) -> None:
        until, tries = time.monotonic() + _LOCK_SECONDS, 0
        while True:
            current_lease().check()
            try:
                return fcntl.flock(number, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise LockTimeoutError(
                        f"oci:{self.path} is in use by others for {_LOCK_SECONDS:.0f} s: try again later"
                    ) from None
            tries += 1
            time.sleep(_BACKOFF.pause_seconds(tries))


class _NewFile:
    """A file that nobody sees until it gets its name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("xb")

    def write(self, content: bytes, /) -> int:
        return self._file.write(content)

    def replace(self, path: Path) -> None:
        """Give the file its name, in place of another with that name."""
        self._finish()
        self._path.replace(path)
        _sync_folder(path)

    def link(self, path: Path) -> None:
        """Give the file its name, unless another has it."""
        self._finish()
        with suppress(FileExistsError, FileNotFoundError):  # who made the layout meanwhile has swept
            os.link(self._path, path)
        _sync_folder(path)

    def discard(self) -> None:
        """Delete the file, unless it got its name."""
        with suppress(OSError):  # a full disk refuses what is left to write, and `write` said so
            self._file.close()
        self._path.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _sync_folder(path: Path) -> None:
    number = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)  # else a power failure may take back the name, and keep a later one
    finally:
        os.close(number)


# Changes of this process that wait for a lock: who gets it makes all of them, as each is a rewrite of the
# whole index.


class IndexChanges:
    """Changes of one kind to one layout, by the tag that each is for; thread-safe."""

    def __init__(self) -> None:
        self._turn = LeaseBoundLock()
        self._waiting: dict[str, Any] = {}

    def make(self, tag: str, value: Any, change: Callable[[Mapping[str, Any]], None]) -> None:
        """Make a change together with those that wait; the values of all are handed to `change`."""
        self._waiting[tag] = value
        try:
            with self._turn:
                if tag in self._waiting:
                    self._make_all(tag, change)
        finally:
            self._waiting.pop(tag, None)

    def _make_all(self, own_tag: str, change: Callable[[Mapping[str, Any]], None]) -> None:
        taken = {own_tag: self._waiting.pop(own_tag)}
        with suppress(KeyError):
            while True:
                tag, value = self._waiting.popitem()
                taken[tag] = value
        try:
            change(taken)
        except BaseException:
            del taken[own_tag]
            self._waiting |= taken  # each tries on its own, and learns why it fails
            raise


_CHANGES: dict[tuple[Path, str], IndexChanges] = {}


def changes_of(path: Path, kind: str) -> IndexChanges:
    """Return the changes of a kind, "put" or "delete", to the layout at a path."""
    return _CHANGES.setdefault((path, kind), IndexChanges())
