"""Records of a project in a Docker Engine: import metadata only.

All other kinds describe a repository that many builders share. Here they are never written and never found,
so that callers need not tell the storages apart.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from stagefleet.attempt import NOT_THERE, Attempt, ItemResult
from stagefleet.errors import BrokenRecordError, InvalidNameError, UsageError
from stagefleet.image_config import describe_engine_image
from stagefleet.names import EngineProject
from stagefleet.records.ids import RecordId, RecordKind
from stagefleet.records.image import PROJECT_LABEL, RecordImage
from stagefleet.records.models import ImportMetadata, Labels, Record
from stagefleet.storages.storage import RecordStore, StoredRecord, WriteResult

if TYPE_CHECKING:
    from stagefleet.engine.connection import Engine  # imports docker-py

_KIND = RecordKind.IMPORT_METADATA
_EMPTY_ARCHIVE = bytes(1024)


class EngineRecords(RecordStore):
    """Records of a project in an engine."""

    def __init__(self, engine: Engine, address: EngineProject) -> None:
        self._engine = engine
        self._address = address
        self._project = address.project
        self._repository = f"werf-import-metadata/{address.project}"

    def ids(
        self, kind: RecordKind | None = None, *, on_unknown: Callable[[str], None] | None = None
    ) -> Iterator[RecordId]:
        del on_unknown  # other images of the engine are no concern of the project
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
        if record_id.kind is not _KIND:
            return None
        name = self._name(record_id)
        image = self._engine.find(name)
        if image is None:
            return None
        info = describe_engine_image(image, self._repository, record_id.name)
        if info.labels.get(PROJECT_LABEL) != self._project:
            raise BrokenRecordError(f"{name} is no record of {self._project}: left alone")
        record = ImportMetadata.read(record_id.name, Labels(name, info.labels))
        return StoredRecord(record, self._project, info)

    def write(self, record: Record, *, project: str | None = None, force: bool = False) -> WriteResult:
        if project not in {None, self._project}:
            raise UsageError(f"{self._address} keeps the records of {self._project} alone, not of {project}")
        if record.kind is not _KIND:
            return WriteResult.IGNORED
        name = self._name(record.id)
        if not force and self._engine.find(name) is not None:
            return WriteResult.PRESENT
        self._engine.load(_archive(name, RecordImage.of(self._project, record.labels)))
        return WriteResult.WRITTEN

    def delete(self, record_id: RecordId, attempt: Attempt) -> ItemResult:
        attempt.lease.check()
        if self.read(record_id) is None:
            return NOT_THERE
        self._engine.remove(self._name(record_id))
        return ItemResult()

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
