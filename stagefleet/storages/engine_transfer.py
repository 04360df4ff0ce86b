"""How a stage goes between a registry and a Docker Engine: the engine itself pulls or pushes.

The id of an image is the digest of its configuration, and of its manifest or index where the engine keeps
images as containerd does (docker/cli #5526).

A push changes the manifest's digest, as the engine writes its own manifest and compresses the layers
itself; the image id stays the same.
"""

from __future__ import annotations

from stagefleet import errors
from stagefleet.attempt import ItemResult
from stagefleet.bounds import join_first
from stagefleet.images import ImageInfo, Platform
from stagefleet.leases import Lease
from stagefleet.names import StageId
from stagefleet.records.image import PROJECT_LABEL
from stagefleet.storages.docker_engine import EngineStorage, StageImages, platform_of
from stagefleet.storages.repository import RegistryStorage

_TOLD_PLATFORMS = 10


def into_engine(
    source: RegistryStorage, destination: EngineStorage, stage_id: StageId, lease: Lease, *, verify: bool
) -> ItemResult:
    """Pull a stage, unless the engine would not list it; give it the engine's name for stages."""
    engine, reference = destination.engine, source.address.tagged(str(stage_id))
    project, manifest = destination.address.project, source.fetch_manifest(stage_id)
    if not manifest.is_index:  # the engine chooses from an index; other members may be missing
        _refuse_other_project(source.reader().describe(manifest, str(stage_id)), destination)
    there, name = StageImages(engine, project, stage_id).find(), str(reference)
    image_ids = {str(manifest.digest), str((manifest.config or manifest).digest)}
    if verify and there is not None and there.image_id in image_ids:
        destination.host.note_use(destination.name_of(stage_id))
        return ItemResult(skipped=True)
    is_new = engine.find(name) is None
    try:
        moved = engine.pull(reference, lease=lease)
    except errors.NotFoundError as error:
        source.fetch_manifest(stage_id)  # raises if it is gone
        raise errors.BrokenStageError(
            f"{error}; {source.address} cannot give all of it: build it again"
        ) from error
    engine.tag(name, project, str(stage_id))
    if is_new:
        destination.host.drop(name)
    destination.host.note_use(destination.name_of(stage_id))
    return ItemResult(destination.read(stage_id).as_json(), bytes=moved)


def _refuse_other_project(info: ImageInfo, destination: EngineStorage) -> None:
    address, theirs = destination.address, info.labels.get(PROJECT_LABEL)
    if theirs != address.project:
        raise errors.EngineError(
            f"{info.name} has the label {PROJECT_LABEL}={theirs}, so {address} would not list it: "
            f"copy it to docker-daemon:{theirs or 'PROJECT'}"
        )


def from_engine(
    source: EngineStorage, destination: RegistryStorage, stage_id: StageId, lease: Lease, *, verify: bool
) -> ItemResult:
    """Push a stage under the destination's name, unless other platforms would be lost there."""
    source.read(stage_id)  # raises if it is not there
    engine, address = source.engine, destination.address
    source.host.note_use(source.name_of(stage_id))
    if verify and engine.image_ids(source.name_of(stage_id)) & _image_ids(destination, stage_id):
        return ItemResult(skipped=True)
    _refuse_loss(source, destination, stage_id)
    name = str(address.tagged(str(stage_id)))
    is_new = engine.find(name) is None
    engine.tag(source.name_of(stage_id), str(address), str(stage_id))
    try:
        lease.check()  # `check` is enough: a push by two attempts changes nothing
        moved = engine.push(address.tagged(str(stage_id)), lease=lease)
    finally:
        if is_new:
            source.host.drop(name)
    destination.registries.remembered.add(address, stage_id)  # its tag may have been another image's
    return ItemResult(destination.read(stage_id).as_json(), bytes=moved)


def _refuse_loss(source: EngineStorage, destination: RegistryStorage, stage_id: StageId) -> None:
    """Raise if the tag names an index with other platforms: a push would put one image in its place."""
    try:
        manifest = destination.fetch_manifest(stage_id)
    except (errors.StageNotFoundError, errors.ContentError):
        return  # a push repairs a damaged stage
    except errors.RegistryUnavailableError:
        if stage_id.is_multiplatform:
            raise
        return
    there = {Platform.of(member.platform or {}) for member in manifest.members}
    own = platform_of(source.engine.find(source.name_of(stage_id)) or {}) or source.engine.platform
    others = sorted(str(platform) for platform in there - {None, own})
    if others:
        address = destination.address
        raise errors.UsageError(
            f"{address}:{stage_id} is an index for {join_first(others, _TOLD_PLATFORMS)}, too, and a push of "
            f"the engine's image would replace it: copy to another repository, or run stagefleet delete "
            f"{address} {stage_id} first"
        )


def _image_ids(storage: RegistryStorage, stage_id: StageId) -> set[str]:
    """Return the ids that engines may have for a stage: of an index, for one of its members, too."""
    try:
        info = storage.read(stage_id).info
    except (errors.StageNotFoundError, errors.ContentError, errors.RegistryUnavailableError):
        return set()  # a push repairs a damaged stage
    images = (info, *info.members)
    return {name for image in images for name in (image.image_id, image.repo_digest.rpartition("@")[2])}
