"""A project in a Docker Engine as a storage of stages: images `PROJECT:STAGE_ID` with the project's label."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

from stagefleet.engine.connection import Engine
from stagefleet.errors import BrokenRecordError, InvalidNameError, StageNotFoundError
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.names import EngineProject, Repository, StageId
from stagefleet.platforms import Platform
from stagefleet.records import ImportMetadata, Record, RecordId, RecordImage, RecordKind
from stagefleet.records.image import PROJECT_LABEL
from stagefleet.records.record import Labels
from stagefleet.shared_state.id_list import StageIdList
from stagefleet.storages.image_config import moment_of, read_settings
from stagefleet.storages.repository_records import StoredRecord, WriteResult

__all__ = ["EngineRecordStore", "EngineStorage", "StageImages", "describe_image_in"]

# Stages of a project in a Docker Engine: images `PROJECT:STAGE_ID` with the project's label.


class EngineStorage:
    """`StageStorage` for a project in an engine.

    Attributes:
        address: The project in the engine.
        engine: The engine.
    """

    def __init__(self, engine: Engine, address: EngineProject) -> None:
        self.address = address
        self.engine = engine

    def name_of(self, stage_id: StageId) -> str:
        """Return the name of a stage's image."""
        return f"{self.address.project}:{stage_id}"

    def stage_ids(self) -> StageIdList:
        return StageIdList(self._candidates())

    def _candidates(self) -> Iterator[StageId]:
        project = self.address.project
        for name in self.engine.names(project, label=f"{PROJECT_LABEL}={project}"):
            repository, _, tag = name.rpartition(":")
            if repository == project and (stage_id := StageId.from_tag(tag)):
                yield stage_id

    def describe(self, stage_id: StageId) -> StageDescription:
        image = self.engine.find(self.name_of(stage_id))
        if image is None:
            raise StageNotFoundError(f"{self.address} has no stage {stage_id}")
        info = describe_image_in(image, self.address.project, str(stage_id))
        if info.labels.get(PROJECT_LABEL) != self.address.project:
            raise StageNotFoundError(
                f"{self.address} has no stage {stage_id}: the image of that name is another project's"
            )
        return StageDescription(stage_id=stage_id, info=info)


def describe_image_in(image: dict[str, Any], repository: str | Repository, tag: str) -> ImageInfo:
    """Convert an engine's description of an image; the size is that of the unpacked layers.

    Args:
        image: The engine's description (Docker Engine API 1.41, "Inspect an image").
        repository: The repository of the image's name.
        tag: The tag in the repository.
    """
    digests = [name for name in image.get("RepoDigests") or () if name.startswith(f"{repository}@")]
    info = ImageInfo(
        name=f"{repository}:{tag}",
        repository=str(repository),
        tag=tag,
        repo_digest=digests[0] if digests else "",
        image_id=str(image.get("Id", "")),
        size=int(image.get("Size") or 0),
        created_at=moment_of(image.get("Created")),
        **read_settings(image.get("Config")),
    )
    return info.bounded()


# Images of one stage in an engine, one for each fetched platform.
#
# Without containerd's image store an engine keeps one platform under a name (moby #43188): a pull of
# another one takes the name away from the first, possibly while a job uses it. So the stage's own name
# always means the engine's own platform, and every other platform has a name of its own,
# `STAGE_ID.OS.ARCHITECTURE[.VARIANT]`. Neither stage ids nor the tags of records that begin with one
# contain a dot, so the names are unambiguous.


class StageImages:
    """Images of a stage in an engine.

    Args:
        engine: The engine.
        repository: Prefix of their names: a repository, or the name of a project.
        stage_id: The stage.
    """

    def __init__(self, engine: Engine, repository: Repository | str, stage_id: StageId) -> None:
        self._engine = engine
        self._repository = repository
        self._stage_id = stage_id

    def tag_for(self, platform: Platform) -> str:
        """Return the tag of a platform's image."""
        normal = platform.normal
        return str(self._stage_id) if normal == self._engine.platform else self._tag_of(normal)

    def find(self, platform: Platform | None = None) -> ImageInfo | None:
        """Find the image of a platform, None if it is not there.

        Args:
            platform: The platform; None for the engine's own, or for a stage that is one image.
        """
        own_tag = str(self._stage_id)
        image = self._inspect(own_tag)
        if image is not None and self.is_for(image, platform):
            return describe_image_in(image, self._repository, own_tag)
        return None if platform is None else self.describe(self._tag_of(platform.normal))

    def describe(self, tag: str) -> ImageInfo | None:
        """Describe the image of a tag, None if it is not there."""
        image = self._inspect(tag)
        return None if image is None else describe_image_in(image, self._repository, tag)

    def is_for(self, image: Mapping[str, Any], platform: Platform | None) -> bool:
        """Return True if an image is for a platform; an image without a platform is for the engine's own.

        Args:
            image: The engine's description (Docker Engine API 1.41, "Inspect an image").
            platform: As in `find`.
        """
        if platform is None and not self._stage_id.is_multiplatform:
            return True
        said = {key.lower(): image.get(key) for key in ("Os", "Architecture", "Variant")}
        own = self._engine.platform
        return (Platform.of(said) or own) == (own if platform is None else platform.normal)

    def all(self) -> dict[str, str]:
        """Return the image ids of the stage, by name."""
        own = f"{self._repository}:{self._stage_id}"
        others = sorted(name for name in self._engine.names(f"{own}.*") if _is_platform(name, own))
        found = {name: self._engine.find(name) for name in (own, *others)}
        return {name: str(image["Id"]) for name, image in found.items() if image is not None}

    def _inspect(self, tag: str) -> dict[str, Any] | None:
        return self._engine.find(f"{self._repository}:{tag}")

    def _tag_of(self, normal: Platform) -> str:
        return ".".join((str(self._stage_id), *str(normal).split("/")))


def _is_platform(name: str, own: str) -> bool:
    """Return True if the part after the stage's own name is a platform."""
    try:
        Platform.parse(name.removeprefix(f"{own}.").replace(".", "/", 2))
    except InvalidNameError:
        return False
    return True


# Records of a project in a Docker Engine: import metadata only.
#
# All other kinds describe a repository that many builders share. Here they are never written and never found,
# so that callers need not tell the storages apart.

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
