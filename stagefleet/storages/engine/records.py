"""Records of a project in a Docker Engine: import metadata only.

All other kinds describe a repository that many builders share. Here they are never written and never found,
so that callers need not tell the storages apart.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator

from stagefleet.errors import BrokenRecordError, InvalidNameError
from stagefleet.names import EngineProject
from stagefleet.records import ImportMetadata, Record, RecordId, RecordImage, RecordKind
from stagefleet.records.image import PROJECT_LABEL
from stagefleet.records.record import Labels
from stagefleet.storages.engine.connection import Engine
from stagefleet.storages.engine.storage import describe_image_in
from stagefleet.storages.records import StoredRecord, WriteResult

__all__ = ["EngineRecordStore"]

_KIND = RecordKind.IMPORT_METADATA
_EMPTY_ARCHIVE = bytes(1024)


class EngineRecordStore:
    """Records of a project in an engine, with the interface of `RecordStore`; thread-safe.

    Args:
        engine: The engine.
        address: The project in it.
    """

    def __init__(self, engine: Engine, address: EngineProject) -> None:
        self._engine = engine
        self._project = address.project
        self._repository = f"werf-import-metadata/{address.project}"

    def ids(self, kind: RecordKind | None = None) -> Iterator[RecordId]:
        """List the ids of the records."""
        if kind not in {None, _KIND}:
            return
        label = f"{PROJECT_LABEL}={self._project}"
        for name in self._engine.names(self._repository, label=label):
            repository, _, tag = name.rpartition(":")
            if repository != self._repository:
                continue
            try:
                yield RecordId.of(_KIND, tag)
            except InvalidNameError:
                continue  # too long for a repository's tag: not ours

    def read(self, record_id: RecordId) -> StoredRecord | None:
        """Read one record, None if it does not exist.

        Raises:
            BrokenRecordError: The image under its name lacks a label, or belongs to another project.
        """
        if record_id.kind is not _KIND:
            return None
        name = self._name(record_id)
        image = self._engine.find(name)
        if image is None:
            return None
        info = describe_image_in(image, self._repository, record_id.name)
        if info.labels.get(PROJECT_LABEL) != self._project:
            raise BrokenRecordError(f"{name} is no record of {self._project}: left alone")
        record = ImportMetadata.read(record_id.name, Labels(name, info.labels))
        return StoredRecord(record, self._project, info)

    def write(self, record: Record, *, force: bool = False) -> WriteResult:
        """Write a record: an existing one only with `force`, and unsupported kinds never."""
        if record.kind is not _KIND:
            return WriteResult.IGNORED
        name = self._name(record.id)
        if not force and self._engine.find(name) is not None:
            return WriteResult.PRESENT
        self._engine.load(_archive(name, RecordImage.of(self._project, record.labels)))
        return WriteResult.WRITTEN

    def remove(self, record_id: RecordId) -> bool:
        """Remove a record; return True if it was there.

        Raises:
            BrokenRecordError: The image under its name is no record; it is not removed.
        """
        is_there = self.read(record_id) is not None
        if is_there:
            self._engine.remove(self._name(record_id))
        return is_there

    def _name(self, record_id: RecordId) -> str:
        return f"{self._repository}:{record_id.name}"


def _archive(name: str, image: RecordImage) -> bytes:
    """Build an image archive for `docker load` (Docker image specification 1.2, "Combined Image JSON")."""
    config = {
        **json.loads(image.config),
        "architecture": "amd64",
        "os": "linux",
    }  # the engine requires both
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {
        "config.json": json.dumps(config).encode(),
        "layer.tar": _EMPTY_ARCHIVE,
        "manifest.json": json.dumps(manifest).encode(),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
