"""An OCI image layout (OCI image specification 1.1, "Image Layout"): images in a directory or a tar file."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path

from stagefleet import errors
from stagefleet.leases import NO_LEASE, Lease, current_lease
from stagefleet.manifests import MANIFEST_BYTES, Descriptor, Manifest, digest_of
from stagefleet.names import Digest
from stagefleet.oci_layout.directory import LayoutDirectory, changes_of
from stagefleet.oci_layout.files import LayoutFile, LayoutFiles, TarFiles, blob_name, file_errors
from stagefleet.oci_layout.index import IndexEntry, find_tag, index_entries
from stagefleet.registry.blob_source import VerifiedSource

_VERSION = "1.0.0"
_VERSION_BYTES = 64 * 1024
_CHUNK_BYTES = 1024 * 1024
_MOST_LINKS = 20_000  # of one image; an index names 10,000 at most
_DIGEST = re.compile(rb"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")


class OciLayout:
    """The images of a layout, in a directory, which need not exist, or in a tar file to read; thread-safe.

    Other tools may read it at any time, but take none of its locks: while one writes, nobody else should.
    What cannot be read or written is a `UsageError` that says what to do.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with file_errors(path):
            self._directory = None if path.is_file() else LayoutDirectory(path)
        self._files: LayoutFiles = self._directory or TarFiles(path)

    def check(self) -> None:
        """Check that the layout is there, and of a version that this release can read.

        Raises:
            RepositoryNotFoundError: There is nothing.
            UsageError: There is something else, or it cannot be read.
            IncompatibleVersionError: Its version is another.
        """
        with file_errors(self._path):
            file = self._files.open("oci-layout")
            if file is None:
                raise self._missing()
            with file:
                content = file.read(_VERSION_BYTES) or b""
        try:
            version = json.loads(content)["imageLayoutVersion"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise errors.UsageError(
                f"{self._path} is no OCI image layout: its file oci-layout names no version"
            ) from None
        if version != _VERSION:
            raise errors.IncompatibleVersionError(
                f"{self._path} is an OCI image layout of version {str(version)[:20]!r}; this release knows "
                f"{_VERSION} alone: update Stagefleet, or write the layout with an older tool"
            )

    def tags(self) -> Iterator[str]:
        """Yield the tags in the layout's order; a tag that other tools wrote twice comes twice.

        Raises:
            ContentError: index.json is malformed.
        """
        self.check()
        return (entry.tag for entry in index_entries(self._files) if entry.tag is not None)

    def resolve(self, tag: str) -> Descriptor:
        """Return the descriptor of a tag; of several, the first.

        Raises:
            StageNotFoundError: There is no such tag.
            ContentError: index.json is malformed.
        """
        self.check()
        descriptor = find_tag(self._files, tag)
        if descriptor is None:
            raise errors.StageNotFoundError(f"{self._path} has no {tag}")
        return descriptor

    def fetch_manifest(self, digest: Digest, media_type: str = "") -> Manifest:
        """Read a manifest or index byte for byte, and verify it.

        Raises:
            BrokenStageError: It is missing, or too large.
            DigestMismatchError: The content does not match the digest.
            UnsupportedManifestError: Its media type is not supported.
        """
        raw = self._read(digest)
        if raw is None:
            raise self._lacks(digest)
        found = digest_of(raw, digest.algorithm)
        if found != digest:
            raise errors.DigestMismatchError(
                f"{self._path} has other content for {digest}: {found}; delete the stage there, "
                "and copy it again",
                found=str(found),
            )
        return Manifest.parse(raw, media_type, algorithm=digest.algorithm)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Return True if a blob is there; its content may be wrong. `DigestMismatchError` if its size is."""
        try:
            self.open_blob(descriptor).close()
        except errors.BrokenStageError:
            return False
        return True

    def open_blob(
        self,
        descriptor: Descriptor,
        *,
        lease: Lease = NO_LEASE,
        on_bytes: Callable[[int], None] | None = None,
    ) -> LayoutBlob:
        """Open a blob for reading; close it. `on_bytes` is called with the size of each chunk.

        Raises:
            BrokenStageError: It is missing.
            DigestMismatchError: Its size is another.
        """
        with file_errors(self._path):
            file = self._files.open(blob_name(descriptor.digest))
        if file is None:
            raise self._lacks(descriptor.digest)
        if file.size != descriptor.size:
            file.close()
            raise errors.DigestMismatchError(
                f"{self._path} has {file.size} bytes of {descriptor.digest}, its manifest says "
                f"{descriptor.size}: delete the stage there, and copy it again"
            )
        return LayoutBlob(self._path, file, descriptor, current_lease(lease), on_bytes)

    @contextmanager
    def writing(self) -> Iterator[LayoutDirectory]:
        """Hold the layout against deletions, to write a stage; it is made if there is none.

        Raises:
            UsageError: The directory has other content, or it is a tar file.
            LockTimeoutError: A deletion takes too long.
        """
        directory = self._writable()
        with file_errors(self._path):
            directory.create()
        self.check()
        with ExitStack() as stack:
            with file_errors(self._path):  # but not of what the block does
                stack.enter_context(directory.shared())
            yield directory

    def delete(self, tag: str) -> bool:
        """Delete a tag, and then the blobs that were its own; return True if there was one.

        What another entry of index.json leads to stays: members of an index, the subject of an artifact.

        Raises:
            ContentError: index.json is malformed; nothing was deleted.
            UsageError: It is a tar file.
            LockTimeoutError: A writer takes too long.
        """
        self._writable()
        gone: list[IndexEntry] = []
        with suppress(errors.RepositoryNotFoundError):
            self.check()
            changes_of(self._path, "delete").make(tag, gone, self._delete)
        return bool(gone)

    def _delete(self, gone: Mapping[str, list[IndexEntry]]) -> None:
        """Delete tags; append the entries of each to its list."""
        directory = self._writable()
        with file_errors(self._path), directory.exclusive():
            for entry in index_entries(directory):
                if (tag := entry.tag) is not None and tag in gone:
                    gone[tag].append(entry)
            entries = [entry.descriptor for entry in chain.from_iterable(gone.values())]
            if entries:
                unused = self._unused(filter(None, entries), gone)
                directory.rewrite_index(lambda entry: entry.tag not in gone)
                for digest in unused:
                    directory.delete_blob(digest)

    def _unused(self, gone: Iterable[Descriptor], tags: Container[str | None]) -> list[Digest]:
        """Return what entries of index.json lead to, and none leads to that stays."""
        unused: set[bytes] = set()
        for root in gone:
            unused.add(str(root.digest).encode())
            with suppress(errors.ContentError):  # a broken image can be deleted, too
                for raw in self._walk(root):
                    with suppress(errors.UnsupportedManifestError):
                        manifest = Manifest.parse(raw)
                        parts = (manifest.config, *manifest.layers, *manifest.members, manifest.subject)
                        unused.update(str(part.digest).encode() for part in parts if part)
        for entry in index_entries(self._files):
            if unused and entry.tag not in tags:
                current_lease().check()
                kept = entry.descriptor
                for raw in chain([entry.text.encode()], self._walk(kept) if kept else ()):
                    # All digests in a document: what a manifest of an unknown kind refers to stays, too.
                    unused.difference_update(_DIGEST.findall(raw))
        return [Digest.parse(digest.decode()) for digest in unused]

    def _walk(self, root: Descriptor) -> Iterator[bytes]:
        """Yield the manifests that a descriptor leads to, and no missing ones.

        Raises:
            BrokenStageError: One is too large.
            UnsupportedManifestError: They are too many.
        """
        left, seen = [root], {root.digest}
        while left:
            descriptor = left.pop()
            raw = self._read(descriptor.digest) if descriptor.is_manifest else None
            if raw is None:
                continue
            yield raw
            if b'"manifests"' not in raw and b'"subject"' not in raw:
                continue  # as most: there is no need to parse them
            with suppress(errors.UnsupportedManifestError):
                manifest = Manifest.parse(raw, descriptor.media_type)
                links = {link.digest: link for link in (*manifest.members, manifest.subject) if link}
                left += [link for digest, link in links.items() if digest not in seen]
                seen.update(links)
            if len(seen) > _MOST_LINKS:
                raise errors.UnsupportedManifestError(
                    f"{self._path}: {root.digest} leads to more than {_MOST_LINKS} manifests"
                )

    def _read(self, digest: Digest) -> bytes | None:
        """Read a manifest; None if it is missing."""
        with file_errors(self._path):
            file = self._files.open(blob_name(digest))
            if file is None:
                return None
            with file:
                if file.size > MANIFEST_BYTES:
                    raise errors.BrokenStageError(
                        f"{self._path}: the manifest {digest} has {file.size} bytes, and at most "
                        f"{MANIFEST_BYTES} are read"
                    )
                return io.BufferedReader(file).read()

    def _writable(self) -> LayoutDirectory:
        if self._directory is None:
            raise errors.UsageError(
                f"{self._path} is a tar file, which is only read: name a directory, or unpack it"
            )
        return self._directory

    def _missing(self) -> errors.UsageError:
        """Return the error of a layout without its version."""
        if self._files.open("manifest.json") is not None:
            return errors.UsageError(
                f"{self._path} is an archive of docker save, not an OCI image layout: convert it with  "
                f"skopeo copy docker-archive:{self._path} oci:DIRECTORY:TAG"
            )
        if self._directory is None or self._directory.foreign_names():
            return errors.UsageError(f"{self._path} is no OCI image layout: it has no file oci-layout")
        return errors.RepositoryNotFoundError(f"there is no OCI image layout at {self._path}")

    def _lacks(self, digest: Digest) -> errors.BrokenStageError:
        return errors.BrokenStageError(
            f"{self._path} lacks the blob {digest} of the stage: delete the stage there, and copy it again"
        )


class LayoutBlob(VerifiedSource):
    """Read a blob of a layout."""

    chunk_bytes = _CHUNK_BYTES

    def __init__(
        self,
        path: Path,
        file: LayoutFile,
        descriptor: Descriptor,
        lease: Lease,
        on_bytes: Callable[[int], None] | None,
    ) -> None:
        super().__init__(descriptor, lease=lease, on_bytes=on_bytes)
        self._path = path
        self._file = file
        self._left = descriptor.size

    def skip(self, count: int) -> None:
        """Leave out the first bytes: read them here, to verify the whole."""
        self._first = count
        left = count
        while left and (piece := self.read(min(_CHUNK_BYTES, left))):
            left -= len(piece)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, size: int) -> bytes:
        self._lease.check()
        with file_errors(self._path):
            piece = self._file.read(size) or b""
        self._hash.update(piece)
        self._left -= len(piece)
        is_short = bool(size) and not piece and self._left > 0
        if is_short or (self._left == 0 and self._hash.hexdigest() != self._descriptor.digest.hex):
            raise errors.DigestMismatchError(
                f"{self._path} has other content for {self._descriptor.digest}: delete the stage there, and "
                "copy it again",
                found="" if is_short else f"{self._descriptor.digest.algorithm}:{self._hash.hexdigest()}",
            )
        if self._on_bytes is not None:
            self._on_bytes(len(piece))
        return piece
