"""Copy a stage between a registry and a Docker Engine: the engine itself pulls or pushes.

A push changes the manifest's digest, as the engine writes its own manifest and compresses the layers itself;
the image id stays the same.
"""

from __future__ import annotations

from collections.abc import Callable

from stagefleet.errors import (
    BrokenStageError,
    ContentError,
    EngineError,
    NotFoundError,
    RegistryUnavailableError,
    StageNotFoundError,
)
from stagefleet.images import ImageInfo
from stagefleet.manager.item_result import ItemResult
from stagefleet.names import StageId
from stagefleet.records.image import PROJECT_LABEL
from stagefleet.registry.lease import Lease
from stagefleet.storages import RegistryStorage
from stagefleet.storages.engine import EngineStorage

__all__ = ["copy_from_engine", "copy_into_engine"]

Drop = Callable[[str], object]
"""Removes a name that only the copy needed."""


def copy_into_engine(
    source: RegistryStorage,
    destination: EngineStorage,
    stage_id: StageId,
    *,
    drop: Drop,
    verify: bool,
    lease: Lease,
) -> ItemResult:
    """Pull a stage, and give it the engine's name for stages.

    Args:
        source: The repository that has it.
        destination: The engine.
        stage_id: The stage.
        drop: Removes the repository's name for it again.
        verify: Skip it if the engine has the same image id.
        lease: Lease to check in waits.

    Raises:
        StageNotFoundError: The source does not have it.
        BrokenStageError: The source lists it, but lacks content that the engine needs.
        EngineError: It belongs to another project, so that the engine would not list it.
    """
    engine, reference = destination.engine, source.address.tagged(str(stage_id))
    project, manifest = destination.address.project, source.fetch_manifest(stage_id)
    if not manifest.is_index:  # the engine chooses from an index; other members may be missing
        _refuse_other_project(source.reader().describe(reference, manifest), destination)
    there = engine.find(destination.name_of(stage_id))
    image_id = str((manifest.config or manifest).digest)
    if verify and there is not None and there["Id"] == image_id:
        return ItemResult(skipped=True)
    is_new = engine.find(str(reference)) is None
    try:
        moved = engine.pull(reference, lease=lease)
    except NotFoundError as error:
        source.fetch_manifest(stage_id)  # raises if it is gone
        raise BrokenStageError(f"{error}; {source.address} cannot give all of it: build it again") from error
    engine.tag(str(reference), project, str(stage_id))
    if is_new:
        drop(str(reference))
    return ItemResult(destination.describe(stage_id).as_json(), bytes=moved)


def _refuse_other_project(info: ImageInfo, destination: EngineStorage) -> None:
    address, theirs = destination.address, info.labels.get(PROJECT_LABEL)
    if theirs != address.project:
        raise EngineError(
            f"{info.name} has the label {PROJECT_LABEL}={theirs}, so {address} would not list it: "
            f"copy it to docker-daemon:{theirs or 'PROJECT'}"
        )


def copy_from_engine(
    source: EngineStorage,
    destination: RegistryStorage,
    stage_id: StageId,
    *,
    drop: Drop,
    verify: bool,
    lease: Lease,
) -> ItemResult:
    """Push a stage under the destination's name; arguments as for `copy_into_engine`.

    Raises:
        StageNotFoundError: The engine does not have it.
    """
    described = source.describe(stage_id)
    if verify and _image_id(destination, stage_id) == described.info.image_id:
        return ItemResult(skipped=True)
    engine, address = source.engine, destination.address
    name = str(address.tagged(str(stage_id)))
    is_new = engine.find(name) is None
    engine.tag(source.name_of(stage_id), str(address), str(stage_id))
    try:
        lease.check()  # `check` is enough: a push by two attempts changes nothing
        moved = engine.push(address.tagged(str(stage_id)), lease=lease)
    finally:
        if is_new:
            drop(name)
    return ItemResult(destination.describe(stage_id).as_json(), bytes=moved)


def _image_id(storage: RegistryStorage, stage_id: StageId) -> str | None:
    try:
        return storage.describe(stage_id).info.image_id
    except (StageNotFoundError, ContentError, RegistryUnavailableError):
        return None  # a push repairs a damaged stage
