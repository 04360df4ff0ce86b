"""A project in a Docker Engine as a storage of stages: images `PROJECT:STAGE_ID` with the project's label."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from stagefleet import errors
from stagefleet.attempt import NOT_THERE, Attempt, ItemResult
from stagefleet.image_config import describe_engine_image
from stagefleet.images import ImageInfo, Platform, StageDescription
from stagefleet.leases import Lease
from stagefleet.locks import LockManager
from stagefleet.locks.stage_locks import ImageLocks, StageLocks
from stagefleet.manifests import INDEXES
from stagefleet.names import EngineProject, Repository, StageId
from stagefleet.operations.delete import DeleteOperation, InUsePolicy
from stagefleet.records import ImportMetadata, Record, RecordId, RecordKind
from stagefleet.records.image import PROJECT_LABEL, RecordImage
from stagefleet.records.models import Labels
from stagefleet.shared_state.base import SharedState
from stagefleet.shared_state.best_effort import LastUsed
from stagefleet.stage_lists import StageIdList
from stagefleet.storages.base import RecordStore, Storage, StoredRecord, WriteResult

if TYPE_CHECKING:
    from stagefleet.engine import Engine  # imports docker-py
    from stagefleet.storages.verification import VerificationResult

_CONFLICT = 409


@dataclass(frozen=True, slots=True)
class EngineHost:
    """The Docker Engine of one host, with the fleet's locks and memory of its images; thread-safe.

    `last_used` records the use and removal of images; it is None in a process that uses none.
    """

    engine: Engine
    name: str
    locks: LockManager
    last_used: LastUsed | None = None

    @property
    def images(self) -> ImageLocks:
        """The locks on its images."""
        return ImageLocks(self.locks, self.name)

    @property
    def stage_locks(self) -> StageLocks:
        """The locks on stages, also on those in this engine."""
        return StageLocks(self.locks, host=self.name)

    def note_use(self, image: str) -> None:
        """Record that an image was used here."""
        if self.last_used is not None:
            self.last_used.note(self.name, image)

    def note_removal(self, image: str) -> None:
        """Record that an image was removed here."""
        if self.last_used is not None:
            self.last_used.forget(self.name, image)

    def drop(self, name: str) -> None:
        """Remove a name that only a copy needed, unless a job has fetched it meanwhile."""
        with suppress(errors.ImageInUseError), self.images.lock_exclusively(name):
            self.engine.remove(name)

    def close(self) -> None:
        """Close the connections to the engine."""
        self.engine.close()


class EngineStorage(Storage):
    """A project in the engine of this host."""

    address: EngineProject

    def __init__(self, host: EngineHost, address: EngineProject) -> None:
        self.address = address
        self.host = host
        self.engine = host.engine

    def check(self) -> None:
        self.engine.ping()

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

    def read(self, stage_id: StageId) -> StageDescription:
        image = self.engine.find(self.name_of(stage_id))
        if image is None:
            raise errors.StageNotFoundError(f"{self.address} has no stage {stage_id}")
        info = describe_engine_image(image, self.address.project, str(stage_id))
        if info.labels.get(PROJECT_LABEL) != self.address.project:
            raise errors.StageNotFoundError(
                f"{self.address} has no stage {stage_id}: the image of that name is another project's"
            )
        return StageDescription(stage_id=stage_id, info=info)

    def delete(self, stage_id: StageId, attempt: Attempt) -> ItemResult:
        """Remove a stage in all its platforms, as the policy of the attempt's `DeleteOperation` says."""
        policy = attempt.parsed(DeleteOperation).policy
        with self.host.stage_locks.lock_exclusively(self.address, stage_id, attempt=attempt) as stage_lock:
            return self._remove(stage_id, policy, stage_lock)

    def _remove(self, stage_id: StageId, policy: InUsePolicy, lease: Lease) -> ItemResult:
        stage, name = StageImages(self.engine, self.address.project, stage_id), self.name_of(stage_id)
        if not stage.all():
            self.host.note_removal(name)
            return NOT_THERE
        try:
            with self.host.images.lock_exclusively(name):
                found, clear = stage.all(), partial(_clear_containers, self.engine, policy)
                if not all(clear(name, image_id) for name, image_id in found.items()):
                    return ItemResult(skipped=True)
                lease.check()
                for image in found:
                    self.engine.remove(image)
                    self.host.note_removal(image)
        except errors.ImageInUseError:
            if policy.skip_used:
                return ItemResult(skipped=True)
            raise
        except errors.EngineError as error:
            if error.status != _CONFLICT:
                raise
            # A container was started after the check.
            raise errors.ImageInUseError(f"{error}; skip it with --skip-used") from error
        return ItemResult()

    def verify(
        self, stage_id: StageId, attempt: Attempt, shared_state: SharedState, *, shallow: bool
    ) -> VerificationResult:
        from stagefleet.storages.engine_verification import verify_images  # noqa: PLC0415 - only workers verify

        del shared_state  # an engine exports images as a whole
        name = self.read(stage_id).info.name
        with self.host.images.lock_shared(name, check=attempt.lease.check):
            images = StageImages(self.engine, self.address.project, stage_id).all()
            return verify_images(self.engine, images.values(), attempt.lease, shallow=shallow)

    @property
    def records(self) -> EngineRecords:
        return EngineRecords(self.engine, self.address)


