"""Copy a stage between a registry and a Docker Engine: the engine pulls or pushes, nothing goes through us.

A push changes the manifest's digest, as the engine writes a manifest and compresses layers of its own; the
image's id stays.
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
from stagefleet.manager.produced import Produced
from stagefleet.names import StageId
from stagefleet.records.image import PROJECT_LABEL
from stagefleet.registry.leash import Leash
from stagefleet.stages import ImageInfo
from stagefleet.storages import RegistryStorage
from stagefleet.storages.engine import EngineStorage

__all__ = ["copy_from_engine", "copy_into_engine"]

Drop = Callable[[str], object]
"""Takes away a name that only the copy needed."""


def copy_into_engine(
    source: RegistryStorage,
    destination: EngineStorage,
    stage_id: StageId,
    *,
    drop: Drop,
    verify: bool,
    leash: Leash,
) -> Produced:
    """Pull a stage, and name it as the engine's stages are named.

    Args:
        source: The repository that has it.
        destination: The engine.
        stage_id: Which.
        drop: Takes the repository's name for it away again.
        verify: Skip it if the engine has it with the same image id.
        leash: Holds the work back.

    Raises:
        StageNotFoundError: The source does not have it.
        BrokenStageError: The source has it, but not what the engine takes of it.
        EngineError: It is another project's, so that the engine would not list it.
    """
    engine, reference = destination.engine, source.address.tagged(str(stage_id))
    project, manifest = destination.address.project, source.fetch_manifest(stage_id)
    if (
        not manifest.is_index
    ):  # which of an index is taken, and whether it lacks others, is the engine's matter
        _refuse_other_project(source.reader().describe(reference, manifest), destination)
    there = engine.find(destination.name_of(stage_id))
    image_id = str((manifest.config or manifest).digest)
    if verify and there is not None and there["Id"] == image_id:
        return Produced(skipped=True)
    is_new = engine.find(str(reference)) is None
    try:
        moved = engine.pull(reference, leash=leash)
    except NotFoundError as error:
        source.fetch_manifest(stage_id)  # it may be gone
        raise BrokenStageError(f"{error}; {source.address} cannot give all of it: build it again") from error
    engine.tag(str(reference), project, str(stage_id))
    if is_new:
        drop(str(reference))
    return Produced(destination.describe(stage_id).as_json(), bytes=moved)


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
    leash: Leash,
) -> Produced:
    """Push a stage under the destination's name; arguments as for `copy_into_engine`.

    Raises:
        StageNotFoundError: The engine does not have it.
    """
    described = source.describe(stage_id)
    if verify and _image_id(destination, stage_id) == described.info.image_id:
        return Produced(skipped=True)
    engine, address = source.engine, destination.address
    name = str(address.tagged(str(stage_id)))
    is_new = engine.find(name) is None
    engine.tag(source.name_of(stage_id), str(address), str(stage_id))
    try:
        leash.check()  # no more: a push that another attempt repeats changes nothing
        moved = engine.push(address.tagged(str(stage_id)), leash=leash)
    finally:
        if is_new:
            drop(name)
    return Produced(destination.describe(stage_id).as_json(), bytes=moved)


def _image_id(storage: RegistryStorage, stage_id: StageId) -> str | None:
    try:
        return storage.describe(stage_id).info.image_id
    except (StageNotFoundError, ContentError, RegistryUnavailableError):
        return None  # what is damaged there is healed by a push
