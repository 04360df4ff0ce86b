"""Whether a registry can give all of a stage: read through, every blob with its digest checked."""

from __future__ import annotations

from collections.abc import Iterator

from stagefleet.errors import BrokenStageError, DigestMismatchError, NotFoundError, TruncatedError
from stagefleet.manager.copy import is_distributable
from stagefleet.names import StageId
from stagefleet.registry import Descriptor, Manifest, RegistryClient
from stagefleet.registry.leash import Leash
from stagefleet.storages import RegistryStorage
from stagefleet.storages.stage_reader import StageReader

__all__ = ["check_stage"]


def check_stage(client: RegistryClient, storage: RegistryStorage, stage_id: StageId, *, leash: Leash) -> None:
    """Read a stage through, for what is done about a broken one cannot be undone.

    Raises:
        BrokenStageError: The registry cannot give all of it.
        StageNotFoundError: It is not there.
    """
    manifest = storage.fetch_manifest(stage_id)
    for layer in _layers(storage.reader(), manifest):
        try:
            client.check_blob(storage.address, layer, leash=leash)
        except (NotFoundError, DigestMismatchError, TruncatedError) as error:
            raise BrokenStageError(
                f"{storage.address} cannot give {layer.digest} of stage {stage_id} ({error}); build it again"
            ) from error


def _layers(reader: StageReader, manifest: Manifest, depth: int = 1) -> Iterator[Descriptor]:
    """The layers of an image, or of all members of an index; the configurations are read on the way."""
    if not manifest.is_index:
        reader.config(manifest)
        yield from filter(is_distributable, manifest.layers)
        return
    for member in reader.members(manifest, depth):
        if member.manifest is not None:
            yield from _layers(reader, member.manifest, depth + 1)