# Images of one stage in an engine, one for each fetched platform.
#
# Without containerd's image store an engine keeps one platform under a name (moby #43188): a pull of
# another one takes the name away from the first, possibly while a job uses it. So the stage's own name
# always means the engine's own platform, and every other platform has a name of its own,
# `STAGE_ID.OS.ARCHITECTURE[.VARIANT]`. Neither stage ids nor the tags of records that begin with one
# contain a dot, so the names are unambiguous.


class StageImages:
    """Images of a stage in an engine; their names begin with a repository, or the name of a project."""

    def __init__(self, engine: Engine, repository: Repository | str, stage_id: StageId) -> None:
        self._engine = engine
        self._repository = repository
        self._stage_id = stage_id

    def tag_for(self, platform: Platform) -> str:
        """Return the tag of a platform's image."""
        normal = platform.normal
        return str(self._stage_id) if normal == self._engine.platform else self._tag_of(normal)

    def find(self, platform: Platform | None = None) -> ImageInfo | None:
        """Find the image of a platform, or of the engine's own one; None if it is not there."""
        own_tag = str(self._stage_id)
        image = self._inspect(own_tag)
        if image is not None and self.is_for(image, platform):
            return describe_engine_image(image, self._repository, own_tag)
        return None if platform is None else self.describe(self._tag_of(platform.normal))

    def describe(self, tag: str) -> ImageInfo | None:
        """Describe the image of a tag, None if it is not there."""
        image = self._inspect(tag)
        return None if image is None else describe_engine_image(image, self._repository, tag)

    def is_for(self, image: Mapping[str, Any], platform: Platform | None) -> bool:
        """Return True if an image is for a platform; an image without a platform is for the engine's own.

        With containerd's image store a name may lead to an index of which nothing for the engine's platform
        was pulled: that has no platform, and is for none.
        """
        if _is_bare_index(image):
            return False
        if platform is None and not self._stage_id.is_multiplatform:
            return True
        own = self._engine.platform
        return (platform_of(image) or own) == (own if platform is None else platform.normal)

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


def platform_of(image: Mapping[str, Any]) -> Platform | None:
    """Return the platform that an engine tells of an image, in normal form; None if it tells none."""
    return Platform.of({key.lower(): image.get(key) for key in ("Os", "Architecture", "Variant")})


def _is_bare_index(image: Mapping[str, Any]) -> bool:
    kind = (image.get("Descriptor") or {}).get("mediaType")  # Docker Engine API 1.48, "Inspect an image"
    return kind in INDEXES and not image.get("Os")


def _is_platform(name: str, own: str) -> bool:
    """Return True if the part after the stage's own name is a platform."""
    try:
        Platform.parse(name.removeprefix(f"{own}.").replace(".", "/", 2))
    except errors.InvalidNameError:
        return False
    return True


# Records of a project in a Docker Engine: import metadata only.
#
# All other kinds describe a repository that many builders share. Here they are never written and never found,
# so that callers need not tell the storages apart.

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
            if repository == self._repository:
                with suppress(errors.InvalidNameError):  # too long for a repository's tag: not ours
                    yield RecordId.of(_KIND, tag)

    def read(self, record_id: RecordId) -> StoredRecord | None:
        if record_id.kind is not _KIND:
            return None
        name = self._name(record_id)
        image = self._engine.find(name)
        if image is None:
            return None
        info = describe_engine_image(image, self._repository, record_id.name)
        if info.labels.get(PROJECT_LABEL) != self._project:
            raise errors.BrokenRecordError(f"{name} is no record of {self._project}: left alone")
        record = ImportMetadata.read(record_id.name, Labels(name, info.labels))
        return StoredRecord(record, self._project, info)

    def write(self, record: Record, *, project: str | None = None, force: bool = False) -> WriteResult:
        if project not in {None, self._project}:
            raise errors.UsageError(
                f"{self._address} keeps the records of {self._project} alone, not of {project}"
            )
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
    config = {**json.loads(image.config), "architecture": "amd64", "os": "linux"}  # the engine requires both
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


_SHOWN = 3


def _clear_containers(engine: Engine, policy: InUsePolicy, name: str, image_id: str) -> bool:
    """Ensure that no container uses an image that is to be removed; return False to skip it.

    `errors.ImageInUseError` names a container that uses it, and the option to set.
    """
    containers = engine.users(image_id)
    if not containers:
        return True
    if policy.skip_used:
        return False
    if not policy.remove_containers:
        raise errors.ImageInUseError(
            f"{name} is used by {_enumerate(containers)}: skip it with --skip-used, or remove "
            "its containers with --remove-containers"
        )
    for container in containers:
        try:
            engine.remove_container(container["Id"], force=policy.force)
        except errors.EngineError as error:
            if error.status != _CONFLICT:
                raise
            raise errors.ImageInUseError(
                f"{name} is used by {_enumerate([container])}, which runs: stop it, or remove it with --force"
            ) from error
    return True


def _enumerate(containers: Sequence[Mapping[str, Any]]) -> str:
    names = [
        f"container {(container.get('Names') or ['?'])[0].lstrip('/')} ({container['Id'][:12]})"
        for container in containers[:_SHOWN]
    ]
    more = len(containers) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
