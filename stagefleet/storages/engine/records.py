"""The records of a project in a Docker Engine: import metadata, and nothing else.

The other records are about a repository that many builders share; here they are written nowhere and found
nowhere, so that who keeps records need not ask where.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator

from stagefleet.errors import BrokenRecordError, InvalidNameError
from stagefleet.names import DockerDaemon
from stagefleet.records import ImportMetadata, Record, RecordId, RecordImage, RecordKind
from stagefleet.records.image import PROJECT_LABEL
from stagefleet.records.record import Labels
from stagefleet.storages.engine.connection import Engine
from stagefleet.storages.engine.storage import describe_image_in
from stagefleet.storages.records import StoredRecord, Written

__all__ = ["EngineRecordStore"]

_KIND = RecordKind.IMPORT_METADATA
_EMPTY_ARCHIVE = bytes(1024)


class EngineRecordStore:
    """A project's records in an engine, kept as `RecordStore` keeps them; from many threads.

    Args:
        engine: The engine.
        address: The project in it.
    """

    def __init__(self, engine: Engine, address: DockerDaemon) -> None:
        self._engine = engine
        self._project = address.project
        self._repository = f"werf-import-metadata/{address.project}"

    def ids(self, kind: RecordKind | None = None) -> Iterator[RecordId]:
        """The records that are there."""
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
                continue  # too long for the tag of a repository: not ours

    def read(self, record_id: RecordId) -> StoredRecord | None:
        """Read one record, None if it is not there.

        Raises:
            BrokenRecordError: The image under its name lacks a label, or is another project's.
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

    def write(self, record: Record, *, force: bool = False) -> Written:
        """Write a record; what is there already only with `force`, and what is not kept here never."""
        if record.kind is not _KIND:
            return Written.IGNORED
        name = self._name(record.id)
        if not force and self._engine.find(name) is not None:
            return Written.PRESENT
        self._engine.load(_archive(name, RecordImage.of(self._project, record.labels)))
        return Written.WRITTEN

    def remove(self, record_id: RecordId) -> None:
        """Remove a record; that it is gone already is success.

        Raises:
            BrokenRecordError: What is there is no record: it is left alone.
        """
        if self.read(record_id) is not None:
            self._engine.remove(self._name(record_id))

    def _name(self, record_id: RecordId) -> str:
        return f"{self._repository}:{record_id.name}"


def _archive(name: str, image: RecordImage) -> bytes:
    """An image as `docker load` reads it (Docker image specification 1.2, "Combined Image JSON")."""
    config = {
        **json.loads(image.config),
        "architecture": "amd64",
        "os": "linux",
    }  # the engine insists on both
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
